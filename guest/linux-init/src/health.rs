//! Health checks inside the guest: one try at a time, a verdict after enough tries in a row.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use holm_guest_control::{Health, HealthCheck, Probe};
use rustix::process::Pid;

/// A try's result: what was seen, good or bad.
pub(crate) type Seen = Result<String, String>;

enum Try {
    /// The next one starts at this time.
    Due(u64),
    /// A connection, tried by a thread of its own; it answers within the check's timeout.
    Network(mpsc::Receiver<Seen>),
    /// A command, with its deadline.
    Command { pid: Pid, until: u64 },
}

/// The state of an app's health check.
pub(crate) struct Checks {
    pub(crate) check: HealthCheck,
    state: Try,
    good: u32,
    bad: u32,
    verdict: Option<bool>,
}

impl Checks {
    pub(crate) fn new(check: HealthCheck, now: u64) -> Self {
        Self { check, state: Try::Due(now), good: 0, bad: 0, verdict: None }
    }

    /// When the next try starts or the running command has had its time.
    pub(crate) fn deadline(&self) -> Option<u64> {
        match self.state {
            Try::Due(at) | Try::Command { until: at, .. } => Some(at),
            Try::Network(_) => None,
        }
    }

    /// Starts a due try, takes a finished one. `run` starts a command of the app. Gives a changed verdict.
    pub(crate) fn step(
        &mut self,
        now: u64,
        at_unix_ns: u64,
        wake: &UnixStream,
        run: impl FnOnce(&[String]) -> Result<Pid, String>,
    ) -> Option<Health> {
        match &self.state {
            Try::Due(at) if *at <= now => match &self.check.probe {
                Probe::Exec { command } => match run(command) {
                    Ok(pid) => {
                        self.state = Try::Command { pid, until: now + self.check.timeout_ms * 1_000_000 };
                        None
                    }
                    Err(why) => self.judge(Err(why), now, at_unix_ns),
                },
                probe => {
                    let (probe, timeout) = (probe.clone(), Duration::from_millis(self.check.timeout_ms));
                    let (sender, receiver) = mpsc::channel();
                    let spawned = wake.try_clone().and_then(|mut wake| {
                        std::thread::Builder::new().spawn(move || {
                            // The main loop may have dropped the check meanwhile.
                            let _ = sender.send(try_network(&probe, timeout));
                            let _ = wake.write(&[1]);
                        })
                    });
                    match spawned {
                        Ok(_) => {
                            self.state = Try::Network(receiver);
                            None
                        }
                        Err(error) => self.judge(Err(error.to_string()), now, at_unix_ns),
                    }
                }
            },
            Try::Network(receiver) => match receiver.try_recv() {
                Ok(seen) => self.judge(seen, now, at_unix_ns),
                Err(mpsc::TryRecvError::Empty) => None,
                Err(mpsc::TryRecvError::Disconnected) => self.judge(Err("check failed".into()), now, at_unix_ns),
            },
            Try::Command { pid, until } if *until <= now => {
                let _ = rustix::process::kill_process_group(*pid, rustix::process::Signal::KILL);
                let timeout = self.check.timeout_ms;
                self.judge(Err(format!("command did not end within {timeout} ms")), now, at_unix_ns)
            }
            _ => None,
        }
    }

    /// Tells that a process ended; gives a changed verdict when it was the check's.
    pub(crate) fn reaped(&mut self, ended: Pid, code: i32, now: u64, at_unix_ns: u64) -> Option<Health> {
        match self.state {
            Try::Command { pid, .. } if pid == ended => {
                let seen = if code == 0 {
                    Ok("command exited with 0".into())
                } else {
                    Err(format!("command exited with {code}"))
                };
                self.judge(seen, now, at_unix_ns)
            }
            _ => None,
        }
    }

    fn judge(&mut self, seen: Seen, now: u64, at_unix_ns: u64) -> Option<Health> {
        self.state = Try::Due(now + self.check.interval_ms * 1_000_000);
        let (reached, healthy) = match seen {
            Ok(_) => {
                self.good = self.good.saturating_add(1);
                self.bad = 0;
                (self.good >= self.check.healthy_after, true)
            }
            Err(_) => {
                self.bad = self.bad.saturating_add(1);
                self.good = 0;
                (self.bad >= self.check.unhealthy_after, false)
            }
        };
        if !reached || self.verdict == Some(healthy) {
            return None;
        }
        self.verdict = Some(healthy);
        let (Ok(detail) | Err(detail)) = seen;
        Some(Health { healthy, detail, since_unix_ns: at_unix_ns })
    }
}

/// Tries IPv6 loopback, then IPv4.
fn try_network(probe: &Probe, timeout: Duration) -> Seen {
    let until = Instant::now() + timeout;
    let port = match probe {
        Probe::Tcp { port } | Probe::Http { port, .. } => *port,
        Probe::Exec { .. } => return Err("not a network check".into()),
    };
    let mut why = String::new();
    for address in [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)] {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no answer on port {port} within {} ms", timeout.as_millis()));
        }
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), left) {
            Ok(stream) => {
                return match probe {
                    Probe::Http { path, .. } => get(stream, path, until),
                    _ => Ok(format!("port {port} accepts connections")),
                };
            }
            Err(error) => why = format!("port {port} on {address}: {error}"),
        }
    }
    Err(why)
}

fn get(mut stream: TcpStream, path: &str, until: Instant) -> Seen {
    let mut exchange = || -> std::io::Result<Vec<u8>> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_write_timeout(Some(left(until)))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: holm-health\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = [0u8; 512];
        // The status line is all that counts.
        while !answer.contains(&b'\n') && answer.len() < 512 {
            stream.set_read_timeout(Some(left(until)))?;
            match stream.read(&mut buffer)? {
                0 => break,
                n => answer.extend_from_slice(&buffer[..n]),
            }
        }
        Ok(answer)
    };
    match exchange() {
        Ok(answer) => match status_code(&answer) {
            Some(code @ 200..=399) => Ok(format!("GET {path} answered {code}")),
            Some(code) => Err(format!("GET {path} answered {code}")),
            None => Err(format!("GET {path} answered something that is not HTTP")),
        },
        Err(error) => Err(format!("GET {path}: {error}")),
    }
}

/// The code of an HTTP/1 status line.
fn status_code(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let (version, rest) = line.split_once(' ')?;
    version.starts_with("HTTP/1.").then(|| rest.get(..3)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(healthy_after: u32, unhealthy_after: u32) -> Checks {
        let probe = Probe::Tcp { port: 1 };
        Checks::new(HealthCheck { probe, interval_ms: 1, timeout_ms: 1, healthy_after, unhealthy_after }, 0)
    }

    #[test]
    fn a_verdict_needs_its_tries_in_a_row_and_is_told_once() {
        let mut checks = checks(2, 3);
        let mut told = Vec::new();
        for (at, good) in [(1, true), (2, false), (3, true), (4, true), (5, true), (6, false), (7, false), (8, false)] {
            let seen = if good { Ok(String::new()) } else { Err(String::new()) };
            told.extend(checks.judge(seen, at, at).map(|h| (h.since_unix_ns, h.healthy)));
        }
        assert_eq!(told, [(4, true), (8, false)]);
    }

    #[test]
    fn status_codes_are_read_from_http_1_only() {
        for (answer, code) in [
            ("HTTP/1.1 204 No Content\r\n", Some(204)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("HTTP/2 200\r\n", None),
            ("SSH-2.0-OpenSSH\r\n", None),
            ("HTTP/1.1 2\r\n", None),
            ("", None),
        ] {
            assert_eq!(status_code(answer.as_bytes()), code, "{answer}");
        }
    }
}

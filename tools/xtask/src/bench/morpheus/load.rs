//! Load on an HTTP server. Open loop: requests go out when they are due, whether or not the server has answered the ones
//! before, and a request's latency counts from when it was due. Closed loop: so many at a time.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Requests under way at once; more wait at the generator, which counts against the server as well.
const CONNECTIONS: usize = 64;
/// Longest wait for a piece of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that is kept.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub(super) fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// `GET path`; gives the body.
    ///
    /// # Errors
    /// When the answer is no 200 with a length.
    pub(super) fn get(&mut self, path: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "GET {path} was answered with {line:?}");
        let mut length = None;
        loop {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "the answer to GET {path} ends early");
            match line.trim_end().split_once(':') {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().ok()
                }
                Some(_) => {}
            }
        }
        let mut body = vec![0; length.with_context(|| format!("the answer to GET {path} has no length"))?];
        self.stream.read_exact(&mut body)?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// A request that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Due {
    /// From the beginning of the window.
    pub(super) at: Duration,
    pub(super) path: String,
    /// One of those whose latency is the figure.
    pub(super) short: bool,
}

/// Numbers that look random and are the same each time (xorshift64*).
#[derive(Debug)]
pub(super) struct Numbers(u64);

impl Numbers {
    /// `seed`: any but 0.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 up to 1, which it never is.
    pub(super) fn share(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A window's requests: `rate` a second with exponential gaps, nine of ten short, the tenth 5 to 50 ms of CPU time.
pub(super) fn plan(numbers: &mut Numbers, rate: f64, window: Duration) -> Vec<Due> {
    let mut at = 0.0;
    let mut requests = Vec::new();
    loop {
        at -= (1.0 - numbers.share()).ln() / rate;
        if at >= window.as_secs_f64() {
            return requests;
        }
        let short = numbers.share() < 0.9;
        let us = 5_000.0 + 45_000.0 * numbers.share();
        let path = if short { "/short".to_owned() } else { format!("/cpu?us={us:.0}") };
        requests.push(Due { at: Duration::from_secs_f64(at), path, short });
    }
}

/// What came of a window.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Latencies of the short requests and of all, in ms.
    pub(super) short_ms: Vec<f64>,
    pub(super) all_ms: Vec<f64>,
    /// From the window's beginning to the last answer.
    pub(super) took: Duration,
}

/// Requests that are due, and whether there will be more.
#[derive(Default)]
struct Queue {
    due: VecDeque<Due>,
    over: bool,
}

/// Sends what is planned when it is due.
///
/// # Errors
/// When a request is not answered as it should be.
pub(super) fn open_loop(to: SocketAddr, requests: &[Due]) -> Result<Outcome> {
    let connections = (0..CONNECTIONS).map(|_| Connection::open(to)).collect::<Result<Vec<_>>>()?;
    let (queue, more) = (Mutex::new(Queue::default()), Condvar::new());
    let begin = Instant::now();
    let serve = |mut connection: Connection| -> Result<Outcome> {
        let mut outcome = Outcome::default();
        loop {
            let request = {
                let waiting = queue.lock().unwrap_or_else(PoisonError::into_inner);
                let mut waiting = more
                    .wait_while(waiting, |queue| queue.due.is_empty() && !queue.over)
                    .unwrap_or_else(PoisonError::into_inner);
                waiting.due.pop_front()
            };
            let Some(request) = request else { return Ok(outcome) };
            connection.get(&request.path)?;
            outcome.took = begin.elapsed();
            let ms = outcome.took.saturating_sub(request.at).as_secs_f64() * 1e3;
            outcome.all_ms.push(ms);
            if request.short {
                outcome.short_ms.push(ms);
            }
        }
    };
    let serve = &serve;
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> =
            connections.into_iter().map(|connection| scope.spawn(move || serve(connection))).collect();
        for request in requests {
            while let Some(left) = request.at.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) {
                std::thread::park_timeout(left);
            }
            queue.lock().unwrap_or_else(PoisonError::into_inner).due.push_back(request.clone());
            more.notify_one();
        }
        queue.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        more.notify_all();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("a sender does not panic");
        threads.into_iter().map(join).collect::<Result<Vec<Outcome>>>()
    })?;
    let mut whole = Outcome::default();
    for part in parts {
        whole.short_ms.extend(part.short_ms);
        whole.all_ms.extend(part.all_ms);
        whole.took = whole.took.max(part.took);
    }
    ensure!(whole.all_ms.len() == requests.len(), "some requests were not sent");
    Ok(whole)
}

/// Asks for the path again and again, `clients` at a time, until the window is over.
///
/// # Errors
/// When a request is not answered as it should be.
pub(super) fn closed_loop(to: SocketAddr, path: &str, clients: usize, window: Duration) -> Result<()> {
    let end = Instant::now() + window;
    std::thread::scope(|scope| {
        let client = || -> Result<()> {
            let mut connection = Connection::open(to)?;
            while Instant::now() < end {
                connection.get(path)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client does not panic"))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that answers whatever is asked, one connection after the other until each is closed.
    fn server(connections: usize) -> SocketAddr {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        for _ in 0..connections {
            let listener = listener.try_clone().unwrap();
            std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                    }
                }
            });
        }
        address
    }

    #[test]
    fn a_plan_has_its_rate_and_its_mixture_and_is_the_same_each_time() {
        let plan = || super::plan(&mut Numbers::new(7), 1000.0, Duration::from_secs(20));
        let requests = plan();
        assert_eq!(requests, plan());
        assert!((19_000..21_000).contains(&requests.len()), "{}", requests.len());
        let long = requests.iter().filter(|request| !request.short).count();
        assert!((1_800..2_200).contains(&long), "{long}");
        assert!(requests.is_sorted_by_key(|request| request.at));
    }

    #[test]
    fn every_planned_request_is_answered_and_timed_from_when_it_was_due() {
        let address = server(CONNECTIONS);
        let requests = plan(&mut Numbers::new(3), 1000.0, Duration::from_millis(200));
        let outcome = open_loop(address, &requests).unwrap();
        assert_eq!(outcome.all_ms.len(), requests.len());
        assert_eq!(outcome.short_ms.len(), requests.iter().filter(|request| request.short).count());
        assert!(outcome.took >= requests.last().unwrap().at);
    }

    #[test]
    fn another_answer_than_200_is_an_error() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        assert!(Connection::open(address).unwrap().get("/").is_err());
    }
}

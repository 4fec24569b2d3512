//! The far ends of connections, each in a process of its own: an ingress with many connections leaves no file descriptors
//! for them in its own process.
//!
//! The same program, started again with a role: it tells one line, and goes when its standard input does. Clients come from
//! addresses of their own in the loopback block.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use super::{descriptors, percentile};

/// Bad connections a second: half a hello that never goes on, random bytes, a hello without end.
const SLOW_PER_SECOND: u32 = 400;
const RANDOM_PER_SECOND: u32 = 200;
const ENDLESS_PER_SECOND: u32 = 20;
pub(super) const BAD_PER_SECOND: u32 = SLOW_PER_SECOND + RANDOM_PER_SECOND + ENDLESS_PER_SECOND;
/// Half-open connections an attacker tries to keep.
const SLOW_HELD: usize = 5000;
pub(super) const ATTACKED: &str = "attacked.example";
pub(super) const QUIET: &str = "quiet.example";

/// A process that is the far end; ended when dropped.
pub(super) struct End {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl End {
    /// Starts this program again in the role of `words`.
    pub(super) fn start(words: &[&str]) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let told = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        Ok(Self { child, told: BufReader::new(told) })
    }

    /// What it has to tell.
    pub(super) fn told<T: std::str::FromStr>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        self.told.read_line(&mut line)?;
        line.trim().parse().map_err(|_| io::Error::other(format!("a process told `{}`", line.trim())))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // It is gone already if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Plays the role of `words`; `false` when there is no such role.
///
/// # Errors
/// When a socket fails.
pub fn play(words: &[&str]) -> io::Result<bool> {
    let to = |text: &str| text.parse::<SocketAddr>().map_err(io::Error::other);
    let number = |text: &str| text.parse::<u32>().map_err(io::Error::other);
    match words {
        ["serve"] => serve().map(|()| true),
        ["hold", at, count] => hold(to(at)?, number(count)?).map(|()| true),
        ["attack", at] => attack_all(to(at)?).map(|()| true),
        ["ask", at, millis] => ask(to(at)?, Duration::from_millis(number(millis)?.into())).map(|()| true),
        _ => Ok(false),
    }
}

#[expect(clippy::print_stdout, reason = "the line is what the role is for")]
fn tell(what: impl std::fmt::Display) -> io::Result<()> {
    println!("{what}");
    io::stdout().flush()
}

/// Waits until whoever started this process is done with it.
fn until_dismissed() {
    // An error is an end too.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
}

/// Reads something, answers one byte, and closes when the client does. Tells its address.
fn serve() -> io::Result<()> {
    descriptors();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    listener.set_nonblocking(true)?;
    runtime.spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut said = [0; 512];
                while client.read(&mut said).await.is_ok_and(|bytes| bytes > 0) {
                    if client.write_all(b"x").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    tell(addr)?;
    until_dismissed();
    Ok(())
}

/// Opens `count` connections that carry a byte each way and are idle then. Tells how many there are.
fn hold(to: SocketAddr, count: u32) -> io::Result<()> {
    descriptors();
    let open = |n: u32| -> io::Result<TcpStream> {
        // Enough sources to stay within what one may have.
        let mut client = from((2, n as usize / 1000), to)?;
        client.write_all(b"x")?;
        client.read_exact(&mut [0])?;
        Ok(client)
    };
    let held: Vec<TcpStream> = (0..count).filter_map(|n| open(n).ok()).collect();
    tell(held.len())?;
    until_dismissed();
    drop(held);
    Ok(())
}

/// The 99th percentile of the time from connecting to the first byte of the quiet app's answer, in microseconds.
fn ask(names: SocketAddr, time: Duration) -> io::Result<()> {
    let hello = hello(QUIET);
    let (mut taken, end) = (Vec::with_capacity(20_000), Instant::now() + time);
    for number in 0.. {
        let start = Instant::now();
        if start > end {
            break;
        }
        let mut client = from((1, number), names)?;
        client.write_all(&hello)?;
        client.read_exact(&mut [0])?;
        taken.push(start.elapsed());
    }
    tell(percentile(&mut taken, 99))
}

/// Attacks in every way until it is dismissed. Tells that it has begun.
fn attack_all(names: SocketAddr) -> io::Result<()> {
    descriptors();
    let stop = &AtomicBool::new(false);
    let slow = &hello(ATTACKED);
    tell(BAD_PER_SECOND)?;
    thread::scope(|scope| {
        scope.spawn(move || attack(stop, SLOW_PER_SECOND, SLOW_HELD, 3, names, |n| slow[..n % slow.len()].to_vec()));
        scope.spawn(move || attack(stop, RANDOM_PER_SECOND, 0, 4, names, random));
        scope.spawn(move || attack(stop, ENDLESS_PER_SECOND, 0, 5, names, |_| endless()));
        until_dismissed();
        stop.store(true, Relaxed);
    });
    Ok(())
}

/// Opens `per_second` connections that begin with `bytes`, and holds the newest `held` of them, until told to stop.
fn attack(
    stop: &AtomicBool,
    per_second: u32,
    held: usize,
    network: usize,
    to: SocketAddr,
    bytes: impl Fn(usize) -> Vec<u8>,
) {
    let mut open = VecDeque::new();
    let (start, mut done) = (Instant::now(), 0);
    // The first are opened as fast as they come, so that the attack is on at once.
    while !stop.load(Relaxed) {
        if let Ok(mut client) = from((network, done), to) {
            // Refusals are what the ingress is for.
            let _ = client.write_all(&bytes(done));
            open.push_back(client);
        }
        done += 1;
        while open.len() > held {
            open.pop_front();
        }
        if done >= held {
            let due = start + Duration::from_secs(1) * u32::try_from(done - held).unwrap_or(u32::MAX) / per_second;
            while Instant::now() < due && !stop.load(Relaxed) {
                thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
        }
    }
}

/// Connects from address 127.0.`host`.
fn from((high, low): (usize, usize), to: SocketAddr) -> io::Result<TcpStream> {
    let octet = |number: usize| u8::try_from(number % 250 + 1).unwrap_or(1);
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, octet(high), octet(low))), 0))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

fn random(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut bytes = Vec::with_capacity(64);
    while bytes.len() < 64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(state.to_be_bytes());
    }
    bytes
}

/// Records of a hello that claims to be longer than it may be.
fn endless() -> Vec<u8> {
    let mut bytes = vec![22, 3, 1, 0x10, 0, 1, 0, 0x3f, 0xf0];
    bytes.resize(bytes.len() + 0x1000 - 4, 3);
    for _ in 0..4 {
        bytes.extend([22, 3, 1, 0x10, 0]);
        bytes.resize(bytes.len() + 0x1000, 3);
    }
    bytes
}

/// A small ClientHello for `name`.
fn hello(name: &str) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    for part in [name.len() + 9, 0, name.len() + 5, name.len() + 3] {
        body.extend(length(part));
    }
    body.push(0);
    body.extend(length(name.len()));
    body.extend(name.as_bytes());
    let mut record = vec![22, 3, 1];
    record.extend(length(body.len() + 4));
    record.extend([1, 0]);
    record.extend(length(body.len()));
    record.extend(body);
    record
}

//! What hostile clients of one app cost the clients of another: the time of one small exchange, calm and under attack.
//!
//! Attackers and clients come from addresses of their own in the loopback block. The attack is open loop: so many bad
//! connections a second whatever becomes of them, since attackers would not spend this machine's processors.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::{Value, json};

use super::percentile;
use crate::{Backend, BackendState, Config, Ingress, Listener, Route, RoutingTable, ServerName};

/// Bad connections a second: half a hello that never goes on, random bytes, a hello without end.
const SLOW_PER_SECOND: u32 = 400;
const RANDOM_PER_SECOND: u32 = 200;
const ENDLESS_PER_SECOND: u32 = 20;
/// Half-open connections an attacker tries to keep.
const SLOW_HELD: usize = 5000;
/// File descriptors that all but the idle connections take: both ends of what attackers hold, and of what they are about to
/// give up.
pub(super) const DESCRIPTORS: usize = 2 * SLOW_HELD + 2000;
const ATTACKED: &str = "attacked.example";
const QUIET: &str = "quiet.example";

/// Measures `rounds` pairs of calm and attack and answers the 99th percentiles in microseconds, the ratio of each pair and
/// its median, and what the ingress refused.
pub(super) fn run(rounds: usize, slice: Duration, idle: usize) -> io::Result<Value> {
    let ingress = Ingress::start(Config::default()).map_err(io::Error::other)?;
    let server = server()?;
    let (names, port) = (free()?, free()?);
    let name = |name: &str| (ServerName::parse(name.as_bytes()).expect("a name as it should be"), name.to_owned());
    let of_app = |app: &str| {
        let backend = Backend { id: app.to_owned(), addr: server, state: BackendState::Healthy, proxy_protocol: false };
        (app.to_owned(), Route { backends: vec![backend], app: Some(app.to_owned()), ..Route::default() })
    };
    let table = RoutingTable {
        listeners: [
            (names, Listener::Sni { names: [name(ATTACKED), name(QUIET)].into() }),
            (port, Listener::Tcp { route: ATTACKED.to_owned() }),
        ]
        .into(),
        routes: [of_app(ATTACKED), of_app(QUIET)].into(),
        ..RoutingTable::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let report = runtime.block_on(ingress.apply(table)).map_err(io::Error::other)?;
    if let Some(why) = report.failed.into_values().next() {
        return Err(io::Error::other(why));
    }
    let (mut calm, mut attacked) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        calm.push(exchanges(names, slice)?);
        let stop = AtomicBool::new(false);
        let slow = hello(ATTACKED);
        let measured = thread::scope(|scope| {
            // Idle connections to the attacked app, from enough sources to stay within what one may have.
            let held: Vec<TcpStream> = (0..idle).filter_map(|n| from((2, n / 1000), port).ok()).collect();
            let stop = &stop;
            scope
                .spawn(move || attack(stop, SLOW_PER_SECOND, SLOW_HELD, 3, names, |n| slow[..n % slow.len()].to_vec()));
            scope.spawn(move || attack(stop, RANDOM_PER_SECOND, 0, 4, names, random));
            scope.spawn(move || attack(stop, ENDLESS_PER_SECOND, 0, 5, names, |_| endless()));
            // The attack is on once its half-open connections are as many as they get.
            until(|| ingress.stats().active >= held.len() + Config::default().max_half_open);
            let measured = exchanges(names, slice);
            stop.store(true, Relaxed);
            drop(held);
            measured
        });
        attacked.push(measured?);
        until(|| ingress.stats().active == 0);
    }
    let mut ratios: Vec<f64> = calm.iter().zip(&attacked).map(|(calm, attacked)| attacked / calm).collect();
    let samples = ratios.clone();
    ratios.sort_by(f64::total_cmp);
    Ok(json!({
        "p99_calm_us": calm,
        "p99_attacked_us": attacked,
        "ratios": samples,
        "ratio": ratios.get(ratios.len() / 2),
        "idle": idle,
        "bad_per_second": SLOW_PER_SECOND + RANDOM_PER_SECOND + ENDLESS_PER_SECOND,
        "refused": ingress.stats().refused,
    }))
}

/// Waits for the condition, but not for ever: a figure that is measured too early tells so by itself.
fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() && Instant::now() < deadline {
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn free() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Connects from address 127.0.`host`.
fn from((high, low): (usize, usize), to: SocketAddr) -> io::Result<TcpStream> {
    let octet = |number: usize| u8::try_from(number % 250 + 1).unwrap_or(1);
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, octet(high), octet(low))), 0))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Reads something, answers one byte, and closes when the client does.
fn server() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    listener.set_nonblocking(true)?;
    thread::spawn(move || {
        runtime.block_on(async move {
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
    });
    Ok(addr)
}

/// The 99th percentile of the time from connecting to the first byte of the quiet app's answer, in microseconds.
fn exchanges(names: SocketAddr, time: Duration) -> io::Result<f64> {
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
    Ok(percentile(&mut taken, 99))
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
    let mut open = std::collections::VecDeque::new();
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

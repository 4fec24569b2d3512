//! The comparison: a direct connection, this ingress and HAProxy side by side in one interleaved run on loopback.
//!
//! Clients, servers, ingress and HAProxy share the same CPUs, as they do on a small host. Each round measures every
//! path once, in an order that rotates; figures are medians over the rounds. The direct connection and HAProxy are each
//! measured twice (`direct_again`, `haproxy_again`): what differs between equals is the noise.

mod ends;
mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use ends::play;

use crate::{Backend, BackendState, Config, Ingress, IngressHandle, Listener, Route, RoutingTable};

/// How long and how hard to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Rounds over all paths.
    pub rounds: usize,
    /// Time per path and figure in a round.
    pub slice: Duration,
    /// Clients that open connections at the same time.
    pub connecting_clients: usize,
    /// Idle connections held to measure memory.
    pub idle_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, slice: Duration::from_millis(450), connecting_clients: 16, idle_connections: 10_000 }
    }
}

/// Size of a ping and of its echo, in bytes.
const PING: usize = 64;
/// Size of one read or write of a bulk transfer.
const BULK: usize = 256 * 1024;
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::LOCALHOST), 0);

/// A way from the client to the servers.
#[derive(Debug, Clone, Copy)]
struct Path {
    name: &'static str,
    echo: SocketAddr,
    source: SocketAddr,
    once: SocketAddr,
}

/// Samples by figure and path.
type Samples = BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>;

/// Measures and answers the figures: latency in microseconds, throughput in GiB/s, connections per second, each by
/// path, as medians and as the samples of each round; what the ingress adds and its ratio to HAProxy; memory per idle connection in bytes. Without HAProxy in
/// `PATH` its figures are missing.
pub fn run(options: &Options) -> io::Result<Value> {
    let descriptors = descriptors();
    // First: memory that was freed before would be used again.
    let (idle_bytes, idle_connections) = hostile::idle_memory(options.idle_connections, descriptors)?;
    let direct = Path { name: "direct", echo: echo()?, source: source()?, once: once()? };
    let (_ingress, holm) = through_ingress("holm", Config::default().splice_after, direct)?;
    let (_copying, copied) = through_ingress("holm_copy", u64::MAX, direct)?;
    let mut paths = vec![direct, Path { name: "direct_again", ..direct }, holm, copied];
    let haproxy = HaProxy::start(direct);
    paths.extend(haproxy.iter().flat_map(|haproxy| haproxy.paths));
    let without_haproxy = haproxy.as_ref().err().map(io::Error::to_string);

    let mut samples = Samples::new();
    for round in 0..options.rounds {
        paths.rotate_left(round % 2 + 1);
        for path in &paths {
            let mut put = |figure, value| {
                samples.entry(figure).or_default().entry(path.name).or_default().push(value);
            };
            let (p50, p99) = ping_pong(path.echo, options.slice)?;
            put("latency_p50_us", p50);
            put("latency_p99_us", p99);
            put("throughput_1_gib_s", bulk(path.source, 1, options.slice)?);
            put("throughput_8_gib_s", bulk(path.source, 8, options.slice)?);
            let clients = options.connecting_clients;
            put("connections_per_s", connections(path.once, clients, options.slice)?);
        }
    }
    let mut report = report(&samples, idle_bytes, without_haproxy);
    report["idle_connections"] = json!(idle_connections);
    report["hostile"] = hostile::run(options.rounds, 3 * options.slice, options.idle_connections, descriptors)?;
    Ok(report)
}

fn report(samples: &Samples, idle_bytes: f64, without_haproxy: Option<String>) -> Value {
    let median = |figure: &str, path: &str| {
        let mut values = samples.get(figure)?.get(path)?.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let mut figures = serde_json::Map::new();
    for (figure, paths) in samples {
        let medians = paths.keys().map(|path| ((*path).to_owned(), json!(median(figure, path))));
        figures.insert((*figure).to_owned(), Value::Object(medians.collect()));
    }
    let pair =
        |op: fn(f64, f64) -> f64, figure: &str, other: &str| Some(op(median(figure, "holm")?, median(figure, other)?));
    let added = |figure| pair(|holm, direct| holm - direct, figure, "direct");
    let ratio = |figure| pair(|holm, other| holm / other, figure, "haproxy");
    let ratio_splice = |figure| pair(|holm, other| holm / other, figure, "haproxy_splice");
    let rates = ["throughput_1_gib_s", "throughput_8_gib_s", "connections_per_s"];
    json!({
        "schema": 1,
        "cpus": thread::available_parallelism().map_or(1, usize::from),
        "figures": figures,
        "samples": samples,
        "added_latency_us": { "p50": added("latency_p50_us"), "p99": added("latency_p99_us") },
        "ratio_to_haproxy": rates.map(|rate| json!({ "figure": rate, "ratio": ratio(rate) })),
        "ratio_to_haproxy_splice":
            rates.map(|rate| json!({ "figure": rate, "ratio": ratio_splice(rate) })),
        "idle_connection_bytes": idle_bytes,
        "without_haproxy": without_haproxy,
    })
}

/// How many file descriptors this process may have, after asking for as many as it takes.
fn descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (now, wanted) = (getrlimit(Resource::Nofile), Some(65_536));
    let asked = [wanted, now.maximum].map(|most| Rlimit { current: most, maximum: most.max(now.maximum) });
    // Only root gets more than the hard limit; what is left is the hard limit itself.
    let given = asked.into_iter().any(|limit| setrlimit(Resource::Nofile, limit).is_ok());
    let now = if given { getrlimit(Resource::Nofile) } else { now };
    now.current.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

/// Serves each connection of a new listener on a thread of its own.
fn server(serve: fn(TcpStream) -> io::Result<()>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(ANY)?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            // A client that leaves is how every measurement ends.
            thread::spawn(move || client.set_nodelay(true).and_then(|()| serve(client)));
        }
    });
    Ok(addr)
}

fn echo() -> io::Result<SocketAddr> {
    server(|mut client| {
        let mut ping = [0; PING];
        loop {
            client.read_exact(&mut ping)?;
            client.write_all(&ping)?;
        }
    })
}

fn source() -> io::Result<SocketAddr> {
    server(|mut client| {
        let bytes = vec![0; BULK];
        loop {
            client.write_all(&bytes)?;
        }
    })
}

/// Answers one byte with one byte and closes. Closing first keeps TIME_WAIT away from the clients' ports.
fn once() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(ANY)?;
    let addr = listener.local_addr()?;
    // As many threads as clients: a thread per connection would measure thread creation.
    for _ in 0..16 {
        let listener = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                let mut byte = [0; 1];
                let _ = client.read_exact(&mut byte).and_then(|()| client.write_all(&byte));
            }
        });
    }
    Ok(addr)
}

fn through_ingress(name: &'static str, splice_after: u64, direct: Path) -> io::Result<(IngressHandle, Path)> {
    let ingress =
        Ingress::start(Config { max_per_source: 60_000, source_connects: None, splice_after, ..Config::default() })
            .map_err(io::Error::other)?;
    let ports = || -> io::Result<[SocketAddr; 3]> { Ok([free()?, free()?, free()?]) };
    let [echo, source, once] = ports()?;
    apply(&ingress, &[(echo, direct.echo), (source, direct.source), (once, direct.once)])?;
    Ok((ingress, Path { name, echo, source, once }))
}

fn apply(ingress: &IngressHandle, routes: &[(SocketAddr, SocketAddr)]) -> io::Result<()> {
    let mut table = RoutingTable::default();
    for (listener, server) in routes {
        let id = listener.to_string();
        let backend = Backend { id: id.clone(), addr: *server, state: BackendState::Healthy, proxy_protocol: false };
        table.listeners.insert(*listener, Listener::Tcp { route: id.clone() });
        table.routes.insert(id, Route { backends: vec![backend], ..Route::default() });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let report = runtime.block_on(ingress.apply(table)).map_err(io::Error::other)?;
    let failed = report.failed.into_values().next();
    failed.map_or(Ok(()), |reason| Err(io::Error::other(reason)))
}

fn free() -> io::Result<SocketAddr> {
    TcpListener::bind(ANY)?.local_addr()
}

/// A running HAProxy, ended when dropped.
struct HaProxy {
    child: Child,
    paths: [Path; 3],
    _config: tempfile::NamedTempFile,
}

impl HaProxy {
    fn start(direct: Path) -> io::Result<Self> {
        let servers = [("echo", direct.echo), ("source", direct.source), ("once", direct.once)];
        let mut text = String::from(
            "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 60s\n  timeout server 60s\n",
        );
        let mut paths = Vec::new();
        for (name, option) in [("haproxy", ""), ("haproxy_again", ""), ("haproxy_splice", "  option splice-auto\n")] {
            let mut listeners = Vec::new();
            for (kind, server) in servers {
                let listener = free()?;
                text += &format!(
                    "listen {name}_{kind}\n  bind [::1]:{}\n{option}  server s [::1]:{}\n",
                    listener.port(),
                    server.port()
                );
                listeners.push(listener);
            }
            let [echo, source, once] = listeners[..] else {
                continue;
            };
            paths.push(Path { name, echo, source, once });
        }
        let config = tempfile::NamedTempFile::new()?;
        fs::write(config.path(), text)?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(config.path());
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let paths = <[Path; 3]>::try_from(paths).map_err(|_| io::Error::other("three variants"))?;
        let deadline = Instant::now() + Duration::from_secs(5);
        for path in paths {
            while TcpStream::connect(path.echo).is_err() {
                if Instant::now() > deadline || child.try_wait()?.is_some() {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(io::Error::other("haproxy does not serve"));
                }
                thread::yield_now();
            }
        }
        Ok(Self { child, paths, _config: config })
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        // It is gone already if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Median and 99th percentile of the round trip of one ping, in microseconds.
fn ping_pong(addr: SocketAddr, time: Duration) -> io::Result<(f64, f64)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let mut ping = [0; PING];
    let mut trips = Vec::with_capacity(100_000);
    let end = Instant::now() + time;
    loop {
        let start = Instant::now();
        if start > end {
            break;
        }
        stream.write_all(&ping)?;
        stream.read_exact(&mut ping)?;
        trips.push(start.elapsed());
    }
    Ok((percentile(&mut trips, 50), percentile(&mut trips, 99)))
}

/// In microseconds.
fn percentile(times: &mut [Duration], share: usize) -> f64 {
    times.sort_unstable();
    times.get(times.len() * share / 100).copied().unwrap_or_default().as_secs_f64() * 1e6
}

/// Bytes received over several streams at once, in GiB/s.
fn bulk(addr: SocketAddr, streams: usize, time: Duration) -> io::Result<f64> {
    let received = AtomicU64::new(0);
    let start = Instant::now();
    let all = thread::scope(|scope| {
        let download = || -> io::Result<()> {
            let mut stream = TcpStream::connect(addr)?;
            let mut bytes = vec![0; BULK];
            while start.elapsed() < time {
                received.fetch_add(stream.read(&mut bytes)? as u64, Relaxed);
            }
            Ok(())
        };
        let running: Vec<_> = (0..streams).map(|_| scope.spawn(download)).collect();
        running.into_iter().try_for_each(|stream| stream.join().unwrap_or(Ok(())))
    });
    all?;
    let gib = received.load(Relaxed) as f64 / f64::from(1 << 30);
    Ok(gib / start.elapsed().as_secs_f64())
}

/// Connections opened, used for one byte each way and closed, per second.
fn connections(addr: SocketAddr, clients: usize, time: Duration) -> io::Result<f64> {
    let done = AtomicU64::new(0);
    let stop = Arc::new(AtomicBool::new(false));
    let start = Instant::now();
    let all = thread::scope(|scope| {
        let client = || -> io::Result<()> {
            let mut bytes = Vec::with_capacity(1);
            while !stop.load(Relaxed) && start.elapsed() < time {
                let mut stream = TcpStream::connect(addr)?;
                stream.write_all(b"x")?;
                bytes.clear();
                stream.read_to_end(&mut bytes)?;
                if bytes != b"x" {
                    return Err(io::Error::other("wrong answer"));
                }
                done.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        let running: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        running.into_iter().try_for_each(|client| client.join().unwrap_or(Ok(())))
    });
    all?;
    Ok(done.load(Relaxed) as f64 / start.elapsed().as_secs_f64())
}

fn resident() -> io::Result<f64> {
    let status = fs::read_to_string("/proc/self/statm")?;
    let pages = status.split_whitespace().nth(1).and_then(|pages| pages.parse::<f64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("statm has no resident size"))?;
    Ok(pages * rustix::param::page_size() as f64)
}

//! Many connections, and bad ones: the memory of an idle connection, and what hostile clients of one app cost the clients of
//! another: the time of one small exchange, calm and under attack.
//!
//! The attack is open loop: so many bad connections a second whatever becomes of them, since attackers would not spend this
//! machine's processors. The far ends are processes of their own; this one has the ingress's ends only.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ends::{ATTACKED, BAD_PER_SECOND, End, QUIET};
use super::resident;
use crate::{Backend, BackendState, Config, Ingress, IngressHandle, Listener, Route, RoutingTable, ServerName};

/// File descriptors of this process that are none of connections.
const SPARE: usize = 80;

/// Longest wait for a number of connections, and the time between two looks.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);

/// An ingress with two apps behind one server.
struct Site {
    ingress: IngressHandle,
    /// Where host names are told apart, and a port of the app that is attacked.
    names: SocketAddr,
    port: SocketAddr,
    _server: End,
}

impl Site {
    fn start() -> io::Result<Self> {
        let ingress = Ingress::start(Config::default()).map_err(io::Error::other)?;
        let mut server = End::start(&["serve"])?;
        let addr: SocketAddr = server.told()?;
        let (names, port) = (free()?, free()?);
        let name = |name: &str| (ServerName::parse(name.as_bytes()).expect("a name as it should be"), name.to_owned());
        let of_app = |app: &str| {
            let backend = Backend { id: app.to_owned(), addr, state: BackendState::Healthy, proxy_protocol: false };
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
        match report.failed.into_values().next() {
            Some(why) => Err(io::Error::other(why)),
            None => Ok(Self { ingress, names, port, _server: server }),
        }
    }

    /// Holds `count` idle connections to the app that is attacked, and fails where one is refused.
    fn hold(&self, count: usize) -> io::Result<End> {
        let mut holding = End::start(&["hold", &self.port.to_string(), &count.to_string()])?;
        let held: usize = holding.told()?;
        if held != count {
            let refused = self.ingress.stats().refused;
            return Err(io::Error::other(format!("{held} of {count} connections could be opened: {refused:?}")));
        }
        Ok(holding)
    }

    /// Waits for so many open connections.
    fn until(&self, what: &str, open: impl Fn(usize) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !open(self.ingress.stats().active) {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} connections, not {what}", self.ingress.stats().active)));
            }
            thread::park_timeout(LOOK);
        }
        Ok(())
    }
}

/// Resident memory the ingress takes per idle connection, in bytes, and how many were held: `count`, or as many as
/// `descriptors` allow. To be asked of a process that has done nothing else: memory that was freed would be used again.
pub(super) fn idle_memory(count: usize, descriptors: usize) -> io::Result<(f64, usize)> {
    let count = count.min(descriptors.saturating_sub(SPARE) / 2);
    let site = Site::start()?;
    let before = resident()?;
    let _holding = site.hold(count)?;
    site.until("all that are held", |open| open == count)?;
    Ok(((resident()? - before) / count as f64, count))
}

/// Measures `rounds` pairs of calm and attack and answers the 99th percentiles in microseconds, the ratio of each pair and
/// its median, and what the ingress refused. Beside the attack `idle` connections are held, or as many as `descriptors` allow.
pub(super) fn run(rounds: usize, slice: Duration, idle: usize, descriptors: usize) -> io::Result<Value> {
    let half_open = Config::default().max_half_open;
    // Two for an idle connection, one for each that is half open, and some for what comes and goes.
    let idle = idle.min(descriptors.saturating_sub(half_open + 10 * SPARE) / 2);
    let site = Site::start()?;
    let (names, slice) = (site.names.to_string(), slice.as_millis().to_string());
    let exchanges = || -> io::Result<f64> { End::start(&["ask", &names, &slice])?.told() };
    let (mut calm, mut attacked) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        calm.push(exchanges()?);
        let holding = site.hold(idle)?;
        let attacking = End::start(&["attack", &names])?;
        // The attack is on once its half-open connections are about as many as they get.
        site.until("the attack", |open| open >= idle + half_open * 9 / 10)?;
        attacked.push(exchanges()?);
        drop((holding, attacking));
        site.until("none", |open| open == 0)?;
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
        "bad_per_second": BAD_PER_SECOND,
        "refused": site.ingress.stats().refused,
    }))
}

fn free() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

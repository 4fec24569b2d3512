//! The ingress as its caller holds it: start, apply tables, watch, shut down.
//!
//! Connections run on worker threads of the ingress itself, one single-threaded runtime each: a connection never
//! moves between threads, and control traffic of the host process cannot delay it. Each worker has its own listening
//! socket per address.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Caps};
use crate::apart::Listening;
use crate::connection;
use crate::listen::{self, PeerOptions, SocketOptions};
use crate::live::{Backends, LiveTable, compile};
use crate::rate::Rate;
use crate::stats::{Counters, ListenerStatus, Stats};
use crate::table::{AppLimits, RoutingTable, TableError};

/// Settings of the whole ingress; the defaults suit a public host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Data threads. `None`: one per CPU this process may use.
    pub workers: Option<NonZeroUsize>,
    /// Whether an IPv6 listener refuses IPv4 (`IPV6_V6ONLY`). IPv4 is an explicit allocation, hence true.
    pub ipv6_only: bool,
    /// Connections at the same time. Each takes two file descriptors, and two more while it is in bulk transfer.
    pub max_connections: usize,
    /// Connections at the same time per source: an IPv6 /64 or an IPv4 address.
    pub max_per_source: usize,
    /// How often a source may open a connection.
    pub source_connects: Option<Rate>,
    /// Limits of apps that the table has none for.
    pub app_limits: AppLimits,
    /// Connections at the same time that have not sent a whole ClientHello. When one more comes, the oldest is reset.
    pub max_half_open: usize,
    /// The same per source.
    pub max_half_open_per_source: usize,
    /// Time for the whole ClientHello, and for the PROXY header of a proxy in front.
    pub hello_timeout: Duration,
    /// Bytes a ClientHello may have, record headers included.
    pub hello_limit: usize,
    /// Time for one attempt to connect to a backend.
    pub connect_timeout: Duration,
    /// How long a backend that could not be connected to is used only if no other is left.
    pub suspect_for: Duration,
    /// `TCP_USER_TIMEOUT` of both sides: how long sent bytes may stay unacknowledged.
    pub user_timeout: Duration,
    /// Idle time before the first keepalive probe to a client, whole seconds.
    pub keepalive: Duration,
    /// Bytes after which a direction of a connection counts as a bulk transfer and is spliced in the kernel; 0
    /// always, `u64::MAX` never.
    pub splice_after: u64,
    /// How often listeners that could not be opened are tried again.
    pub rebind_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: None,
            ipv6_only: true,
            max_connections: 65_536,
            max_per_source: 8_192,
            source_connects: Some(Rate { per_second: 1_000, burst: 4_000 }),
            app_limits: AppLimits {
                max_connections: Some(32_768),
                max_per_source: Some(4_096),
                connects: Some(Rate { per_second: 5_000, burst: 10_000 }),
            },
            max_half_open: 4_096,
            max_half_open_per_source: 256,
            hello_timeout: Duration::from_secs(5),
            hello_limit: 16 * 1024,
            connect_timeout: Duration::from_secs(3),
            suspect_for: Duration::from_secs(2),
            user_timeout: Duration::from_secs(60),
            keepalive: Duration::from_secs(60),
            splice_after: 64 * 1024,
            rebind_every: Duration::from_secs(1),
        }
    }
}

impl Config {
    pub(crate) fn peer_options(&self) -> PeerOptions {
        PeerOptions { user_timeout: self.user_timeout, keepalive: self.keepalive }
    }

    fn socket_options(&self) -> SocketOptions {
        SocketOptions { ipv6_only: self.ipv6_only, peer: self.peer_options() }
    }

    fn caps(&self) -> Caps {
        Caps {
            total: self.max_connections,
            per_source: self.max_per_source,
            source_connects: self.source_connects,
            half_open: self.max_half_open,
            half_open_per_source: self.max_half_open_per_source,
        }
    }
}

/// Why the ingress did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A worker thread or its runtime could not be made.
    #[error("start an ingress worker")]
    Worker(#[source] io::Error),
}

/// What a table changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyReport {
    /// Listeners opened, by their address in the table.
    pub opened: Vec<SocketAddr>,
    /// Listeners closed.
    pub closed: Vec<SocketAddr>,
    /// Listeners that are not open, and why. They are tried again from time to time and at the next apply.
    pub failed: BTreeMap<SocketAddr, String>,
}

/// What a shutdown did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Connections that were cut at the deadline.
    pub cut: usize,
}

/// The ingress. See [`Ingress::start`].
#[derive(Debug)]
pub struct Ingress;

/// Holds a running ingress. Clones are the same ingress; when the last one is dropped, it stops at once.
#[derive(Debug, Clone)]
pub struct IngressHandle(Arc<Inner>);

/// What connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) table: ArcSwap<LiveTable>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) counters: Counters,
    /// Cuts every connection.
    pub(crate) cut_all: CancellationToken,
    backends: Backends,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    /// Resolves once a worker thread has ended.
    ended: watch::Receiver<()>,
    /// Ends the worker threads, and with them everything.
    stop: CancellationToken,
    /// One table is applied at a time.
    control: tokio::sync::Mutex<Control>,
    /// Where the listeners are, for statistics.
    status: Mutex<BTreeMap<SocketAddr, ListenerStatus>>,
}

#[derive(Debug, Default)]
struct Control {
    wanted: Vec<SocketAddr>,
    open: BTreeMap<SocketAddr, OpenListener>,
    /// Sockets of another process, for the next table that has their addresses.
    taken_over: BTreeMap<SocketAddr, (SocketAddr, Vec<std::net::TcpListener>)>,
    shut_down: bool,
}

#[derive(Debug)]
struct OpenListener {
    local: SocketAddr,
    close: CancellationToken,
    accepting: Vec<JoinHandle<()>>,
    /// The same sockets, to be handed over.
    sockets: Vec<OwnedFd>,
}

impl Ingress {
    /// Starts the worker threads. Nothing listens until a table is applied.
    pub fn start(config: Config) -> Result<IngressHandle, StartError> {
        let count = config.workers.or_else(|| thread::available_parallelism().ok());
        let count = count.map_or(1, NonZeroUsize::get);
        let (cut_all, stop) = (CancellationToken::new(), CancellationToken::new());
        let admission = Arc::new(Admission::new(config.caps()));
        let (alive, ended) = watch::channel(());
        let mut workers = Vec::with_capacity(count);
        for index in 0..count {
            match start_worker(index, stop.clone(), admission.open(), alive.clone()) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    stop.cancel();
                    return Err(StartError::Worker(error));
                }
            }
        }
        let shared = Shared {
            table: ArcSwap::default(),
            admission,
            counters: Counters::default(),
            backends: Backends::new(cut_all.clone()),
            cut_all: cut_all.clone(),
            config,
        };
        let inner = Arc::new(Inner {
            shared: Arc::new(shared),
            workers,
            ended,
            stop,
            control: tokio::sync::Mutex::default(),
            status: Mutex::default(),
        });
        inner.workers[0].spawn(rebind(Arc::downgrade(&inner), inner.shared.config.rebind_every));
        Ok(IngressHandle(inner))
    }
}

/// Time connections have to see that they are cut.
const CUTTING: Duration = Duration::from_secs(1);

fn start_worker(
    index: usize,
    stop: CancellationToken,
    mut open: watch::Receiver<usize>,
    alive: watch::Sender<()>,
) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name(format!("ingress-{index}")).spawn(move || {
        runtime.block_on(async {
            stop.cancelled().await;
            // Connections are cut before this; dropping them would end them as if all had been said.
            let _ = timeout(CUTTING, open.wait_for(|open| *open == 0)).await;
        });
        drop(runtime);
        drop(alive);
    })?;
    Ok(handle)
}

/// Tries failed listeners again until the ingress is gone.
async fn rebind(inner: Weak<Inner>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut control = inner.control.lock().await;
        let report = inner.reconcile(&mut control).await;
        if !report.opened.is_empty() {
            tracing::info!(listeners = ?report.opened, "listeners opened after earlier failure");
        }
    }
}

impl IngressHandle {
    /// Replaces the routing table. Answers once the listeners are open or known to fail; connections stay.
    pub async fn apply(&self, table: RoutingTable) -> Result<ApplyReport, TableError> {
        table.validate()?;
        let inner = &*self.0;
        let mut control = inner.control.lock().await;
        if control.shut_down {
            return Err(TableError::ShutDown);
        }
        let shared = &inner.shared;
        let live = compile(&table, &shared.table.load(), &shared.backends, shared.config.app_limits);
        shared.table.store(Arc::new(live));
        shared.backends.forget_unused();
        control.wanted = table.listeners.keys().copied().collect();
        let report = inner.reconcile(&mut control).await;
        // What this table does not want is closed.
        control.taken_over.clear();
        Ok(report)
    }

    /// Where a listener of the table really listens: differs from its address there if that has port 0. `None` while
    /// it is not open.
    pub fn local_addr(&self, listener: SocketAddr) -> Option<SocketAddr> {
        match self.0.status().get(&listener)? {
            ListenerStatus::Open(local) => Some(*local),
            ListenerStatus::Failed(_) => None,
        }
    }

    /// The open listeners with copies of their sockets, for another process.
    pub(crate) async fn listening(&self) -> io::Result<Vec<Listening>> {
        let control = self.0.control.lock().await;
        let copy = |(wanted, open): (&SocketAddr, &OpenListener)| {
            let sockets = open.sockets.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
            Ok(Listening::new(*wanted, open.local, sockets))
        };
        control.open.iter().map(copy).collect()
    }

    /// Takes sockets of another process: the next table uses those of its addresses, and the others are closed then.
    pub(crate) async fn take_over(&self, listening: Vec<Listening>) {
        let mut control = self.0.control.lock().await;
        for one in listening {
            let (wanted, local, sockets) = one.into_parts();
            control.taken_over.insert(wanted, (local, sockets));
        }
    }

    /// Open connections of a backend, over all routes, to read or to wait until it is 0. Connections that are still
    /// being established count.
    pub fn connections(&self, backend_id: &str) -> watch::Receiver<usize> {
        self.0.shared.backends.get(backend_id).count.subscribe()
    }

    /// Resets the connections a backend has now and answers how many there were. Set it to draining first, or it
    /// gets new ones.
    pub fn close_backend(&self, backend_id: &str) -> usize {
        self.0.shared.backends.cut(backend_id)
    }

    /// All counters.
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let routes = shared.table.load();
        let routes = routes
            .routes
            .iter()
            .map(|(id, route)| (id.clone(), route.counters.snapshot(LiveTable::backend_counts(route))));
        Stats {
            accepted: shared.counters.accepted.load(Relaxed),
            active: *shared.admission.open().borrow(),
            accept_errors: shared.counters.accept_errors.load(Relaxed),
            refused: shared.counters.refused.snapshot(),
            listeners: self.0.status().clone(),
            routes: routes.collect(),
        }
    }

    /// Closes the listeners, waits until the connections have ended by themselves or `drain` is over, cuts those
    /// that remain and stops the workers.
    pub async fn shutdown(&self, drain: Duration) -> ShutdownReport {
        let inner = &*self.0;
        let mut control = inner.control.lock().await;
        control.shut_down = true;
        control.wanted.clear();
        inner.reconcile(&mut control).await;
        // Whoever asks again with less time is not held up.
        drop(control);

        let mut open = inner.shared.admission.open();
        let drained = matches!(timeout(drain, open.wait_for(|open| *open == 0)).await, Ok(Ok(_)));
        let cut = if drained { 0 } else { *inner.shared.admission.open().borrow() };
        inner.shared.cut_all.cancel();
        inner.stop.cancel();
        let mut ended = inner.ended.clone();
        // An error is what is waited for: every worker has dropped its sender.
        while ended.changed().await.is_ok() {}
        ShutdownReport { cut }
    }
}

impl Inner {
    fn status(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, ListenerStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the open listeners those that are wanted.
    async fn reconcile(&self, control: &mut Control) -> ApplyReport {
        let mut report = ApplyReport::default();
        let gone: Vec<_> = control.open.keys().filter(|addr| !control.wanted.contains(addr)).copied().collect();
        for addr in gone {
            if let Some(listener) = control.open.remove(&addr) {
                listener.close.cancel();
                drop(listener.sockets);
                for accepting in listener.accepting {
                    // Ends with the socket closed, so that its address is free for what comes next.
                    let _ = accepting.await;
                }
                report.closed.push(addr);
            }
        }
        for addr in &control.wanted {
            if control.open.contains_key(addr) {
                continue;
            }
            let taken_over = control.taken_over.remove(addr);
            match self.open(*addr, taken_over) {
                Ok(listener) => {
                    control.open.insert(*addr, listener);
                    report.opened.push(*addr);
                }
                Err(error) => {
                    report.failed.insert(*addr, error.to_string());
                }
            }
        }
        let open = control.open.iter().map(|(addr, l)| (*addr, ListenerStatus::Open(l.local)));
        let failed = report.failed.iter().map(|(a, e)| (*a, ListenerStatus::Failed(e.clone())));
        *self.status() = open.chain(failed).collect();
        report
    }

    /// Opens a listener, or goes on with the sockets of one that another process has had open.
    fn open(
        &self,
        addr: SocketAddr,
        taken_over: Option<(SocketAddr, Vec<std::net::TcpListener>)>,
    ) -> io::Result<OpenListener> {
        let options = self.shared.config.socket_options();
        let (local, sockets) = match taken_over {
            Some(taken_over) => taken_over,
            None => listen::open(addr, self.workers.len(), options)?,
        };
        let copies = sockets.iter().map(|socket| socket.try_clone().map(OwnedFd::from)).collect::<io::Result<_>>()?;
        let close = CancellationToken::new();
        // Another process may have had more workers: connections wait in every socket.
        let accepting = sockets.into_iter().zip(self.workers.iter().cycle()).map(|(socket, worker)| {
            let (shared, close) = (Arc::clone(&self.shared), close.clone());
            worker.spawn(async move {
                close.run_until_cancelled(accept(shared, addr, socket)).await;
            })
        });
        Ok(OpenListener { local, accepting: accepting.collect(), close, sockets: copies })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.cut_all.cancel();
        self.stop.cancel();
    }
}

/// Accepts on one worker's socket and serves there.
async fn accept(shared: Arc<Shared>, listener: SocketAddr, socket: std::net::TcpListener) {
    /// Pause after a failed accept: out of descriptors, it would fail again at once.
    const PAUSE: Duration = Duration::from_millis(50);
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%listener, %error, "listener lost");
            return;
        }
    };
    loop {
        match socket.accept().await {
            Ok((client, peer)) => {
                tokio::spawn(connection::serve(Arc::clone(&shared), listener, client, peer));
            }
            Err(error) => {
                shared.counters.accept_errors.fetch_add(1, Relaxed);
                tracing::debug!(%listener, %error, "accept failed");
                sleep(PAUSE).await;
            }
        }
    }
}

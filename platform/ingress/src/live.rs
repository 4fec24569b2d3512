//! The routing table as connections see it: compiled for lookup, with state that outlives one table.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::LiveApp;
use crate::balance::{self, Candidate};
use crate::stats::RouteCounters;
use crate::table::{AppLimits, Backend, BackendState, Listener, RouteLimits, RoutingTable, ServerName};

/// One applied table.
#[derive(Debug, Default)]
pub(crate) struct LiveTable {
    pub(crate) listeners: HashMap<SocketAddr, LiveListener>,
    pub(crate) routes: BTreeMap<String, Arc<LiveRoute>>,
    apps: BTreeMap<String, Arc<LiveApp>>,
}

/// A listening address.
#[derive(Debug, Clone)]
pub(crate) struct LiveListener {
    pub(crate) target: Target,
    /// Networks of the trusted proxies in front.
    pub(crate) proxies: Option<Arc<[IpNet]>>,
}

/// Where a listener's connections go.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Tcp(Arc<LiveRoute>),
    Sni(Arc<HashMap<ServerName, Arc<LiveRoute>>>),
}

/// A route and its counters.
#[derive(Debug)]
pub(crate) struct LiveRoute {
    pub(crate) id: String,
    pub(crate) limits: RouteLimits,
    pub(crate) backends: Vec<LiveBackend>,
    pub(crate) app: Option<Arc<LiveApp>>,
    pub(crate) counters: Arc<RouteCounters>,
    turn: AtomicUsize,
}

/// A backend of a route.
#[derive(Debug)]
pub(crate) struct LiveBackend {
    pub(crate) addr: SocketAddr,
    pub(crate) proxy_protocol: bool,
    pub(crate) connections: Arc<BackendConnections>,
    pub(crate) id: String,
    state: BackendState,
    suspicion: Arc<Suspicion>,
}

/// Until when a backend is avoided, in nanoseconds since `epoch`.
#[derive(Debug)]
struct Suspicion {
    epoch: Instant,
    until: AtomicU64,
}

impl Suspicion {
    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn holds(&self) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && until > self.now()
    }
}

/// Every connection to the backends of one id.
#[derive(Debug)]
pub(crate) struct BackendConnections {
    pub(crate) count: watch::Sender<usize>,
    /// Cancelled to cut the connections opened so far, then replaced.
    cut: Mutex<CancellationToken>,
}

impl BackendConnections {
    /// Counts one connection until the answer is dropped. The token is cancelled when it is to be cut.
    pub(crate) fn enter(self: &Arc<Self>) -> (Entered, CancellationToken) {
        let token = self.token().clone();
        self.count.send_modify(|count| *count += 1);
        (Entered(Arc::clone(self)), token)
    }

    fn token(&self) -> MutexGuard<'_, CancellationToken> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One counted connection to a backend.
#[derive(Debug)]
pub(crate) struct Entered(Arc<BackendConnections>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.count.send_modify(|count| *count -= 1);
    }
}

impl LiveRoute {
    /// The next backend for a connection that has tried those of `tried` (by id) in vain.
    pub(crate) fn choose(&self, tried: &[String]) -> Option<&LiveBackend> {
        let turn = self.turn.fetch_add(1, Relaxed);
        if let ([only], []) = (&*self.backends, tried) {
            return (only.state == BackendState::Healthy).then_some(only);
        }
        let candidate = |backend: &LiveBackend| Candidate {
            state: backend.state,
            suspect: backend.suspicion.holds(),
            tried: tried.contains(&backend.id),
        };
        let candidates: Vec<Candidate> = self.backends.iter().map(candidate).collect();
        self.backends.get(balance::choose(&candidates, turn)?)
    }
}

impl LiveBackend {
    /// Avoids the backend for a while because a connection to it failed.
    pub(crate) fn suspect(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.suspicion.until.store(self.suspicion.now().saturating_add(time), Relaxed);
    }
}

/// Connections by backend id, for as long as a table or a connection knows the id.
#[derive(Debug)]
pub(crate) struct Backends {
    by_id: Mutex<HashMap<String, Arc<BackendConnections>>>,
    cut_all: CancellationToken,
}

impl Backends {
    /// An empty registry whose connections are all cut when `cut_all` is cancelled.
    pub(crate) fn new(cut_all: CancellationToken) -> Self {
        Self { by_id: Mutex::default(), cut_all }
    }

    /// The connections of one backend.
    pub(crate) fn get(&self, id: &str) -> Arc<BackendConnections> {
        let mut by_id = self.lock();
        if let Some(known) = by_id.get(id) {
            return Arc::clone(known);
        }
        let cut = Mutex::new(self.cut_all.child_token());
        let fresh = Arc::new(BackendConnections { count: watch::Sender::new(0), cut });
        by_id.insert(id.to_owned(), Arc::clone(&fresh));
        fresh
    }

    /// Cuts the connections of one backend that are open now, and answers how many there were.
    pub(crate) fn cut(&self, id: &str) -> usize {
        let Some(connections) = self.lock().get(id).cloned() else {
            return 0;
        };
        let open = *connections.count.borrow();
        let old = std::mem::replace(&mut *connections.token(), self.cut_all.child_token());
        old.cancel();
        open
    }

    /// Forgets backends that no table, connection or waiter knows any more.
    pub(crate) fn forget_unused(&self) {
        self.lock()
            .retain(|_, connections| Arc::strong_count(connections) > 1 || connections.count.receiver_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<BackendConnections>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compiles a valid table. Counters, turns, suspicions and what apps take carry over from `old` by id.
pub(crate) fn compile(
    table: &RoutingTable,
    old: &LiveTable,
    backends: &Backends,
    default_limits: AppLimits,
) -> LiveTable {
    let mut apps = BTreeMap::new();
    for id in table.routes.values().filter_map(|route| route.app.as_ref()) {
        let limits = table.apps.get(id).copied().unwrap_or(default_limits);
        let live = || Arc::new(LiveApp::new(limits, old.apps.get(id).map(|app| &**app)));
        apps.entry(id.clone()).or_insert_with(live);
    }
    let mut routes = BTreeMap::new();
    for (id, route) in &table.routes {
        let before = old.routes.get(id);
        let live = |backend: &Backend| live_backend(backend, before, backends);
        let compiled = LiveRoute {
            id: id.clone(),
            limits: route.limits,
            backends: route.backends.iter().map(live).collect(),
            app: route.app.as_ref().map(|id| Arc::clone(&apps[id])),
            counters: before.map_or_else(Arc::default, |before| Arc::clone(&before.counters)),
            turn: AtomicUsize::new(before.map_or(0, |before| before.turn.load(Relaxed))),
        };
        routes.insert(id.clone(), Arc::new(compiled));
    }
    let target = |listener: &Listener| match listener {
        Listener::Tcp { route } => Target::Tcp(Arc::clone(&routes[route])),
        Listener::Sni { names } => {
            let named = names.iter().map(|(name, route)| (name.clone(), Arc::clone(&routes[route])));
            Target::Sni(Arc::new(named.collect()))
        }
    };
    let listeners = table.listeners.iter().map(|(addr, listener)| {
        let proxies = table.proxies.get(addr).filter(|proxies| !proxies.is_empty());
        let proxies = proxies.map(|proxies| Arc::from(proxies.as_slice()));
        (*addr, LiveListener { target: target(listener), proxies })
    });
    LiveTable { listeners: listeners.collect(), routes, apps }
}

fn live_backend(backend: &Backend, before: Option<&Arc<LiveRoute>>, backends: &Backends) -> LiveBackend {
    let same = |known: &&LiveBackend| known.id == backend.id && known.addr == backend.addr;
    let known = before.and_then(|route| route.backends.iter().find(same));
    let suspicion = known.map_or_else(
        || Arc::new(Suspicion { epoch: Instant::now(), until: AtomicU64::new(0) }),
        |known| Arc::clone(&known.suspicion),
    );
    let connections = backends.get(&backend.id);
    LiveBackend {
        addr: backend.addr,
        proxy_protocol: backend.proxy_protocol,
        connections,
        id: backend.id.clone(),
        state: backend.state,
        suspicion,
    }
}

impl LiveTable {
    /// Connections open now by backend id of one route.
    pub(crate) fn backend_counts(route: &LiveRoute) -> BTreeMap<String, usize> {
        let count = |backend: &LiveBackend| (backend.id.clone(), *backend.connections.count.borrow());
        route.backends.iter().map(count).collect()
    }
}

//! The ingress as Holm uses it: tables made from the state, and what the agent asks about connections.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use holm_agent::Connections;
use holm_control::Control;
use holm_ingress::apart::{Apart, Launch};
use holm_ingress::{
    AppLimits, Backend, BackendState, Config, IpNet, Listener, ListenerStatus, Rate, Route, RouteLimits, RoutingTable,
    ServerName,
};
use holm_manifest::{IngressLimits, RouteMatch};
use holm_model::id::{AppKey, InstanceName, Seq};
use holm_planner::{BackendHealth, RoutingEntry, routing};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where the ingress listens.
#[derive(Debug, Clone)]
pub(crate) struct Listen {
    /// The address of every listener.
    pub(crate) address: IpAddr,
    /// The address of the listeners of apps that have IPv4, beside the other.
    pub(crate) ipv4: Ipv4Addr,
    /// The port that all TLS host names share.
    pub(crate) sni_port: u16,
    /// Proxies in front whose PROXY headers are believed.
    pub(crate) proxies: Vec<ProxyFrom>,
}

/// The IPv4 address that goes with the address of the listeners: what is kept to this machine stays there.
pub(crate) fn ipv4_beside(address: IpAddr) -> Ipv4Addr {
    if address == IpAddr::V6(Ipv6Addr::LOCALHOST) { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED }
}

impl Listen {
    /// The addresses on which an app is reached.
    fn addresses(&self, ipv4: bool) -> impl Iterator<Item = IpAddr> {
        // A host that is told to listen on IPv4 has it for every app already.
        let beside = (ipv4 && self.address.is_ipv6()).then_some(IpAddr::V4(self.ipv4));
        std::iter::once(self.address).chain(beside)
    }

    /// The listeners through which a route is reached.
    fn listeners(&self, entry: &RoutingEntry) -> impl Iterator<Item = SocketAddr> {
        let port = match &entry.on {
            RouteMatch::TcpPort(port) => *port,
            RouteMatch::Sni(_) => self.sni_port,
        };
        self.addresses(entry.ipv4).map(move |address| SocketAddr::new(address, port))
    }
}

/// Trusted proxies in front: a network, of one listening port or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyFrom {
    port: Option<u16>,
    network: IpNet,
}

impl FromStr for ProxyFrom {
    type Err = String;

    /// Reads `NETWORK` or `PORT=NETWORK`, a network being `ADDRESS/LENGTH` or a single address.
    fn from_str(text: &str) -> Result<Self, String> {
        let (port, network) = match text.split_once('=') {
            Some((port, network)) => (Some(port.parse().map_err(|_| format!("`{port}` is not a port"))?), network),
            None => (None, text),
        };
        let single = || network.parse::<IpAddr>().map(IpNet::from);
        let network = network.parse().or_else(|_| single()).map_err(|_| format!("`{network}` is not a network"))?;
        Ok(Self { port, network })
    }
}

/// What says how much the ingress tells, as it does for its caller.
const TELLS: &str = "HOLM_LOG";

/// How the ingress of a state folder is found and started: by this program, as `holm ingress`.
pub(crate) fn launch(state_dir: &Path, log_json: bool) -> io::Result<Launch> {
    let socket = std::path::absolute(state_dir.join("ingress.sock"))?;
    let mut arguments: Vec<OsString> = vec!["ingress".into(), "--socket".into(), socket.clone().into()];
    if log_json {
        arguments.push("--log-json".into());
    }
    let environment = std::env::var_os(TELLS).map(|what| (TELLS.into(), what)).into_iter().collect();
    Ok(Launch { socket, program: own_program()?, arguments, environment })
}

/// This program by its name, or by the kernel's when another file has that name by now.
fn own_program() -> io::Result<PathBuf> {
    const RUNNING: &str = "/proc/self/exe";
    let named = std::env::current_exe()?;
    let running = std::fs::metadata(RUNNING)?;
    let same = std::fs::metadata(&named).is_ok_and(|it| (it.dev(), it.ino()) == (running.dev(), running.ino()));
    Ok(if same { named } else { RUNNING.into() })
}

/// A running ingress that follows the state.
#[derive(Debug)]
pub(crate) struct Front {
    ingress: Apart,
    listen: Listen,
    applied: watch::Sender<Applied>,
}

/// What the ingress goes by.
#[derive(Debug, Default)]
struct Applied {
    /// The state it was made from.
    seq: Seq,
    entries: Vec<RoutingEntry>,
}

impl Front {
    pub(crate) fn new(ingress: Apart, listen: Listen) -> Arc<Self> {
        Arc::new(Self { ingress, listen, applied: watch::Sender::default() })
    }

    pub(crate) const fn ingress(&self) -> &Apart {
        &self.ingress
    }

    /// Applies a new table whenever the state asks for one, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, control: Control, stop: CancellationToken) {
        stop.run_until_cancelled(self.go_by(&control)).await;
        // Whoever waits for a newer state waits no more.
        self.applied.send_modify(|applied| applied.seq = Seq(u64::MAX));
    }

    async fn go_by(&self, control: &Control) {
        let mut changes = control.changes();
        loop {
            let state = control.state();
            let entries = routing(&state);
            let mut accepted = true;
            if entries != self.applied.borrow().entries {
                match self.ingress.apply(table(&entries, &self.listen)).await {
                    Ok(report) => {
                        for (listener, why) in &report.failed {
                            tracing::error!(%listener, %why, "cannot listen; trying again");
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the routing table was refused");
                        accepted = false;
                    }
                }
            }
            self.applied.send_modify(|applied| {
                applied.seq = state.seq;
                if accepted {
                    applied.entries = entries;
                }
            });
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the ingress goes by the state as of `seq` or a newer one. Answers which listeners of the routes of `app`
    /// are not open, with the reason.
    pub(crate) async fn routed(&self, app: &AppKey, seq: Seq) -> BTreeMap<SocketAddr, String> {
        let mut applied = self.applied.subscribe();
        let listeners: BTreeSet<SocketAddr> = {
            // An error: the ingress is gone.
            let Ok(applied) = applied.wait_for(|applied| applied.seq >= seq).await else { return BTreeMap::new() };
            let entries = applied.entries.iter().filter(|entry| entry.app == *app);
            entries.flat_map(|entry| self.listen.listeners(entry)).collect()
        };
        self.closed_listeners().await.into_iter().filter(|(at, _)| listeners.contains(at)).collect()
    }

    /// Listeners that could not be opened, with the reason.
    pub(crate) async fn closed_listeners(&self) -> BTreeMap<SocketAddr, String> {
        let listeners = self.ingress.stats().await.unwrap_or_default().listeners;
        listeners
            .into_iter()
            .filter_map(|(at, status)| match status {
                ListenerStatus::Open(_) => None,
                ListenerStatus::Failed(why) => Some((at, why)),
            })
            .collect()
    }
}

impl Connections for Front {
    fn drained<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let gets_none = |applied: &Applied| {
                let mut backends = applied.entries.iter().flat_map(|entry| &entry.backends);
                !backends.any(|b| b.instance == *instance && b.health == BackendHealth::Healthy)
            };
            // An error in either wait: the ingress is gone, and with it the connections.
            let _ = self.applied.subscribe().wait_for(gets_none).await;
            let _ = self.ingress.connections(&instance.to_string()).wait_for(|open| *open == Some(0)).await;
        })
    }

    fn cut(&self, instance: &InstanceName) {
        self.ingress.close_backend(&instance.to_string());
    }
}

/// The table for `entries`. One route of the ingress for each; host names share one listener.
fn table(entries: &[RoutingEntry], listen: &Listen) -> RoutingTable {
    let mut table = RoutingTable::default();
    let mut names: BTreeMap<SocketAddr, BTreeMap<ServerName, String>> = BTreeMap::new();
    for entry in entries {
        let id = entry.on.to_string();
        match &entry.on {
            RouteMatch::TcpPort(_) => {
                for listener in listen.listeners(entry) {
                    table.listeners.insert(listener, Listener::Tcp { route: id.clone() });
                }
            }
            RouteMatch::Sni(name) => match ServerName::parse(name.as_bytes()) {
                Ok(name) => {
                    for listener in listen.listeners(entry) {
                        names.entry(listener).or_default().insert(name.clone(), id.clone());
                    }
                }
                Err(error) => {
                    tracing::error!(%name, %error, "not a TLS server name");
                    continue;
                }
            },
        }
        let backends = entry.backends.iter().map(|backend| Backend {
            id: backend.instance.to_string(),
            addr: backend.address,
            state: match backend.health {
                BackendHealth::Healthy => BackendState::Healthy,
                BackendHealth::Draining => BackendState::Draining,
                BackendHealth::Unhealthy => BackendState::Unhealthy,
            },
            proxy_protocol: backend.proxy_protocol,
        });
        let (backends, app) = (backends.collect(), entry.app.to_string());
        table.apps.insert(app.clone(), app_limits(&entry.limits));
        table.routes.insert(id, Route { backends, limits: RouteLimits::default(), app: Some(app) });
    }
    table.listeners.extend(names.into_iter().map(|(listener, names)| (listener, Listener::Sni { names })));
    for listener in table.listeners.keys() {
        let here = listen.proxies.iter().filter(|from| from.port.is_none_or(|port| port == listener.port()));
        table.proxies.insert(*listener, here.map(|from| from.network).collect());
    }
    table
}

/// What the manifest says, and Holm's own limits for the rest.
fn app_limits(limits: &IngressLimits) -> AppLimits {
    let own = Config::default().app_limits;
    let count = |limit: Option<u32>, own| limit.map_or(own, |limit| usize::try_from(limit).ok());
    let rate = |per_second: u32| Rate { per_second, burst: per_second.saturating_mul(2) };
    AppLimits {
        max_connections: count(limits.connections, own.max_connections),
        max_per_source: count(limits.connections_per_source, own.max_per_source),
        connects: limits.connects_per_second.map(rate).or(own.connects),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_share_a_listener_and_ports_have_their_own() {
        let entry = |on: RouteMatch, instance: &str, health| RoutingEntry {
            on,
            app: "hello".parse().unwrap(),
            ipv4: false,
            limits: IngressLimits { connections: Some(10), ..IngressLimits::default() },
            backends: vec![holm_planner::Backend {
                instance: instance.parse().unwrap(),
                address: ([127, 0, 0, 1], 9000).into(),
                health,
                proxy_protocol: true,
            }],
        };
        let entries = [
            entry(RouteMatch::TcpPort(80), "hello.web.1", BackendHealth::Healthy),
            entry(RouteMatch::Sni("a.example".to_owned()), "hello.web.1", BackendHealth::Draining),
            entry(RouteMatch::Sni("b.example".to_owned()), "shop.web.2", BackendHealth::Unhealthy),
        ];
        let proxies = ["443=192.0.2.0/24", "2001:db8::1"].map(|from| from.parse().unwrap()).to_vec();
        let address = "::".parse().unwrap();
        let listen = Listen { address, ipv4: ipv4_beside(address), sni_port: 443, proxies };
        let table = table(&entries, &listen);
        table.validate().unwrap();
        let listeners: Vec<String> = table.listeners.keys().map(ToString::to_string).collect();
        assert_eq!(listeners, ["[::]:80", "[::]:443"]);
        let Listener::Sni { names } = &table.listeners[&"[::]:443".parse().unwrap()] else { panic!("not SNI") };
        assert_eq!(names.values().collect::<Vec<_>>(), ["sni:a.example", "sni:b.example"]);
        assert_eq!(table.routes["sni:a.example"].backends[0].state, BackendState::Draining);
        assert!(table.routes["sni:a.example"].backends[0].proxy_protocol);
        assert_eq!(table.routes["tcp:80"].app.as_deref(), Some("hello"));
        let limits = table.apps["hello"];
        assert_eq!(limits.max_connections, Some(10));
        assert_eq!(limits.connects, Config::default().app_limits.connects);
        let proxies = |port: &str| table.proxies[&format!("[::]:{port}").parse().unwrap()].clone();
        assert_eq!(proxies("80"), ["2001:db8::1/128".parse().unwrap()]);
        assert_eq!(proxies("443").len(), 2);
    }

    struct NoImages;

    impl holm_control::Images for NoImages {
        fn fetch<'a>(
            &'a self,
            _: &'a str,
            _: holm_control::ProgressSink,
        ) -> BoxFuture<'a, Result<holm_control::FetchedImage, holm_control::FetchError>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_has_waited_for_a_route_finds_it_open_or_hears_why_not() {
        use holm_control::{Command, Meta, Options};
        let folder = tempfile::tempdir().unwrap();
        let control = Control::open(folder.path(), Arc::new(NoImages), Options::default()).await.unwrap();
        let address = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let listen = Listen { address, ipv4: ipv4_beside(address), sni_port: 443, proxies: Vec::new() };
        let socket = folder.path().join("ingress.sock");
        let ingress = tokio::spawn({
            let socket = socket.clone();
            async move { holm_ingress::apart::serve(&socket, Config::default()).await }
        });
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            assert!(!ingress.is_finished(), "the ingress does not serve");
            tokio::task::yield_now().await;
        }
        // It is there: nothing is started.
        let launch = Launch { socket, program: "/bin/false".into(), arguments: Vec::new(), environment: Vec::new() };
        let front = Front::new(Apart::start(launch).await.unwrap(), listen);
        let stop = CancellationToken::new();
        let following = tokio::spawn(Arc::clone(&front).follow(control.clone(), stop.clone()));
        let manifest = "schema = 1\napp = \"hello\"\nimage = \"hello:1\"\n[process.web]\nmemory = \"64MiB\"\n";
        let manifest = Box::new(holm_manifest::Manifest::parse(manifest, "holm.toml").unwrap());
        let app: AppKey = "hello".parse().unwrap();
        control.submit(Command::Deploy { app: app.clone(), image: None, manifest }, Meta::new("test")).await.unwrap();
        let add = async |port: u16| {
            let process = holm_manifest::ProcessName::new("web").unwrap();
            let on = RouteMatch::TcpPort(port);
            let route = holm_manifest::Route { on, process, port: 80, proxy_protocol: false };
            let added = control.submit(Command::RouteAdd { app: app.clone(), route }, Meta::new("test")).await.unwrap();
            front.routed(&app, added.seq).await
        };
        let free = || std::net::TcpListener::bind((address, 0)).unwrap();
        let mut open = 0;
        for _ in 0..50 {
            let port = free().local_addr().unwrap().port();
            // Somebody else may have taken the port meanwhile.
            if add(port).await.keys().all(|at| at.port() != port) {
                // Without an instance the ingress resets it, which is an answer too.
                let connected = tokio::net::TcpStream::connect((address, port)).await;
                let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
                assert!(!connected.as_ref().is_err_and(refused), "{connected:?}");
                open += 1;
            }
        }
        assert!(open > 25, "only {open} of 50 routes were open");
        let taken = free();
        let at = taken.local_addr().unwrap();
        assert!(add(at.port()).await.contains_key(&at));
        let other: AppKey = "other".parse().unwrap();
        assert_eq!(front.routed(&other, Seq(1)).await, BTreeMap::new(), "another app's");
        // Nobody waits for an ingress that follows no more.
        stop.cancel();
        following.await.unwrap();
        front.routed(&app, Seq(u64::MAX)).await;
    }

    #[test]
    fn only_apps_with_ipv4_are_reached_over_it() {
        let entry = |on: RouteMatch, app: &str, ipv4| RoutingEntry {
            on,
            app: app.parse().unwrap(),
            ipv4,
            limits: IngressLimits::default(),
            backends: Vec::new(),
        };
        let entries = [
            entry(RouteMatch::TcpPort(80), "a", true),
            entry(RouteMatch::TcpPort(81), "b", false),
            entry(RouteMatch::Sni("a.example".to_owned()), "a", true),
            entry(RouteMatch::Sni("b.example".to_owned()), "b", false),
        ];
        let listeners = |address: &str| {
            let address = address.parse().unwrap();
            let listen = Listen { address, ipv4: ipv4_beside(address), sni_port: 443, proxies: Vec::new() };
            let listeners = table(&entries, &listen).listeners;
            let shown = listeners.into_iter().map(|(addr, listener)| match listener {
                Listener::Tcp { .. } => addr.to_string(),
                Listener::Sni { names } => format!("{addr} {}", names.len()),
            });
            shown.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(listeners("::"), "0.0.0.0:80, 0.0.0.0:443 1, [::]:80, [::]:81, [::]:443 2");
        assert_eq!(listeners("::1"), "127.0.0.1:80, 127.0.0.1:443 1, [::1]:80, [::1]:81, [::1]:443 2");
        assert_eq!(listeners("127.0.0.1"), "127.0.0.1:80, 127.0.0.1:81, 127.0.0.1:443 2");
    }

    #[test]
    fn proxies_in_front_are_a_network_of_one_port_or_of_all() {
        let from = |port, network: &str| ProxyFrom { port, network: network.parse().unwrap() };
        let table = [
            ("2001:db8::/32", Some(from(None, "2001:db8::/32"))),
            ("192.0.2.1", Some(from(None, "192.0.2.1/32"))),
            ("443=192.0.2.0/24", Some(from(Some(443), "192.0.2.0/24"))),
            ("", None),
            ("443=", None),
            ("x=192.0.2.0/24", None),
            ("192.0.2.0/33", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }
}

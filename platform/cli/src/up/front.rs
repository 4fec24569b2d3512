//! The ingress as Holm uses it: tables made from the state, and what the agent asks about connections.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use holm_agent::Connections;
use holm_control::Control;
use holm_ingress::{
    Backend, BackendState, IngressHandle, Listener, ListenerStatus, Route, RouteLimits, RoutingTable, ServerName,
};
use holm_manifest::RouteMatch;
use holm_model::id::InstanceName;
use holm_planner::{BackendHealth, RoutingEntry, routing};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where the ingress listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listen {
    /// The address of every listener.
    pub(crate) address: IpAddr,
    /// The port that all TLS host names share.
    pub(crate) sni_port: u16,
}

/// A running ingress that follows the state.
#[derive(Debug)]
pub(crate) struct Front {
    ingress: IngressHandle,
    listen: Listen,
    /// The entries that are applied.
    applied: watch::Sender<Vec<RoutingEntry>>,
}

impl Front {
    pub(crate) fn new(ingress: IngressHandle, listen: Listen) -> Arc<Self> {
        Arc::new(Self { ingress, listen, applied: watch::Sender::new(Vec::new()) })
    }

    pub(crate) const fn ingress(&self) -> &IngressHandle {
        &self.ingress
    }

    /// Applies a new table whenever the state asks for one, until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, control: Control, stop: CancellationToken) {
        let mut changes = control.changes();
        loop {
            let entries = routing(&control.state());
            if entries != *self.applied.borrow() {
                match self.ingress.apply(table(&entries, self.listen)).await {
                    Ok(report) => {
                        for (listener, why) in &report.failed {
                            tracing::error!(%listener, %why, "cannot listen; trying again");
                        }
                        self.applied.send_replace(entries);
                    }
                    Err(error) => tracing::error!(%error, "the routing table was refused"),
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Listeners that could not be opened, with the reason.
    pub(crate) fn closed_listeners(&self) -> BTreeMap<SocketAddr, String> {
        let listeners = self.ingress.stats().listeners.into_iter();
        listeners
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
            let gets_none = |entries: &Vec<RoutingEntry>| {
                let mut backends = entries.iter().flat_map(|entry| &entry.backends);
                !backends.any(|b| b.instance == *instance && b.health == BackendHealth::Healthy)
            };
            // An error in either wait: the ingress is gone, and with it the connections.
            let _ = self.applied.subscribe().wait_for(gets_none).await;
            let _ = self.ingress.connections(&instance.to_string()).wait_for(|open| *open == 0).await;
        })
    }

    fn cut(&self, instance: &InstanceName) {
        self.ingress.close_backend(&instance.to_string());
    }
}

/// The table for `entries`. One route of the ingress for each; host names share one listener.
fn table(entries: &[RoutingEntry], listen: Listen) -> RoutingTable {
    let mut table = RoutingTable::default();
    let mut names = BTreeMap::new();
    for entry in entries {
        let id = entry.on.to_string();
        match &entry.on {
            RouteMatch::TcpPort(port) => {
                let listener = Listener::Tcp { route: id.clone() };
                table.listeners.insert(SocketAddr::new(listen.address, *port), listener);
            }
            RouteMatch::Sni(name) => match ServerName::parse(name.as_bytes()) {
                Ok(name) => drop(names.insert(name, id.clone())),
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
        });
        table.routes.insert(id, Route { backends: backends.collect(), limits: RouteLimits::default() });
    }
    if !names.is_empty() {
        table.listeners.insert(SocketAddr::new(listen.address, listen.sni_port), Listener::Sni { names });
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_share_a_listener_and_ports_have_their_own() {
        let entry = |on: RouteMatch, instance: &str, health| RoutingEntry {
            on,
            app: "hello".parse().unwrap(),
            backends: vec![holm_planner::Backend {
                instance: instance.parse().unwrap(),
                address: ([127, 0, 0, 1], 9000).into(),
                health,
            }],
        };
        let entries = [
            entry(RouteMatch::TcpPort(80), "hello.web.1", BackendHealth::Healthy),
            entry(RouteMatch::Sni("a.example".to_owned()), "hello.web.1", BackendHealth::Draining),
            entry(RouteMatch::Sni("b.example".to_owned()), "shop.web.2", BackendHealth::Unhealthy),
        ];
        let listen = Listen { address: "::".parse().unwrap(), sni_port: 443 };
        let table = table(&entries, listen);
        table.validate().unwrap();
        let listeners: Vec<String> = table.listeners.keys().map(ToString::to_string).collect();
        assert_eq!(listeners, ["[::]:80", "[::]:443"]);
        let Listener::Sni { names } = &table.listeners[&"[::]:443".parse().unwrap()] else { panic!("not SNI") };
        assert_eq!(names.values().collect::<Vec<_>>(), ["sni:a.example", "sni:b.example"]);
        assert_eq!(table.routes["sni:a.example"].backends[0].state, BackendState::Draining);
    }
}

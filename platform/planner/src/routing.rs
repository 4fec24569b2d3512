//! Which instances serve which route.

use std::net::SocketAddr;

use holm_manifest::{IngressLimits, Route, RouteMatch, Strategy};
use holm_model::id::{AppKey, InstanceName};
use holm_model::report::Phase;
use holm_model::state::{DeploymentStatus, Instance, State};

use crate::rollout::is_fresh;

/// One route with those who serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingEntry {
    /// What selects the route.
    pub on: RouteMatch,
    /// Whose route it is.
    pub app: AppKey,
    /// Whether it is reached over IPv4 too.
    pub ipv4: bool,
    /// What the app may take of the ingress, over all its routes.
    pub limits: IngressLimits,
    /// The instances, by name.
    pub backends: Vec<Backend>,
}

/// An instance as one who serves a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The instance.
    pub instance: InstanceName,
    /// Where the host reaches the route's port of the guest.
    pub address: SocketAddr,
    /// Whether it gets connections.
    pub health: BackendHealth,
    /// Whether it is told who connects, by a PROXY header.
    pub proxy_protocol: bool,
}

/// Whether a backend gets connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendHealth {
    /// It gets new connections.
    Healthy,
    /// It keeps the connections it has and gets no new ones.
    Draining,
    /// It fails its health check and others do not: it keeps the connections it has and gets no new ones.
    Unhealthy,
}

/// Every route in force, in the order of what selects them.
#[must_use]
pub fn routing(state: &State) -> Vec<RoutingEntry> {
    let mut entries: Vec<RoutingEntry> = state
        .apps
        .keys()
        .flat_map(|app| state.routes_of(app).into_values().map(move |route| entry(state, app, &route)))
        .collect();
    entries.sort_by(|a, b| a.on.cmp(&b.on));
    entries
}

fn entry(state: &State, app: &AppKey, route: &Route) -> RoutingEntry {
    let of_process = || state.instances_of(app).filter(|(name, i)| name.process == route.process && !i.task);
    let stays_out = blue_green_under_way(state, app)
        && of_process().any(|(_, i)| i.is_live() && i.phase == Phase::Healthy && !is_fresh(state, app, i));
    let backends = of_process().filter_map(|(name, instance)| {
        if stays_out && instance.is_live() && is_fresh(state, app, instance) {
            return None;
        }
        let health = match (&instance.retired, instance.phase) {
            (None, Phase::Healthy) => BackendHealth::Healthy,
            (None, Phase::Unhealthy) => BackendHealth::Unhealthy,
            (Some(_), Phase::Healthy | Phase::Unhealthy | Phase::Stopping) => BackendHealth::Draining,
            _ => return None,
        };
        let own = own_route(state, name, instance, route);
        let address = *instance.endpoints.get(&own.port)?;
        Some(Backend { instance: name.clone(), address, health, proxy_protocol: own.proxy_protocol })
    });
    let mut backends: Vec<Backend> = backends.collect();
    // A check also fails because the host is busy. Where nobody does better, who fails it is worth a try: refusing everybody
    // would make an outage of it.
    if backends.iter().all(|backend| backend.health != BackendHealth::Healthy) {
        let failing = backends.iter_mut().filter(|backend| backend.health == BackendHealth::Unhealthy);
        failing.for_each(|backend| backend.health = BackendHealth::Healthy);
    }
    let release = state.apps.get(app).and_then(|doc| state.release(app, doc.current?));
    let limits = release.map(|release| release.manifest.ingress).unwrap_or_default();
    let ipv4 = state.apps.get(app).is_some_and(|doc| doc.ipv4);
    RoutingEntry { on: route.on.clone(), app: app.clone(), ipv4, limits, backends }
}

/// Whether the new instances of `app` wait for each other before they get connections. They do not wait when none of the
/// old ones can serve.
fn blue_green_under_way(state: &State, app: &AppKey) -> bool {
    let coming = state.active_deployment(app).filter(|(_, d)| d.status == DeploymentStatus::RollingOut);
    let release = coming.and_then(|(_, deployment)| state.release(app, deployment.release?));
    release.is_some_and(|release| release.manifest.strategy == Strategy::BlueGreen)
}

/// `route` as `instance` serves it: its own release may do so on another port than the current one, or may not expect a
/// PROXY header yet.
pub(crate) fn own_route<'a>(state: &'a State, name: &InstanceName, instance: &Instance, route: &'a Route) -> &'a Route {
    let release = state.release(&name.app, instance.release);
    let own = release.map(|r| r.manifest.routes_in(&name.app.env)).unwrap_or_default();
    own.iter().find(|r| r.on == route.on && r.process == route.process).unwrap_or(route)
}

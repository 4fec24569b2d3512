//! What a command means in a state: pure, so that every refusal is a table test.

use std::collections::BTreeSet;

use holm_manifest::{Manifest, ProcessName, Route, RouteMatch};
use holm_model::event::Event;
use holm_model::id::{AppKey, ReleaseNumber};
use holm_model::state::{App, State};

use crate::command::Command;
use crate::refusal::Refusal;
use crate::secrets::{self, Change};
use crate::volumes;

/// Most instances of one process type.
pub const MAX_INSTANCES: u32 = 100;

/// What the installation forbids beside what the state forbids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// TCP ports that no route may take because Holm listens there itself: the shared SNI port, for one.
    pub reserved_ports: BTreeSet<u16>,
}

/// Says which events `command` leads to in `state`. None: what it asks for is so already.
///
/// # Errors
/// [`Refusal`] when the command cannot be carried out.
pub fn decide(state: &State, rules: &Rules, command: &Command) -> Result<Vec<Event>, Refusal> {
    if let Command::Volume { volume, change } = command {
        return volumes::decide(state, volume, change);
    }
    let key = command.app();
    let app = match (state.apps.get(key), command) {
        (Some(app), Command::Destroy { .. }) if app.destroyed => return Ok(Vec::new()),
        (Some(app), _) if app.destroyed => return Err(Refusal::BeingDestroyed { app: key.clone() }),
        (Some(app), _) => app.clone(),
        (None, Command::Deploy { .. } | Command::Secrets { .. }) => App::default(),
        (None, _) => {
            let known = state.apps.iter().filter(|(_, a)| !a.destroyed).map(|(key, _)| key.clone());
            return Err(Refusal::UnknownApp { app: key.clone(), known: known.collect() });
        }
    };
    let case = Case { state, rules, key, app: &app };
    match command {
        Command::Deploy { image, manifest, .. } => case.deploy(image.as_deref(), manifest),
        Command::Rollback { to, .. } => case.rollback(*to),
        Command::Restart { .. } => case.restart(),
        Command::Scale { process, instances, .. } => case.scale(process, *instances),
        Command::Stop { .. } if app.stopped => Ok(Vec::new()),
        Command::Stop { .. } => Ok(vec![Event::AppStopped { app: key.clone() }]),
        Command::Start { .. } if !app.stopped => Ok(Vec::new()),
        Command::Start { .. } => case.start(),
        Command::RouteAdd { route, .. } => case.route_add(route),
        Command::RouteRemove { on, .. } => case.route_remove(on),
        Command::Secrets { set, changed, removed, restart, .. } => {
            secrets::change(state, key, &app, &Change { set, changed, removed, restart: *restart })
        }
        Command::Ipv4 { allocated, .. } if *allocated == app.ipv4 => Ok(Vec::new()),
        Command::Ipv4 { allocated: true, .. } => Ok(vec![Event::Ipv4Allocated { app: key.clone() }]),
        Command::Ipv4 { allocated: false, .. } => Ok(vec![Event::Ipv4Released { app: key.clone() }]),
        Command::Destroy { volumes, .. } => Ok(vec![Event::AppDestroyed { app: key.clone(), volumes: *volumes }]),
        Command::Volume { .. } => unreachable!("volumes have been decided about above"),
    }
}

/// One command's app, which is not being destroyed.
struct Case<'a> {
    state: &'a State,
    rules: &'a Rules,
    key: &'a AppKey,
    app: &'a App,
}

impl Case<'_> {
    fn deploy(&self, image: Option<&str>, manifest: &Manifest) -> Result<Vec<Event>, Refusal> {
        if manifest.app != self.key.app {
            return Err(Refusal::OtherAppsManifest { app: self.key.clone(), manifest: manifest.app.to_string() });
        }
        self.check_manifest(manifest)?;
        let image = image.or(manifest.image.as_deref()).map(str::trim).filter(|image| !image.is_empty());
        let image = image.ok_or_else(|| Refusal::NoImage { app: self.key.clone() })?;
        if self.app.stopped {
            return Err(Refusal::Stopped { app: self.key.clone() });
        }
        secrets::check_set(self.key, &self.app.secrets, manifest)?;
        self.check_routes_free(manifest.routes_in(&self.key.env))?;
        self.check_room(self.app, manifest, true)?;
        Ok(vec![Event::DeployRequested {
            app: self.key.clone(),
            deployment: self.app.last_deployment.next(),
            image: image.to_owned(),
            manifest: Box::new(manifest.clone()),
        }])
    }

    /// What the state would break on. The manifest's own crate checks the rest, with line and column.
    fn check_manifest(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let bad = |why: String| Err(Refusal::BadManifest { app: self.key.clone(), why });
        if manifest.processes.is_empty() {
            return bad("it has no process type".to_owned());
        }
        for process in manifest.processes.keys() {
            let count = manifest.instances_in(&self.key.env, process);
            if count > MAX_INSTANCES {
                return bad(format!("`{process}` asks for {count} instances, and {MAX_INSTANCES} are the most"));
            }
        }
        let mut seen = BTreeSet::new();
        for route in manifest.routes_in(&self.key.env) {
            check_match(route)?;
            if !manifest.processes.contains_key(&route.process) {
                return bad(format!(
                    "the route `{}` leads to `{}`, which is not a process type",
                    route.on, route.process
                ));
            }
            if !seen.insert(&route.on) {
                return bad(format!("two routes match `{}`", route.on));
            }
        }
        Ok(())
    }

    fn rollback(&self, to: Option<ReleaseNumber>) -> Result<Vec<Event>, Refusal> {
        let under_way = self.state.active_deployment(self.key).map(|(_, deployment)| deployment);
        let heads_elsewhere = under_way.is_some_and(|d| d.release != self.app.current);
        let release = match to {
            Some(number) => {
                if self.state.release(self.key, number).is_none() {
                    let known = self.state.releases_of(self.key).map(|(number, _)| number).collect();
                    return Err(Refusal::UnknownRelease { app: self.key.clone(), release: number, known });
                }
                if self.app.current == Some(number) && under_way.is_none() {
                    return Err(Refusal::AlreadyCurrent { app: self.key.clone(), release: number });
                }
                number
            }
            None => self
                .app
                .current
                .filter(|_| heads_elsewhere)
                .or_else(|| self.newest_proven_below_current())
                .ok_or_else(|| Refusal::NothingToRollBackTo { app: self.key.clone() })?,
        };
        if self.app.stopped {
            return Err(Refusal::Stopped { app: self.key.clone() });
        }
        if let Some(back) = self.state.release(self.key, release) {
            secrets::check_set(self.key, &self.app.secrets, &back.manifest)?;
            self.check_routes_free(back.manifest.routes_in(&self.key.env))?;
            self.check_room(self.app, &back.manifest, true)?;
        }
        let deployment = self.app.last_deployment.next();
        Ok(vec![Event::RollbackRequested { app: self.key.clone(), deployment, release }])
    }

    fn newest_proven_below_current(&self) -> Option<ReleaseNumber> {
        let current = self.app.current?;
        let mut proven = self.state.releases_of(self.key).rev().filter(|(_, release)| release.proven);
        proven.find(|(number, _)| *number < current).map(|(number, _)| number)
    }

    fn restart(&self) -> Result<Vec<Event>, Refusal> {
        if self.app.stopped {
            return Err(Refusal::Stopped { app: self.key.clone() });
        }
        if self.state.active_deployment(self.key).is_some() {
            return Err(Refusal::DeploymentUnderWay { app: self.key.clone() });
        }
        if self.app.current.is_none() {
            return Err(Refusal::NothingDeployed { app: self.key.clone() });
        }
        if let Some(manifest) = self.wanted() {
            self.check_room(self.app, manifest, true)?;
        }
        let deployment = self.app.last_deployment.next();
        Ok(vec![Event::RestartRequested { app: self.key.clone(), deployment }])
    }

    fn scale(&self, process: &ProcessName, instances: Option<u32>) -> Result<Vec<Event>, Refusal> {
        self.check_process(process)?;
        if let Some(asked) = instances.filter(|count| *count > MAX_INSTANCES) {
            return Err(Refusal::TooManyInstances { app: self.key.clone(), asked, limit: MAX_INSTANCES });
        }
        let one_writer = || {
            let mut processes = self.state.manifests_of(self.key).filter_map(|m| m.processes.get(process));
            processes.any(|process| !process.mounts.is_empty())
        };
        if let Some(asked) = instances.filter(|count| *count > 1 && one_writer()) {
            return Err(Refusal::TooManyInstances { app: self.key.clone(), asked, limit: 1 });
        }
        if self.app.scale.get(process).copied() == instances {
            return Ok(Vec::new());
        }
        let mut scaled = self.app.clone();
        match instances {
            Some(count) => scaled.scale.insert(process.clone(), count),
            None => scaled.scale.remove(process),
        };
        let count = |app: &App, manifest: &Manifest| {
            app.scale.get(process).copied().unwrap_or_else(|| manifest.instances_in(&self.key.env, process))
        };
        // Fewer always fit, also on a host that has come back smaller.
        if let Some(manifest) = self.wanted().filter(|m| count(&scaled, m) > count(self.app, m) && !scaled.stopped) {
            self.check_room(&scaled, manifest, false)?;
        }
        self.check_disk(&scaled, None)?;
        Ok(vec![Event::Scaled { app: self.key.clone(), process: process.clone(), instances }])
    }

    fn start(&self) -> Result<Vec<Event>, Refusal> {
        if let Some(manifest) = self.wanted() {
            self.check_room(self.app, manifest, false)?;
        }
        Ok(vec![Event::AppStarted { app: self.key.clone() }])
    }

    /// The manifest of the release that should run.
    fn wanted(&self) -> Option<&Manifest> {
        self.state.wanted_release(self.key).and_then(|n| self.state.release(self.key, n)).map(|r| &r.manifest)
    }

    /// Whether the host could hold `app` with `manifest`; `comes_in`: beside what runs of it now.
    fn check_room(&self, app: &App, manifest: &Manifest, comes_in: bool) -> Result<(), Refusal> {
        holm_planner::fits(self.state, self.key, app, manifest, comes_in)
            .map_err(|shortage| Refusal::NoRoom { app: self.key.clone(), shortage })?;
        self.check_disk(app, comes_in.then_some(manifest))
    }

    /// Whether the host's disk has room for `app`; `coming`: with this manifest in the place of one that is under way.
    fn check_disk(&self, app: &App, coming: Option<&Manifest>) -> Result<(), Refusal> {
        holm_planner::fits_disk(self.state, self.key, app, coming)
            .map_err(|shortage| Refusal::NoDisk { what: self.key.to_string(), shortage })
    }

    fn route_add(&self, route: &Route) -> Result<Vec<Event>, Refusal> {
        check_match(route)?;
        self.check_process(&route.process)?;
        if self.app.added_routes.values().any(|added| added == route) {
            return Ok(Vec::new());
        }
        if claims(self.state, self.key).any(|claimed| claimed.on == route.on) {
            let (on, app) = (route.on.clone(), self.key.clone());
            return Err(Refusal::RouteTaken { on, owner: app.clone(), app });
        }
        self.check_routes_free(std::slice::from_ref(route))?;
        Ok(vec![Event::RouteAdded { app: self.key.clone(), route: route.clone() }])
    }

    fn route_remove(&self, on: &RouteMatch) -> Result<Vec<Event>, Refusal> {
        let (app, on) = (self.key.clone(), on.clone());
        if self.app.added_routes.values().any(|route| route.on == on) {
            Ok(vec![Event::RouteRemoved { app, on }])
        } else if claims(self.state, self.key).any(|route| route.on == on) {
            Err(Refusal::RouteOfManifest { app, on })
        } else {
            Err(Refusal::UnknownRoute { app, on })
        }
    }

    fn check_process(&self, process: &ProcessName) -> Result<(), Refusal> {
        let known: BTreeSet<&ProcessName> =
            self.state.manifests_of(self.key).flat_map(|m| m.processes.keys()).collect();
        if known.is_empty() {
            return Err(Refusal::NothingDeployed { app: self.key.clone() });
        }
        if known.contains(process) {
            return Ok(());
        }
        let known = known.into_iter().cloned().collect();
        Err(Refusal::UnknownProcess { app: self.key.clone(), process: process.clone(), known })
    }

    /// No reserved port, and nothing that another app or environment has or is about to have.
    fn check_routes_free(&self, routes: &[Route]) -> Result<(), Refusal> {
        for route in routes {
            if let RouteMatch::TcpPort(port) = route.on
                && self.rules.reserved_ports.contains(&port)
            {
                return Err(Refusal::PortReserved { port });
            }
            let mut others = self.state.apps.keys().filter(|other| *other != self.key);
            if let Some(owner) = others.find(|other| claims(self.state, other).any(|claimed| claimed.on == route.on)) {
                let (on, app) = (route.on.clone(), self.key.clone());
                return Err(Refusal::RouteTaken { on, app, owner: owner.clone() });
            }
        }
        Ok(())
    }
}

/// The routes that `app` has or is about to have.
fn claims<'a>(state: &'a State, app: &'a AppKey) -> impl Iterator<Item = &'a Route> {
    let doc = state.apps.get(app).filter(|doc| !doc.destroyed);
    let added = doc.into_iter().flat_map(|doc| doc.added_routes.values());
    let live = doc.into_iter().flat_map(move |_| state.manifests_of(app));
    added.chain(live.flat_map(|manifest| manifest.routes_in(&app.env)))
}

fn check_match(route: &Route) -> Result<(), Refusal> {
    let bad = |why: &str| Err(Refusal::BadRoute { on: route.on.clone(), why: why.to_owned() });
    if route.port == 0 {
        return bad("the port inside the guest is 1 to 65535");
    }
    match &route.on {
        RouteMatch::TcpPort(0) => bad("a port is 1 to 65535"),
        RouteMatch::TcpPort(_) => Ok(()),
        RouteMatch::Sni(host) if is_host_name(host) => Ok(()),
        RouteMatch::Sni(_) => bad("a host name has lower-case labels of letters, digits and inner hyphens"),
    }
}

fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label)
}

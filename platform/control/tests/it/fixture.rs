//! What the tests share: manifests, a clock that tests turn, images and hosts that do what a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holm_control::{
    Accepted, Clock, Command, Control, FetchError, FetchedImage, Images, Meta, Options, ProgressSink, Refused, Rules,
};
use holm_manifest::{AppName, Manifest, Memory, Process, ProcessName, Route, RouteMatch};
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName};
use holm_model::report::{End, EndCause, HostReport, Observation, Phase};
use holm_model::state::{DeploymentStatus, State};
use holm_model::target::{HostTarget, Want};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

pub(crate) fn app(name: &str) -> AppKey {
    name.parse().unwrap()
}

pub(crate) fn process(name: &str) -> ProcessName {
    ProcessName::new(name).unwrap()
}

/// A manifest with the process types `web` (one instance) and `worker` (none).
pub(crate) fn manifest(name: &str) -> Manifest {
    let one = |instances| Process { cpu_millis: 500, instances, ..Process::new(Memory::from_mib(64)) };
    let processes = BTreeMap::from([(process("web"), one(1)), (process("worker"), one(0))]);
    Manifest {
        image: Some(format!("registry.example/{name}:1")),
        ..Manifest::new(AppName::new(name).unwrap(), processes)
    }
}

pub(crate) fn routed(name: &str, routes: &[Route]) -> Manifest {
    Manifest { routes: routes.to_vec(), ..manifest(name) }
}

pub(crate) fn tcp(port: u16) -> Route {
    Route { on: RouteMatch::TcpPort(port), process: process("web"), port: 8080, proxy_protocol: false }
}

pub(crate) fn sni(host: &str) -> Route {
    Route { on: RouteMatch::Sni(host.to_owned()), process: process("web"), port: 8443, proxy_protocol: false }
}

pub(crate) fn deploy(name: &str) -> Command {
    let key = app(name);
    let manifest = manifest(key.app.as_str());
    Command::Deploy { app: key, image: None, manifest: Box::new(manifest) }
}

pub(crate) fn deploy_image(name: &str, image: &str) -> Command {
    let key = app(name);
    let manifest = manifest(key.app.as_str());
    Command::Deploy { app: key, image: Some(image.to_owned()), manifest: Box::new(manifest) }
}

/// A clock that stands still until a test turns it.
pub(crate) struct HandClock(watch::Sender<Timestamp>);

impl HandClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(Timestamp::from_second(1_700_000_000).unwrap())))
    }

    pub(crate) fn turn(&self, by: SignedDuration) {
        self.0.send_modify(|now| *now += by);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let mut time = self.0.subscribe();
        Box::pin(async move {
            let _ = time.wait_for(|now| *now >= at).await;
        })
    }
}

/// Images by name: each name is an image of its own, unless a test scripts what happens.
#[derive(Default)]
pub(crate) struct Shelf {
    /// Answers to give first, by name.
    pub(crate) script: Mutex<BTreeMap<String, Vec<Result<FetchedImage, FetchError>>>>,
    /// Every fetch that began.
    pub(crate) fetches: Mutex<Vec<String>>,
    /// Names whose fetch never ends.
    pub(crate) stuck: Mutex<Vec<String>>,
    /// Fetches that were dropped before their end.
    pub(crate) dropped: Arc<Mutex<Vec<String>>>,
}

pub(crate) fn image(name: &str) -> FetchedImage {
    let digest = Digest::of(name.as_bytes());
    FetchedImage { reference: format!("registry.example/app@{digest}"), digest }
}

pub(crate) fn flaky(message: &str) -> Result<FetchedImage, FetchError> {
    Err(FetchError { retryable: true, message: message.to_owned() })
}

pub(crate) fn hopeless(message: &str) -> Result<FetchedImage, FetchError> {
    Err(FetchError { retryable: false, message: message.to_owned() })
}

struct NotedWhenDropped(Option<String>, Arc<Mutex<Vec<String>>>);

impl Drop for NotedWhenDropped {
    fn drop(&mut self) {
        if let Some(name) = self.0.take() {
            self.1.lock().unwrap().push(name);
        }
    }
}

impl Images for Shelf {
    fn fetch<'a>(
        &'a self,
        reference: &'a str,
        progress: ProgressSink,
    ) -> BoxFuture<'a, Result<FetchedImage, FetchError>> {
        Box::pin(async move {
            let mut note = NotedWhenDropped(Some(reference.to_owned()), Arc::clone(&self.dropped));
            self.fetches.lock().unwrap().push(reference.to_owned());
            progress.report(holm_control::FetchProgress { step: "pulling".to_owned(), done: 1, total: Some(2) });
            if self.stuck.lock().unwrap().iter().any(|name| name == reference) {
                std::future::pending::<()>().await;
            }
            note.0 = None;
            let scripted =
                self.script.lock().unwrap().get_mut(reference).and_then(|s| (!s.is_empty()).then(|| s.remove(0)));
            scripted.unwrap_or_else(|| Ok(image(reference)))
        })
    }
}

/// A control plane on a folder of its own.
pub(crate) struct House {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) control: Control,
}

/// Events that the tests' control planes keep.
pub(crate) const KEEP_EVENTS: u64 = 40;

pub(crate) fn options(clock: &Arc<HandClock>) -> Options {
    let rules = Rules { reserved_ports: [443].into() };
    // Few enough that every longer life compacts its log again and again.
    Options { rules, clock: Arc::clone(clock) as Arc<dyn Clock>, keep_events: KEEP_EVENTS }
}

impl House {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, shelf) = (HandClock::new(), Arc::new(Shelf::default()));
        let images = Arc::clone(&shelf) as Arc<dyn Images>;
        let control = Control::open(dir.path(), images, options(&clock)).await.unwrap();
        Self { dir, clock, shelf, control }
    }

    /// Closes and opens the folder again.
    pub(crate) async fn reopen(self) -> Self {
        let Self { dir, clock, shelf, control } = self;
        control.close().await;
        let images = Arc::clone(&shelf) as Arc<dyn Images>;
        let control = Control::open(dir.path(), images, options(&clock)).await.unwrap();
        Self { dir, clock, shelf, control }
    }

    pub(crate) async fn ask(&self, command: Command) -> Result<Accepted, Refused> {
        self.control.submit(command, Meta::new("user:anna")).await
    }

    /// Waits until the state is as `is` wants it.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&State) -> bool) -> Arc<State> {
        let mut changes = self.control.changes();
        let waiting = async {
            loop {
                changes.mark_unchanged();
                let state = self.control.state();
                if is(&state) {
                    return state;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), waiting).await {
            Ok(state) => state,
            Err(_) => panic!("waited for: {what}; the state is {:#?}", self.control.state()),
        }
    }

    pub(crate) async fn until_status(
        &self,
        name: &str,
        number: u64,
        is: impl Fn(&DeploymentStatus) -> bool,
    ) -> Arc<State> {
        let key = (app(name), DeploymentNumber(number));
        self.until("a deployment's status", |state| state.deployments.get(&key).is_some_and(|d| is(&d.status))).await
    }

    /// A host that does at once what the target says, until the handle is dropped.
    pub(crate) fn host(&self) -> Host {
        let control = self.control.clone();
        let clock = Arc::clone(&self.clock);
        Host(tokio::spawn(async move {
            let mut targets = control.targets();
            let mut seen = BTreeMap::new();
            loop {
                let target = Arc::clone(&targets.borrow_and_update());
                while obey(&target, &mut seen, clock.now()) {
                    let report =
                        HostReport { run: 0, number: 0, generation: target.generation, instances: seen.clone() };
                    if control.report(report).await.is_err() {
                        return;
                    }
                }
                if targets.changed().await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// A running fake host.
pub(crate) struct Host(tokio::task::JoinHandle<()>);

impl Drop for Host {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Moves every instance one step towards the target; `false`: nothing is left to do.
pub(crate) fn obey(target: &HostTarget, seen: &mut BTreeMap<InstanceName, Observation>, now: Timestamp) -> bool {
    let before = seen.clone();
    seen.retain(|name, _| target.instances.contains_key(name));
    for (name, instance) in &target.instances {
        let fresh = Observation { phase: Phase::Preparing, detail: None, endpoints: BTreeMap::new(), end: None };
        let known = seen.entry(name.clone()).or_insert(fresh);
        let next = match (instance.want, known.phase) {
            (_, Phase::Ended) => continue,
            (Want::Stop, Phase::Stopping) => Phase::Ended,
            (Want::Stop, _) => Phase::Stopping,
            (Want::Run, Phase::Placed | Phase::Preparing) => Phase::Booting,
            (Want::Run, Phase::Booting) => Phase::Starting,
            (Want::Run, Phase::Starting | Phase::Unhealthy) => Phase::Healthy,
            (Want::Run, Phase::Healthy | Phase::Stopping) => continue,
        };
        known.phase = next;
        if next == Phase::Healthy {
            known.endpoints = instance.ports.iter().map(|port| (*port, ([127, 0, 0, 1], 40_000).into())).collect();
        }
        if next == Phase::Ended {
            known.endpoints.clear();
            known.end = Some(End { cause: EndCause::Stopped, at: now, last_log: Vec::new() });
        }
    }
    *seen != before
}

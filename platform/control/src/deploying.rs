//! Brings in the images of deployments: level-triggered on the state, so that a crash needs no recovery.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holm_model::event::Event;
use holm_model::id::{AppKey, DeploymentNumber, Seq};
use holm_model::state::{DeploymentKind, DeploymentStatus, State, manifest_hash};
use jiff::SignedDuration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::control::{Refused, Shared};
use crate::images::{FetchError, FetchProgress, FetchedImage, Images, ProgressSink};

/// Tries to fetch an image before the deployment fails.
const TRIES: u32 = 6;

/// Wait before the second try; each further one waits twice as long: half a minute in all.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(1);

/// Rest between two tries to record a result.
const REST: Duration = Duration::from_secs(1);

/// The images that are being fetched, and how far they are.
#[derive(Default)]
pub(crate) struct Fetching(Mutex<BTreeMap<(AppKey, DeploymentNumber), ProgressSink>>);

impl Fetching {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(AppKey, DeploymentNumber), ProgressSink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(
        &self,
        app: &AppKey,
        deployment: DeploymentNumber,
    ) -> Option<watch::Receiver<FetchProgress>> {
        self.lock().get(&(app.clone(), deployment)).map(ProgressSink::subscribe)
    }
}

/// One deployment's work; the event that asked for it tells it from a namesake of an app made anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Work {
    request: Seq,
    app: AppKey,
    deployment: DeploymentNumber,
    image: String,
}

/// Never returns: whoever spawns it cancels it, and with it every fetch.
pub(crate) async fn run(shared: Arc<Shared>, images: Arc<dyn Images>) {
    let mut changes = shared.changes.subscribe();
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<Work, AbortHandle> = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        let wanted = to_do(&shared.state.load());
        running.retain(|work, task| {
            let keep = wanted.contains(work) && !task.is_finished();
            if !keep {
                task.abort();
                shared.fetching.lock().remove(&(work.app.clone(), work.deployment));
            }
            keep
        });
        for work in wanted {
            running.entry(work.clone()).or_insert_with(|| {
                let progress = ProgressSink::new();
                shared.fetching.lock().insert((work.app.clone(), work.deployment), progress.clone());
                tasks.spawn(deploy(Arc::clone(&shared), Arc::clone(&images), work, progress))
            });
        }
        tokio::select! {
            _ = changes.changed() => {}
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "fetching an image panicked");
                }
            }
        }
    }
}

/// The deployments that wait for their image.
fn to_do(state: &State) -> Vec<Work> {
    let active = state.apps.keys().filter_map(|app| Some((app, state.active_deployment(app)?)));
    active
        .filter(|(_, (_, deployment))| deployment.status == DeploymentStatus::Preparing)
        .filter_map(|(app, (number, deployment))| match &deployment.kind {
            DeploymentKind::Deploy { image, .. } => {
                Some(Work { request: deployment.request, app: app.clone(), deployment: number, image: image.clone() })
            }
            DeploymentKind::Rollback | DeploymentKind::Restart => None,
        })
        .collect()
}

async fn deploy(shared: Arc<Shared>, images: Arc<dyn Images>, work: Work, progress: ProgressSink) {
    let fetched = fetch(&shared, &*images, &work.image, &progress).await;
    loop {
        let (made_for, fetched) = (work.clone(), fetched.clone());
        let recorded = shared.record("deployer", Some(work.request), move |state, _| result(state, &made_for, fetched));
        match recorded.await {
            Ok(_) | Err(Refused::Closed) => return,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a fetched image was not recorded");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn fetch(
    shared: &Shared,
    images: &dyn Images,
    reference: &str,
    progress: &ProgressSink,
) -> Result<FetchedImage, FetchError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match images.fetch(reference, progress.clone()).await {
            Err(error) if error.retryable => {
                let step = format!("{error}; trying again in {} s", wait.as_secs());
                progress.report(FetchProgress { step, done: 0, total: None });
                let again = shared.clock.now().saturating_add(wait).expect("a wait of seconds has no calendar units");
                shared.clock.until(again).await;
                wait *= 2;
            }
            done => return done,
        }
    }
    images.fetch(reference, progress.clone()).await
}

/// What the outcome means, unless the deployment has been overtaken meanwhile.
fn result(state: &State, work: &Work, fetched: Result<FetchedImage, FetchError>) -> Vec<Event> {
    let Work { app, deployment, .. } = work;
    let Some(doc) = state.apps.get(app) else { return Vec::new() };
    let Some((_, asked)) = state.active_deployment(app).filter(|(number, asked)| {
        number == deployment && asked.request == work.request && asked.status == DeploymentStatus::Preparing
    }) else {
        return Vec::new();
    };
    let DeploymentKind::Deploy { manifest, .. } = &asked.kind else { return Vec::new() };
    let (app, deployment) = (app.clone(), *deployment);
    match fetched {
        Ok(FetchedImage { digest, reference }) => {
            let hash = manifest_hash(manifest);
            let mut known = state.releases_of(&work.app).rev();
            let same = known.find(|(_, release)| release.digest == digest && release.manifest_hash == hash);
            let release = same.map_or_else(|| doc.last_release.next(), |(number, _)| number);
            vec![Event::ReleaseReady { app, deployment, release, digest, reference }]
        }
        Err(FetchError { message, .. }) => {
            vec![Event::DeploymentFailed { app, deployment, why: message, last_log: Vec::new(), back_to: None }]
        }
    }
}

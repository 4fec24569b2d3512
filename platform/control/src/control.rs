//! The handle on the control plane that the API, the agent and the ingress share.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arc_swap::ArcSwap;
use holm_model::event::{Event, Recorded};
use holm_model::id::{AppKey, DeploymentNumber, Digest, Seq};
use holm_model::report::HostReport;
use holm_model::state::State;
use holm_model::target::HostTarget;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, SystemClock};
use crate::command::{Accepted, Command, Meta};
use crate::decide::{Rules, decide};
use crate::deploying::{self, Fetching};
use crate::images::{FetchProgress, Images};
use crate::observe::observe;
use crate::order::ReportOrder;
use crate::planning;
use crate::refusal::Refusal;
use crate::store::{EventQuery, FolderLock, Reader, Store, StoreError, Verified};
use crate::writer::{Decide, Decided, Job, JobError, Outcome, QUEUE, RequestKey, Writer, Written};

/// Longest request key in bytes.
const MAX_KEY: usize = 200;

/// What an installation chooses.
#[derive(Clone)]
pub struct Options {
    /// What the installation forbids.
    pub rules: Rules,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How many of the newest events are kept at least; older ones give way to what they led to. At least 1.
    pub keep_events: u64,
}

impl Options {
    /// How many events are kept where nobody says otherwise.
    pub const KEEP_EVENTS: u64 = 100_000;
}

impl Default for Options {
    fn default() -> Self {
        Self { rules: Rules::default(), clock: Arc::new(SystemClock), keep_events: Self::KEEP_EVENTS }
    }
}

/// Why a command was not accepted. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// It cannot be carried out.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The state cannot be written.
    #[error("the state cannot be written")]
    Store(#[source] Arc<StoreError>),
    /// The control plane is shutting down.
    #[error("Holm is shutting down")]
    Closed,
}

impl From<JobError> for Refused {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Refused(refusal) => Self::Refusal(refusal),
            JobError::Store(error) => Self::Store(error),
        }
    }
}

/// The control plane. Cheap to clone; it ends with [`Control::close`], or when the last clone is dropped.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
    running: Arc<Running>,
}

/// What the handle and the tasks share.
pub(crate) struct Shared {
    pub(crate) state: ArcSwap<State>,
    pub(crate) changes: watch::Sender<Seq>,
    pub(crate) targets: watch::Sender<Arc<HostTarget>>,
    pub(crate) fetching: Fetching,
    pub(crate) clock: Arc<dyn Clock>,
    rules: Arc<Rules>,
    live: ArcSwap<HostReport>,
    order: Mutex<ReportOrder>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    reader: Arc<Mutex<Option<Reader>>>,
}

/// What ends with the last handle.
struct Running {
    stop: CancellationToken,
    _stop_with_the_last_handle: DropGuard,
    tasks: TaskTracker,
    writer: watch::Receiver<bool>,
}

impl Control {
    /// Opens the state folder `dir`, making it and an empty log when there is none, and starts to work on it: images of
    /// unfinished deployments are fetched, and the planner decides. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`] when another process has the folder, or the database in it cannot be used. Nothing is overwritten.
    pub async fn open(dir: &Path, images: Arc<dyn Images>, options: Options) -> Result<Self, StoreError> {
        let dir = dir.to_owned();
        let clock = Arc::clone(&options.clock);
        let opening = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir).map_err(|source| StoreError::File {
                action: "make the folder",
                path: dir.clone(),
                source,
            })?;
            let lock = FolderLock::take(&dir)?;
            let store = Store::open(&dir)?;
            store.forget_old_requests(clock.now())?;
            let state = store.load()?;
            let reader = Reader::open(&dir)?;
            Ok::<_, StoreError>((lock, store, state, reader))
        });
        let (lock, store, state, reader) = opening.await.expect("opening the store does not panic")?;

        let state = Arc::new(state);
        let (jobs, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            state: ArcSwap::new(Arc::clone(&state)),
            changes: watch::Sender::new(state.seq),
            targets: watch::Sender::new(Arc::new(holm_planner::host_target(&state))),
            fetching: Fetching::default(),
            clock: Arc::clone(&options.clock),
            rules: Arc::new(options.rules),
            live: ArcSwap::from_pointee(HostReport {
                run: 0,
                number: 0,
                generation: Seq(0),
                instances: Default::default(),
            }),
            order: Mutex::default(),
            jobs: Mutex::new(Some(jobs)),
            reader: Arc::new(Mutex::new(Some(reader))),
        });
        let publish = {
            let shared = Arc::downgrade(&shared);
            Box::new(move |state: Arc<State>| {
                let Some(shared) = shared.upgrade() else { return };
                let seq = state.seq;
                shared.state.store(state);
                shared.changes.send_replace(seq);
            })
        };
        let writer = Writer::new(store, lock, state, options.clock, publish, options.keep_events.max(1))?;
        let (writing, written) = watch::channel(false);
        thread::Builder::new()
            .name("holm-writer".to_owned())
            .spawn(move || {
                writer.run(queue);
                writing.send_replace(true);
            })
            .map_err(|source| StoreError::File { action: "start the writer of", path: "holm.db".into(), source })?;

        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(planning::run(Arc::clone(&shared))));
        tasks.spawn(stop.clone().run_until_cancelled_owned(deploying::run(Arc::clone(&shared), images)));
        tasks.close();
        let running =
            Running { stop: stop.clone(), _stop_with_the_last_handle: stop.drop_guard(), tasks, writer: written };
        Ok(Self { shared, running: Arc::new(running) })
    }

    /// Asks for `command`. When this returns, the answer is on disk.
    ///
    /// A repetition with the same request key gets the first answer again and changes nothing. When more commands wait
    /// than the writer's queue holds, this waits for room.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub async fn submit(&self, command: Command, meta: Meta) -> Result<Accepted, Refused> {
        if let Some(key) = meta.request_key.as_ref().filter(|key| key.is_empty() || key.len() > MAX_KEY) {
            return Err(Refusal::BadKey { length: key.len() }.into());
        }
        let body = serde_json::to_vec(&(&command, meta.expected_version));
        let body_hash = Digest::of(&body.expect("a command has only text keys and finite numbers")).to_string();
        let request = meta.request_key.map(|key| RequestKey { key, body_hash });
        let rules = Arc::clone(&self.shared.rules);
        let decide: Decide = Box::new(move |state, _| {
            let app = command.app();
            if let Some(expected) = meta.expected_version {
                let actual = state.apps.get(app).map_or(0, |doc| doc.version);
                if actual != expected {
                    return Err(Refusal::VersionConflict { app: app.clone(), expected, actual });
                }
            }
            Ok(Decided { events: decide(state, &rules, &command)?, app: Some(app.clone()) })
        });
        let (done, answer) = oneshot::channel();
        let job = Job { decide, actor: meta.actor, cause: None, request, respond: response_of, done };
        match self.shared.bring(job, answer).await? {
            Outcome::Written(written) => Ok(accepted(&written)),
            Outcome::Repeated(response) => serde_json::from_str(&response).map_err(|source| {
                let action: &'static str = "read a stored response";
                let source = rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, source.into());
                Refused::Store(Arc::new(StoreError::Sql { action, source }))
            }),
        }
    }

    /// Takes what a host sees. What has changed is recorded; the rest is kept in memory until the next report. Reports
    /// of one host come one after the other, never at the same time; one that is older than one before is left out.
    ///
    /// # Errors
    /// [`Refused`]: nothing was recorded; the next report makes it good.
    pub async fn report(&self, report: HostReport) -> Result<(), Refused> {
        if !self.shared.order.lock().unwrap_or_else(PoisonError::into_inner).admits(&report) {
            tracing::debug!(run = report.run, number = report.number, "a late report was left out");
            return Ok(());
        }
        let report = Arc::new(report);
        self.shared.live.store(Arc::clone(&report));
        self.shared.record("host", None, move |state, at| observe(state, &report, at)).await.map(drop)
    }

    /// Records that Holm started or stopped on a host.
    ///
    /// # Errors
    /// [`Refused`]: nothing was recorded.
    ///
    /// # Panics
    /// When `event` is about an app.
    pub async fn record_host(&self, event: Event) -> Result<(), Refused> {
        assert!(event.app().is_none(), "only events of a host are recorded by hand");
        self.shared.record("host", None, move |_, _| vec![event]).await.map(drop)
    }

    /// Records events of the installation that `actor` caused.
    ///
    /// # Errors
    /// [`Refused`]: nothing was recorded.
    ///
    /// # Panics
    /// When one of `events` is about an app.
    pub async fn record_site(&self, actor: &str, events: Vec<Event>) -> Result<(), Refused> {
        assert!(events.iter().all(|event| event.app().is_none()), "commands about apps are submitted");
        self.shared.record(actor, None, move |_, _| events).await.map(drop)
    }

    /// The newest state that is on disk.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.shared.state.load_full()
    }

    /// The sequence number of the newest state, whenever it changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Seq> {
        self.shared.changes.subscribe()
    }

    /// What the host should have, whenever it changes.
    #[must_use]
    pub fn targets(&self) -> watch::Receiver<Arc<HostTarget>> {
        self.shared.targets.subscribe()
    }

    /// The host's newest report, with the details that are not recorded.
    #[must_use]
    pub fn live(&self) -> Arc<HostReport> {
        self.shared.live.load_full()
    }

    /// How far the image of a deployment is, while it is being fetched.
    #[must_use]
    pub fn progress(&self, app: &AppKey, deployment: DeploymentNumber) -> Option<watch::Receiver<FetchProgress>> {
        self.shared.fetching.progress(app, deployment)
    }

    /// Recorded events, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read.
    pub async fn events(&self, query: EventQuery) -> Result<Vec<Recorded>, StoreError> {
        self.read(move |reader| reader.events(&query)).await
    }

    /// Replays the log, as far as it is kept, beside the running work and compares what it gives with the stored documents.
    ///
    /// # Errors
    /// [`StoreError`] when the log cannot be read. Documents that differ are no error but part of the answer.
    pub async fn verify(&self) -> Result<Verified, StoreError> {
        self.read(Reader::verify).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = Arc::clone(&self.shared.reader);
        let reading = tokio::task::spawn_blocking(move || {
            let reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            read(reader.as_ref().ok_or(StoreError::Broken)?)
        });
        reading.await.expect("reading the store does not panic")
    }

    /// Stops the work, lets the writer finish what waits, and closes the database.
    pub async fn close(self) {
        self.running.stop.cancel();
        self.running.tasks.wait().await;
        self.shared.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut written = self.running.writer.clone();
        // An error: the writer's thread is gone, which is just as well.
        let _ = written.wait_for(|done| *done).await;
    }
}

impl Shared {
    /// Records what `decide` makes of the newest state; says which events those were.
    pub(crate) async fn record(
        &self,
        actor: &str,
        cause: Option<Seq>,
        decide: impl FnOnce(&State, jiff::Timestamp) -> Vec<Event> + Send + 'static,
    ) -> Result<Vec<Recorded>, Refused> {
        let decide: Decide = Box::new(move |state, at| Ok(Decided { events: decide(state, at), app: None }));
        let (done, answer) = oneshot::channel();
        let job = Job { decide, actor: actor.to_owned(), cause, request: None, respond: response_of, done };
        match self.bring(job, answer).await? {
            Outcome::Written(written) => Ok(written.events),
            Outcome::Repeated(_) => Ok(Vec::new()),
        }
    }

    async fn bring(&self, job: Job, answer: oneshot::Receiver<Result<Outcome, JobError>>) -> Result<Outcome, Refused> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        jobs.ok_or(Refused::Closed)?.send(job).await.map_err(|_| Refused::Closed)?;
        Ok(answer.await.map_err(|_| Refused::Closed)??)
    }
}

fn accepted(written: &Written) -> Accepted {
    let deployment = written.events.iter().find_map(|recorded| match &recorded.event {
        Event::DeployRequested { deployment, .. }
        | Event::RollbackRequested { deployment, .. }
        | Event::RestartRequested { deployment, .. } => Some(*deployment),
        _ => None,
    });
    Accepted { seq: written.seq, version: written.version, deployment, changed: !written.events.is_empty() }
}

fn response_of(written: &Written) -> String {
    serde_json::to_string(&accepted(written)).expect("an answer has only text keys and finite numbers")
}

//! The writer: one thread that decides, appends and projects, many jobs to one commit.

use std::sync::Arc;

use holm_model::event::{Event, Recorded};
use holm_model::id::Seq;
use holm_model::state::{DocumentKey, State};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::refusal::Refusal;
use crate::store::{FolderLock, Store, StoreError, StoredRequest};

/// Jobs that may wait for the writer; whoever brings one more waits for room.
pub(crate) const QUEUE: usize = 1024;

/// Most jobs in one transaction: bounds how long the first one waits for the last.
const BATCH: usize = 256;

/// Most events that give way to the base in one step: some 100 ms of the writer's time.
const MOST_COMPACTED: u64 = 5000;

/// Something to record, decided against the newest state.
pub(crate) struct Job {
    /// Decides what is recorded. Nothing else may happen between the decision and the record.
    pub(crate) decide: Decide,
    pub(crate) actor: String,
    pub(crate) cause: Option<Seq>,
    pub(crate) request: Option<RequestKey>,
    /// What to remember as the response, when there is a request key.
    pub(crate) respond: fn(&Written) -> String,
    pub(crate) done: oneshot::Sender<Result<Outcome, JobError>>,
}

pub(crate) type Decide = Box<dyn FnOnce(&State, Timestamp) -> Result<Decided, Refusal> + Send>;

/// What a job decided.
pub(crate) struct Decided {
    pub(crate) events: Vec<Event>,
    /// The app whose version the answer tells.
    pub(crate) app: Option<holm_model::id::AppKey>,
}

/// The identity of a request.
pub(crate) struct RequestKey {
    pub(crate) key: String,
    pub(crate) body_hash: String,
}

/// What a job led to.
pub(crate) enum Outcome {
    /// It was recorded now.
    Written(Written),
    /// The same request was recorded before, with this response.
    Repeated(String),
}

/// What was recorded.
pub(crate) struct Written {
    pub(crate) events: Vec<Recorded>,
    /// The newest event of the whole log after the job.
    pub(crate) seq: Seq,
    /// The version of the job's app after the job.
    pub(crate) version: u64,
}

/// Why nothing was recorded.
#[derive(Debug, Clone)]
pub(crate) enum JobError {
    Refused(Refusal),
    Store(Arc<StoreError>),
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Takes every committed state, with the last sequence number.
pub(crate) type Publish = Box<dyn Fn(Arc<State>) + Send>;

pub(crate) struct Writer {
    store: Store,
    /// The newest committed state.
    committed: Arc<State>,
    /// Time never runs backwards in the log.
    last_at: Timestamp,
    clock: Arc<dyn Clock>,
    publish: Publish,
    broken: bool,
    /// Newest events that are kept, and the newest that has given way to the base.
    keep: u64,
    base: Seq,
    _lock: FolderLock,
}

type Answer = (oneshot::Sender<Result<Outcome, JobError>>, Result<Outcome, JobError>);

impl Writer {
    pub(crate) fn new(
        store: Store,
        lock: FolderLock,
        state: Arc<State>,
        clock: Arc<dyn Clock>,
        publish: Publish,
        keep: u64,
    ) -> Result<Self, StoreError> {
        let last_at = store.last_at()?.unwrap_or(Timestamp::UNIX_EPOCH);
        let base = store.base_seq()?;
        Ok(Self { store, committed: state, last_at, clock, publish, broken: false, keep, base, _lock: lock })
    }

    /// Works until nobody can bring jobs any more, then closes the database.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            let answers = self.write(&mut batch);
            for (done, answer) in answers {
                // Whoever asked may have gone; what was recorded stays.
                let _ = done.send(answer);
            }
            self.compact();
        }
        self.store.close();
    }

    /// Performs a batch: one transaction, one answer for each job. Answers are given when it is on disk.
    fn write(&mut self, batch: &mut Vec<Job>) -> Vec<Answer> {
        if self.broken {
            // Such as a full disk that has room again.
            self.recover();
        }
        if self.broken {
            return fail_all(batch.drain(..).map(|job| job.done), StoreError::Broken);
        }
        if let Err(error) = self.store.begin() {
            return fail_all(batch.drain(..).map(|job| job.done), error);
        }
        let mut working = Working::new(&self.committed);
        let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
        let mut lost = None;
        for job in batch.drain(..) {
            if lost.is_some() {
                answers.push((job.done, Err(StoreError::Broken.into())));
                continue;
            }
            let (done, answer) = self.perform(job, &mut working);
            match answer {
                Ok(answer) => answers.push((done, answer)),
                Err(error) => {
                    answers.push((done, Err(StoreError::Broken.into())));
                    lost = Some(error);
                }
            }
        }
        let committed = match lost {
            Some(error) => Err(error),
            None => self.commit(&working),
        };
        if let Err(error) = committed {
            tracing::error!(error = %error, "the state cannot be written");
            self.recover();
            return fail_all(answers.into_iter().map(|(done, _)| done), error);
        }
        if let Some(state) = working.changed {
            self.committed = Arc::new(state);
            (self.publish)(Arc::clone(&self.committed));
        }
        answers
    }

    /// Lets the oldest events give way to the base when there are more than are kept: a step at a time, so that no job
    /// waits long. A step that fails is taken again after the next batch.
    fn compact(&mut self) {
        let step = (self.keep / 8).clamp(1, MOST_COMPACTED);
        let kept = self.committed.seq.0.saturating_sub(self.base.0);
        if self.broken || kept < self.keep.saturating_add(step) {
            return;
        }
        let to = Seq(self.base.0 + step);
        match self.store.compact(to) {
            Ok(()) => self.base = to,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the log was not compacted");
                self.recover();
            }
        }
    }

    fn commit(&self, working: &Working) -> Result<(), StoreError> {
        if let Some(state) = &working.changed {
            self.store.set_applied(state.seq)?;
        }
        self.store.commit()
    }

    /// After a failed transaction: goes on only when the disk certainly holds the last published state.
    fn recover(&mut self) {
        let as_before = self.store.roll_back().and_then(|()| self.store.last_seq());
        self.broken = as_before.map_or(true, |seq| seq != self.committed.seq);
    }

    /// One job in its own savepoint. An outer error: the whole transaction is lost.
    #[expect(clippy::type_complexity, reason = "the two levels of failure are the point")]
    fn perform(
        &mut self,
        job: Job,
        working: &mut Working,
    ) -> (oneshot::Sender<Result<Outcome, JobError>>, Result<Result<Outcome, JobError>, StoreError>) {
        let Job { decide, actor, cause, request, respond, done } = job;
        match self.repeated(request.as_ref(), &actor) {
            Ok(None) => {}
            Ok(Some(answer)) => return (done, Ok(answer)),
            Err(error) => return (done, Ok(Err(error.into()))),
        }
        let now = self.clock.now();
        let at = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now).max(self.last_at);
        let decided = match decide(working.state(), at) {
            Ok(decided) => decided,
            Err(refusal) => return (done, Ok(Err(JobError::Refused(refusal)))),
        };
        let first = working.state().seq.next();
        let recorded = |(event, seq)| Recorded { seq: Seq(seq), at, actor: actor.clone(), cause, event };
        let events: Vec<Recorded> = decided.events.into_iter().zip(first.0..).map(recorded).collect();
        let result = self.store.begin_part().and_then(|()| {
            let key = request.as_ref().map(|request| request.key.as_str());
            self.store.append(&events, key)?;
            working.fold(&events, &self.store)?;
            let state = working.state();
            let version = decided.app.as_ref().and_then(|app| state.apps.get(app)).map_or(0, |app| app.version);
            let written = Written { seq: state.seq, version, events };
            if let Some(RequestKey { key, body_hash }) = request {
                let response = respond(&written);
                let stored = StoredRequest { actor: actor.clone(), body_hash, response };
                self.store.put_request(&key, &stored, (first, written.seq), at)?;
            }
            self.store.keep_part()?;
            Ok(written)
        });
        match result {
            Ok(written) => {
                working.keep();
                self.last_at = at;
                (done, Ok(Ok(Outcome::Written(written))))
            }
            Err(error) => {
                working.undo(&self.committed);
                match self.store.undo_part() {
                    Ok(()) => (done, Ok(Err(error.into()))),
                    Err(_) => (done, Err(error)),
                }
            }
        }
    }

    fn repeated(
        &self,
        request: Option<&RequestKey>,
        actor: &str,
    ) -> Result<Option<Result<Outcome, JobError>>, StoreError> {
        let Some(RequestKey { key, body_hash }) = request else { return Ok(None) };
        let Some(before) = self.store.request(key)? else { return Ok(None) };
        if before.actor == actor && before.body_hash == *body_hash {
            return Ok(Some(Ok(Outcome::Repeated(before.response))));
        }
        Ok(Some(Err(JobError::Refused(Refusal::KeyReused { key: key.clone() }))))
    }
}

/// The state inside a transaction.
struct Working {
    committed: Arc<State>,
    /// The state with the batch's events; `None` while there are none, so that a batch without news copies nothing.
    changed: Option<State>,
    /// The events of the parts that were kept, and then of the part at hand.
    events: Vec<Recorded>,
    kept: usize,
}

impl Working {
    fn new(committed: &Arc<State>) -> Self {
        Self { committed: Arc::clone(committed), changed: None, events: Vec::new(), kept: 0 }
    }

    fn state(&self) -> &State {
        self.changed.as_ref().unwrap_or(&self.committed)
    }

    /// Folds `events` in and stores the documents they touched.
    fn fold(&mut self, events: &[Recorded], store: &Store) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        self.events.extend_from_slice(events);
        let committed = &self.committed;
        let state = self.changed.get_or_insert_with(|| State::clone(committed));
        let mut touched = std::collections::BTreeMap::<DocumentKey, Seq>::new();
        for recorded in events {
            touched.extend(state.apply(recorded).into_iter().map(|key| (key, recorded.seq)));
        }
        for (key, seq) in touched {
            store.put_documents(seq, &[(key.to_text(), state.document(&key))])?;
        }
        Ok(())
    }

    fn keep(&mut self) {
        self.kept = self.events.len();
    }

    /// Forgets the part at hand: the state is folded anew from what was kept.
    fn undo(&mut self, committed: &Arc<State>) {
        if self.events.len() == self.kept {
            return;
        }
        self.events.truncate(self.kept);
        self.changed = (self.kept > 0).then(|| {
            let mut state = State::clone(committed);
            for recorded in &self.events {
                state.apply(recorded);
            }
            state
        });
    }
}

fn fail_all(
    waiting: impl Iterator<Item = oneshot::Sender<Result<Outcome, JobError>>>,
    error: StoreError,
) -> Vec<Answer> {
    let error = Arc::new(error);
    waiting.map(|done| (done, Err(JobError::Store(Arc::clone(&error))))).collect()
}

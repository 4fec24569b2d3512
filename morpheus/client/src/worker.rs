//! A thread's registration as a worker.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use morpheus_abi::protocol::{Registration, SOCKET_PATH, SOCKET_VARIABLE, WorkerName};
use morpheus_abi::{EscalationPolicy, WorkerState};

use crate::domain::Record;
use crate::lines::{self, LINES};
use crate::refusal::NotAvailable;
use crate::{hint, sys};

thread_local! {
    /// The worker this thread is. Off the checkpoint's path, which only looks at the lines.
    static RECORD: RefCell<Option<Arc<Record>>> = const { RefCell::new(None) };
}

/// What a worker registers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    name: WorkerName,
    escalate_after: Option<Duration>,
    polite: bool,
    rotation: Duration,
    socket: Option<PathBuf>,
}

impl WorkerConfig {
    /// A worker of this name, cut to 32 bytes, that consents to no escalation.
    pub fn new(name: &str) -> Self {
        Self {
            name: WorkerName::new(name),
            escalate_after: None,
            polite: false,
            rotation: Duration::ZERO,
            socket: None,
        }
    }

    /// The same for a worker of another name.
    pub fn named(&self, name: &str) -> Self {
        Self { name: WorkerName::new(name), ..self.clone() }
    }

    /// The worker's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Consents to escalation: an agent that enforces may end this worker's slice when a hint stays unanswered for `grace`
    /// (at most 4.29 s), though never in a critical section. Without this no worker is ever escalated.
    pub fn escapable(self, grace: Duration) -> Self {
        Self { escalate_after: Some(grace), ..self }
    }

    /// Gives up the CPU at every hint that asks for it, however long the worker then waits for its next turn: for work that
    /// is to run when nobody else wants to. Without this a worker keeps to its fair share.
    pub fn polite(self) -> Self {
        Self { polite: true, ..self }
    }

    /// Has tasks of its own, which shall change places after so long of the worker's CPU time without a hint or a sleep (at
    /// most 4.29 s, to the millisecond): it gets a [`Reason::Local`](crate::Reason::Local) hint then, whether or not anybody
    /// waits for the CPU, and earlier when the worker itself had to wait. What is ready in a runtime, such as a connection
    /// with data, waits for a worker to look, not for a CPU, and the kernel does not see it. Zero, the default: no such hint.
    pub fn rotates_after(self, own_time: Duration) -> Self {
        Self { rotation: own_time, ..self }
    }

    /// The agent's socket, instead of `MORPHEUS_SOCKET` or `/run/morpheus/morpheus.sock`.
    pub fn socket(self, path: impl Into<PathBuf>) -> Self {
        Self { socket: Some(path.into()), ..self }
    }

    /// Where the agent is; `None` when the variable is set to nothing.
    fn path(&self) -> Option<PathBuf> {
        let path = self.socket.clone().unwrap_or_else(|| {
            std::env::var_os(SOCKET_VARIABLE).map_or_else(|| PathBuf::from(SOCKET_PATH), PathBuf::from)
        });
        (!path.as_os_str().is_empty()).then_some(path)
    }

    /// The message for the calling thread.
    fn registration(&self) -> Registration {
        let (policy, grace) = match self.escalate_after {
            Some(grace) => (EscalationPolicy::SliceEnd, grace),
            None => (EscalationPolicy::None, Duration::ZERO),
        };
        let ns = |time: Duration| u32::try_from(time.as_nanos()).unwrap_or(u32::MAX);
        Registration {
            tid: rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned(),
            escapable: self.escalate_after.is_some(),
            policy,
            grace_ns: ns(grace),
            rotation_ns: ns(self.rotation),
            name: self.name,
        }
    }
}

/// The calling thread is a worker while this lives.
///
/// Not to be sent to another thread: a registration is the thread's own. It ends with the thread in any case.
pub struct Worker {
    /// None for one that never can be attached.
    record: Option<Arc<Record>>,
    thread: PhantomData<*const ()>,
}

impl Worker {
    /// Makes the calling thread a worker. Without an agent it is one all the same, without hints, and attaches by itself
    /// when an agent comes (within about 5 s). On a thread that is a worker already the new registration does nothing.
    /// Never waits, unless an agent listens but hangs: then two seconds, once in five.
    ///
    /// A worker an agent refuses, because all 63 slots are taken, stays without hints until the agent's next start.
    pub fn register(config: WorkerConfig) -> Self {
        Self { record: register(&config, true).ok(), thread: PhantomData }
    }

    /// Makes the calling thread a worker if an agent is there to serve it now. Meant for programs that want to say so when
    /// it is not; all others have [`Worker::register`].
    ///
    /// # Errors
    /// Why not; the thread is no worker then.
    pub fn try_register(config: WorkerConfig) -> Result<Self, NotAvailable> {
        Ok(Self { record: Some(register(&config, false)?), thread: PhantomData })
    }

    /// Whether an agent that is alive serves this worker now.
    pub fn is_attached(&self) -> bool {
        self.record.is_some() && LINES.get().live()
    }

    /// The worker's slot in the pages, 0 to 62, when an agent has given one.
    pub fn slot(&self) -> Option<usize> {
        self.own_record()?.slot().map(morpheus_abi::Slot::index)
    }

    /// The thread is about to sleep until there is work: no hints.
    pub fn park(&self) {
        self.set_state(WorkerState::Registered);
    }

    /// The thread is at work again. Also moves to an agent that came meanwhile.
    pub fn unpark(&self) {
        settle();
        self.set_state(WorkerState::Running);
    }

    fn set_state(&self, state: WorkerState) {
        let lines = LINES.get();
        if self.record.is_some() && lines.is_a_workers() {
            lines.runtime.state.store(state.number(), Ordering::Release);
        }
    }

    /// The record, unless it is that of the process this one was forked from.
    fn own_record(&self) -> Option<&Arc<Record>> {
        self.record.as_ref().filter(|record| record.domain.pid == std::process::id())
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("attached", &self.is_attached()).finish_non_exhaustive()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(record) = self.own_record() {
            // No hint and no escalation from here on, and no store to the lines once the slot is another's.
            self.set_state(WorkerState::Quiescing);
            lines::leave();
            // At the thread's end the variable may be gone before the worker is; then there is nothing to forget.
            let _ = RECORD.try_with(|current| current.take());
            record.domain.unregister(record);
        }
    }
}

fn register(config: &WorkerConfig, or_wait: bool) -> Result<Arc<Record>, NotAvailable> {
    let path = config.path().ok_or(NotAvailable::Off)?;
    let taken = |record: &Arc<Record>| record.domain.pid == std::process::id();
    if RECORD.with_borrow(|current| current.as_ref().is_some_and(taken)) {
        return Err(NotAvailable::AlreadyRegistered);
    }
    let record = sys::domains().at(&path).register(config.registration(), or_wait)?;
    RECORD.set(Some(Arc::clone(&record)));
    hint::begin_pace(config.polite);
    Ok(record)
}

/// Moves the calling thread to the lines the watcher has got for it, if it has.
pub(crate) fn settle() -> bool {
    RECORD.try_with(|current| current.borrow().as_ref().is_some_and(|record| record.settle())).unwrap_or(false)
}

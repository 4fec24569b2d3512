//! Threads that run closures.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use holm_abi::{
    Error, EventFlags, EventMask, Handle, SchedClass, SchedParams, SchedStats, ThreadInfo, ThreadSpec, limits,
};

use crate::event::Source;
use crate::lock::Mutex;
use crate::object::{Events, Object, Owned, Thread};
use crate::sys;
use crate::time::Deadline;

/// How a thread is to be made.
#[derive(Debug, Clone, Copy)]
pub struct ThreadBuilder {
    spec: ThreadSpec,
    stack: u64,
}

impl Default for ThreadBuilder {
    fn default() -> Self {
        Self { spec: ThreadSpec::new(), stack: limits::DEFAULT_STACK }
    }
}

/// A thread and what it will have computed.
#[derive(Debug)]
pub struct JoinHandle<T> {
    thread: Thread,
    result: Arc<Packet<T>>,
}

/// Where a thread leaves its result.
#[derive(Debug)]
struct Packet<T> {
    done: AtomicBool,
    value: Mutex<Option<T>>,
}

impl ThreadBuilder {
    /// Class and priority (or weight).
    #[must_use]
    pub const fn class(mut self, class: SchedClass, priority: u32) -> Self {
        self.spec.sched_class = class;
        self.spec.base_priority = priority;
        self
    }

    /// Processors it may run on, by bit.
    #[must_use]
    pub const fn affinity(mut self, processors: u64) -> Self {
        self.spec.affinity = processors;
        self
    }

    /// Bytes of its stack.
    #[must_use]
    pub const fn stack(mut self, bytes: u64) -> Self {
        self.stack = bytes;
        self
    }

    /// Starts a thread that runs `work`. It goes on when the handle is dropped.
    ///
    /// # Errors
    /// Those of vm_region_create, vm_map and thread_create.
    pub fn spawn<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Error> {
        let result = Arc::new(Packet { done: AtomicBool::new(false), value: Mutex::new(None) });
        let packet = Arc::clone(&result);
        let run = Box::new(move || {
            let value = work();
            *packet.value.lock() = Some(value);
            packet.done.store(true, Ordering::Release);
        });
        let handle = sys::spawn(run, self.stack, &self.spec)?;
        Ok(JoinHandle { thread: Thread::from_owned(Owned::new(handle)), result })
    }
}

/// Starts a thread with the unit's class and the default stack.
///
/// # Errors
/// Those of [`ThreadBuilder::spawn`].
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, Error> {
    ThreadBuilder::default().spawn(work)
}

impl<T> JoinHandle<T> {
    /// The thread.
    #[must_use]
    pub const fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Whether the work is done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.result.done.load(Ordering::Acquire)
    }

    /// Waits for the thread's end and gives its result; `None` when it ended without one.
    ///
    /// # Errors
    /// [`Error::TimedOut`] at the deadline, and those of event_subscribe and event_wait.
    pub fn join(self, deadline: Deadline) -> Result<Option<T>, Error> {
        self.thread.wait(deadline)?;
        Ok(self.result.value.lock().take())
    }
}

impl Thread {
    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::TimedOut`] at the deadline, and those of event_subscribe and event_wait.
    pub fn wait(&self, deadline: Deadline) -> Result<ThreadInfo, Error> {
        let events = Events::new()?;
        events.subscribe(Source::Thread(self), EventMask::EXIT | EventMask::CRASH, EventFlags::NONE, 0)?;
        events.wait_one(deadline)?;
        self.info()
    }

    /// What the kernel tells about it.
    ///
    /// # Errors
    /// Those of thread_get_info.
    pub fn info(&self) -> Result<ThreadInfo, Error> {
        info(self.handle())
    }

    /// How it is scheduled from now on.
    ///
    /// # Errors
    /// Those of sched_set_thread_params.
    pub fn schedule(&self, params: &SchedParams) -> Result<(), Error> {
        sys::sched_set_thread_params(self.handle(), params)
    }

    /// How it fared.
    ///
    /// # Errors
    /// Those of sched_query.
    pub fn schedule_figures(&self) -> Result<SchedStats, Error> {
        let mut stats = SchedStats::new();
        sys::sched_query(self.handle(), &mut stats)?;
        Ok(stats)
    }

    /// Ends it wherever it is. What it held, locks too, stays as it is.
    ///
    /// # Errors
    /// Those of thread_kill.
    pub fn kill(&self, code: i64) -> Result<(), Error> {
        sys::thread_kill(self.handle(), code)
    }

    /// Brings its guest back, now or as soon as it enters.
    ///
    /// # Errors
    /// Those of restricted_kick.
    pub fn kick(&self) -> Result<(), Error> {
        sys::restricted_kick(self.handle())
    }
}

/// What the kernel tells about a thread; [`Handle::NONE`] is the calling one.
///
/// # Errors
/// Those of thread_get_info.
pub fn info(thread: Handle) -> Result<ThreadInfo, Error> {
    let mut info = ThreadInfo::new();
    sys::thread_get_info(thread, &mut info)?;
    Ok(info)
}

/// Lets other threads of the same rank run first.
pub fn yield_now() {
    let _always_works = sys::thread_yield();
}

//! Threads of the scenarios: bystanders that want a CPU, and workers that do what a scenario says between two looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use morpheus::{Worker, WorkerConfig};
use morpheus_e2e::wait_for;
use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::agent::{PATIENCE, count, socket};

/// The CPU that workers and bystanders share.
pub(crate) const SHARED: usize = 1;

/// The CPU of the scenario itself and of the agent.
pub(crate) const OWN: usize = 0;

/// Binds a thread, or the calling one, to a CPU.
pub(crate) fn bind(thread: Option<Pid>, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(thread, &set).context("cannot bind a thread to a CPU")
}

/// The calling thread's time on a CPU.
pub(crate) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Some hundred microseconds of work for a translated CPU.
pub(crate) fn work() {
    for _ in 0..2000 {
        std::hint::spin_loop();
    }
}

/// A thread that wants the shared CPU all the time, until it is dropped.
pub(crate) struct Bystander {
    stop: Arc<AtomicBool>,
    /// Its time on the CPU so far in µs, by its own clock.
    ran_us: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Bystander {
    /// Starts one with this niceness.
    pub(crate) fn start(nice: i32) -> Self {
        let (stop, ran_us) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, ran) = (Arc::clone(&stop), Arc::clone(&ran_us));
        let thread = std::thread::spawn(move || {
            // Linux gives each thread a niceness of its own: 0 is the calling one.
            setpriority_process(None, nice).context("cannot be nice")?;
            bind(None, SHARED)?;
            while !stopped.load(Ordering::Relaxed) {
                work();
                ran.store(u64::try_from(cpu_time().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            Ok(())
        });
        Self { stop, ran_us, thread: Some(thread) }
    }

    /// Its time on the CPU so far.
    pub(crate) fn ran(&self) -> Duration {
        Duration::from_micros(self.ran_us.load(Ordering::Relaxed))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a worker shows to the scenario while it runs.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Rounds it has made.
    pub(crate) rounds: AtomicU64,
    /// Hints it has taken.
    pub(crate) taken: AtomicU64,
    /// Escalations, as its page says.
    pub(crate) escalations: AtomicU32,
    /// Escalations that it had when it entered a long critical section.
    pub(crate) entered_with: AtomicU32,
    /// Whether a hint is pending.
    pub(crate) pending: AtomicBool,
    /// For the scenario and the worker to agree on a next step.
    pub(crate) step: AtomicU32,
    /// The thread.
    pub(crate) tid: AtomicI32,
}

/// A worker thread on the shared CPU.
pub(crate) struct Subject {
    stop: Arc<AtomicBool>,
    /// What it shows.
    pub(crate) shown: Arc<Shown>,
    thread: JoinHandle<Result<()>>,
}

impl Subject {
    /// Starts one that repeats `round` until it is ended, and waits until it is registered.
    pub(crate) fn start(
        config: WorkerConfig,
        mut round: impl FnMut(&Worker, &Shown) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let config = config.socket(socket());
        let (stop, shown) = (Arc::new(AtomicBool::new(false)), Arc::new(Shown::default()));
        let (stopped, showing) = (Arc::clone(&stop), Arc::clone(&shown));
        let thread = std::thread::spawn(move || {
            bind(None, SHARED)?;
            let worker = Worker::try_register(config).map_err(|why| anyhow!("cannot register: {why:?}"))?;
            showing.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
            while !stopped.load(Ordering::Relaxed) {
                work();
                round(&worker, &showing)?;
                showing.pending.store(morpheus::hint_pending(), Ordering::Relaxed);
                if let Some(usage) = morpheus::usage() {
                    showing.escalations.store(usage.escalations, Ordering::Relaxed);
                }
                showing.rounds.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let subject = Self { stop, shown, thread };
        let registered = wait_for("a worker to register", PATIENCE, || {
            Ok((subject.shown.rounds.load(Ordering::Relaxed) > 0 || subject.thread.is_finished()).then_some(()))
        });
        registered?;
        if subject.thread.is_finished() {
            Err(subject.end().err().unwrap_or_else(|| anyhow!("it ended")))
        } else {
            Ok(subject)
        }
    }

    /// Ends it; gives what went wrong in a round.
    pub(crate) fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a worker panicked"))?
    }

    /// Waits until one of the scheduler's counts has grown by `by`, or the worker ends.
    pub(crate) fn wait_for_count(&self, name: &str, by: u64) -> Result<()> {
        let before = count(name)?;
        wait_for(&format!("{by} more of {name}"), PATIENCE, || {
            Ok((count(name)? >= before + by || self.thread.is_finished()).then_some(()))
        })
    }

    /// Waits for something the worker shows.
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut(&Shown) -> bool) -> Result<()> {
        wait_for(what, PATIENCE, || Ok((condition(&self.shown) || self.thread.is_finished()).then_some(())))
    }

    /// Escalations so far, as its page says.
    pub(crate) fn escalations(&self) -> u32 {
        self.shown.escalations.load(Ordering::Relaxed)
    }
}

//! Owns Morpheus for rayon: its pool's threads as workers, and checkpoints in parallel iterators. May not touch pages or
//! sockets (the crate `morpheus` does), nor rayon's insides.
//!
//! ```
//! use morpheus_rayon::{CheckpointIterator, install};
//! use rayon::prelude::*;
//!
//! let pool = install(rayon::ThreadPoolBuilder::new()).build()?;
//! let sum: u64 = pool.install(|| (0..1000u64).into_par_iter().with_checkpoints().map(|x| x * x).sum());
//! # assert_eq!(sum, 332_833_500);
//! # Ok::<(), rayon::ThreadPoolBuildError>(())
//! ```
//!
//! rayon has no hook between jobs, so hints are answered where the program says: at [`checkpoint`], and before each item
//! of an iterator [`with_checkpoints`](CheckpointIterator::with_checkpoints).

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};

use morpheus::{Reason, Worker, WorkerConfig, hint_pending, in_critical, record_yield, take_hint, yield_for};
use rayon::ThreadPoolBuilder;
use rayon::iter::{Map, ParallelIterator};

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
    /// Whether a job runs inside of a checkpoint on this thread.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Makes the pool's threads workers of Morpheus, named `rayon` and their index.
///
/// Takes the builder's start and exit handlers, of which it has one each.
pub fn install<S>(builder: ThreadPoolBuilder<S>) -> ThreadPoolBuilder<S> {
    install_with(builder, WorkerConfig::new("rayon"))
}

/// Like [`install`], with what the workers shall register with; their index is added to the name.
pub fn install_with<S>(builder: ThreadPoolBuilder<S>, config: WorkerConfig) -> ThreadPoolBuilder<S> {
    builder
        .start_handler(move |index| {
            WORKER.set(Some(Worker::register(config.named(&format!("{}-{index}", config.name())))));
        })
        .exit_handler(|_| drop(WORKER.take()))
}

/// A place in a job where its thread may do something else: the reason of the hint it took, if there was one.
///
/// For `WAITER` and `SLICE_END` the thread gives the CPU to another thread of the machine, for `LOCAL` to another job of
/// its own queue ([`rayon::yield_local`]), which then runs inside of this call; such a job's own checkpoints run no further
/// one, so that the stack stays bounded. `QUOTA` and `PRESSURE` ask for something
/// only the caller can do: less. Inside a critical section it does nothing and leaves the hint pending.
#[inline]
pub fn checkpoint() -> Option<Reason> {
    if hint_pending() { answer() } else { None }
}

#[cold]
fn answer() -> Option<Reason> {
    if in_critical() {
        return None;
    }
    let hint = take_hint()?;
    match hint.reason {
        Reason::Waiter | Reason::SliceEnd => {
            yield_for(&hint);
        }
        Reason::Local if !INSIDE.get() => {
            record_yield(hint.reason.into());
            let _inside = Inside::enter();
            let _ = rayon::yield_local();
        }
        Reason::Local => {}
        Reason::Quota | Reason::Pressure => {}
    }
    Some(hint.reason)
}

/// Marks the thread, also through a panic of the job.
struct Inside;

impl Inside {
    fn enter() -> Self {
        INSIDE.set(true);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// Checkpoints for every parallel iterator.
pub trait CheckpointIterator: ParallelIterator {
    /// The same items, with a [`checkpoint`] before each is handed on. Indexed iterators stay indexed.
    ///
    /// A checkpoint that rotates (`LOCAL`) runs another job before the item goes on: not for chains that hold a lock or a
    /// borrowed cell from one item to the next.
    fn with_checkpoints(self) -> Map<Self, impl Fn(Self::Item) -> Self::Item + Sync + Send>;
}

impl<I: ParallelIterator> CheckpointIterator for I {
    fn with_checkpoints(self) -> Map<Self, impl Fn(Self::Item) -> Self::Item + Sync + Send> {
        self.map(|item| {
            checkpoint();
            item
        })
    }
}

//! Which of a runtime's threads are workers, and when they are idle.
//!
//! tokio runs its workers on threads of the blocking pool, tells `on_thread_start` of both alike, and may move a worker to
//! another of these threads (`block_in_place`). What is certain is asked where a worker is surely itself: when it parks,
//! when it unparks, and at the first checkpoint of a thread. There [`tokio::runtime::worker_index`] knows. A thread of the
//! pool that runs blocking work is never registered; one that was a worker and lost that to another thread stays
//! registered until the pool ends it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use morpheus::{Worker, WorkerConfig, at_first_checkpoint};
use tokio::runtime::{Builder, worker_index};

/// The worker's own CPU time after which its tasks change places even when nobody waits for the CPU. While one worker
/// computes, the others may sleep where no connection wakes them: then nobody looks at connections before its task yields.
pub const ROTATION: Duration = Duration::from_millis(1);

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
    /// What this thread would register with.
    static CONFIG: RefCell<Option<Arc<WorkerConfig>>> = const { RefCell::new(None) };
}

/// Makes the runtime's threads workers of Morpheus, named `tokio` and their index, whose tasks change places after
/// [`ROTATION`] at the latest.
///
/// Takes the builder's `on_thread_start`, `on_thread_stop`, `on_thread_park` and `on_thread_unpark`, of which it has one
/// each: programs with hooks of their own call this module's from them instead.
pub fn install(builder: &mut Builder) -> &mut Builder {
    install_with(builder, WorkerConfig::new("tokio").rotates_after(ROTATION))
}

/// Like [`install`], with what the workers shall register with; their index is added to the name. [`ROTATION`] is a
/// good [`WorkerConfig::rotates_after`].
pub fn install_with(builder: &mut Builder, config: WorkerConfig) -> &mut Builder {
    let config = Arc::new(config);
    let (before_park, after_unpark) = (Arc::clone(&config), Arc::clone(&config));
    builder
        .on_thread_start(move || started(&config))
        .on_thread_stop(stopping)
        .on_thread_park(move || parking(&before_park))
        .on_thread_unpark(move || unparked(&after_unpark))
}

/// For `on_thread_start`: the thread may be or become a worker, and is registered when that shows.
pub fn started(config: &Arc<WorkerConfig>) {
    CONFIG.set(Some(Arc::clone(config)));
    at_first_checkpoint(|| {
        if let Some(config) = CONFIG.with_borrow(Clone::clone) {
            adopt(&config);
        }
    });
}

/// For `on_thread_stop`: the thread is no worker any more.
pub fn stopping() {
    WORKER.take();
}

/// For `on_thread_park`: the worker has nothing to do, so it is to get no hints.
pub fn parking(config: &Arc<WorkerConfig>) {
    adopt(config);
    WORKER.with_borrow(|worker| {
        if let Some(worker) = worker {
            worker.park();
        }
    });
}

/// For `on_thread_unpark`: the worker is at work again.
pub fn unparked(config: &Arc<WorkerConfig>) {
    adopt(config);
    WORKER.with_borrow(|worker| {
        if let Some(worker) = worker {
            worker.unpark();
        }
    });
}

/// Registers the calling thread if it runs a worker and is not registered.
fn adopt(config: &WorkerConfig) {
    WORKER.with_borrow_mut(|worker| {
        if worker.is_none()
            && let Some(index) = worker_index()
        {
            *worker = Some(Worker::register(config.named(&format!("{}-{index}", config.name()))));
        }
    });
}

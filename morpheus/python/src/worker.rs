//! A thread's registration, which stays with the thread while Python's handles to it may wander.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use morpheus::WorkerConfig;
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

create_exception!(morpheus, NotAvailable, PyRuntimeError, "No agent serves this thread.");

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// This thread's registration.
struct Own {
    worker: morpheus::Worker,
    /// Of the process that registered: a forked child has no workers.
    pid: u32,
    /// Handles that have not unregistered.
    holders: usize,
}

impl Own {
    fn is_this_processes(&self) -> bool {
        self.pid == std::process::id()
    }
}

/// A registration of the thread that called `register`. It ends with `unregister()`, at the end of a `with` block, or with
/// the thread; not when this object is collected.
#[pyclass(module = "morpheus", frozen)]
#[derive(Debug)]
pub(crate) struct Worker {
    thread: ThreadId,
    pid: u32,
    left: AtomicBool,
}

impl Worker {
    /// Calls `with` with the thread's worker while this handle holds it; `None` when it has let go or in a forked child.
    fn own<T>(&self, with: impl FnOnce(&morpheus::Worker) -> T) -> PyResult<Option<T>> {
        if thread::current().id() != self.thread {
            return Err(PyRuntimeError::new_err("a worker is a matter of the thread that registered it"));
        }
        if self.left.load(Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(OWN.with_borrow(|own| own.as_ref().filter(|own| own.is_this_processes()).map(|own| with(&own.worker))))
    }
}

#[pymethods]
impl Worker {
    /// Whether an agent that is alive serves this worker now.
    #[getter]
    fn attached(&self) -> PyResult<bool> {
        Ok(self.own(morpheus::Worker::is_attached)?.unwrap_or(false))
    }

    /// The worker's slot in the pages, 0 to 62; None while no agent has given one.
    #[getter]
    fn slot(&self) -> PyResult<Option<usize>> {
        Ok(self.own(morpheus::Worker::slot)?.flatten())
    }

    /// The thread is about to sleep until there is work: no hints.
    fn park(&self) -> PyResult<()> {
        self.own(morpheus::Worker::park).map(drop)
    }

    /// The thread is at work again.
    fn unpark(&self) -> PyResult<()> {
        self.own(morpheus::Worker::unpark).map(drop)
    }

    /// The thread is no worker any more, unless it has registered more than once. A second call does nothing.
    fn unregister(&self, py: Python<'_>) -> PyResult<()> {
        // Not another thread's.
        self.own(|_| ())?;
        if self.pid == std::process::id() && !self.left.swap(true, Ordering::Relaxed) {
            // The agent is told and answers.
            py.detach(let_go);
        }
        Ok(())
    }

    fn __enter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.unregister(py)
    }
}

/// One handle less; with the last one the registration ends.
fn let_go() {
    let last = OWN.with_borrow_mut(|own| {
        let holders = own.as_mut().map(|own| {
            own.holders = own.holders.saturating_sub(1);
            own.holders
        });
        if holders == Some(0) { own.take() } else { None }
    });
    drop(last);
}

/// Makes the calling thread a worker, which is never escapable. On one that is a worker already it counts: the thread stays
/// a worker until all handles have unregistered, with what it was first registered with.
///
/// Without an agent it is a worker all the same, without hints, and attaches by itself when an agent comes (within about
/// five seconds); with `required` NotAvailable is raised instead. `polite` is for work that may starve: it yields at every
/// hint, while others keep to their fair share. A worker with `rotates_after` has tasks of its own,
/// such as the thread of a loop: it gets a LOCAL hint after so many seconds of its CPU time (at most 4.29) even when nobody
/// waits for the CPU, and earlier when it had to wait itself. `socket` is the agent's, instead of MORPHEUS_SOCKET or
/// /run/morpheus/morpheus.sock.
#[pyfunction]
#[pyo3(signature = (name = "python", *, polite = false, rotates_after = 0.0, socket = None, required = false))]
pub(crate) fn register(
    py: Python<'_>,
    name: &str,
    polite: bool,
    rotates_after: f64,
    socket: Option<PathBuf>,
    required: bool,
) -> PyResult<Worker> {
    let rotation = Duration::try_from_secs_f64(rotates_after)
        .map_err(|_| PyValueError::new_err(format!("rotates_after is {rotates_after}, which is no time in seconds")))?;
    let mut config = WorkerConfig::new(name).rotates_after(rotation);
    if polite {
        config = config.polite();
    }
    if let Some(socket) = socket {
        config = config.socket(socket);
    }
    // An agent that hangs is waited for, for two seconds.
    py.detach(|| hold(config, required)).map_err(|error| NotAvailable::new_err(error.to_string()))?;
    Ok(Worker { thread: thread::current().id(), pid: std::process::id(), left: AtomicBool::new(false) })
}

/// Registers the thread, or counts one handle more.
fn hold(config: WorkerConfig, required: bool) -> Result<(), morpheus::NotAvailable> {
    let known = OWN.with_borrow_mut(|own| match own {
        Some(own) if own.is_this_processes() => {
            own.holders += 1;
            true
        }
        _ => false,
    });
    if !known {
        let worker =
            if required { morpheus::Worker::try_register(config)? } else { morpheus::Worker::register(config) };
        OWN.set(Some(Own { worker, pid: std::process::id(), holders: 1 }));
    }
    Ok(())
}

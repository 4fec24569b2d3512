//! The checkpoint, and what a hint does there.

use morpheus::Hint as ClientHint;
use pyo3::prelude::*;

/// Why the kernel asks a worker to yield.
#[pyclass(module = "morpheus", eq, eq_int, hash, frozen, rename_all = "SCREAMING_SNAKE_CASE")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// Another thread needs this CPU.
    Waiter = 1,
    /// The loop's own queue starves: let other tasks run.
    Local = 2,
    /// The slice is nearly over: better yield now than be cut off.
    SliceEnd = 3,
    /// The control group's CPU quota is nearly spent, until the hint's deadline.
    Quota = 4,
    /// The whole system is short of CPU.
    Pressure = 5,
}

impl From<morpheus::Reason> for Reason {
    fn from(reason: morpheus::Reason) -> Self {
        match reason {
            morpheus::Reason::Waiter => Self::Waiter,
            morpheus::Reason::Local => Self::Local,
            morpheus::Reason::SliceEnd => Self::SliceEnd,
            morpheus::Reason::Quota => Self::Quota,
            morpheus::Reason::Pressure => Self::Pressure,
        }
    }
}

/// A request to yield, and why.
#[pyclass(module = "morpheus", frozen, get_all)]
#[derive(Debug)]
pub(crate) struct Hint {
    /// What the kernel asks for.
    reason: Reason,
    /// The hint's number within this registration; it wraps.
    seq: u32,
    /// When it was given: `time.monotonic_ns()`.
    time_ns: u64,
    /// By when to yield, or with QUOTA when the quota is refilled: `time.monotonic_ns()`. None for no deadline.
    deadline_ns: Option<u64>,
}

#[pymethods]
impl Hint {
    fn __repr__(&self) -> String {
        format!("{self:?}")
    }
}

/// Whether the kernel asks this thread to yield.
#[pyfunction]
pub(crate) fn hint_pending() -> bool {
    morpheus::hint_pending()
}

/// Takes the pending hint and by that acknowledges it: for programs that answer it themselves. None without one.
#[pyfunction]
pub(crate) fn take_hint() -> Option<Hint> {
    morpheus::take_hint().map(|hint| Hint {
        reason: hint.reason.into(),
        seq: hint.seq,
        time_ns: hint.time_ns,
        deadline_ns: hint.deadline_ns,
    })
}

/// A place where this thread may give up the CPU, with the GIL released. The reason of the hint it took, or None.
///
/// For WAITER and SLICE_END it has yielded when it returns; the other reasons ask for something only the caller can do.
/// Inside a critical section it does nothing and leaves the hint pending.
#[pyfunction]
pub(crate) fn checkpoint(py: Python<'_>) -> Option<Reason> {
    if morpheus::hint_pending() { answer(py).map(|hint| hint.reason.into()) } else { None }
}

/// Answers the pending hint between two turns of an event loop. Whether there was one, so that the loop shall have a turn.
#[pyfunction]
#[pyo3(name = "_give_way")]
pub(crate) fn give_way(py: Python<'_>) -> bool {
    let Some(hint) = answer(py) else { return false };
    if !asks_for_the_thread(&hint) {
        // The loop's turn is what the hint asked for.
        morpheus::record_yield(hint.reason.into());
    }
    true
}

/// Gives the CPU to another thread that is ready, with the GIL released. In a critical section it does nothing: False.
#[pyfunction]
pub(crate) fn yield_thread(py: Python<'_>) -> bool {
    py.detach(morpheus::yield_thread)
}

fn asks_for_the_thread(hint: &ClientHint) -> bool {
    matches!(hint.reason, morpheus::Reason::Waiter | morpheus::Reason::SliceEnd)
}

#[cold]
fn answer(py: Python<'_>) -> Option<ClientHint> {
    if morpheus::in_critical() {
        return None;
    }
    let hint = morpheus::take_hint()?;
    if asks_for_the_thread(&hint) {
        py.detach(|| morpheus::yield_for(&hint));
    }
    Some(hint)
}

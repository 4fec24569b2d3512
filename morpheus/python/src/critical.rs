//! Critical sections as context managers.

use std::cell::RefCell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

thread_local! {
    /// The sections this thread is in, by the address of the object they were entered with.
    static ENTERED: RefCell<Vec<(usize, morpheus::Critical)>> = const { RefCell::new(Vec::new()) };
}

/// A critical section of the thread that enters it; see `critical`.
#[pyclass(module = "morpheus", frozen)]
#[derive(Debug)]
pub(crate) struct Critical;

#[pymethods]
impl Critical {
    fn __enter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        let entry = (address(&this), morpheus::critical());
        ENTERED.with_borrow_mut(|entered| entered.push(entry));
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(this: Bound<'_, Self>, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let here = address(&this);
        ENTERED.with_borrow_mut(|entered| {
            let place = entered.iter().rposition(|(object, _)| *object == here).ok_or_else(|| {
                PyRuntimeError::new_err("this thread is not in the critical section it is about to leave")
            })?;
            drop(entered.remove(place));
            Ok(())
        })
    }
}

/// An object that is entered lives at one address, and is alive as long as somebody may leave it.
fn address(section: &Bound<'_, Critical>) -> usize {
    section.as_ptr().addr()
}

/// A critical section: `with morpheus.critical():`. While in it, Morpheus neither yields nor escalates this thread; hints
/// stay pending. Sections nest, and end with an exception as well. The kernel's own preemption goes on.
///
/// It is the thread's: with an `await` inside, the loop's other tasks run in it, too.
#[pyfunction]
pub(crate) fn critical() -> Critical {
    Critical
}

/// Whether this thread is in a critical section.
#[pyfunction]
pub(crate) fn in_critical() -> bool {
    morpheus::in_critical()
}

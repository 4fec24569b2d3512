//! Owns the native half of the wheel `morpheus`: the client crate's functions as Python sees them. May not touch pages,
//! sockets or the scheduler itself (the crate `morpheus` does), nor asyncio (the Python half does).
//!
//! No thread is ever registered as escapable: one that is attached to the interpreter holds what all others wait for. All
//! state is the client's or a thread's own, so the module runs without the GIL where the interpreter has none; where it
//! has one, it is released around everything that may wait.

#![forbid(unsafe_code)]

mod critical;
mod hint;
mod usage;
mod worker;

use pyo3::pymodule;

/// The native half of `morpheus`; use that.
#[pymodule(name = "_native", gil_used = false)]
mod native {
    #[pymodule_export]
    use crate::critical::{Critical, critical, in_critical};
    #[pymodule_export]
    use crate::hint::{Hint, Reason, checkpoint, give_way, hint_pending, take_hint, yield_thread};
    #[pymodule_export]
    use crate::usage::{Usage, usage};
    #[pymodule_export]
    use crate::worker::{NotAvailable, Worker, register};
}

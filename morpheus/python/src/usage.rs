//! What the kernel knows of a worker's time.

use pyo3::prelude::*;

/// A worker's time since its registration with the agent.
#[pyclass(module = "morpheus", frozen, get_all)]
#[derive(Debug)]
pub(crate) struct Usage {
    /// Off the CPU, for whatever reason, in ns.
    off_cpu_ns: u64,
    /// Ready to run but waiting for a CPU, in ns; None when the agent does not measure it.
    runqueue_wait_ns: Option<u64>,
    /// Times it was switched out while it could have run on; wraps at 2**32.
    involuntary_switches: u32,
    /// Left of its slice or quota in ns, for information; None when the agent does not measure it.
    budget_remaining_ns: Option<u64>,
}

#[pymethods]
impl Usage {
    fn __repr__(&self) -> String {
        format!("{self:?}")
    }
}

/// The calling thread's usage; None when it is no worker, or no agent that is alive counts for it.
#[pyfunction]
pub(crate) fn usage() -> Option<Usage> {
    // 64 bits of ns are 584 years.
    let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    morpheus::usage().map(|usage| Usage {
        off_cpu_ns: ns(usage.off_cpu),
        runqueue_wait_ns: usage.runqueue_wait.map(ns),
        involuntary_switches: usage.involuntary_switches,
        budget_remaining_ns: usage.budget_remaining.map(ns),
    })
}

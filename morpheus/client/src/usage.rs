//! What the kernel knows of this worker's time, so that a runtime can tell being preempted from being slow.

use std::sync::atomic::Ordering;
use std::time::Duration;

use morpheus_abi::flags;

use crate::lines::LINES;

/// A worker's time since its registration with the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Off the CPU, for whatever reason.
    pub off_cpu: Duration,
    /// Ready to run but waiting for a CPU; `None` when the agent does not measure it.
    pub runqueue_wait: Option<Duration>,
    /// Times it was switched out while it could have run on; wraps.
    pub involuntary_switches: u32,
    /// Times its slice was ended because it ignored a hint; only ever of an escapable worker. Wraps.
    pub escalations: u32,
    /// Information, never enforced: left of its slice or quota; `None` when the agent does not measure it.
    pub budget_remaining: Option<Duration>,
}

/// The calling thread's usage; `None` when it is no worker, or no agent that is alive counts for it.
pub fn usage() -> Option<Usage> {
    let lines = LINES.get();
    if !lines.live() {
        return None;
    }
    let measured = lines.header.flags.load(Ordering::Relaxed);
    let line = lines.kernel.snapshot();
    let when = |flag, ns| (measured & flag != 0).then(|| Duration::from_nanos(ns));
    Some(Usage {
        off_cpu: Duration::from_nanos(line.off_cpu_ns),
        runqueue_wait: when(flags::RUNQUEUE_WAIT, line.runqueue_wait_ns),
        involuntary_switches: line.involuntary_switches,
        escalations: line.escalations,
        budget_remaining: when(flags::BUDGET, line.budget_remaining_ns),
    })
}

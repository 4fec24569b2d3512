//! Scheduling: classes, run queues, budgets, statistics. (Owner's part follows.)

use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::thread::ThreadId;

/// A thread's class, parameters and statistics.
#[derive(Debug, Default)]
pub struct ThreadSched {}

/// A unit's parameters and statistics.
#[derive(Debug, Default)]
pub struct UnitSched {}

/// The run queues of all processors.
#[derive(Debug, Default)]
pub struct Sched {}

impl<M: Machine> Kernel<M> {
    /// The running thread blocked; `deadline` is queued among the processor's deadlines.
    pub(crate) fn sched_blocked(&mut self, _cpu: CpuId, _thread: ThreadId, _deadline: Nanos) {}

    /// A thread became ready: it is queued, and the processor that should run it is kicked.
    pub(crate) fn sched_woken(&mut self, _thread: ThreadId) {}
}

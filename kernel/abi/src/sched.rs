//! Scheduling: classes, parameters, figures (seed 6).

use crate::field::abi_struct;
use crate::words::{abi_enum, abi_flags};

abi_enum! {
    /// How a thread shares the processor. A runnable thread of a higher class always goes first.
    pub enum SchedClass {
        /// What the unit, or the creator, has.
        Inherit = 0,
        /// Earliest deadline first, with a budget per period kept by a constant-bandwidth server and admission control.
        RtEdf = 1,
        /// Fixed priority, 0 to 31, higher first; the same priority takes turns.
        RtFixed = 2,
        /// Fair shares by weight.
        BestEffort = 3,
        /// Only when nobody else wants the processor.
        Background = 4,
    }
}

impl SchedClass {
    /// Whether a unit whose ceiling is `self` may have threads of `class`. Neither is Inherit.
    #[must_use]
    pub const fn allows(self, class: Self) -> bool {
        class as u32 >= self as u32
    }
}

abi_flags! {
    /// Flags of scheduling parameters.
    pub flags SchedFlags {
        /// Of a unit: also change the threads it has; else only those made from now on.
        APPLY_TO_THREADS = 0,
    }
}

abi_struct! {
    /// How a thread, or the threads of a unit, are scheduled.
    pub struct SchedParams version 1 {
        /// The class; not Inherit.
        class: SchedClass,
        /// RT_FIXED: 0 to 31. Others: 0.
        priority: u32,
        /// BEST_EFFORT: 1 to MAX_WEIGHT; 0 for DEFAULT_WEIGHT. Others: 0.
        weight: u32,
        /// RT_EDF: the processor it is admitted on; u32::MAX lets the kernel choose. Others: 0.
        cpu: u32,
        /// RT_EDF: processor time in each period, in nanoseconds. Others: 0.
        runtime: u64,
        /// RT_EDF: deadline after the start of each period, in nanoseconds: runtime <= deadline <= period. Others: 0.
        deadline: u64,
        /// RT_EDF: the period in nanoseconds, MIN_PERIOD to MAX_PERIOD. Others: 0.
        period: u64,
        /// Flags.
        flags: SchedFlags,
    }
}

abi_struct! {
    /// How a thread, or all threads of a unit, fared.
    pub struct SchedStats version 1 {
        /// The class.
        class: SchedClass,
        /// The priority or weight.
        priority: u32,
        /// Time it ran, in nanoseconds.
        run_time: u64,
        /// Time it was runnable and did not run, in nanoseconds.
        wait_time: u64,
        /// The longest such wait, in nanoseconds.
        max_wait: u64,
        /// Times it was put on a processor.
        switches: u64,
        /// Times it was taken off although it wanted to run.
        preemptions: u64,
        /// Times it gave the processor up by itself, to wait or to yield.
        voluntary: u64,
        /// Times it moved to another processor.
        migrations: u64,
        /// RT_EDF: deadlines missed.
        misses: u64,
        /// RT_EDF: budgets used up.
        throttles: u64,
        /// RT_EDF: the largest lateness, in nanoseconds.
        max_lateness: u64,
        /// RT_EDF: periods begun.
        periods: u64,
        /// Time that others ran on its behalf by donation, in nanoseconds.
        donated_time: u64,
    }
}

//! Scheduling: classes, run queues, budgets, statistics (seed 6).
//!
//! `RT_EDF` runs before `RT_FIXED`, that before `BEST_EFFORT`, that before `BACKGROUND`. Every processor has its own queues:
//!
//! - `RT_EDF` is partitioned: [`edf`] admits a thread to one processor for good and keeps it to its budget (CBS). The ready
//!   ones stand in the order of their deadlines; there are at most [`MAX_EDF`] of them, so that insertion is bounded.
//! - `RT_FIXED` has a queue per priority and a bitmap of those that are not empty; equal priorities take turns.
//! - `BEST_EFFORT` is fair by weight: [`fair`] sorts by virtual time into a ring of buckets with a bitmap.
//! - `BACKGROUND` takes turns when nothing else is ready.
//!
//! Each pick is a constant number of steps. A processor that is to look at its queue again has [`Cpu::attention`] set, so
//! that leaving the kernel costs one compare when nothing changed.

pub(crate) mod balance;
pub(crate) mod check;
pub(crate) mod direct;
pub mod edf;
pub mod fair;
pub(crate) mod inherit;
pub mod params;
pub(crate) mod ready;
pub(crate) mod switch;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_random;

use alloc::vec::Vec;

use holm_abi::ExitReason;

use crate::arena::Full;
use crate::channel::Stamp;
use crate::deadline::{DeadlinePlace, Deadlines};
use crate::machine::{CpuId, Nanos};
use crate::queue::{Queue, Through};
use crate::thread::ThreadId;

pub use edf::MAX_EDF;
pub use params::{Class, Params};

use edf::Reservation;
use fair::Fair;

/// The most processors that are used: affinity is a mask of 64 bits.
pub const MAX_CPUS: u32 = 64;

/// Priorities of `RT_FIXED`: 0 to 31, higher first.
pub const PRIORITIES: usize = 32;

/// How long threads of one `RT_FIXED` priority run before it is another's turn.
pub const TURN: Nanos = Nanos(10_000_000);

/// What is counted of a thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Nanoseconds on a processor.
    pub run: u64,
    /// Nanoseconds ready and not on a processor, throttled time included.
    pub wait: u64,
    /// Times it was put on a processor.
    pub switches: u64,
    /// Times another thread took its processor while it could have gone on.
    pub preemptions: u64,
    /// Times it was moved to another processor.
    pub migrations: u64,
    /// Jobs (from waking to blocking or yielding) that ended after their deadline.
    pub misses: u64,
    /// Times its budget was used up before the job was done.
    pub throttles: u64,
    /// The most that a job was late, in nanoseconds.
    pub max_lateness: u64,
    /// The longest it was ready and not on a processor, in nanoseconds.
    pub max_wait: u64,
    /// Times it gave the processor up by itself.
    pub voluntary: u64,
    /// Jobs of `RT_EDF` that began.
    pub periods: u64,
    /// Nanoseconds that others ran on its reservation.
    pub donated: u64,
}

impl Stats {
    const NONE: Self = Self {
        run: 0,
        wait: 0,
        switches: 0,
        preemptions: 0,
        migrations: 0,
        misses: 0,
        throttles: 0,
        max_lateness: 0,
        max_wait: 0,
        voluntary: 0,
        periods: 0,
        donated: 0,
    };

    /// Adds what is counted of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        self.run += other.run;
        self.wait += other.wait;
        self.switches += other.switches;
        self.preemptions += other.preemptions;
        self.migrations += other.migrations;
        self.misses += other.misses;
        self.throttles += other.throttles;
        self.max_lateness = self.max_lateness.max(other.max_lateness);
        self.max_wait = self.max_wait.max(other.max_wait);
        self.voluntary += other.voluntary;
        self.periods += other.periods;
        self.donated += other.donated;
    }
}

/// Where a thread stands with the scheduler.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: it is blocked, was not started, or ended.
    #[default]
    Nowhere,
    /// In the queue of its class on its processor.
    Queued,
    /// Waits for its budget to be refilled.
    Throttled,
    /// To run next on its processor without having been queued.
    Handed,
    /// On its processor.
    Running,
}

/// A thread's class, parameters and statistics.
#[derive(Debug)]
pub struct ThreadSched {
    /// What was asked for.
    pub params: Params,
    /// The processors it may run on.
    pub affinity: u64,
    /// What is counted.
    pub stats: Stats,
    /// The class it runs in: its own, or inherited from who waits for it.
    pub(crate) class: Class,
    /// The priority it runs with, in `RT_FIXED`.
    pub(crate) priority: u8,
    /// The deadline it runs with, in `RT_EDF`.
    pub(crate) due: Nanos,
    /// Whose reservation it uses in `RT_EDF`, when that is not its own.
    pub(crate) donor: Option<ThreadId>,
    /// Its own reservation, when its own class is `RT_EDF`.
    pub(crate) reservation: Reservation,
    /// Virtual time, in `BEST_EFFORT`; see [`fair`].
    pub(crate) virtual_time: u64,
    /// The bucket that it is queued in.
    pub(crate) bucket: u8,
    pub(crate) place: Place,
    /// The processor it runs on, is queued at, or ran on last.
    pub(crate) cpu: CpuId,
    /// When it began to run or to wait; up to here its time is counted.
    pub(crate) since: Nanos,
    /// The `since` of the wait that the watchdog told of.
    pub(crate) starved_since: Nanos,
    pub(crate) deadline_place: Option<DeadlinePlace>,
    /// It is to end with this code as soon as its processor enters the kernel.
    pub(crate) doomed: Option<(i64, ExitReason)>,
    /// The processor that admitted it while it ran on another one.
    pub(crate) moves_to: Option<CpuId>,
}

impl ThreadSched {
    /// The state of a thread that was never ready.
    #[must_use]
    pub(crate) const fn new(params: Params, affinity: u64, cpu: CpuId) -> Self {
        Self {
            params,
            affinity,
            stats: Stats::NONE,
            class: params.class,
            priority: params.priority,
            due: Nanos::NEVER,
            donor: None,
            reservation: Reservation::NONE,
            virtual_time: 0,
            bucket: 0,
            place: Place::Nowhere,
            cpu,
            since: Nanos(0),
            starved_since: Nanos::NEVER,
            deadline_place: None,
            doomed: None,
            moves_to: None,
        }
    }

    /// The processor that admitted it to `RT_EDF`, if one did.
    #[must_use]
    pub(crate) fn admitted_at(&self) -> CpuId {
        self.moves_to.unwrap_or(self.cpu)
    }

    /// Whether it may run on `cpu`.
    #[must_use]
    pub(crate) const fn allows(&self, cpu: CpuId) -> bool {
        self.affinity & bit(cpu) != 0
    }

    /// Its rank among all ready threads.
    #[must_use]
    pub(crate) const fn rank(&self) -> Rank {
        Rank {
            class: self.class,
            within: match self.class {
                Class::Edf => u64::MAX - self.due.0,
                Class::Fixed => self.priority as u64,
                Class::BestEffort | Class::Background => 0,
            },
        }
    }
}

/// Who runs before whom: the greater one. `BEST_EFFORT` threads are equal here; virtual time decides among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) class: Class,
    pub(crate) within: u64,
}

/// A unit's parameters and statistics.
#[derive(Debug, Clone, Default)]
pub struct UnitSched {
    /// What its threads used together, including those that ended: run time and switches.
    pub stats: Stats,
    /// What is counted of its threads that ended.
    pub ended: Stats,
    /// System calls of its threads, up to their last charge.
    pub syscalls: u64,
}

/// What a processor is to do before it leaves the kernel.
pub(crate) mod attention {
    /// Choose a thread anew.
    pub(crate) const CHOOSE: u8 = 1;
    /// Set the timer anew.
    pub(crate) const TIMER: u8 = 2;
    /// Tell readers of the trace.
    pub(crate) const TRACE: u8 = 4;
}

/// One processor.
#[derive(Debug)]
pub struct Cpu {
    /// The thread on it.
    pub(crate) current: Option<ThreadId>,
    /// See [`attention`].
    pub(crate) attention: u8,
    /// The current thread's turn is over: it goes behind its equals when it goes back to its queue.
    pub(crate) turn_over: bool,
    /// It gave its turn up itself.
    pub(crate) yielded: bool,
    /// To run next, unless someone better is queued.
    pub(crate) handed: Option<ThreadId>,
    /// Ready `RT_EDF` threads, earliest deadline first.
    pub(crate) edf: Queue,
    /// Ready `RT_FIXED` threads by priority, and which of the queues are not empty.
    pub(crate) fixed: [Queue; PRIORITIES],
    pub(crate) fixed_filled: u32,
    /// Ready `BEST_EFFORT` threads.
    pub(crate) fair: Fair,
    /// Ready `BACKGROUND` threads.
    pub(crate) background: Queue,
    /// Admitted `RT_EDF` threads: their shares together, and how many.
    pub(crate) admitted: u64,
    pub(crate) admitted_threads: u32,
    /// Deadlines that were set here.
    pub(crate) deadlines: Deadlines,
    /// What the machine's timer is set to, or later than that.
    pub(crate) armed: Nanos,
    /// When the current thread's turn or budget ends.
    pub(crate) turn_ends: Nanos,
    /// When it last gave a thread to another processor to even out the load.
    pub(crate) balanced: Nanos,
    /// When it began to idle.
    pub(crate) idle_since: Nanos,
    /// Nanoseconds without a thread.
    pub(crate) idle: u64,
    /// Threads put on it.
    pub(crate) switches: u64,
    /// System calls on it.
    pub(crate) syscalls: u64,
    /// Entries of the kernel by its timer.
    pub(crate) timer_entries: u64,
    /// Entries of the kernel by a kick.
    pub(crate) kick_entries: u64,
}

impl Cpu {
    fn new(cpu: CpuId) -> Self {
        Self {
            current: None,
            attention: attention::CHOOSE,
            turn_over: false,
            yielded: false,
            handed: None,
            edf: Queue::new(Through::Run),
            fixed: [Queue::new(Through::Run); PRIORITIES],
            fixed_filled: 0,
            fair: Fair::new(),
            background: Queue::new(Through::Run),
            admitted: 0,
            admitted_threads: 0,
            deadlines: Deadlines::new(cpu),
            armed: Nanos::NEVER,
            turn_ends: Nanos::NEVER,
            balanced: Nanos(0),
            idle_since: Nanos(0),
            idle: 0,
            switches: 0,
            syscalls: 0,
            timer_entries: 0,
            kick_entries: 0,
        }
    }
}

impl Cpu {
    /// Whether a ready thread waits here.
    #[inline(always)]
    pub(crate) const fn has_queued(&self) -> bool {
        !self.edf.is_empty() || self.fixed_filled != 0 || self.fair.len() != 0 || !self.background.is_empty()
    }
}

/// The run queues of all processors.
#[derive(Debug)]
pub struct Sched {
    pub(crate) cpus: Vec<Cpu>,
    /// The processor that is in the kernel.
    pub(crate) here: CpuId,
    /// The time of this entry, once it was asked for; zero before.
    pub(crate) clock: Nanos,
    /// Counts what may have changed anything.
    pub(crate) stamp: Stamp,
    /// What of a processor may be admitted to `RT_EDF`.
    pub(crate) edf_cap: u64,
    /// The processors that idle.
    pub(crate) idle: u64,
    /// Those of them that were not yet told that there is something to do.
    pub(crate) sleeping: u64,
    /// The processors with queued `RT_FIXED`, `BEST_EFFORT` and `BACKGROUND` threads.
    pub(crate) waiting_fixed: u64,
    pub(crate) waiting_fair: u64,
    pub(crate) waiting_background: u64,
}

/// The bit of a processor in a mask.
#[must_use]
pub(crate) const fn bit(cpu: CpuId) -> u64 {
    1u64.wrapping_shl(cpu.0)
}

impl Sched {
    /// Empty queues of `cpus` processors (at most [`MAX_CPUS`] are used).
    ///
    /// # Errors
    /// [`Full`] when there is no memory for them.
    pub fn new(cpus: u32) -> Result<Self, Full> {
        let count = cpus.clamp(1, MAX_CPUS);
        let mut all = Vec::new();
        all.try_reserve_exact(count as usize).map_err(|_| Full)?;
        all.extend((0..count).map(|cpu| Cpu::new(CpuId(cpu))));
        Ok(Self {
            cpus: all,
            here: CpuId(0),
            clock: Nanos(0),
            stamp: Stamp::FIRST,
            edf_cap: edf::CAP,
            idle: 0,
            sleeping: 0,
            waiting_fixed: 0,
            waiting_fair: 0,
            waiting_background: 0,
        })
    }

    #[inline]
    pub(crate) fn cpu(&self, cpu: CpuId) -> Option<&Cpu> {
        self.cpus.get(cpu.0 as usize)
    }

    #[inline]
    pub(crate) fn cpu_mut(&mut self, cpu: CpuId) -> Option<&mut Cpu> {
        self.cpus.get_mut(cpu.0 as usize)
    }

    /// The mask of all processors.
    #[must_use]
    pub(crate) fn all(&self) -> u64 {
        u64::MAX >> (64 - self.cpus.len().clamp(1, 64))
    }
}

//! `RT_EDF`: admission of threads to processors, and the budget that keeps each to what it was admitted for (CBS).
//!
//! A thread with budget Q, deadline D and period P (Q <= D <= P) is a constant bandwidth server of density Q/D. A processor
//! admits servers while their densities add up to at most 95 %; a set of density at most 1 meets every deadline under EDF as
//! long as each job needs at most Q and jobs are released at least P apart. Sums are exact: densities are rounded up to
//! 2^-40 once, when a thread is admitted, and the same number is taken off again.
//!
//! The rules (Abeni and Buttazzo 1998; `sched-deadline.rst`): a thread that wakes with budget q and deadline d keeps both when
//! q/(d - t) <= Q/D, and gets (Q, t + D) otherwise; one that uses up its budget waits until the period after its deadline
//! begins. A server that inherits the reservation of a caller is not held up by it: the budget is refilled at once and the
//! deadline moved on by P, which keeps the same bandwidth.

use holm_abi::Error;

use crate::machine::{CpuId, Nanos};
use crate::sched::{Params, Sched, bit};

/// The most `RT_EDF` threads of one processor.
pub const MAX_EDF: u32 = 64;

/// One whole processor.
pub const WHOLE: u64 = 1 << 40;
/// What may be admitted of a processor unless configured otherwise: 95 %.
pub const CAP: u64 = WHOLE / 1000 * 950;

/// The density of parameters, of [`WHOLE`], rounded up.
#[must_use]
pub fn density(params: &Params) -> u64 {
    if params.deadline.0 == 0 {
        return WHOLE;
    }
    let scaled = u128::from(params.budget.0) * u128::from(WHOLE);
    u64::try_from(scaled.div_ceil(u128::from(params.deadline.0))).unwrap_or(u64::MAX)
}

/// What a thread was admitted with, and what it has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reservation {
    /// What is counted in [`crate::sched::Cpu::admitted`]; zero when the thread is not admitted.
    pub(crate) density: u64,
    /// What is left of the budget.
    pub(crate) budget: u64,
    /// The server's deadline.
    pub(crate) deadline: Nanos,
    /// When the job that runs is to be done: the server's deadline when the job was released. [`Nanos::NEVER`] when it
    /// is done, and the next one begins with the next period.
    pub(crate) job: Nanos,
}

/// What using the processor did to a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spent {
    /// Something is left.
    Within,
    /// The budget is used up.
    Exhausted,
}

impl Reservation {
    pub(crate) const NONE: Self = Self { density: 0, budget: 0, deadline: Nanos(0), job: Nanos(0) };

    /// A job is released at `now`.
    pub(crate) fn release(&mut self, params: &Params, now: Nanos) {
        let left = self.deadline.since(now).0;
        let fits =
            u128::from(self.budget) * u128::from(params.deadline.0) <= u128::from(left) * u128::from(params.budget.0);
        if left == 0 || !fits {
            self.deadline = now.after(params.deadline);
            self.budget = params.budget.0;
        }
        self.job = self.deadline;
    }

    /// The processor was used for `ran` nanoseconds.
    pub(crate) const fn spend(&mut self, ran: u64) -> Spent {
        self.budget = self.budget.saturating_sub(ran);
        if self.budget == 0 { Spent::Exhausted } else { Spent::Within }
    }

    /// When a budget that is used up is refilled: at the beginning of the next period.
    pub(crate) const fn refill_at(&self, params: &Params) -> Nanos {
        Nanos(self.deadline.0.saturating_sub(params.deadline.0).saturating_add(params.period.0))
    }

    /// The next period began.
    pub(crate) fn refill(&mut self, params: &Params, now: Nanos) {
        self.deadline = self.deadline.after(params.period);
        if self.deadline <= now {
            self.deadline = now.after(params.deadline);
        }
        self.budget = params.budget.0;
        if self.job == Nanos::NEVER {
            self.job = self.deadline;
        }
    }

    /// The job is done, and with it this period's budget.
    pub(crate) const fn give_up(&mut self) {
        self.budget = 0;
        self.job = Nanos::NEVER;
    }

    /// The reservation goes on under a thread that inherited it.
    pub(crate) fn postpone(&mut self, params: &Params, now: Nanos) {
        self.refill(params, now);
    }
}

impl Sched {
    /// Finds a processor that can take `params` on, `preferred` first and then the one with the most to spare.
    ///
    /// # Errors
    /// [`Error::Busy`] when none of `affinity` can.
    pub(crate) fn admit(&mut self, params: &Params, affinity: u64, preferred: CpuId) -> Result<(CpuId, u64), Error> {
        let share = density(params);
        let cap = self.edf_cap;
        let fits = |cpu: &crate::sched::Cpu| {
            cpu.admitted_threads < MAX_EDF && cpu.admitted.checked_add(share).is_some_and(|sum| sum <= cap)
        };
        let allowed = |cpu: CpuId| affinity & bit(cpu) != 0;
        let chosen = match self.cpu(preferred) {
            Some(cpu) if allowed(preferred) && fits(cpu) => Some(preferred),
            _ => (0..self.cpus.len() as u32)
                .map(CpuId)
                .filter(|cpu| allowed(*cpu) && self.cpu(*cpu).is_some_and(fits))
                .min_by_key(|cpu| self.cpu(*cpu).map_or(u64::MAX, |cpu| cpu.admitted)),
        };
        let cpu = chosen.ok_or(Error::Busy)?;
        if let Some(entry) = self.cpu_mut(cpu) {
            entry.admitted += share;
            entry.admitted_threads += 1;
        }
        Ok((cpu, share))
    }

    /// Takes back what [`Sched::dismiss`] gave up a moment ago.
    pub(crate) fn readmit(&mut self, cpu: CpuId, share: u64) {
        if share != 0
            && let Some(entry) = self.cpu_mut(cpu)
        {
            entry.admitted += share;
            entry.admitted_threads += 1;
        }
    }

    /// Gives back what a thread was admitted with.
    pub(crate) fn dismiss(&mut self, cpu: CpuId, share: u64) {
        if share == 0 {
            return;
        }
        if let Some(entry) = self.cpu_mut(cpu) {
            entry.admitted = entry.admitted.saturating_sub(share);
            entry.admitted_threads = entry.admitted_threads.saturating_sub(1);
        }
    }
}

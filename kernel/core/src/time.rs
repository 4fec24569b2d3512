//! Clocks and timers (seed 5).
//!
//! The monotonic clock is the machine's; the realtime clock is a constant ahead of it. A periodic timer expires at its first
//! deadline plus whole periods, however late the kernel was each time; expirations that were missed are counted, not made up
//! for.

use holm_abi::{ClockId, Error, EventMask, TimerMode};

use crate::arena::{Arena, Id};
use crate::caller::Caller;
use crate::deadline::{DeadlinePlace, Deadlines, Due};
use crate::event::{Source, Watchers};
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::quota::Resource;
use crate::unit::UnitId;

/// Names a timer.
pub type TimerId = Id<Timer>;

/// A timer.
#[derive(Debug)]
pub struct Timer {
    /// The clock that its deadlines are given on: monotonic or realtime.
    pub clock: ClockId,
    /// Whether deadlines count from the call that arms it.
    pub relative: bool,
    /// How late it may fire.
    pub slack: Nanos,
    /// When it expires next, on the monotonic clock; [`Nanos::NEVER`] when it is not armed.
    pub deadline: Nanos,
    /// Zero: once.
    pub period: Nanos,
    /// How often it expired.
    pub expirations: u64,
    /// Who is told.
    pub watchers: Watchers,
    /// Handles that name it.
    pub references: u32,
    /// Who pays for it.
    pub unit: UnitId,
    pub(crate) place: Option<DeadlinePlace>,
}

/// All timers.
#[derive(Debug, Default)]
pub struct Timers {
    /// Them.
    pub all: Arena<Timer>,
}

/// When a timer fires that may be late by `slack`: at a multiple of the greatest power of two that is not more, so that
/// timers with slack fire together.
fn shared(deadline: Nanos, slack: Nanos) -> Nanos {
    let Some(power) = slack.0.checked_ilog2() else { return deadline };
    let step = 1u64 << power;
    deadline.0.checked_next_multiple_of(step).map_or(deadline, Nanos)
}

impl<M: Machine> Kernel<M> {
    fn timer_cost(&self) -> u64 {
        size_of::<Timer>() as u64 + Deadlines::ENTRY * self.sched.cpus.len() as u64
    }

    /// Makes a timer that is not armed, with no reference yet.
    ///
    /// # Errors
    /// [`Error::NotSupported`] for another clock than monotonic and realtime; [`Error::Quota`]; [`Error::NoMemory`].
    pub(crate) fn timer_new(
        &mut self,
        unit: UnitId,
        clock: ClockId,
        relative: bool,
        slack: Nanos,
    ) -> Result<TimerId, Error> {
        if !matches!(clock, ClockId::Monotonic | ClockId::Realtime) {
            return Err(Error::NotSupported);
        }
        let total = self.threads.len() as usize + self.timers.all.len() as usize + 1;
        for cpu in &mut self.sched.cpus {
            cpu.deadlines.reserve(total).map_err(|_| Error::NoMemory)?;
        }
        let cost = self.timer_cost();
        self.charge(unit, Resource::Kernel, cost)?;
        let timer = Timer {
            clock,
            relative,
            slack,
            deadline: Nanos::NEVER,
            period: Nanos(0),
            expirations: 0,
            watchers: Watchers::default(),
            references: 0,
            unit,
            place: None,
        };
        self.timers.all.insert(timer).map_err(|_| {
            self.refund(unit, Resource::Kernel, cost);
            Error::NoMemory
        })
    }

    /// Arms a timer anew; `period` zero: once.
    pub(crate) fn timer_set(&mut self, timer: TimerId, deadline: Nanos, period: Nanos) {
        let now = self.clock();
        let boot = self.machine.realtime_at_boot();
        let Some(entry) = self.timers.all.get_mut(timer) else { return };
        let when = match (entry.relative, entry.clock) {
            (true, _) => now.after(deadline),
            (false, ClockId::Realtime) => deadline.since(boot),
            (false, _) => deadline,
        };
        let place = entry.place;
        entry.deadline = when;
        entry.period = period;
        self.clear_deadline(place);
        if when <= now {
            self.timer_expired(timer, now);
        } else {
            let shared = shared(when, self.timers.all.get(timer).map_or(Nanos(0), |entry| entry.slack));
            self.set_deadline(Due::Timer(timer), shared);
        }
    }

    /// Disarms a timer; says whether it was armed.
    pub(crate) fn timer_stop(&mut self, timer: TimerId) -> bool {
        let Some(entry) = self.timers.all.get_mut(timer) else { return false };
        let armed = entry.deadline != Nanos::NEVER;
        let place = entry.place;
        entry.deadline = Nanos::NEVER;
        entry.period = Nanos(0);
        self.clear_deadline(place);
        self.forget(Source::Timer(timer));
        armed
    }

    /// A timer's deadline passed.
    pub(crate) fn timer_expired(&mut self, timer: TimerId, now: Nanos) {
        let Some(entry) = self.timers.all.get_mut(timer) else { return };
        let due = entry.deadline;
        // How many whole periods it is late; a one-shot timer has none.
        let missed = now.since(due).0.checked_div(entry.period.0);
        let times = missed.unwrap_or(0) + 1;
        let last = due.after(Nanos(missed.unwrap_or(0).saturating_mul(entry.period.0)));
        let next = if missed.is_some() { last.after(entry.period) } else { Nanos::NEVER };
        entry.deadline = next;
        entry.expirations = entry.expirations.saturating_add(times);
        let slack = entry.slack;
        if next != Nanos::NEVER {
            self.set_deadline(Due::Timer(timer), shared(next, slack));
        }
        self.trace.counts.timer_expirations += times;
        self.trace_timer(timer, due);
        self.raise(Source::Timer(timer), EventMask::EXPIRED, times, last.0);
    }

    /// Nothing names a timer any more.
    pub(crate) fn timer_released(&mut self, timer: TimerId) {
        let cost = self.timer_cost();
        self.timer_stop(timer);
        self.watchers_gone(Source::Timer(timer));
        if let Some(entry) = self.timers.all.remove(timer) {
            self.refund(entry.unit, Resource::Kernel, cost);
        }
    }

    pub(crate) fn timer_references(&mut self, timer: TimerId) -> Option<&mut u32> {
        self.timers.all.get_mut(timer).map(|timer| &mut timer.references)
    }

    /// How long a processor idled.
    pub(crate) fn idle_time(&self, cpu: CpuId, now: Nanos) -> u64 {
        let Some(entry) = self.sched.cpu(cpu) else { return 0 };
        let idles = self.sched.idle & crate::sched::bit(cpu) != 0;
        entry.idle + if idles { now.since(entry.idle_since).0 } else { 0 }
    }

    /// Reads a clock.
    pub(crate) fn clock_of(&mut self, caller: Caller, clock: ClockId) -> u64 {
        let now = self.clock();
        match clock {
            ClockId::Monotonic => now.0,
            ClockId::Realtime => now.0.saturating_add(self.machine.realtime_at_boot().0),
            ClockId::CpuBusy => now.0.saturating_sub(self.idle_time(caller.cpu, now)),
            ClockId::CpuIdle => self.idle_time(caller.cpu, now),
            ClockId::ThreadCpu => {
                self.charge_run(caller.cpu, now);
                self.threads.get(caller.thread).map_or(0, |thread| thread.sched.stats.run)
            }
            ClockId::UnitCpu => self.unit_cpu_time(caller.unit).0,
        }
    }

    /// How a timer goes on.
    pub(crate) const fn timer_mode(timer: &Timer) -> TimerMode {
        if timer.period.0 == 0 { TimerMode::OneShot } else { TimerMode::Periodic }
    }
}

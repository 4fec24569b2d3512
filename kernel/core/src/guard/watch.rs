//! The watchdog: processors that do not answer or stay in the kernel too long, threads that are ready and get no processor.
//!
//! A processor that never leaves the kernel holds its lock, so no other can say so from in here; the machine layer does
//! ([`Machine::watchdog`]), where it waits for the lock. One that comes back says itself how long it was. Threads of BACKGROUND are to starve while others
//! want to run, so they are not looked at.

use super::{Guard, HOME, PerCpu};
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::{Class, Place};

/// Threads that one step looks at.
const STEP: usize = 16;
/// From one step to the next, as long as there are threads that were not looked at.
const PAUSE: Nanos = Nanos(1_000_000);

/// What the watchdog knows.
#[derive(Debug)]
pub(super) struct Watch {
    /// When each processor looks next.
    due: PerCpu<Nanos>,
    /// Since when each processor is asked to enter the kernel; `NEVER` when it is not.
    asked: PerCpu<Nanos>,
    /// When the processor that is in the kernel entered it.
    entered: Nanos,
    /// Where the search for starving threads goes on.
    next: u32,
}

impl Watch {
    pub(super) const fn new() -> Self {
        let never = [Nanos::NEVER; _];
        Self { due: never, asked: never, entered: Nanos::NEVER, next: 0 }
    }

    pub(super) fn renew(&mut self, on: bool, now: Nanos) {
        *self = Self::new();
        if on {
            self.due.fill(now);
        }
    }

    pub(super) fn due(&self, cpu: CpuId) -> Nanos {
        self.due.get(cpu.0 as usize).copied().unwrap_or(Nanos::NEVER)
    }
}

impl<M: Machine> Kernel<M> {
    /// How long the watchdog waits; `None` while it is off.
    pub(super) fn patience(&self) -> Option<Nanos> {
        let knobs = self.config.guards;
        (super::GUARDED && knobs.watchdog).then_some(Nanos(u64::from(knobs.watchdog_ms) * 1_000_000))
    }

    /// A processor enters the kernel.
    #[inline]
    pub(crate) fn watch_entered(&mut self, cpu: CpuId) {
        if super::GUARDED && self.config.guards.watchdog {
            self.guards.watch.entered = self.machine.now();
            if let Some(asked) = self.guards.watch.asked.get_mut(cpu.0 as usize) {
                *asked = Nanos::NEVER;
            }
        }
    }

    /// Another processor is asked to enter it.
    #[inline]
    pub(crate) fn watch_asked(&mut self, cpu: CpuId) {
        if super::GUARDED && self.config.guards.watchdog {
            let now = self.clock();
            if let Some(asked) = self.guards.watch.asked.get_mut(cpu.0 as usize) {
                *asked = (*asked).min(now);
            }
        }
    }

    /// A processor is about to leave it.
    #[inline]
    pub(crate) fn watch_leaves(&mut self, cpu: CpuId) {
        if super::GUARDED
            && let Some(patience) = self.patience()
        {
            let entered = core::mem::replace(&mut self.guards.watch.entered, Nanos::NEVER);
            let length = self.machine.now().since(entered);
            if length > patience {
                let text = format_args!("processor {} was in the kernel for {} ms", cpu.0, length.0 / 1_000_000);
                self.found(Guard::Slow, [u64::from(cpu.0), length.0, 0], text);
            }
        }
    }

    /// Looks whether the other processors answer and, at home, whether threads starve.
    pub(super) fn watch_over(&mut self, cpu: CpuId, now: Nanos) {
        let Some(patience) = self.patience() else { return };
        for other in (0..self.sched.cpus.len() as u32).filter(|other| *other != cpu.0) {
            let Some(asked) = self.guards.watch.asked.get_mut(other as usize) else { continue };
            let silent = now.since(*asked);
            if silent > patience {
                // Once for each time that it is asked.
                *asked = Nanos::NEVER;
                let text = format_args!("processor {other} does not enter the kernel for {} ms", silent.0 / 1_000_000);
                self.found(Guard::Silent, [u64::from(other), silent.0, 0], text);
            }
        }
        let more = cpu == HOME && self.watch_threads(now, patience);
        let pause = if more { PAUSE } else { Nanos(patience.0 / 2) };
        if let Some(due) = self.guards.watch.due.get_mut(cpu.0 as usize) {
            *due = now.after(pause);
        }
    }

    /// Looks at a few threads; says whether there are more to look at now.
    fn watch_threads(&mut self, now: Nanos, patience: Nanos) -> bool {
        let mut place = self.guards.watch.next;
        for _ in 0..STEP {
            if place >= self.threads.places() {
                self.guards.watch.next = 0;
                return false;
            }
            let found = self.threads.at(place).map(|(id, thread)| (id, thread.unit, &thread.sched));
            place += 1;
            let Some((id, unit, state)) = found else { continue };
            let waited = now.since(state.since);
            let waits = state.place == Place::Queued && state.class != Class::Background;
            if !waits || waited <= patience || state.starved_since == state.since {
                continue;
            }
            let since = state.since;
            if let Some(thread) = self.threads.get_mut(id) {
                // Once for each time that it waits.
                thread.sched.starved_since = since;
            }
            let text = format_args!("thread {id:?} of unit {unit:?} gets no processor for {} ms", waited.0 / 1_000_000);
            self.found(Guard::Starving, [id.number(), waited.0, unit.number()], text);
        }
        self.guards.watch.next = place;
        true
    }
}

//! The kernel watches over itself (seed 17.3): it scrubs free memory, looks for processors that do not come back and threads
//! that starve, and sums its own text. What each finds goes into the log and, as [`TraceKind::Finding`], into the trace, whose
//! readers wait for it as for any event. The kernel does nothing else about it: that is for who reads.
//!
//! Everything is done in pieces on timers: scrubbing, summing and the search for starving threads on processor 0; and every
//! processor looks whether the others answer. A profile without these has none of it in its binary ([`GUARDED`]).

mod scrub;
#[cfg(test)]
mod tests;
mod text;
mod watch;

use core::fmt;

use holm_abi::{ConfigFlags, Error, KernelConfig, TraceKind};

use crate::config::AVAILABLE;
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::{MAX_CPUS, attention};

/// Whether any of it is compiled in.
pub(crate) const GUARDED: bool =
    AVAILABLE.contains(ConfigFlags::SCRUBBER.or(ConfigFlags::WATCHDOG).or(ConfigFlags::TEXT_CHECK));

/// Where everything but the look at other processors is done.
const HOME: CpuId = CpuId(0);

/// Who found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// A free frame changed: its number, and where in it.
    Scrubber = 1,
    /// A processor was asked to enter the kernel and did not: its number, and for how many nanoseconds.
    Silent = 2,
    /// A processor was in the kernel for too long: its number, and for how many nanoseconds.
    Slow = 3,
    /// A thread is ready and gets no processor: its id, and for how many nanoseconds.
    Starving = 4,
    /// The kernel's text changed: where, the sum that it had and the one that it has.
    Text = 5,
}

/// The knobs (seed 17.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Knobs {
    pub(crate) scrubber: bool,
    /// Pages per second.
    pub(crate) scrub_pages: u32,
    pub(crate) watchdog: bool,
    pub(crate) watchdog_ms: u32,
    pub(crate) text_check: bool,
    /// From one sum to the next.
    pub(crate) text_check_seconds: u32,
}

impl Knobs {
    /// What a kernel begins with: `on` where the profile asks for it.
    pub(crate) const fn new(on: bool) -> Self {
        let there = if GUARDED { u32::MAX } else { 0 };
        Self {
            scrubber: on,
            scrub_pages: 256 & there,
            watchdog: on,
            watchdog_ms: 10_000 & there,
            text_check: on,
            text_check_seconds: 60 & there,
        }
    }

    /// What kernel_config_set asks for.
    ///
    /// # Errors
    /// `NotSupported` for a knob of what is not compiled in; `Invalid` out of its range.
    pub(crate) fn of(new: &KernelConfig) -> Result<Self, Error> {
        let knobs = Self {
            scrubber: new.flags.contains(ConfigFlags::SCRUBBER),
            scrub_pages: new.scrub_pages,
            watchdog: new.flags.contains(ConfigFlags::WATCHDOG),
            watchdog_ms: new.watchdog_ms,
            text_check: new.flags.contains(ConfigFlags::TEXT_CHECK),
            text_check_seconds: new.text_check_seconds,
        };
        if !GUARDED && (new.scrub_pages, new.watchdog_ms, new.text_check_seconds) != (0, 0, 0) {
            return Err(Error::NotSupported);
        }
        let ranges = [
            (knobs.scrubber, knobs.scrub_pages, 1, scrub::MOST),
            (knobs.watchdog, knobs.watchdog_ms, 10, 3_600_000),
            (knobs.text_check, knobs.text_check_seconds, 1, 86_400),
        ];
        let fits = |(on, value, least, most): (bool, u32, u32, u32)| !on || (least <= value && value <= most);
        if ranges.into_iter().all(fits) { Ok(knobs) } else { Err(Error::Invalid) }
    }
}

/// What the guards have seen, and when each goes on.
#[derive(Debug)]
pub(crate) struct Guards {
    scrub_due: Nanos,
    text_due: Nanos,
    text: text::Sums,
    watch: watch::Watch,
    /// How many findings there were.
    pub(crate) findings: u64,
    /// Pages scrubbed.
    pub(crate) scrubbed: u64,
    /// Sums made of the whole text.
    pub(crate) text_checks: u64,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            scrub_due: Nanos::NEVER,
            text_due: Nanos::NEVER,
            text: text::Sums::default(),
            watch: watch::Watch::new(),
            findings: 0,
            scrubbed: 0,
            text_checks: 0,
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// The kernel is about to run for the first time: its text is as it should be.
    pub(crate) fn guards_begin(&mut self) {
        if GUARDED {
            self.guards.text.learn(self.machine.text());
            self.guards_renew();
        }
    }

    /// The knobs changed: what is on goes on now, and what is off stops.
    pub(crate) fn guards_renew(&mut self) {
        if !GUARDED {
            return;
        }
        let now = self.clock();
        let knobs = self.config.guards;
        let due = |on| if on { now } else { Nanos::NEVER };
        self.guards.scrub_due = due(knobs.scrubber);
        self.guards.text_due = due(knobs.text_check);
        self.guards.watch.renew(knobs.watchdog, now);
        let patience = self.patience();
        self.machine.watchdog(patience);
        for cpu in 0..self.sched.cpus.len() as u32 {
            self.attend(CpuId(cpu), attention::TIMER);
        }
    }

    /// When the timer of `cpu` must fire for the guards.
    #[inline]
    pub(crate) fn guards_due(&self, cpu: CpuId) -> Nanos {
        if !GUARDED {
            return Nanos::NEVER;
        }
        let watch = self.guards.watch.due(cpu);
        if cpu == HOME { watch.min(self.guards.scrub_due).min(self.guards.text_due) } else { watch }
    }

    /// Does a piece of what is due on `cpu`, whose timer fired.
    #[inline]
    pub(crate) fn guard(&mut self, cpu: CpuId) {
        if !GUARDED {
            return;
        }
        let (now, due) = (self.clock(), self.guards_due(cpu));
        if due > now {
            return;
        }
        // What is due longest; the timer fires again for the others.
        if self.guards.watch.due(cpu) == due {
            self.watch_over(cpu, now);
        } else if self.guards.scrub_due == due {
            self.scrub(now);
        } else {
            self.check_text(now);
        }
    }

    /// Something was found: into the log, and to who reads the trace.
    fn found(&mut self, guard: Guard, data: [u64; 3], text: fmt::Arguments<'_>) {
        let [one, two, three] = data;
        self.guards.findings += 1;
        self.log(text);
        self.trace_event(TraceKind::Finding, [guard as u64, one, two, three]);
    }
}

/// Something of each processor.
type PerCpu<T> = [T; MAX_CPUS as usize];

//! Work that goes on in the background, in bounded steps: what was revoked, and what nothing names any more, is given back.

use crate::cap::Progress;
use crate::kernel::Kernel;
use crate::machine::Machine;

/// Kinds of work.
const KINDS: u8 = 6;

impl<M: Machine> Kernel<M> {
    /// Does one bounded step of the work that waits, of each kind by turns; says whether there is more. The entries of the
    /// kernel call it on their way out, and idle processors as long as there is something to do.
    pub(crate) fn work_step(&mut self) -> bool {
        for _ in 0..KINDS {
            let kind = self.work_turn % KINDS;
            self.work_turn = kind + 1;
            let (waits, step): (bool, fn(&mut Self) -> Progress) = match kind {
                0 => (self.caps.grants.sweeping().is_some(), Self::caps_sweep_step),
                1 => (self.channel_work.waits(), Self::channels_drain_step),
                2 => (self.dying_regions.waits(), Self::dying_regions_step),
                3 => (self.dying_spaces.waits(), Self::dying_spaces_step),
                4 => (self.dying_units.waits(), Self::dying_units_step),
                _ => (self.events.dying.is_some(), Self::dying_events_step),
            };
            if waits {
                let progress = step(self);
                return progress == Progress::More || self.work_waits();
            }
        }
        false
    }

    /// Whether work waits.
    #[inline]
    pub(crate) fn work_waits(&self) -> bool {
        self.caps.grants.sweeping().is_some()
            || self.channel_work.waits()
            || self.dying_regions.waits()
            || self.dying_spaces.waits()
            || self.dying_units.waits()
            || self.events.dying.is_some()
    }

    /// What waits for the background: revocations to be followed up, and one for each other kind of work of which there is
    /// any.
    pub(crate) fn work_backlog(&self) -> u64 {
        let kinds = [
            self.channel_work.waits(),
            self.dying_regions.waits(),
            self.dying_spaces.waits(),
            self.dying_units.waits(),
            self.events.dying.is_some(),
        ];
        u64::from(self.caps.grants.queued) + kinds.iter().map(|waits| u64::from(*waits)).sum::<u64>()
    }
}

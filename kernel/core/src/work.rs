//! Work that goes on in the background, in bounded steps: what was revoked, and what nothing names any more, is given back.

use crate::cap::Progress;
use crate::kernel::Kernel;
use crate::machine::Machine;

impl<M: Machine> Kernel<M> {
    /// Does one bounded step of the work that waits, of each kind at most; says whether there is more. The entries of the
    /// kernel call it on their way out, and idle processors as long as there is something to do.
    pub(crate) fn work_step(&mut self) -> bool {
        if !self.work_waits() {
            return false;
        }
        // What others give up first; its end may be what a unit's end waits for.
        let steps = [
            self.caps_sweep_step(),
            self.channels_drain_step(),
            self.dying_regions_step(),
            self.dying_spaces_step(),
            self.dying_units_step(),
            self.dying_events_step(),
        ];
        steps.contains(&Progress::More) || self.work_waits()
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

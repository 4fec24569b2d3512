//! The scrubber: frames that were given back are cleared, so that nothing of what they held is left, and looked at again now
//! and then: a free frame that is not clear any more was changed by nobody who may, and is never used again.

use super::Guard;
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};
use crate::memory::frames::Scrubbed;

/// Pages per second at most: what a step in every interval of 100 µs comes to.
pub(super) const MOST: u32 = 40_000;
/// Pages of one step.
const STEP: u32 = 4;

impl<M: Machine> Kernel<M> {
    /// Scrubs a few free frames.
    pub(super) fn scrub(&mut self, now: Nanos) {
        let pages = self.config.guards.scrub_pages.max(1);
        let step = pages.min(STEP);
        self.guards.scrub_due = now.after(Nanos(1_000_000_000 * u64::from(step) / u64::from(pages)));
        for _ in 0..step {
            match self.frames.scrub(&mut self.machine) {
                Scrubbed::Nothing => break,
                Scrubbed::Clear => self.guards.scrubbed += 1,
                Scrubbed::Changed(frame, offset) => {
                    let at = u64::from(frame.0);
                    let text = format_args!("free frame {at:#x} was changed at byte {offset}: it is used no more");
                    self.found(Guard::Scrubber, [at, offset as u64, 0], text);
                }
                Scrubbed::Lost(frames) => {
                    let text = format_args!("the list of scrubbed frames was changed: {frames} frames are lost");
                    self.found(Guard::Scrubber, [u64::MAX, frames, 0], text);
                }
            }
        }
    }
}

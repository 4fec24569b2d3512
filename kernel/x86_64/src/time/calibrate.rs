//! Finds how fast the time stamp counter and the local timer count.

use super::clock::TimerKind;
use super::pit::{self, Reading};
use crate::apic;
use crate::cpu::{Features, tsc};

/// Ticks of the old timer to measure over: 2 ms, for an error below 0.1 %.
const TICKS: u64 = 2 * pit::HERTZ / 1000;
/// Ticks of the time stamp counter after which a counter that has not moved is not there.
const PATIENCE: u64 = 1_000_000_000;
/// The local timer begins here.
const FULL: u32 = u32::MAX;

/// There is nothing to measure by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoClock;

/// A measurement that has begun: boot goes on meanwhile.
#[derive(Debug)]
pub(crate) struct Calibration {
    features: Features,
    began: Began,
}

#[derive(Debug, Clone, Copy)]
struct Began {
    reading: Option<Reading>,
    tsc: u64,
    timer: u32,
}

impl Began {
    fn now() -> Self {
        pit::start();
        apic::timer_ticks(FULL);
        Self { reading: pit::read(), tsc: tsc(), timer: apic::timer_left() }
    }
}

impl Calibration {
    /// Begins. The local interrupt controller is on.
    pub(crate) fn begin(features: Features) -> Self {
        Self { features, began: Began::now() }
    }

    /// Ticks of the time stamp counter per second, and how timers are set; waits until enough time has passed.
    ///
    /// # Errors
    /// [`NoClock`] when neither the processor says its rate nor the old timer counts.
    pub(crate) fn finish(self) -> Result<(u64, TimerKind), NoClock> {
        let Features { tsc_hertz, tsc_deadline, .. } = self.features;
        match (tsc_hertz, tsc_deadline) {
            (Some(hertz), true) => Ok((hertz, TimerKind::Deadline)),
            (Some(hertz), false) => {
                while tsc() - self.began.tsc < hertz / 500 {
                    core::hint::spin_loop();
                }
                Ok((hertz, timer_kind(FULL - apic::timer_left(), tsc() - self.began.tsc, hertz)))
            }
            (None, _) => measure(self.began)
                .map(|(hertz, timer)| (hertz, if tsc_deadline { TimerKind::Deadline } else { timer })),
        }
    }
}

/// Measures by the old timer.
fn measure(mut began: Began) -> Result<(u64, TimerKind), NoClock> {
    let patience = tsc();
    while tsc() - patience < PATIENCE {
        let (Some(first), Some(last)) = (began.reading, pit::read()) else {
            // It ran out, on a busy host: once more.
            began = Began::now();
            continue;
        };
        let ticks = last.ticks - first.ticks.min(last.ticks);
        if ticks >= TICKS {
            let (passed, counted) = (tsc() - began.tsc, began.timer - apic::timer_left());
            let hertz = (last.tsc - first.tsc) * pit::HERTZ / ticks;
            return Ok((hertz, timer_kind(counted, passed, hertz)));
        }
        core::hint::spin_loop();
    }
    Err(NoClock)
}

/// The local timer counted `ticks` while the time stamp counter, of `hertz`, counted `passed`.
fn timer_kind(ticks: u32, passed: u64, hertz: u64) -> TimerKind {
    apic::timer_ticks(0);
    let nanos = u128::from(passed) * 1_000_000_000 / u128::from(hertz.max(1));
    TimerKind::Ticks { per_nano: ((u128::from(ticks) << 32) / nanos.max(1)) as u64 }
}

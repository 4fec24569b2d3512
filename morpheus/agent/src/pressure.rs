//! Whether the whole system is short of CPU, from the kernel's own accounts: the reason PRESSURE.
//!
//! Two looks in a row must say so, half a second apart: nearly all of that time somebody waited for a CPU (PSI, where the
//! kernel measures it), and at both ends there were at least twice as many runnable threads as CPUs. The first alone is
//! what a single crowded CPU of many looks like, the second alone may be a moment's crowd.

use std::{fs, io};

/// Where the kernel tells how long somebody waited for a CPU; missing without CONFIG_PSI or with `psi=0`.
const STALLS: &str = "/proc/pressure/cpu";
/// Where it tells how many threads are runnable.
const LOAD: &str = "/proc/loadavg";
/// Parts per hundred of the time in which somebody must have waited.
const STALLED_PER_CENT: u64 = 80;
/// Runnable threads per CPU.
const CROWD: usize = 2;

/// What the kernel says at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    /// CLOCK_MONOTONIC in ns.
    time_ns: u64,
    /// µs since boot in which somebody waited for a CPU; `None` when the kernel does not measure it.
    stalled_us: Option<u64>,
    /// Runnable threads.
    runnable: usize,
}

impl Look {
    fn take(time_ns: u64) -> io::Result<Self> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's account reads differently");
        let runnable = runnable(&fs::read_to_string(LOAD)?).ok_or_else(malformed)?;
        let stalled_us = match fs::read_to_string(STALLS) {
            Ok(text) => Some(stalled_us(&text).ok_or_else(malformed)?),
            // EOPNOTSUPP: compiled in, but not enabled at boot.
            Err(_) => None,
        };
        Ok(Self { time_ns, stalled_us, runnable })
    }

    /// Whether the system was short of CPU from the look before to this one.
    fn is_short_since(self, before: Self, cpus: usize) -> bool {
        let elapsed_us = self.time_ns.saturating_sub(before.time_ns) / 1000;
        let stalled = match (self.stalled_us, before.stalled_us) {
            (Some(now), Some(then)) => {
                now.saturating_sub(then).saturating_mul(100) >= elapsed_us.saturating_mul(STALLED_PER_CENT)
            }
            _ => true,
        };
        elapsed_us > 0 && stalled && self.runnable.min(before.runnable) >= CROWD * cpus
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Pressure {
    last: Option<Look>,
}

impl Pressure {
    /// Looks, and says whether the system has been short of CPU since the look before. `time_ns`: CLOCK_MONOTONIC.
    pub fn look(&mut self, time_ns: u64) -> bool {
        let now = Look::take(time_ns).inspect_err(|error| tracing::debug!(%error, "cannot look at the pressure")).ok();
        let before = std::mem::replace(&mut self.last, now);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        now.zip(before).is_some_and(|(now, before)| now.is_short_since(before, cpus))
    }
}

/// Whether this kernel tells what is needed.
///
/// # Errors
/// What cannot be read.
pub fn readable() -> io::Result<()> {
    Look::take(0).map(drop)
}

/// The total of the line `some avg10=… avg60=… avg300=… total=12345`.
fn stalled_us(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

/// The first half of the fourth field of `0.20 0.18 0.12 3/80 11206`, without the thread that reads it.
fn runnable(text: &str) -> Option<usize> {
    let runnable: usize = text.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()?;
    Some(runnable.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn look(ms: u64, stalled_ms: Option<u64>, runnable: usize) -> Look {
        let stalled_us = match stalled_ms {
            Some(ms) => Some(ms * 1000),
            None => None,
        };
        Look { time_ns: ms * 1_000_000, stalled_us, runnable }
    }

    #[test]
    fn the_system_is_short_when_somebody_always_waits_and_there_is_a_crowd() {
        let cases = [
            // Stalled for 80 % of half a second, a crowd of 2 for each of 4 CPUs at both ends.
            (look(0, Some(0), 8), look(500, Some(400), 8), true),
            (look(0, Some(0), 8), look(500, Some(399), 8), false),
            (look(0, Some(0), 7), look(500, Some(500), 8), false),
            (look(0, Some(0), 8), look(500, Some(500), 7), false),
            // Without PSI the crowd alone tells.
            (look(0, None, 8), look(500, None, 9), true),
            (look(0, None, 8), look(500, Some(0), 9), true),
            (look(0, None, 3), look(500, None, 9), false),
            // No time has passed.
            (look(500, Some(0), 9), look(500, Some(0), 9), false),
        ];
        for (before, now, expected) in cases {
            assert_eq!(now.is_short_since(before, 4), expected, "{before:?} {now:?}");
        }
    }

    #[test]
    fn the_kernels_lines_are_read() {
        let stalls = "some avg10=84.97 avg60=62.54 avg300=31.30 total=5205328950\nfull avg10=0.00 total=7\n";
        assert_eq!(stalled_us(stalls), Some(5_205_328_950));
        assert_eq!(stalled_us("full avg10=0.00 total=7\n"), None);
        assert_eq!(runnable("0.20 0.18 0.12 3/80 11206\n"), Some(2));
        assert_eq!(runnable("0.20 0.18 0.12\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let _ = (stalled_us(&text), runnable(&text));
        }
    }
}

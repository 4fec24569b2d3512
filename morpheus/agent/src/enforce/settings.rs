//! What the scheduler is told before it is loaded, as the bytes of `struct morpheus_settings`.

use std::time::Duration;

use super::domains::{CPUS, Domains};

/// Byte offset of `timeout_ms` in our `struct sched_ext_ops`; the C file asserts the same.
pub(super) const OPS_TIMEOUT_OFFSET: usize = 96;

/// Bytes of `struct morpheus_settings`.
const SIZE: usize = 24 + 2 * CPUS;

/// The longest the kernel's watchdog may be set to.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Slices an operator may choose.
const SLICES: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(100);

/// How the scheduler schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A thread's time on a CPU before the next one's turn, 1 to 100 ms.
    pub slice: Duration,
    /// The longest a thread may wait before the kernel ends the scheduler, up to 30 s.
    pub watchdog: Duration,
    /// For tests of the watchdog: a thread that is never run.
    pub never_run: Option<u32>,
}

/// Settings that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Too short for the tick to see, or too long to be fair.
    #[error("a slice of {0:?} is not between 1 and 100 ms")]
    Slice(Duration),
    /// The kernel takes no longer one.
    #[error("a watchdog of {0:?} is not between 1 ms and 30 s")]
    Watchdog(Duration),
    /// Our tables end there.
    #[error("this machine can have {0} CPUs, the scheduler knows {CPUS}")]
    Cpus(usize),
    /// The CPUs could not be listed.
    #[error("cannot read the machine's CPUs and caches: {0}")]
    Topology(String),
}

impl Default for Settings {
    /// The slice: 5 ms, but never less than three ticks, so that a tick falls between the hint's place and the end.
    fn default() -> Self {
        Self { slice: Duration::from_millis(5).max(tick() * 3), watchdog: LONGEST_TIMEOUT, never_run: None }
    }
}

/// The kernel's tick: what its coarse clock resolves.
fn tick() -> Duration {
    let resolution = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(0, u32::try_from(resolution.tv_nsec).unwrap_or(0))
}

impl Settings {
    /// The watchdog for `struct sched_ext_ops`.
    pub(super) fn timeout_ms(&self) -> Result<u32, SettingsError> {
        let ms = u32::try_from(self.watchdog.as_millis()).map_err(|_| SettingsError::Watchdog(self.watchdog))?;
        if ms == 0 || self.watchdog > LONGEST_TIMEOUT { Err(SettingsError::Watchdog(self.watchdog)) } else { Ok(ms) }
    }

    /// `struct morpheus_settings` for a machine with these domains.
    pub(super) fn to_bytes(self, domains: &Domains) -> Result<Vec<u8>, SettingsError> {
        if !SLICES.contains(&self.slice) {
            return Err(SettingsError::Slice(self.slice));
        }
        if domains.of_cpu.len() > CPUS {
            return Err(SettingsError::Cpus(domains.of_cpu.len()));
        }
        let mut bytes = Vec::with_capacity(SIZE);
        // At most 100 ms, and a tick is below a second.
        bytes.extend_from_slice(&(self.slice.as_nanos() as u64).to_ne_bytes());
        bytes.extend_from_slice(&(tick().as_nanos() as u64).to_ne_bytes());
        bytes.extend_from_slice(&u32::from(domains.count).to_ne_bytes());
        bytes.extend_from_slice(&self.never_run.unwrap_or(0).to_ne_bytes());
        for domain in &domains.of_cpu {
            bytes.extend_from_slice(&domain.to_ne_bytes());
        }
        bytes.resize(SIZE, 0);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { slice: Duration::from_millis(12), watchdog: Duration::from_secs(2), never_run: Some(7) }
    }

    #[test]
    fn bytes_are_where_the_c_structure_has_them() {
        let bytes = settings().to_bytes(&Domains { count: 2, of_cpu: vec![0, 1, 1] }).unwrap();
        assert_eq!(bytes.len(), 24 + 2048);
        assert_eq!(bytes[..8], 12_000_000_u64.to_ne_bytes());
        assert_eq!(bytes[16..24], [2_u32.to_ne_bytes(), 7_u32.to_ne_bytes()].concat());
        assert_eq!(bytes[24..32], [0_u16, 1, 1, 0].map(u16::to_ne_bytes).concat());
    }

    #[test]
    fn default_slice_holds_three_ticks() {
        assert!(Settings::default().slice >= tick() * 3);
        assert!(tick() > Duration::ZERO);
    }

    #[test]
    fn impossible_settings_are_refused() {
        let one = Domains { count: 1, of_cpu: vec![0] };
        for slice in [Duration::ZERO, Duration::from_micros(999), Duration::from_millis(101)] {
            let refused = Settings { slice, ..settings() }.to_bytes(&one);
            assert_eq!(refused.unwrap_err(), SettingsError::Slice(slice));
        }
        for watchdog in [Duration::ZERO, Duration::from_millis(30_001), Duration::MAX] {
            let refused = Settings { watchdog, ..settings() }.timeout_ms();
            assert_eq!(refused.unwrap_err(), SettingsError::Watchdog(watchdog));
        }
        assert_eq!(Settings { watchdog: Duration::from_secs(30), ..settings() }.timeout_ms(), Ok(30_000));
        let many = Domains { count: 1, of_cpu: vec![0; 1025] };
        assert_eq!(settings().to_bytes(&many).unwrap_err(), SettingsError::Cpus(1025));
    }
}

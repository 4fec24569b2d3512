//! How long to wait before an instance that died by itself is replaced.

use holm_model::state::Instance;
use jiff::{SignedDuration, Timestamp};

/// Longest wait between two tries.
const LONGEST: SignedDuration = SignedDuration::from_secs(60);

/// An instance that was healthy this long breaks a series of deaths.
pub(crate) const STABLE: SignedDuration = SignedDuration::from_secs(60);

/// One death of an instance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    /// When it was first found healthy, if it was.
    pub(crate) healthy_at: Option<Timestamp>,
    /// When it died.
    pub(crate) at: Timestamp,
}

impl Death {
    /// The death of an instance that has ended.
    pub(crate) fn of(instance: &Instance) -> Option<Self> {
        instance.end.as_ref().map(|end| Self { healthy_at: instance.healthy_at, at: end.at })
    }

    /// Whether it ended a long healthy life.
    fn was_stable(&self) -> bool {
        self.healthy_at.is_some_and(|since| self.at.duration_since(since) >= STABLE)
    }
}

/// How many of `deaths` (any order) came in a row up to the newest: a long healthy life before one breaks the row.
pub(crate) fn deaths_in_a_row(deaths: &[Death]) -> usize {
    let mut newest_first = deaths.to_vec();
    newest_first.sort_by_key(|death| std::cmp::Reverse(death.at));
    let unstable = newest_first.iter().take_while(|death| !death.was_stable()).count();
    unstable.max(1).min(deaths.len())
}

/// The earliest time for the next try after `deaths` (any order): 1 s after the first death in a row, then 2 s, 4 s …
/// up to a minute. `None`: at once.
pub(crate) fn not_before(deaths: &[Death]) -> Option<Timestamp> {
    let last = deaths.iter().map(|death| death.at).max()?;
    let in_a_row = deaths_in_a_row(deaths);
    let doublings = u32::try_from(in_a_row - 1).unwrap_or(u32::MAX).min(6);
    let wait = SignedDuration::from_secs(1 << doublings).min(LONGEST);
    last.checked_add(wait).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn death(healthy_at: Option<i64>, died: i64) -> Death {
        Death { healthy_at: healthy_at.map(at), at: at(died) }
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        for (deaths, wait) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60), (80, 60)] {
            let deaths: Vec<Death> = (0..deaths).map(|i| death(None, 1000 - i)).collect();
            assert_eq!(not_before(&deaths), Some(at(1000 + wait)), "{} deaths", deaths.len());
        }
    }

    #[test]
    fn a_long_healthy_life_ends_the_series() {
        let deaths = [death(None, 10), death(None, 20), death(Some(30), 90), death(Some(95), 96)];
        assert_eq!(not_before(&deaths), Some(at(97)));
        assert_eq!(not_before(&deaths[..3]), Some(at(91)));
    }

    #[test]
    fn without_a_death_there_is_no_wait() {
        assert_eq!(not_before(&[]), None);
    }
}

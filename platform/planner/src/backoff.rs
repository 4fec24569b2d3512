//! How long to wait before an instance that died by itself is replaced.

use jiff::{SignedDuration, Timestamp};

/// Longest wait between two tries.
const LONGEST: SignedDuration = SignedDuration::from_secs(60);

/// An instance that was healthy this long breaks a series of deaths.
const STABLE: SignedDuration = SignedDuration::from_secs(60);

/// One death of an instance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    /// When it was first found healthy, if it was.
    pub(crate) healthy_at: Option<Timestamp>,
    /// When it died.
    pub(crate) at: Timestamp,
}

/// The earliest time for the next try after `deaths` (any order): 1 s after the first death in a row, then 2 s, 4 s …
/// up to a minute. `None`: at once.
pub(crate) fn not_before(deaths: &[Death]) -> Option<Timestamp> {
    let mut newest_first = deaths.to_vec();
    newest_first.sort_by_key(|death| std::cmp::Reverse(death.at));
    let last = newest_first.first()?.at;
    let stable = |death: &&Death| death.healthy_at.is_some_and(|since| death.at.duration_since(since) >= STABLE);
    let in_a_row = newest_first.iter().take_while(|death| !stable(death)).count().max(1);
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

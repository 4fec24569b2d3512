//! How often something may happen: so many times a second on average, and a burst at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An average with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Times a second on average; 0 counts as 1.
    pub per_second: u32,
    /// Times at once after a rest; 0 counts as 1.
    pub burst: u32,
}

/// What is remembered of the past: when all of it is paid for, in nanoseconds (the generic cell rate algorithm, ITU-T I.371
/// annex A).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pace(u64);

impl Pace {
    /// Whether it may happen now (nanoseconds of any clock that only goes forward). If so, it has happened.
    pub(crate) fn take(&mut self, rate: Rate, now: u64) -> bool {
        let cost = NANOS_PER_SECOND / u64::from(rate.per_second.max(1));
        let ahead = cost * u64::from(rate.burst.max(1));
        let paid = self.0.max(now) + cost;
        let may = paid <= now.saturating_add(ahead);
        if may {
            self.0 = paid;
        }
        may
    }

    /// Whether the past does not matter any more.
    pub(crate) fn is_rested(self, now: u64) -> bool {
        self.0 <= now
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Nanoseconds since `epoch`.
pub(crate) fn nanos(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_average() {
        let rate = Rate { per_second: 10, burst: 3 };
        let mut pace = Pace::default();
        assert_eq!([0, 0, 0, 0].map(|now| pace.take(rate, now)), [true, true, true, false]);
        assert!(!pace.take(rate, 99_999_999));
        assert!(pace.take(rate, 100_000_000));
        assert!(!pace.take(rate, 100_000_000));
        assert!(!pace.is_rested(399_999_999));
        assert!(pace.is_rested(400_000_000));
    }

    proptest! {
        /// In any span no more happens than the burst and the average of the span.
        #[test]
        fn no_span_has_more_than_its_share(
            per_second in 1_u32..2000,
            burst in 1_u32..50,
            steps in prop::collection::vec(0_u64..50_000_000, 1..200),
        ) {
            let rate = Rate { per_second, burst };
            let (mut pace, mut now, mut happened) = (Pace::default(), 0, Vec::new());
            for step in steps {
                now += step;
                if pace.take(rate, now) {
                    happened.push(now);
                }
            }
            for (first, start) in happened.iter().enumerate() {
                for (last, end) in happened.iter().enumerate().skip(first) {
                    let share = u64::from(burst) + (end - start) / (NANOS_PER_SECOND / u64::from(per_second)) + 1;
                    prop_assert!((last - first + 1) as u64 <= share);
                }
            }
        }
    }
}

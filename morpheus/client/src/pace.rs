//! How often a worker may give up its CPU for others' sake without getting less than its fair share.
//!
//! A thread that yields forfeits the rest of its slice. To a neighbour that runs for a moment that costs next to nothing;
//! among threads that never stop it costs a slice each time, and a worker that yields at every hint would starve. So what
//! a yield cost decides when the next one is due: not before the worker has run for as long as it was away.

/// No rest is longer: by then the kernel's own slices have long seen to fairness. In ns.
const LONGEST_REST_NS: u64 = 5_000_000;

/// A worker's pace of yields. Times are CLOCK_MONOTONIC in ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    rest_until_ns: u64,
    polite: bool,
}

impl Pace {
    /// Nothing to rest from; a polite worker never rests.
    pub(crate) const fn new(polite: bool) -> Self {
        Self { rest_until_ns: 0, polite }
    }

    /// Whether a yield is due.
    pub(crate) const fn allows(self, now_ns: u64) -> bool {
        self.polite || now_ns >= self.rest_until_ns
    }

    /// The pace after a yield that began and ended then.
    pub(crate) fn after(self, began_ns: u64, ended_ns: u64) -> Self {
        let away = ended_ns.saturating_sub(began_ns);
        Self { rest_until_ns: ended_ns.saturating_add(away.min(LONGEST_REST_NS)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs for the first number of ns of each pair; then, if a yield is allowed, is away for the second. Time run and
    /// time away.
    fn live(mut pace: Pace, turns: &[(u64, u64)]) -> (u64, u64) {
        let (mut now, mut ran, mut away) = (0, 0, 0);
        for (run, cost) in turns {
            now += run;
            ran += run;
            if pace.allows(now) {
                pace = pace.after(now, now + cost);
                now += cost;
                away += cost;
            }
        }
        (ran, away)
    }

    proptest! {
        #[test]
        fn a_worker_is_not_away_for_longer_than_it_runs(
            turns in prop::collection::vec((1u64..2_000_000, 0..=LONGEST_REST_NS), 0..200),
        ) {
            // But for the last yield, which it has not yet made up for.
            let (ran, away) = live(Pace::new(false), &turns);
            prop_assert!(away <= ran + LONGEST_REST_NS);
        }

        #[test]
        fn a_polite_worker_yields_every_time(turns in prop::collection::vec((1u64..2_000_000, 0u64..50_000_000), 0..50)) {
            let (_, away) = live(Pace::new(true), &turns);
            prop_assert_eq!(away, turns.iter().map(|(_, cost)| cost).sum::<u64>());
        }

        #[test]
        fn yields_that_cost_nothing_are_always_allowed(runs in prop::collection::vec(1u64..100, 1..50)) {
            let mut pace = Pace::new(false);
            let mut now = 0;
            for run in runs {
                now += run;
                prop_assert!(pace.allows(now));
                pace = pace.after(now, now);
            }
        }
    }

    #[test]
    fn no_rest_is_longer_than_the_longest() {
        let pace = Pace::new(false).after(0, 1_000_000_000);
        assert!(!pace.allows(1_000_000_000 + LONGEST_REST_NS - 1));
        assert!(pace.allows(1_000_000_000 + LONGEST_REST_NS));
    }
}

//! How often a worker may give up its CPU for others' sake without getting less than its fair share.
//!
//! A thread that yields forfeits the rest of its slice. To a neighbour that runs for a moment that costs next to nothing;
//! among threads that never stop it costs a slice each time, and a worker that yields at every hint would starve. So what
//! a yield cost decides when the next one is due: not before the worker has run for as long as it was away. What it waited
//! for the CPU because the kernel took it away in the meantime counts like that.

/// No rest is longer: by then the kernel's own slices have long seen to fairness. In ns the worker has run.
const LONGEST_REST_NS: u64 = 20_000_000;

/// A worker's pace of yields. Times are CLOCK_MONOTONIC in ns; what the worker waited for a CPU is the kernel's account of
/// it, the sum in ns since its registration, 0 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// When the latest yield ended, how long it took, and what the worker had waited before it.
    ended_ns: u64,
    away_ns: u64,
    waited_ns: u64,
    polite: bool,
}

impl Pace {
    /// Nothing to rest from; a polite worker never rests.
    pub(crate) const fn new(polite: bool) -> Self {
        Self { ended_ns: 0, away_ns: 0, waited_ns: 0, polite }
    }

    /// Whether a yield is due.
    pub(crate) fn allows(self, now_ns: u64, waited_ns: u64) -> bool {
        // The account comes to include the yield itself, if a little later.
        let since = waited_ns.saturating_sub(self.waited_ns).saturating_sub(self.away_ns);
        let rest = self.away_ns.saturating_add(since).min(LONGEST_REST_NS);
        self.polite || now_ns.saturating_sub(self.ended_ns) >= since.saturating_add(rest)
    }

    /// The pace after a yield that began and ended then, when the worker had waited for so long before it.
    pub(crate) fn after(self, began_ns: u64, ended_ns: u64, waited_ns: u64) -> Self {
        Self { ended_ns, away_ns: ended_ns.saturating_sub(began_ns), waited_ns, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs for the first number of ns of each turn, is kept waiting for the second, runs for the first once more; then, if
    /// a yield is allowed, is away for the third. Time run and time away or waiting.
    fn live(mut pace: Pace, turns: &[(u64, u64, u64)]) -> (u64, u64) {
        let (mut now, mut ran, mut waited) = (0, 0, 0);
        for (run, wait, cost) in turns {
            now += 2 * run + wait;
            ran += 2 * run;
            waited += wait;
            if pace.allows(now, waited) {
                pace = pace.after(now, now + cost, waited);
                now += cost;
                waited += cost;
            }
        }
        (ran, waited)
    }

    proptest! {
        #[test]
        fn a_worker_is_not_away_for_longer_than_it_runs(
            turns in prop::collection::vec((1u64..2_000_000, Just(0u64), 0..=LONGEST_REST_NS), 0..200),
        ) {
            // But for the last yield, which it has not yet made up for.
            let (ran, away) = live(Pace::new(false), &turns);
            prop_assert!(away <= ran + LONGEST_REST_NS);
        }

        /// The kernel lets two threads that never stop take turns of 4 ms: what the worker yields is made up for.
        #[test]
        fn a_worker_that_is_kept_waiting_yields_the_less(cost in 1u64..4_000_000) {
            let turns = [(2_000_000, 4_000_000, cost); 100];
            let (ran, away) = live(Pace::new(false), &turns);
            prop_assert!(away <= ran + ran / 4);
        }

        #[test]
        fn a_polite_worker_yields_every_time(
            turns in prop::collection::vec((1u64..2_000_000, Just(0u64), 0u64..50_000_000), 0..50),
        ) {
            let (_, away) = live(Pace::new(true), &turns);
            prop_assert_eq!(away, turns.iter().map(|(.., cost)| cost).sum::<u64>());
        }

        #[test]
        fn yields_that_cost_nothing_are_always_allowed(runs in prop::collection::vec(1u64..100, 1..50)) {
            let mut pace = Pace::new(false);
            let mut now = 0;
            for run in runs {
                now += run;
                prop_assert!(pace.allows(now, 0));
                pace = pace.after(now, now, 0);
            }
        }
    }

    #[test]
    fn no_rest_is_longer_than_the_longest() {
        let pace = Pace::new(false).after(0, 1_000_000_000, 0);
        assert!(!pace.allows(1_000_000_000 + LONGEST_REST_NS - 1, 0));
        assert!(pace.allows(1_000_000_000 + LONGEST_REST_NS, 0));
    }

    #[test]
    fn waiting_is_no_running() {
        let pace = Pace::new(false).after(0, 1_000, 0);
        assert!(pace.allows(2_000, 1_000), "ran for as long as it was away");
        assert!(!pace.allows(2_000, 1_500), "500 of it were spent waiting");
        assert!(pace.allows(3_000, 1_500), "1500 to make up for, and 1500 run");
    }
}

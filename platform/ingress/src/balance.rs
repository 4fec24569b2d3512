//! Which backend gets the next connection: round robin over the healthy ones, suspects last.

use crate::table::BackendState;

/// What the choice needs to know of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) state: BackendState,
    /// A connection to it failed a short time ago.
    pub(crate) suspect: bool,
    /// This connection already tried it in vain.
    pub(crate) tried: bool,
}

/// Index of the backend for the `turn`-th connection, or `None` when no backend may take it.
///
/// Suspects are used only when nothing better is left: one failed connect must not make an app unreachable.
pub(crate) fn choose(candidates: &[Candidate], turn: usize) -> Option<usize> {
    let usable = |candidate: &Candidate| candidate.state == BackendState::Healthy && !candidate.tried;
    let nth = |wanted: &dyn Fn(&Candidate) -> bool| {
        let count = candidates.iter().filter(|candidate| wanted(candidate)).count();
        let index = turn.checked_rem(count)?;
        let mut matching = candidates.iter().enumerate().filter(|(_, c)| wanted(c));
        matching.nth(index).map(|(index, _)| index)
    };
    nth(&|candidate| usable(candidate) && !candidate.suspect).or_else(|| nth(&usable))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate() -> impl Strategy<Value = Candidate> {
        let states = [BackendState::Healthy, BackendState::Draining, BackendState::Unhealthy];
        (prop::sample::select(Vec::from(states)), any::<bool>(), any::<bool>())
            .prop_map(|(state, suspect, tried)| Candidate { state, suspect, tried })
    }

    proptest! {
        #[test]
        fn only_healthy_untried_backends_are_chosen_and_suspects_last(
            candidates in prop::collection::vec(candidate(), 0..8),
            turn: usize,
        ) {
            let usable = |c: &Candidate| c.state == BackendState::Healthy && !c.tried;
            match choose(&candidates, turn) {
                None => prop_assert!(!candidates.iter().any(usable)),
                Some(index) => {
                    prop_assert!(usable(&candidates[index]));
                    let better = candidates.iter().any(|c| usable(c) && !c.suspect);
                    prop_assert!(!candidates[index].suspect || !better);
                }
            }
        }

        #[test]
        fn turns_spread_evenly_over_equals(
            candidates in prop::collection::vec(candidate(), 1..8),
            rounds in 1_usize..4,
        ) {
            let fresh = |c: &Candidate| {
                c.state == BackendState::Healthy && !c.tried && !c.suspect
            };
            let count = candidates.iter().filter(|c| fresh(c)).count();
            let mut hits = vec![0; candidates.len()];
            for turn in 0..rounds * count {
                hits[choose(&candidates, turn).unwrap()] += 1;
            }
            for (candidate, hits) in candidates.iter().zip(hits) {
                prop_assert_eq!(hits, if fresh(candidate) { rounds } else { 0 });
            }
        }
    }
}

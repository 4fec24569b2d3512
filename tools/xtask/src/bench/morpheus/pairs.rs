//! Arms that were measured in turn, and what their rounds say when each is held against the other arm of its own round.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::bench::samples::Samples;

/// One quantity of each arm, round by round.
#[derive(Debug, Default)]
pub(super) struct Arms(BTreeMap<String, Samples>);

impl Arms {
    /// One more round of an arm.
    pub(super) fn add(&mut self, arm: &str, value: f64) {
        self.0.entry(arm.to_owned()).or_default().0.push(value);
    }

    /// The rounds of an arm.
    ///
    /// # Errors
    /// When it was not measured.
    pub(super) fn of(&self, arm: &str) -> Result<&Samples> {
        self.0.get(arm).with_context(|| format!("there is no arm `{arm}`"))
    }

    /// `above` over `below`, round by round.
    ///
    /// # Errors
    /// When one was not measured.
    pub(super) fn ratios(&self, above: &str, below: &str) -> Result<Samples> {
        Ok(self.of(above)?.with(self.of(below)?, |above, below| above / below))
    }

    /// The raw rounds of every arm, for the document.
    pub(super) fn raw(self, what: &str) -> impl Iterator<Item = (String, Samples)> {
        self.0.into_iter().map(move |(arm, samples)| (format!("{arm}_{what}"), samples))
    }
}

/// The median of paired ratios with its quartiles and the rounds above 1, for people.
pub(super) fn told(ratios: &Samples) -> String {
    let above = ratios.0.iter().filter(|ratio| **ratio > 1.0).count();
    format!(
        "{:.2} \u{d7} (quartiles {:.2} to {:.2}, above 1 in {above} of {})",
        ratios.median(),
        ratios.quantile(0.25),
        ratios.quantile(0.75),
        ratios.0.len()
    )
}

/// In which order the arms of a round are measured: reversed every second time, so that a drift favours none.
pub(super) fn order<'a, T>(arms: &'a [T], round: usize) -> Box<dyn Iterator<Item = &'a T> + 'a> {
    if round.is_multiple_of(2) { Box::new(arms.iter()) } else { Box::new(arms.iter().rev()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_held_against_their_own() {
        let mut arms = Arms::default();
        for (arm, values) in [("none", [10.0, 20.0, 90.0]), ("ours", [5.0, 4.0, 100.0])] {
            for value in values {
                arms.add(arm, value);
            }
        }
        let ratios = arms.ratios("none", "ours").unwrap();
        assert_eq!(ratios.0, [2.0, 5.0, 0.9]);
        assert_eq!(told(&ratios), "2.00 \u{d7} (quartiles 0.90 to 5.00, above 1 in 2 of 3)");
        assert!(arms.ratios("none", "theirs").is_err());
        let raw: BTreeMap<_, _> = arms.raw("ms").collect();
        assert_eq!(raw["ours_ms"].0, [5.0, 4.0, 100.0]);
    }

    #[test]
    fn every_second_round_is_reversed() {
        let of = |round| order(&[1, 2, 3], round).copied().collect::<Vec<_>>();
        assert_eq!((of(0), of(1), of(2)), (vec![1, 2, 3], vec![3, 2, 1], vec![1, 2, 3]));
    }
}

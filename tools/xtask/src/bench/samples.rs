//! Samples of one quantity, and what is told of them.

use serde::{Deserialize, Serialize};

/// Measured values, in the order they were measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Samples(pub(super) Vec<f64>);

impl Samples {
    /// The value that `share` of all samples do not exceed (nearest rank); NaN when there are none.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// The middle value.
    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest and the greatest.
    pub(super) fn range(&self) -> (f64, f64) {
        (self.quantile(0.0), self.quantile(1.0))
    }

    /// Sample by sample, `op` of ours and theirs.
    pub(super) fn with(&self, other: &Self, op: impl Fn(f64, f64) -> f64) -> Self {
        self.0.iter().zip(&other.0).map(|(ours, theirs)| op(*ours, *theirs)).collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let cases: [(&[f64], f64, f64); 5] = [
            (&[3.0, 1.0, 2.0], 0.5, 2.0),
            (&[4.0, 3.0, 2.0, 1.0], 0.5, 2.0),
            (&[1.0, 2.0, 3.0, 4.0, 5.0], 0.9, 5.0),
            (&[1.0, 2.0], 0.0, 1.0),
            (&[7.0], 1.0, 7.0),
        ];
        for (values, share, expected) in cases {
            assert_eq!(Samples(values.to_vec()).quantile(share), expected, "{values:?} {share}");
        }
        assert!(Samples::default().median().is_nan());
    }
}

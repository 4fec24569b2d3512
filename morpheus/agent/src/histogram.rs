//! Latencies in buckets of powers of two: added up and asked for a quantile.

use crate::bpf::layout::BUCKETS;

/// How many latencies fell into [2^n, 2^(n+1)) ns, the last bucket taking everything above; bucket 0 also holds 0 ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram(pub [u64; BUCKETS]);

impl From<[u32; BUCKETS]> for Histogram {
    fn from(counts: [u32; BUCKETS]) -> Self {
        Self(counts.map(u64::from))
    }
}

impl Histogram {
    /// All latencies counted.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// A bound in ns that at least `per_mille` of 1000 latencies are at or below: the upper end of the bucket in which the
    /// quantile lies, so at most twice the true one. `None` without latencies; `u64::MAX` for the last bucket.
    pub fn quantile(&self, per_mille: u32) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (count * u64::from(per_mille.min(1000))).div_ceil(1000).max(1);
        let mut seen = 0;
        let bucket = self.0.iter().position(|bucket| {
            seen += bucket;
            seen >= rank
        })?;
        Some(if bucket == BUCKETS - 1 { u64::MAX } else { (2 << bucket) - 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `morpheus_bucket` of bpf/maps.bpf.h computes.
    fn bucket(ns: u64) -> usize {
        (64 - ns.max(1).leading_zeros() as usize - 1).min(BUCKETS - 1)
    }

    proptest! {
        #[test]
        fn a_quantile_bounds_the_sorted_latencies_from_above_by_less_than_twice(
            mut latencies in prop::collection::vec(0u64..1 << 31, 1..200), per_mille in 0u32..=1000,
        ) {
            let mut histogram = Histogram::default();
            for ns in &latencies {
                histogram.0[bucket(*ns)] += 1;
            }
            latencies.sort_unstable();
            let rank = (latencies.len() as u64 * u64::from(per_mille)).div_ceil(1000).max(1) as usize;
            let exact = latencies[rank - 1];
            let bound = histogram.quantile(per_mille).unwrap();
            prop_assert!(exact <= bound && bound < 2 * exact.max(1), "{exact} {bound}");
        }

        #[test]
        fn adding_histograms_is_counting_both(a in prop::array::uniform32(0u32..9), b in prop::array::uniform32(0u32..9)) {
            let (mut sum, b) = (Histogram::from(a), Histogram::from(b));
            let count = sum.count() + b.count();
            sum.add(&b);
            prop_assert_eq!(sum.count(), count);
        }
    }

    #[test]
    fn without_latencies_there_is_no_quantile() {
        assert_eq!(Histogram::default().quantile(990), None);
    }

    #[test]
    fn the_last_bucket_has_no_upper_end() {
        let mut histogram = Histogram::default();
        histogram.0[BUCKETS - 1] = 1;
        assert_eq!(histogram.quantile(500), Some(u64::MAX));
    }
}

//! The mappings of an address space in the order of their addresses.
//!
//! A sorted array in chunks of at most 64: a lookup is two binary searches, a change moves at most one chunk and the list of
//! chunks. Each chunk knows its largest gap, so that a free place is found without looking at every mapping.

use alloc::vec::Vec;

use holm_abi::Protection;

use super::frames::Exhausted;
use super::{GrantRef, RegionId};

const CHUNK: usize = 64;

/// Mappings of one address space at most.
pub const MAX_MAPPINGS: usize = 65_536;

/// Part of a region, shown at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// The first byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// What is shown.
    pub region: RegionId,
    /// Where in the region it begins.
    pub offset: u64,
    /// What may be done now.
    pub rights: Protection,
    /// What may be allowed later: the rights of the capability it was made with.
    pub ceiling: Protection,
    /// The grant it was made through.
    pub grant: GrantRef,
}

impl Mapping {
    /// What is added to an offset in the region to get the address: two mappings of a region with one delta in one space never
    /// show a page twice.
    #[must_use]
    pub const fn delta(&self) -> u64 {
        self.start.wrapping_sub(self.offset)
    }

    /// Whether `next` goes on where this mapping ends, with all else alike.
    #[must_use]
    pub fn continues(&self, next: &Self) -> bool {
        self.end == next.start
            && self.region == next.region
            && self.delta() == next.delta()
            && self.rights == next.rights
            && self.ceiling == next.ceiling
            && self.grant == next.grant
    }
}

#[derive(Debug)]
struct Chunk {
    mappings: Vec<Mapping>,
    /// The largest gap between two of them.
    gap: u64,
}

impl Chunk {
    fn measure(&mut self) {
        self.gap = self.mappings.windows(2).map(|pair| pair[1].start - pair[0].end).max().unwrap_or(0);
    }
}

/// The mappings of an address space; no two overlap.
#[derive(Debug, Default)]
pub struct Mappings {
    chunks: Vec<Chunk>,
    count: usize,
}

impl Mappings {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The place of the last mapping that begins at `address` or before.
    #[inline]
    fn locate(&self, address: u64) -> Option<(usize, usize)> {
        let chunk = self
            .chunks
            .partition_point(|chunk| chunk.mappings.first().is_some_and(|first| first.start <= address))
            .checked_sub(1)?;
        let place =
            self.chunks.get(chunk)?.mappings.partition_point(|mapping| mapping.start <= address).checked_sub(1)?;
        Some((chunk, place))
    }

    fn at(&self, (chunk, place): (usize, usize)) -> Option<&Mapping> {
        self.chunks.get(chunk)?.mappings.get(place)
    }

    /// The mapping that shows `address`.
    #[must_use]
    #[inline]
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        self.at(self.locate(address)?).filter(|mapping| address < mapping.end)
    }

    /// The first mapping that ends behind `address`.
    #[must_use]
    pub fn next(&self, address: u64) -> Option<&Mapping> {
        let Some((chunk, place)) = self.locate(address) else { return self.chunks.first()?.mappings.first() };
        match self.at((chunk, place)) {
            Some(mapping) if address < mapping.end => Some(mapping),
            _ => self.at((chunk, place + 1)).or_else(|| self.at((chunk + 1, 0))),
        }
    }

    /// The last mapping that ends at `address` or before.
    #[must_use]
    pub fn before(&self, address: u64) -> Option<&Mapping> {
        let (chunk, place) = self.locate(address.checked_sub(1)?)?;
        match self.at((chunk, place)) {
            Some(mapping) if mapping.end <= address => Some(mapping),
            _ => match place.checked_sub(1) {
                Some(place) => self.at((chunk, place)),
                None => self.chunks.get(chunk.checked_sub(1)?)?.mappings.last(),
            },
        }
    }

    /// Adds a mapping, which overlaps with none.
    ///
    /// # Errors
    /// [`Exhausted`] when there are [`MAX_MAPPINGS`] or no kernel memory is left.
    pub fn insert(&mut self, mapping: Mapping) -> Result<(), Exhausted> {
        if self.count >= MAX_MAPPINGS {
            return Err(Exhausted);
        }
        let (mut chunk, mut place) = match self.locate(mapping.start) {
            Some((chunk, place)) => (chunk, place + 1),
            None => (0, 0),
        };
        match self.chunks.get_mut(chunk) {
            None => {
                let mut mappings = Vec::new();
                mappings.try_reserve_exact(CHUNK).map_err(|_| Exhausted)?;
                self.chunks.try_reserve(1).map_err(|_| Exhausted)?;
                self.chunks.insert(chunk, Chunk { mappings, gap: 0 });
            }
            Some(full) if full.mappings.len() >= CHUNK => {
                let mut mappings = Vec::new();
                mappings.try_reserve_exact(CHUNK).map_err(|_| Exhausted)?;
                self.chunks.try_reserve(1).map_err(|_| Exhausted)?;
                let Some(full) = self.chunks.get_mut(chunk) else { return Err(Exhausted) };
                // Ascending addresses fill their chunks; else it is halved.
                let keep = if place == CHUNK { CHUNK } else { CHUNK / 2 };
                mappings.extend(full.mappings.drain(keep..));
                full.measure();
                let mut new = Chunk { mappings, gap: 0 };
                new.measure();
                self.chunks.insert(chunk + 1, new);
                if place > keep || place == CHUNK {
                    chunk += 1;
                    place -= keep;
                }
            }
            Some(_) => {}
        }
        let Some(chunk) = self.chunks.get_mut(chunk) else { return Err(Exhausted) };
        chunk.mappings.insert(place, mapping);
        chunk.measure();
        self.count += 1;
        Ok(())
    }

    /// Takes out the mapping that begins at `start`.
    pub fn remove(&mut self, start: u64) -> Option<Mapping> {
        let (index, place) = self.locate(start)?;
        let chunk = self.chunks.get_mut(index)?;
        if chunk.mappings.get(place)?.start != start {
            return None;
        }
        let mapping = chunk.mappings.remove(place);
        chunk.measure();
        self.count -= 1;
        let left = chunk.mappings.len();
        if left == 0 {
            self.chunks.remove(index);
        } else if self.chunks.get(index + 1).is_some_and(|next| next.mappings.len() + left <= CHUNK / 2) {
            // Few are left here and in the next chunk: one will do. It has room for a whole chunk.
            let next = self.chunks.remove(index + 1);
            if let Some(chunk) = self.chunks.get_mut(index) {
                chunk.mappings.extend(next.mappings);
                chunk.measure();
            }
        }
        Some(mapping)
    }

    /// Changes the mapping that begins at `start`. It may shrink, also from its start, and not grow over others.
    pub fn update(&mut self, start: u64, change: impl FnOnce(&mut Mapping)) {
        let Some((index, place)) = self.locate(start) else { return };
        let Some(chunk) = self.chunks.get_mut(index) else { return };
        let Some(mapping) = chunk.mappings.get_mut(place) else { return };
        if mapping.start == start {
            change(mapping);
            chunk.measure();
        }
    }

    /// The lowest free place for `bytes` bytes from `low` to `high`.
    #[must_use]
    pub fn gap(&self, bytes: u64, low: u64, high: u64) -> Option<u64> {
        let fits = |from: u64, to: u64| to.checked_sub(from).is_some_and(|gap| gap >= bytes);
        let mut candidate = low;
        let first = self.locate(low).map_or(0, |(chunk, _)| chunk);
        for (index, chunk) in self.chunks.iter().enumerate().skip(first) {
            let (Some(head), Some(tail)) = (chunk.mappings.first(), chunk.mappings.last()) else { continue };
            if index > first && chunk.gap < bytes && !fits(candidate, head.start) {
                candidate = candidate.max(tail.end);
                continue;
            }
            for mapping in &chunk.mappings {
                if fits(candidate, mapping.start.min(high)) {
                    return Some(candidate);
                }
                candidate = candidate.max(mapping.end);
            }
        }
        fits(candidate, high).then_some(candidate)
    }

    /// Every mapping, for checks.
    pub fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.chunks.iter().flat_map(|chunk| &chunk.mappings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn mapping(start: u64, end: u64) -> Mapping {
        Mapping {
            start,
            end,
            region: RegionId::from_number(1),
            offset: 0,
            rights: Protection::READ,
            ceiling: Protection::READ,
            grant: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn mappings_behave_as_a_sorted_map(steps in proptest::collection::vec((0u8..4, 0u64..600, 1u64..4), 0..800)) {
            let mut mappings = Mappings::default();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            for (kind, at, length) in steps {
                let (start, end) = (at * 0x1000, (at + length) * 0x1000);
                let taken = model.range(..end).next_back().is_some_and(|(_, last)| *last > start);
                match kind {
                    0 | 1 if !taken => {
                        mappings.insert(mapping(start, end)).unwrap();
                        model.insert(start, end);
                    }
                    2 => prop_assert_eq!(mappings.remove(start).map(|gone| gone.end), model.remove(&start)),
                    _ => {}
                }
                prop_assert_eq!(mappings.len(), model.len());
                let inside = model.range(..=start).next_back().filter(|(_, last)| **last > start);
                prop_assert_eq!(mappings.find(start).map(|found| found.start), inside.map(|(first, _)| *first));
                let next = inside.or_else(|| model.range(start..).next());
                prop_assert_eq!(mappings.next(start).map(|found| found.start), next.map(|(first, _)| *first));
                let before = model.iter().rev().find(|(_, last)| **last <= start);
                prop_assert_eq!(mappings.before(start).map(|found| found.start), before.map(|(first, _)| *first));
                let gap = (0u64..).map(|page| page * 0x1000).find(|from| {
                    model.range(..from + length * 0x1000).next_back().is_none_or(|(_, last)| *last <= *from)
                });
                prop_assert_eq!(mappings.gap(length * 0x1000, 0, u64::MAX), gap);
            }
            prop_assert!(mappings.iter().map(|found| (found.start, found.end)).eq(model));
        }
    }
}

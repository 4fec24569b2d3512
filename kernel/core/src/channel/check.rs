//! Headers of queued messages and the checks on them: always on; payload checksums are sampled (seed 17.2, 17.3).

use crate::cap::GrantId;
use crate::thread::ThreadId;

/// What the kernel keeps of a queued message besides its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// Counts the messages of the kernel.
    pub(crate) sequence: u64,
    /// The id of the unit that sent it.
    pub(crate) sender: u64,
    /// The badge of the capability it was sent through.
    pub(crate) badge: u64,
    /// Who waits for the reply; the payload is still with it.
    pub(crate) caller: Option<ThreadId>,
    /// The first of its capabilities.
    pub(crate) caps: Option<GrantId>,
    /// How many capabilities.
    pub(crate) cap_count: u32,
    /// Bytes of the payload.
    pub(crate) length: u32,
    /// 0 to 31.
    pub(crate) priority: u8,
    /// The checksum of the payload, where it was sampled.
    pub(crate) crc: Option<u32>,
    /// Proves the fields above.
    pub(super) seal: u64,
}

impl Header {
    /// A digest of the fields: finds stray writes, not malice.
    #[inline(always)]
    fn digest(&self) -> u64 {
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let sizes = u64::from(self.length) | u64::from(self.cap_count) << 32 | u64::from(self.priority) << 40;
        // Turned against each other, so that the same word written all over does not cancel itself out.
        let words = (self.sequence ^ SPREAD)
            .wrapping_add(self.sender.rotate_left(9))
            .wrapping_add(self.badge.rotate_left(18))
            .wrapping_add(self.caller.map_or(0, ThreadId::number).rotate_left(27))
            .wrapping_add(self.caps.map_or(0, GrantId::number).rotate_left(36))
            .wrapping_add(sizes.rotate_left(45))
            .wrapping_add(self.crc.map_or(0, |crc| u64::from(crc) | 1 << 32).rotate_left(54));
        words.wrapping_mul(SPREAD)
    }

    /// The header with its seal.
    #[inline(always)]
    pub(crate) fn sealed(mut self) -> Self {
        self.seal = self.digest();
        self
    }

    /// Whether nobody wrote over it, and its fields can be true.
    #[inline(always)]
    pub(crate) fn is_sound(&self) -> bool {
        self.seal == self.digest()
            && self.length <= holm_abi::limits::MAX_MESSAGE as u32
            && self.cap_count <= holm_abi::limits::MAX_MESSAGE_CAPS as u32
            && u64::from(self.priority) < holm_abi::limits::PRIORITIES
    }
}

/// Bytes of a payload that a checksum covers at most, so that it is bounded.
const COVERED: usize = 1024;

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4), reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// A checksum in the making, over the first KiB of a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crc {
    state: u32,
    covered: usize,
}

impl Crc {
    /// Of nothing yet.
    pub(crate) const fn new() -> Self {
        Self { state: !0, covered: 0 }
    }

    /// Goes on with the next bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(COVERED - self.covered) {
            self.state = self.state >> 8 ^ TABLE[usize::from(self.state as u8 ^ byte)];
        }
        self.covered = (self.covered + bytes.len()).min(COVERED);
    }

    /// The checksum.
    pub(crate) const fn value(self) -> u32 {
        !self.state
    }
}

/// Which messages get a checksum.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sampling {
    count: u32,
}

impl Sampling {
    /// Whether this message is taken: one in `interval`; 0: none.
    #[inline]
    pub(crate) const fn take(&mut self, interval: u32) -> bool {
        if interval == 0 {
            return false;
        }
        self.count += 1;
        if self.count >= interval {
            self.count = 0;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        let mut crc = Crc::new();
        crc.add(b"1234");
        crc.add(b"56789");
        assert_eq!(crc.value(), 0xe306_9283);
        let mut zeroes = Crc::new();
        zeroes.add(&[0; 32]);
        assert_eq!(zeroes.value(), 0x8a91_36aa, "RFC 3720, B.4");
    }

    #[test]
    fn the_checksum_covers_one_kibibyte() {
        let (mut one, mut other) = (Crc::new(), Crc::new());
        one.add(&[1; 1024]);
        one.add(&[2; 10]);
        other.add(&[1; 1000]);
        other.add(&[1; 100]);
        assert_eq!(one.value(), other.value());
    }

    #[test]
    fn a_header_that_was_written_over_is_not_sound() {
        let header = Header { sequence: 7, length: 32, ..Header::default() }.sealed();
        assert!(header.is_sound());
        assert!(!Header { length: 33, ..header }.is_sound());
        assert!(!Header { priority: 1, ..header }.is_sound());
        assert!(!Header { badge: 1, ..header }.is_sound());
        assert!(!Header { length: 1 << 20, ..header }.sealed().is_sound());
    }

    #[test]
    fn one_message_in_the_interval_is_sampled() {
        let mut sampling = Sampling::default();
        assert!(!sampling.take(0));
        let taken: std::vec::Vec<bool> = (0..6).map(|_| sampling.take(3)).collect();
        assert_eq!(taken, [false, false, true, false, false, true]);
    }
}

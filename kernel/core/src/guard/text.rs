//! The check of the kernel's text: its sums at boot, and again in pieces. Code and constants never change after boot.

use alloc::vec::Vec;

use super::Guard;
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};

/// Bytes of a piece, with a sum of its own.
const PIECE: usize = 4096;
/// From one piece to the next.
const PAUSE: Nanos = Nanos(1_000_000);

/// The sums of the text's pieces.
#[derive(Debug, Default)]
pub(super) struct Sums {
    sums: Vec<u64>,
    /// The next piece.
    at: usize,
    /// When the first piece of this round was summed.
    began: Nanos,
}

impl Sums {
    /// Takes the text as it is for right. Without memory for the sums, as much of it as there is memory for.
    pub(super) fn learn(&mut self, text: &[u8]) {
        let pieces = text.chunks(PIECE);
        if self.sums.try_reserve_exact(pieces.len()).is_ok() {
            self.sums.extend(pieces.map(sum));
        }
    }
}

/// A sum in which every change of one bit shows: each step can be undone, so different states stay different.
fn sum(piece: &[u8]) -> u64 {
    let (words, rest) = piece.as_chunks::<8>();
    let step = |sum: u64, word: u64| (sum.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let sum = words.iter().fold(piece.len() as u64, |sum, word| step(sum, u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| step(sum, u64::from(*byte)))
}

impl<M: Machine> Kernel<M> {
    /// Sums the next piece of the text.
    pub(super) fn check_text(&mut self, now: Nanos) {
        let sums = &mut self.guards.text;
        let at = sums.at;
        if at == 0 {
            sums.began = now;
        }
        let piece = self.machine.text().chunks(PIECE).nth(at).unwrap_or_default();
        let seen = sum(piece);
        let known = sums.sums.get_mut(at).map(|known| core::mem::replace(known, seen));
        sums.at += 1;
        self.guards.text_due = now.after(PAUSE);
        if sums.at >= sums.sums.len() {
            sums.at = 0;
            let pause = Nanos(u64::from(self.config.guards.text_check_seconds) * 1_000_000_000);
            self.guards.text_due = sums.began.after(pause).max(now.after(PAUSE));
            self.guards.text_checks += 1;
        }
        // It is told once: from now on the piece is expected as it is.
        if let Some(known) = known.filter(|known| *known != seen) {
            let offset = (at * PIECE) as u64;
            let text = format_args!("the kernel's text has changed within 4096 bytes from offset {offset:#x}");
            self.found(Guard::Text, [offset, known, seen], text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_piece_shows_in_its_sum() {
        let mut piece = [0x5a; 43];
        let whole = sum(&piece);
        for bit in 0..piece.len() * 8 {
            piece[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(sum(&piece), whole, "bit {bit}");
            piece[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(sum(&piece), whole);
    }
}

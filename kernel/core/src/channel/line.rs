//! What a short call or reply found out, for the next one of the same thread by the same handle to the same partner.
//!
//! Nearly all that a short way looks at first (handle, type, rights, revocation, the channel's limits and flags, ranks, classes
//! and processors of both threads, queues of other threads) is changed by other entries of the kernel only. Those count up a
//! [`Stamp`]: with the stamp unchanged everything is as it was found, but for what short calls and
//! replies change themselves. That is looked at every time: who waits at the channel, and whose call is open.

use core::fmt;

use holm_abi::ShortFlags;

use super::direct::{FULL, Through};
use crate::thread::ThreadId;

/// Counts the entries of the kernel that may have changed anything: all but short calls and replies.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

impl Stamp {
    /// The first one.
    pub(crate) const FIRST: Self = Self(1);
    /// That of nothing.
    const NONE: Self = Self(0);

    /// Anything may be different now.
    #[inline(always)]
    pub(crate) const fn count(&mut self) {
        self.0 += 1;
    }
}

/// The number says nothing about the state of the kernel, and differs between two ways to the same one.
impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stamp")
    }
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    /// When it was so.
    stamp: Stamp,
    /// The first argument, with [`REPLY`] for a reply.
    word: u64,
    /// The channel that it names.
    through: Through,
    /// The thread that was called or replied to.
    peer: ThreadId,
}

/// Tells replies from calls: no first argument has this bit.
pub(super) const REPLY: u64 = 1 << 63;

impl Default for Line {
    fn default() -> Self {
        Self { stamp: Stamp::NONE, word: 0, through: Through::NOWHERE, peer: ThreadId::from_number(0) }
    }
}

impl Line {
    /// What holds for a message of full length without a priority; others are not kept.
    #[inline(always)]
    pub(super) fn of(stamp: Stamp, word: u64, through: Through, peer: ThreadId) -> Self {
        let usual = (word & !REPLY & !(ShortFlags::CAP.bits() << 48)) >> 32 == u64::from(FULL);
        Self { stamp: if usual { stamp } else { Stamp::NONE }, word, through, peer }
    }

    /// The channel and the partner, when they are the same as last time.
    #[inline(always)]
    pub(super) fn holds(&self, stamp: Stamp, word: u64) -> Option<(Through, ThreadId)> {
        if self.stamp != stamp || self.word != word {
            return None;
        }
        Some((self.through, self.peer))
    }
}

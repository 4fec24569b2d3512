//! What a short call, reply, send, receive or yield found out, for the next one of the same thread by the same handle to the
//! same partner.
//!
//! Nearly all that a short way looks at first (handle, type, rights, revocation, the channel's limits and flags, ranks, classes
//! and processors of both threads, queues of other threads) is changed by other entries of the kernel only. Those count up a
//! [`Stamp`]: with the stamp unchanged everything is as it was found, but for what the short ways
//! change themselves. That is looked at every time: who waits and what is queued at the channel, and whose call is open.

use core::fmt;

use holm_abi::ShortFlags;

use super::direct::{FULL, Through};
use crate::thread::ThreadId;

/// Counts the entries of the kernel that may have changed anything: all but those that go a short way.
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
    /// The first argument, with [`REPLY`] and the like.
    word: u64,
    /// The channel that it names.
    pub(super) through: Through,
    /// The thread that was called, replied to or yielded to.
    pub(crate) peer: ThreadId,
}

/// What a line is of, where it is no call: no first argument has these bits.
pub(super) const REPLY: u64 = 1 << 63;
pub(super) const SEND: u64 = 1 << 62;
pub(super) const RECEIVE: u64 = 1 << 61;
const YIELD: u64 = 1 << 60;

impl Default for Line {
    fn default() -> Self {
        Self { stamp: Stamp::NONE, word: 0, through: Through::NOWHERE, peer: ThreadId::from_number(0) }
    }
}

impl Line {
    /// What holds for a message of a usual length without a priority; of others it is of no use.
    #[inline(always)]
    pub(super) const fn of(stamp: Stamp, word: u64, through: Through, peer: ThreadId) -> Self {
        let bytes = if word & RECEIVE != 0 { 0 } else { FULL };
        let cap = if word & REPLY != 0 { ShortFlags::CAP.bits() << 16 } else { 0 };
        let usual = (word >> 32) & !((REPLY | SEND | RECEIVE) >> 32) & !cap == bytes as u64;
        Self { stamp: if usual { stamp } else { Stamp::NONE }, word, through, peer }
    }

    /// What holds for a yield to another thread.
    #[inline(always)]
    pub(crate) const fn of_yield(stamp: Stamp, peer: ThreadId) -> Self {
        Self { stamp, word: YIELD, through: Through::NOWHERE, peer }
    }

    /// Whether channel and partner are the same as last time.
    #[inline(always)]
    pub(super) fn holds(&self, stamp: Stamp, word: u64) -> bool {
        self.stamp == stamp && self.word == word
    }

    /// Whether the partner of a yield is the same as last time.
    #[inline(always)]
    pub(crate) fn yields(&self, stamp: Stamp) -> bool {
        self.holds(stamp, YIELD)
    }
}

//! Channels: bounded queues of messages with capabilities, and synchronous calls (seed 4.1, 14.4).
//!
//! A channel has two ends, and an [`inbox::Inbox`] for each end that receives. A thread that waits is in the queue of its
//! end, and whoever makes what it waits for come true finishes its system call: copies the message, installs the
//! capabilities, writes its registers ([`settle`]). A call takes a place in the inbox like a message, while its payload
//! stays with the caller; whoever receives it gets a token that works once.
//!
//! - [`inbox`], [`check`]: the queue and the checks of its headers;
//! - [`request`]: what a thread asked for, kept while it waits; [`payload`]: copying between all kinds of places;
//! - [`pieces`]: long messages, which are copied in pieces;
//! - [`send`], [`deliver`], [`settle`]: messages in, messages out, and who is woken by them;
//! - [`call`], [`inherit`]: calls, replies, and the ranks that servers inherit;
//! - [`short`]: messages in registers and their fast path; [`fast`]; `direct` and [`line`]: the short ways;
//! - [`close`]: ends that go away, and waits that end early;
//! - [`calls`]: creation, attributes, information.

mod call;
mod calls;
mod check;
mod close;
mod deliver;
mod direct;
mod fast;
mod inbox;
mod inherit;
mod line;
mod payload;
mod pieces;
mod request;
mod send;
mod settle;
mod short;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_call;
#[cfg(test)]
mod tests_call_model;
#[cfg(test)]
mod tests_pieces;
#[cfg(test)]
mod tests_queue;

use alloc::vec::Vec;

use holm_abi::{ChanFlags, ChanMode, Handle};

use crate::arena::Id;
use crate::cap::GrantId;
use crate::event::Watchers;
use crate::queue::{Queue, Through};
use crate::thread::ThreadId;
use crate::unit::UnitId;

pub(crate) use check::Sampling;
use inbox::Inbox;
pub(crate) use line::{Line, Stamp};
use request::{ReceiveRequest, SendRequest};

/// Names a channel.
pub type ChannelId = Id<Channel>;

/// One end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The first one (of a UNI channel: the receiving one).
    A,
    /// The other one (of a UNI channel: the sending one).
    B,
}

impl End {
    /// The other end.
    #[must_use]
    #[inline]
    pub const fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// What belongs to one end.
#[derive(Debug)]
struct Side {
    /// Handles that name it, and capabilities in messages.
    references: u32,
    /// No reference is left.
    closed: bool,
    /// Messages to it; `None` for the sending end of a UNI channel.
    inbox: Option<Inbox>,
    /// Threads that wait to receive at it.
    receivers: Queue,
    /// Threads that wait for room in the *other* end's inbox.
    senders: Queue,
    /// Who received at it last: calls that wait here lend it their rank.
    server: Option<ThreadId>,
    /// Calls that were received here and not replied to.
    open_calls: u32,
    /// Who is told what becomes ready.
    watchers: Watchers,
}

/// A channel.
#[derive(Debug)]
pub struct Channel {
    mode: ChanMode,
    flags: ChanFlags,
    /// Whose kernel quota pays, and how much.
    payer: UnitId,
    bytes: u64,
    sides: [Side; 2],
    /// Whether it waits for bounded work, and what follows in that queue.
    queued: bool,
    next_queued: Option<ChannelId>,
    /// A capability of it was revoked: waiting threads are to be looked at, from this one of this queue on.
    recheck: Option<Recheck>,
    /// An end was closed with calls that were received there: threads are looked at from this place on.
    orphans: Option<u32>,
}

/// How far the look at waiting threads came.
#[derive(Debug, Clone, Copy, Default)]
struct Recheck {
    queue: u8,
    after: Option<ThreadId>,
}

impl Channel {
    #[inline]
    const fn side(&self, end: End) -> &Side {
        &self.sides[end as usize]
    }

    #[inline]
    const fn side_mut(&mut self, end: End) -> &mut Side {
        &mut self.sides[end as usize]
    }

    /// How many messages wait at an end.
    #[cfg(test)]
    pub(crate) fn queued_at(&self, end: End) -> usize {
        self.side(end).inbox.as_ref().map_or(0, |inbox| inbox.messages as usize)
    }

    /// The count of references of an end.
    pub(crate) const fn references_mut(&mut self, end: End) -> &mut u32 {
        &mut self.sides[end as usize].references
    }
}

impl Side {
    fn new(inbox: Option<Inbox>) -> Self {
        Self {
            references: 0,
            closed: false,
            inbox,
            receivers: Queue::new(Through::Wait),
            senders: Queue::new(Through::Wait),
            server: None,
            open_calls: 0,
            watchers: Watchers::default(),
        }
    }
}

/// What a thread that waits at a channel waits for; the rest is in its [`ThreadCalls`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelWait {
    /// The channel.
    pub channel: ChannelId,
    /// The thread's own end.
    pub end: End,
    /// What for.
    pub what: Waiting,
}

/// What a thread waits for at its end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Room for its message.
    Room,
    /// A message.
    Message,
    /// Somebody who receives its call, and the reply. [`Stage`] says more.
    Reply,
}

/// How far a call came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// The thread calls nobody.
    #[default]
    None,
    /// It waits for room.
    Room,
    /// It is in the inbox, in this slot.
    Queued(u32),
    /// This thread received it.
    Served(ThreadId),
}

/// The calls that a thread made and serves, and what it asked for while it waits.
#[derive(Debug, Default)]
pub struct ThreadCalls {
    /// What it wants to send.
    send: SendRequest,
    /// What its last short call, reply, receive or yield found out, and its last short send.
    pub(crate) line: Line,
    sent: Line,
    /// Where it wants to receive.
    receive: ReceiveRequest,
    /// How far the copy of a long message came.
    progress: pieces::Progress,
    /// How far its own call came.
    stage: Stage,
    /// Names the call in its token.
    serial: u32,
    /// Whom it lends its rank to, and its place among those who do; a call that is served is listed, too.
    lends_to: Option<ThreadId>,
    /// Whether the rank counts: not where it would close a circle, and not on channels without inheritance.
    lends: bool,
    newer: Option<ThreadId>,
    older: Option<ThreadId>,
    /// Those who lend their rank to it or wait for its replies, newest first.
    callers: Option<ThreadId>,
    /// What it lent for the duration of its call.
    loans: Vec<GrantId>,
    /// The thread ended with callers left, which are told in bounded steps, and what follows in that queue.
    ending: bool,
    next_ended: Option<ThreadId>,
    /// What it revoked and waits for: the handle it named, and the grant.
    pub(crate) revoking: Option<(Handle, GrantId)>,
}

/// Bounded work of channels that waits, and what all channels share.
#[derive(Debug, Default)]
pub struct ChannelWork {
    first: Option<ChannelId>,
    last: Option<ChannelId>,
    /// Threads that ended with callers left.
    ended: Option<ThreadId>,
    /// Counts messages.
    sequence: u64,
    /// Counts calls.
    serial: u32,
    /// Which payloads are checked.
    pub(crate) sampling: Sampling,
    /// Messages that were dropped since their header or payload was damaged.
    pub(crate) damaged: u64,
    /// Tests only: take the slow path always.
    #[cfg(test)]
    pub(crate) slow_only: bool,
    /// Tests only: how often a call went the way of the last one.
    #[cfg(test)]
    pub(crate) known: u32,
}

impl ThreadCalls {
    /// Whether the copy of a long message goes on.
    #[inline]
    pub(crate) const fn copies(&self) -> bool {
        !matches!(self.progress, pieces::Progress::None)
    }
}

impl ChannelWork {
    /// Whether bounded work waits.
    #[inline]
    pub(crate) const fn waits(&self) -> bool {
        self.first.is_some() || self.ended.is_some()
    }
}

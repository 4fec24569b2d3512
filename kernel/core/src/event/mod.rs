//! Events: one wait over channels, timers, units, threads, traces and the console (seed 4.2, 14.5, 15.3).
//!
//! A queue of events holds subscriptions; each subscription watches one source. What happens is kept in the subscription
//! itself: one record, into which more of the same is merged until it is reported (masks add up, expirations add up, the
//! other data are the latest). So a queue needs no memory of its own, can never be full, and never loses an end: the end of a
//! unit or a thread happens once and comes last.
//!
//! What is true for a while (readable, writable, closed) is asked of the source when it is reported, so that a report is
//! never stale; without EDGE it is reported by every wait as long as it is true.

mod calls;
mod report;
#[cfg(test)]
mod tests;
mod watch;

use alloc::vec::Vec;

use holm_abi::{EventFlags, EventMask, EventSource};

use crate::arena::{Arena, Id};
use crate::cap::GrantId;
use crate::channel::{ChannelId, End};
use crate::machine::Nanos;
use crate::queue::{Queue, Through};
use crate::thread::ThreadId;
use crate::time::TimerId;
use crate::trace::ReaderId;
use crate::unit::UnitId;

/// Names a queue of events.
pub type EventId = Id<Event>;
/// Names a subscription.
pub type SubscriptionId = Id<Subscription>;

/// The most subscriptions that watch one object: what happens to it is told to all of them in one go.
pub const MAX_WATCHERS: u32 = 64;

/// What can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An end of a channel.
    Channel(ChannelId, End),
    /// A timer.
    Timer(TimerId),
    /// A unit.
    Unit(UnitId),
    /// A thread.
    Thread(ThreadId),
    /// A reader of the trace.
    Trace(ReaderId),
    /// The console.
    Console,
}

impl Source {
    /// Its type in the ABI.
    #[must_use]
    pub const fn kind(self) -> EventSource {
        match self {
            Self::Channel(..) => EventSource::Channel,
            Self::Timer(_) => EventSource::Timer,
            Self::Unit(_) => EventSource::Unit,
            Self::Thread(_) => EventSource::Thread,
            Self::Trace(_) => EventSource::Trace,
            Self::Console => EventSource::Console,
        }
    }

    /// Its id in the ABI.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Channel(id, _) => id.number(),
            Self::Timer(id) => id.number(),
            Self::Unit(id) => id.number(),
            Self::Thread(id) => id.number(),
            Self::Trace(id) => id.number(),
            Self::Console => 0,
        }
    }

    /// What can be asked for.
    #[must_use]
    pub const fn mask(self) -> EventMask {
        match self {
            Self::Channel(..) => EventMask::READABLE.or(EventMask::WRITABLE).or(EventMask::CLOSED),
            Self::Timer(_) => EventMask::EXPIRED,
            Self::Unit(_) => EventMask::EXIT.or(EventMask::CRASH).or(EventMask::STARTED),
            Self::Thread(_) => EventMask::EXIT.or(EventMask::CRASH),
            Self::Trace(_) | Self::Console => EventMask::READABLE,
        }
    }

    /// Whether what it reports is true for a while, and not a thing that happens.
    #[must_use]
    pub const fn lasts(self) -> bool {
        matches!(self, Self::Channel(..) | Self::Trace(_) | Self::Console)
    }
}

/// A queue of events.
#[derive(Debug)]
pub struct Event {
    /// Whose it is.
    pub unit: UnitId,
    /// Handles that name it.
    pub references: u32,
    /// Subscriptions with something to report, or to look at, in the order in which it came.
    pub(crate) pending: List,
    pub(crate) pending_count: u32,
    /// Threads that wait for a report.
    pub(crate) waiters: Queue,
    /// Subscriptions by their token: chains of a hash table.
    pub(crate) table: Vec<Option<SubscriptionId>>,
    pub(crate) subscriptions: u32,
    /// While it ends: chains of the table that are empty, and the next one that ends.
    pub(crate) drained: usize,
    pub(crate) next_dying: Option<EventId>,
}

impl Event {
    pub(crate) const fn new(unit: UnitId) -> Self {
        Self {
            unit,
            references: 0,
            pending: List { first: None, last: None },
            pending_count: 0,
            waiters: Queue::new(Through::Wait),
            table: Vec::new(),
            subscriptions: 0,
            drained: 0,
            next_dying: None,
        }
    }
}

/// The ends of a list of subscriptions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) first: Option<SubscriptionId>,
    pub(crate) last: Option<SubscriptionId>,
}

/// The neighbours of a subscription in a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Neighbours {
    pub(crate) previous: Option<SubscriptionId>,
    pub(crate) next: Option<SubscriptionId>,
}

/// A queue's interest in one source.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) event: EventId,
    /// `None` when the source is gone; what it reported last is still to be told.
    pub(crate) source: Option<Source>,
    pub(crate) kind: EventSource,
    pub(crate) number: u64,
    /// The capability it was made through; reports end when that is revoked.
    pub(crate) grant: Option<GrantId>,
    pub(crate) mask: EventMask,
    pub(crate) flags: EventFlags,
    pub(crate) token: u64,
    /// Reported, and not yet acknowledged.
    pub(crate) silent: bool,
    /// In the queue's list of pending ones.
    pub(crate) pending: bool,
    /// What happened and was not yet reported; of what lasts: what came true.
    pub(crate) happened: EventMask,
    pub(crate) timestamp: Nanos,
    pub(crate) data0: u64,
    pub(crate) data1: u64,
    pub(crate) sequence: u64,
    pub(crate) pending_link: Neighbours,
    pub(crate) watch_link: Neighbours,
    pub(crate) chain: Option<SubscriptionId>,
}

/// Who is told about an object.
#[derive(Debug, Default)]
pub struct Watchers {
    pub(crate) list: List,
    pub(crate) count: u32,
}

/// All queues of events and their subscriptions.
#[derive(Debug, Default)]
pub struct Events {
    pub(crate) queues: Arena<Event>,
    pub(crate) subscriptions: Arena<Subscription>,
    pub(crate) console: Watchers,
    /// Queues that nothing names any more, whose subscriptions end in bounded steps.
    pub(crate) dying: Option<EventId>,
}

/// What a thread that waits for events waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventWait {
    /// The queue.
    pub event: EventId,
    /// Where the records go.
    pub address: u64,
    /// How many.
    pub count: u64,
}

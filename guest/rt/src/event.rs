//! Queues of events: one wait over many sources.

use alloc::vec::Vec;

use holm_abi::{Error, EventFlags, EventMask, EventRecord, EventSource, EventSpec, Handle};

use crate::object::{Channel, Console, Events, Object, Owned, Thread, Timer, Trace, Unit};
use crate::sys;
use crate::time::Deadline;

/// What to watch.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A channel.
    Channel(&'a Channel),
    /// A timer.
    Timer(&'a Timer),
    /// A unit.
    Unit(&'a Unit),
    /// A thread.
    Thread(&'a Thread),
    /// A reader of the trace.
    Trace(&'a Trace),
    /// The console.
    Console(&'a Console),
}

impl Source<'_> {
    fn split(self) -> (EventSource, Handle) {
        match self {
            Self::Channel(object) => (EventSource::Channel, object.handle()),
            Self::Timer(object) => (EventSource::Timer, object.handle()),
            Self::Unit(object) => (EventSource::Unit, object.handle()),
            Self::Thread(object) => (EventSource::Thread, object.handle()),
            Self::Trace(object) => (EventSource::Trace, object.handle()),
            Self::Console(object) => (EventSource::Console, object.handle()),
        }
    }
}

impl Events {
    /// A queue without subscriptions.
    ///
    /// # Errors
    /// Those of event_subscribe.
    pub fn new() -> Result<Self, Error> {
        sys::event_subscribe(&EventSpec::new()).map(|handle| Self::from_owned(Owned::new(handle)))
    }

    /// Adds a subscription under a token of the caller's choice.
    ///
    /// # Errors
    /// Those of event_subscribe.
    pub fn subscribe(&self, source: Source<'_>, mask: EventMask, flags: EventFlags, token: u64) -> Result<(), Error> {
        let (source_type, source) = source.split();
        let spec = EventSpec { event: self.handle(), source, source_type, mask, flags, token, ..EventSpec::new() };
        sys::event_subscribe(&spec).map(|_same| ())
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// Those of event_unsubscribe.
    pub fn unsubscribe(&self, token: u64) -> Result<(), Error> {
        sys::event_unsubscribe(self.handle(), token)
    }

    /// Lets a subscription with NEEDS_ACK report again.
    ///
    /// # Errors
    /// Those of event_ack.
    pub fn acknowledge(&self, token: u64) -> Result<(), Error> {
        sys::event_ack(self.handle(), token)
    }

    /// Waits for the first event and gives those that are there, up to 16.
    ///
    /// # Errors
    /// Those of event_wait.
    pub fn wait(&self, deadline: Deadline) -> Result<Vec<EventRecord>, Error> {
        let mut slots = [[0; EventRecord::SIZE]; 16];
        let count = sys::event_wait(self.handle(), &mut slots, deadline.nanos())?;
        slots.iter().take(count as usize).map(EventRecord::decode_whole).collect()
    }

    /// Waits for one event.
    ///
    /// # Errors
    /// Those of event_wait.
    pub fn wait_one(&self, deadline: Deadline) -> Result<EventRecord, Error> {
        let mut slot = [[0; EventRecord::SIZE]];
        sys::event_wait(self.handle(), &mut slot, deadline.nanos())?;
        let [bytes] = slot;
        EventRecord::decode_whole(&bytes)
    }
}

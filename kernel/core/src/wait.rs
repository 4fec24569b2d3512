//! What a blocked thread waits for.
//!
//! A blocked thread is data (DESIGN, The kernel, 2): a variant holds what the waker needs to finish the operation and what
//! is needed to give up when the deadline passes, the object goes away or the thread is killed.

use crate::channel::ChannelWait;
use crate::console::ConsoleWait;
use crate::event::EventWait;
use crate::memory::MemoryWait;

/// What a thread waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: it is not blocked, or it was made and not started.
    #[default]
    Nothing,
    /// The deadline alone.
    Time,
    /// A channel: room to send, a message, or the reply to a call.
    Channel(ChannelWait),
    /// Records of an event subscription.
    Event(EventWait),
    /// Bounded work on memory that others do for it.
    Memory(MemoryWait),
    /// Input on the console.
    Console(ConsoleWait),
    /// Its unit was stopped; it goes on when the unit is started again.
    Stopped,
}

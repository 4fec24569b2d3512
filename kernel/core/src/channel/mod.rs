//! Channels: bounded queues of messages with capabilities, and synchronous calls. (Owner's part follows.)

use crate::arena::Id;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::ThreadId;

/// Names a channel.
pub type ChannelId = Id<Channel>;

/// One end of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The end that the maker keeps (of a UNI channel: the sending one).
    A,
    /// The other one (of a UNI channel: the receiving one).
    B,
}

/// A channel.
#[derive(Debug)]
pub struct Channel {}

/// What a thread that waits at a channel waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelWait {}

/// The calls that a thread made and serves.
#[derive(Debug, Default)]
pub struct ThreadCalls {}

impl<M: Machine> Kernel<M> {
    /// Takes a waiting thread out of a channel's queues, with the boost that it gave.
    pub(crate) fn channel_give_up(&mut self, _thread: ThreadId, _wait: ChannelWait) {}
}

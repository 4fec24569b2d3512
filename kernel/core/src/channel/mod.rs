//! Channels: bounded queues of messages with capabilities, and synchronous calls. (Owner's part follows.)

use crate::arena::Id;
use crate::cap::{GrantId, Progress};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::ThreadId;

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

/// A channel.
#[derive(Debug)]
pub struct Channel {
    references: [u32; 2],
}

impl Channel {
    pub(crate) const fn references_mut(&mut self, end: End) -> &mut u32 {
        &mut self.references[end as usize]
    }
}

/// What a thread that waits at a channel waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelWait {}

/// The calls that a thread made and serves.
#[derive(Debug, Default)]
pub struct ThreadCalls {
    /// What the thread revoked and waits for: the handle it named, and the grant.
    pub(crate) serves: Option<ThreadId>,
    pub(crate) revoking: Option<(holm_abi::Handle, GrantId)>,
}

impl<M: Machine> Kernel<M> {
    /// Takes a waiting thread out of a channel's queues, with the boost that it gave.
    pub(crate) fn channel_give_up(&mut self, _thread: ThreadId, _wait: ChannelWait) {}

    pub(crate) fn channel_end_released(&mut self, _id: ChannelId, _end: End) {}

    pub(crate) fn channels_drain_step(&mut self) -> Progress {
        Progress::Done
    }
}

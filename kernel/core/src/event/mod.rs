//! Events: one wait over channels, timers, units and threads. (Owner's part follows.)

use crate::arena::Id;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::ThreadId;

/// Names a subscription.
pub type EventId = Id<Subscription>;

/// What can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A unit.
    Unit(crate::unit::UnitId),
}

/// A subscription.
#[derive(Debug)]
pub struct Subscription {}

/// Who is told about an object.
#[derive(Debug, Default)]
pub struct Watchers {}

/// What a thread that waits for events waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventWait {}

impl<M: Machine> Kernel<M> {
    /// Takes a waiting thread out of a subscription.
    pub(crate) fn event_give_up(&mut self, _thread: ThreadId, _wait: EventWait) {}
}

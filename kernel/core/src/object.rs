//! What a capability can name, and when an object goes away.

use holm_abi::ObjectType;

use crate::channel::{ChannelId, End};
use crate::event::EventId;
use crate::memory::{ImageId, RegionId};
use crate::restricted::GuestSpaceId;
use crate::thread::ThreadId;
use crate::time::TimerId;
use crate::trace::ReaderId;
use crate::unit::UnitId;

/// An object as a capability names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A unit.
    Unit(UnitId),
    /// A thread.
    Thread(ThreadId),
    /// A region of memory.
    Region(RegionId),
    /// An end of a channel.
    Channel(ChannelId, End),
    /// A timer.
    Timer(TimerId),
    /// A subscription to events.
    Event(EventId),
    /// A file of the boot archive.
    Image(ImageId),
    /// The boot archive: opens its files.
    Archive,
    /// The lower half of an address space, for the guests of a personality.
    Space(GuestSpaceId),
    /// A reader of the trace.
    Trace(ReaderId),
    /// The system itself: configuration, log, trace, topology, power. Given to the root unit at boot.
    System,
    /// The console.
    Console,
}

impl Object {
    /// Its type in the ABI.
    #[must_use]
    pub const fn object_type(self) -> ObjectType {
        match self {
            Self::Unit(_) => ObjectType::Unit,
            Self::Thread(_) => ObjectType::Thread,
            Self::Region(_) => ObjectType::Region,
            Self::Channel(..) => ObjectType::Channel,
            Self::Timer(_) => ObjectType::Timer,
            Self::Event(_) => ObjectType::Event,
            Self::Image(_) => ObjectType::Image,
            Self::Archive => ObjectType::Archive,
            Self::Space(_) => ObjectType::Space,
            Self::Trace(_) => ObjectType::Trace,
            Self::System => ObjectType::System,
            Self::Console => ObjectType::Console,
        }
    }

    /// Its number in the ABI, unique among the objects of its type since boot; both ends of a channel have the same.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Unit(id) => id.number(),
            Self::Thread(id) => id.number(),
            Self::Region(id) => id.number(),
            Self::Channel(id, _) => id.number(),
            Self::Timer(id) => id.number(),
            Self::Event(id) => id.number(),
            Self::Image(id) => id.number(),
            Self::Space(id) => id.number(),
            Self::Trace(id) => id.number(),
            Self::Archive | Self::System | Self::Console => 0,
        }
    }
}

//! Memory: frames, regions, address spaces, access to user memory, images.
//!
//! A [`Region`] is what a capability names: a length of bytes whose pages come into being when they are touched. Its pages
//! hang in a [`Tree`](tree::Tree) over [`Frames`]. An [`AddressSpace`] shows parts of regions through [`Mapping`]s; its page
//! tables are only a cache of that: every page they show stands in the region's tree, and a page may go from the tables at
//! any time, since a fault brings it back. So unmapping, narrowing and copy-on-write all do the same: they take pages out
//! of the tables, flush, and change the truth.

pub mod access;
pub mod archive;
pub mod calls;
pub mod elf;
pub mod fault;
pub mod frames;
pub mod load;
pub mod mapping;
pub mod region;
pub mod space;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_calls;
#[cfg(test)]
mod tests_cases;
pub mod tree;

use crate::arena::Id;
use crate::kernel::Kernel;
use crate::machine::{Machine, SpaceId};
use crate::thread::ThreadId;

pub use archive::Image;
pub use fault::Access;
pub use frames::Frames;
pub use mapping::Mapping;
pub use region::Region;
pub use space::AddressSpace;

pub(crate) use crate::cap::Progress;

/// Names a region.
pub type RegionId = Id<Region>;
/// Names an image.
pub type ImageId = Id<Image>;
/// Names an address space.
pub type AddressSpaceId = Id<AddressSpace>;
/// The grant that a mapping was made through; `None` for the kernel's own mappings.
pub type GrantRef = Option<crate::cap::GrantId>;

/// The address space of a unit.
#[derive(Debug, Default)]
pub struct UnitMemory {
    /// The space; `None` when it is being taken apart or gone.
    pub space: Option<AddressSpaceId>,
    /// Its page-table root, for the way out of the kernel.
    pub root: Option<SpaceId>,
    /// Its lower half shows guests: it maps nothing there itself.
    pub personality: bool,
}

/// A call on memory that a thread makes and that goes on in steps: pages of a region that are given before it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadMemory {
    /// What is filled.
    pub(crate) fill: Option<Fill>,
}

/// Pages that are given one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Of a mapping that was made: from an address to another; the first is the answer.
    Mapping {
        /// Where.
        space: AddressSpaceId,
        /// Where the mapping begins.
        start: u64,
        /// The next page.
        at: u64,
        /// Behind the last.
        end: u64,
        /// Whether it can be written.
        access: Access,
    },
    /// Of a region that was made.
    Region {
        /// The region, kept by this.
        region: RegionId,
        /// The next page.
        at: u64,
    },
}

/// What a thread that waits for work on memory waits for. Work on memory restarts and never waits, so there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryWait {}

impl<M: Machine> Kernel<M> {
    /// Takes a waiting thread out of the work it waits for.
    pub(crate) fn memory_give_up(&mut self, _thread: ThreadId, wait: MemoryWait) {
        match wait {}
    }
}

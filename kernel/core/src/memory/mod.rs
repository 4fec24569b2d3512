//! Memory: frames, regions, address spaces, access to user memory, images. (Owner's part follows.)

use crate::arena::Id;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::ThreadId;

/// Names a region.
pub type RegionId = Id<Region>;
/// Names an image.
pub type ImageId = Id<Image>;

/// A region of memory.
#[derive(Debug)]
pub struct Region {}

/// A file of the boot archive.
#[derive(Debug)]
pub struct Image {}

/// The frames of the machine.
#[derive(Debug, Default)]
pub struct Frames {}

/// The address space of a unit.
#[derive(Debug, Default)]
pub struct UnitMemory {}

/// What a thread that waits for work on memory waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryWait {}

impl<M: Machine> Kernel<M> {
    /// Takes a waiting thread out of the work it waits for.
    pub(crate) fn memory_give_up(&mut self, _thread: ThreadId, _wait: MemoryWait) {}
}

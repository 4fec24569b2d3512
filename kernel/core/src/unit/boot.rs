//! The first unit: made from the boot archive's `init`, with a capability for everything.

use core::fmt;

use holm_abi::{Error, ObjectType, SchedClass, UnitSpec};

use super::UnitId;
use super::create::Plan;
use crate::kernel::{BootInfo, Kernel};
use crate::machine::Machine;
use crate::memory::archive::{Archive, ArchiveError};
use crate::memory::elf::{self, ElfError};
use crate::memory::{Frames, ImageId};
use crate::object::Object;
use crate::quota::Quotas;

/// The name of the first unit's program.
pub const INIT: &[u8] = b"init";

/// Threads that the first unit and all below it may have.
const MAX_THREADS: u64 = 1 << 20;
/// Pages that may be promised for each frame: snapshots count in full, and mostly stay shared.
const PROMISES: u64 = 4;
/// What the first unit may have beside what the quotas of frames and handles already bound.
const MAX_ALL_HANDLES: u64 = 1 << 24;

/// Why there is no first unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootError {
    /// The loader gave no boot archive.
    NoArchive,
    /// The archive is damaged.
    Archive(ArchiveError),
    /// It has no [`INIT`].
    NoInit,
    /// [`INIT`] is no program.
    Init(ElfError),
    /// There is too little memory.
    Memory,
    /// The first unit could not be made.
    Unit(Error),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArchive => f.write_str("there is no boot archive: give one to the loader as initrd"),
            Self::Archive(error) => error.fmt(f),
            Self::NoInit => f.write_str("the boot archive has no file named init"),
            Self::Init(error) => write!(f, "init cannot be started: {error}"),
            Self::Memory => f.write_str("there is too little memory to start"),
            Self::Unit(error) => write!(f, "the first unit cannot be made: {error}"),
        }
    }
}

impl core::error::Error for BootError {}

impl<M: Machine> Kernel<M> {
    /// Takes in memory and archive, and makes the first unit with `init`; [`Kernel::unit_run`] starts it. Its initial
    /// capabilities, from slot 2 on: the system, the archive, the console.
    ///
    /// # Errors
    /// What a person at the console can do something about.
    pub fn boot_root(&mut self, info: &BootInfo) -> Result<UnitId, BootError> {
        self.frames = Frames::new(&info.memory).map_err(|_| BootError::Memory)?;
        for half in self.node.chunks_mut(8) {
            half.iter_mut().zip(self.machine.random().to_le_bytes()).for_each(|(to, from)| *to = from);
        }
        let bytes = info.archive.ok_or(BootError::NoArchive)?;
        self.archive = Archive::open(bytes, &mut self.images).map_err(BootError::Archive)?;
        let image = self.archive.find(&self.images, INIT).ok_or(BootError::NoInit)?;
        let content = self.images.get(image).map_or(&[][..], |image| image.content);
        elf::parse(content).map_err(BootError::Init)?;
        self.root_unit(image, info.heap).map_err(|error| match error {
            Error::NoMemory | Error::Quota => BootError::Memory,
            other => BootError::Unit(other),
        })
    }

    fn root_unit(&mut self, image: ImageId, heap: u64) -> Result<UnitId, Error> {
        let mut spec = UnitSpec::new();
        (spec.sched_class, spec.max_sched_class) = (SchedClass::BestEffort, SchedClass::RtEdf);
        spec.name.iter_mut().zip(INIT).for_each(|(to, from)| *to = *from);
        spec.cap_count = 3;
        let quotas = Quotas::new(self.frames.total() * PROMISES, MAX_THREADS, MAX_ALL_HANDLES, heap);
        let unit = self.unit_new(&Plan { parent: None, creator: None, image: Some(image), spec, quotas })?;
        for (object, kind) in [
            (Object::System, ObjectType::System),
            (Object::Archive, ObjectType::Archive),
            (Object::Console, ObjectType::Console),
        ] {
            self.cap_install(unit, object, kind.rights(), kind.transfer_flags())?;
        }
        Ok(unit)
    }
}

//! What the loader says: the start information of the PVH boot protocol.
//!
//! Source: `xen/include/public/arch-x86/hvm/start_info.h`. QEMU, Firecracker and cloud-hypervisor speak it. Everything here
//! is read while the boot tables map the first 4 GiB.

use core::fmt;

use crate::memory::{PAGE, Physical};

const MAGIC: u32 = 0x336e_c578;
/// In the memory map: memory that may be used.
const MEMORY: u32 = 1;
/// More entries of the memory map than this are not read.
const MOST_ENTRIES: u32 = 128;
/// Longer command lines are cut.
const MOST_COMMAND_LINE: usize = 4096;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    acpi: u64,
    memory_map: u64,
    memory_entries: u32,
    reserved: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct MemoryEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// Why the loader's information is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// It is not there, or something else is.
    Magic(u32),
    /// It has no memory map: versions before 1.
    Version(u32),
    /// It points beyond the first 4 GiB.
    Place,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(magic) => {
                write!(f, "the loader's start information has magic {magic:#x}, not {MAGIC:#x}: boot by PVH")
            }
            Self::Version(version) => {
                write!(
                    f,
                    "the loader's start information has version {version}, without a memory map; version 1 has one"
                )
            }
            Self::Place => write!(f, "the loader's start information points beyond the first 4 GiB"),
        }
    }
}

/// The start information, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loader {
    at: u64,
    info: StartInfo,
}

/// Reads a `T` at a physical address that the boot tables map.
pub(super) fn read<T: Copy>(at: u64) -> Option<T> {
    let end = at.checked_add(size_of::<T>() as u64)?;
    // SAFETY: below 4 GiB everything is mapped, memory or not; the types read here are plain numbers, valid with any bytes.
    (at != 0 && end <= 1 << 32).then(|| unsafe { Physical(at).direct::<T>().read_unaligned() })
}

impl Loader {
    /// Checks the start information at physical address `at`.
    ///
    /// # Errors
    /// [`Unusable`] says what is wrong with it.
    pub(crate) fn new(at: u64) -> Result<Self, Unusable> {
        let info: StartInfo = read(at).ok_or(Unusable::Place)?;
        if info.magic != MAGIC {
            return Err(Unusable::Magic(info.magic));
        }
        if info.version < 1 || info.memory_entries == 0 {
            return Err(Unusable::Version(info.version));
        }
        Ok(Self { at, info })
    }

    /// The ranges of memory that may be used: address and length in bytes.
    pub(crate) fn memory(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let map = self.info.memory_map;
        let entries = self.info.memory_entries.min(MOST_ENTRIES);
        let entry = move |number| read::<MemoryEntry>(map + u64::from(number) * size_of::<MemoryEntry>() as u64);
        (0..entries).map_while(entry).filter(|entry| entry.kind == MEMORY).map(|entry| (entry.address, entry.size))
    }

    /// The boot archive, as a range of physical addresses; `None` when the loader was given none.
    ///
    /// # Errors
    /// [`Unusable::Place`] when it does not lie in the first 4 GiB.
    pub(crate) fn archive(&self) -> Result<Option<(u64, u64)>, Unusable> {
        if self.info.modules == 0 {
            return Ok(None);
        }
        let module: Module = read(self.info.module_list).ok_or(Unusable::Place)?;
        let end = module.address.checked_add(module.size).filter(|end| *end <= 1 << 32).ok_or(Unusable::Place)?;
        Ok((module.size > 0).then_some((module.address, end)))
    }

    /// The command line, up to the zero that ends it.
    pub(crate) fn command_line(&self) -> impl Iterator<Item = u8> + use<> {
        let at = self.info.command_line;
        (0..MOST_COMMAND_LINE as u64)
            .map_while(move |offset| read::<u8>(at.checked_add(offset)?))
            .take_while(|byte| *byte != 0)
    }

    /// Where the ACPI tables begin; zero when there are none.
    pub(crate) const fn acpi(&self) -> u64 {
        self.info.acpi
    }

    /// What the loader's information takes, in ranges of physical addresses: not to be overwritten while it is read.
    pub(crate) fn taken(&self) -> [(u64, u64); 4] {
        let StartInfo { module_list, command_line, memory_map, memory_entries, .. } = self.info;
        let entries = u64::from(memory_entries.min(MOST_ENTRIES)) * size_of::<MemoryEntry>() as u64;
        [(self.at, PAGE), (module_list, 64), (command_line, MOST_COMMAND_LINE as u64), (memory_map, entries)]
            .map(|(start, length)| (start, start.saturating_add(length)))
    }
}

//! A process's two pages and its ledgers: three small BPF arrays, two of them mapped here and handed to the process.
//!
//! Page 0 is frozen once it has its header: the kernel then refuses every process a writable mapping, a later mprotect and
//! every update, ours included; only programs can write it, and ours do so for us (`command`). A descriptor opened read-only
//! would not do: the kernel maps no BPF array through one. Page 1 the process may write as it likes; nobody believes more
//! of it than hints need.

use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use morpheus_abi::{
    Direction, KernelLine, LINE_SIZE, PAGE_SIZE, PageHeader, RuntimeLine, SharedKernelPage, SharedRuntimePage, Slot,
};
use rustix::mm::{MapFlags as MmapFlags, ProtFlags};

use super::BpfError;
use super::layout::{LEDGER_SIZE, LINES, Ledger, Place};

/// The three arrays of one process.
#[derive(Debug)]
pub struct Pages {
    kernel: MapHandle,
    runtime: MapHandle,
    ledger: MapHandle,
    kernel_page: Mapping<SharedKernelPage>,
    runtime_page: Mapping<SharedRuntimePage>,
}

/// The arrays themselves, for the maps that lead to them.
#[derive(Debug)]
pub(super) struct PageMaps<'a> {
    pub(super) kernel: &'a MapHandle,
    pub(super) runtime: &'a MapHandle,
    pub(super) ledger: &'a MapHandle,
}

impl Pages {
    /// Makes fresh pages with their headers.
    ///
    /// # Errors
    /// When the kernel gives no more maps.
    pub fn new(flags: u32, generation: u64, heartbeat_ns: u64) -> Result<Self, BpfError> {
        let array = |name: &'static str, value_size: usize, mappable: bool| {
            let options = libbpf_sys::bpf_map_create_opts {
                sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
                map_flags: if mappable { libbpf_sys::BPF_F_MMAPABLE } else { 0 },
                ..Default::default()
            };
            // Both sizes are small constants.
            MapHandle::create(MapType::Array, Some(name), 4, value_size as u32, LINES, &options)
                .map_err(BpfError::libbpf("cannot make a process's pages"))
        };
        let kernel = array("morpheus_page_0", LINE_SIZE, true)?;
        let runtime = array("morpheus_page_1", LINE_SIZE, true)?;
        let ledger = array("morpheus_ledger", LEDGER_SIZE, false)?;
        let mut header = PageHeader::new(Direction::KernelToRuntime, generation, flags);
        header.heartbeat_ns = heartbeat_ns;
        for (map, header) in
            [(&kernel, header), (&runtime, PageHeader::new(Direction::RuntimeToKernel, generation, flags))]
        {
            map.update(&0u32.to_ne_bytes(), &header_bytes(&header), MapFlags::ANY)
                .map_err(BpfError::libbpf("cannot write a page's header"))?;
        }
        kernel.freeze().map_err(BpfError::libbpf("cannot freeze page 0"))?;
        let kernel_page = Mapping::new(&kernel, ProtFlags::READ)?;
        let runtime_page = Mapping::new(&runtime, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Self { kernel, runtime, ledger, kernel_page, runtime_page })
    }

    /// A worker's line in page 0.
    pub fn kernel_line(&self, slot: Slot) -> KernelLine {
        self.kernel_page.get().lines[slot.index()].snapshot()
    }

    /// A worker's line in page 1, which the process writes: believe nothing.
    pub fn runtime_line(&self, slot: Slot) -> RuntimeLine {
        self.runtime_page.get().lines[slot.index()].snapshot()
    }

    pub(super) fn maps(&self) -> PageMaps<'_> {
        PageMaps { kernel: &self.kernel, runtime: &self.runtime, ledger: &self.ledger }
    }

    /// Empties what is ours of a place for its new owner, who wants LOCAL after so many ns of its own, if not 0: the line in
    /// page 1 and the ledger.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn clear(&self, place: Place, rotation_ns: u32) -> Result<(), BpfError> {
        self.runtime_page.get().lines[place.slot.index()].write(&RuntimeLine::default());
        self.ledger
            .update(&place.line().to_ne_bytes(), &Ledger::fresh_bytes(place.generation, rotation_ns), MapFlags::ANY)
            .map_err(BpfError::libbpf("cannot begin a ledger"))
    }

    /// The descriptors the process gets: page 0, frozen, and page 1.
    ///
    /// # Errors
    /// When there are too many open descriptors.
    pub fn hand_out(&self) -> Result<[OwnedFd; 2], BpfError> {
        let duplicate = |map: &MapHandle| {
            map.as_fd().try_clone_to_owned().map_err(BpfError::system("cannot duplicate a page's descriptor"))
        };
        Ok([duplicate(&self.kernel)?, duplicate(&self.runtime)?])
    }
}

/// A header as it lies in memory.
fn header_bytes(header: &PageHeader) -> [u8; LINE_SIZE] {
    let mut bytes = [0; LINE_SIZE];
    for (offset, number) in [(0, header.magic), (24, header.generation), (32, header.heartbeat_ns)] {
        bytes[offset..offset + 8].copy_from_slice(&number.to_ne_bytes());
    }
    for (offset, number) in [(8, header.abi_version), (12, header.size), (16, header.flags), (20, header.direction)] {
        bytes[offset..offset + 4].copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

/// One of our pages, mapped shared until dropped. Page 0 is mapped read-only, so this module never writes through it.
#[derive(Debug)]
struct Mapping<T>(std::ptr::NonNull<T>);

// SAFETY: the memory is shared with the kernel and another process anyway; all access is through `&T`, whose fields are
// atomics only, and the mapping is not bound to a thread.
unsafe impl<T: Sync> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapping<T> {}

/// The page types this module maps: 4096 bytes of atomics, valid for every bit pattern.
trait Page {}
impl Page for SharedKernelPage {}
impl Page for SharedRuntimePage {}

impl<T: Page> Mapping<T> {
    fn new(map: &MapHandle, access: ProtFlags) -> Result<Self, BpfError> {
        const { assert!(size_of::<T>() == PAGE_SIZE) };
        // SAFETY: no address is asked for, so no other mapping is touched. The array has LINES * LINE_SIZE = PAGE_SIZE
        // bytes and cannot shrink.
        let address =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE_SIZE, access, MmapFlags::SHARED, map.as_fd(), 0) }
                .map_err(BpfError::system("cannot map a process's page"))?;
        Ok(Self(std::ptr::NonNull::new(address.cast()).expect("mmap never returns the null page without MAP_FIXED")))
    }

    fn get(&self) -> &T {
        // SAFETY: the mapping is PAGE_SIZE bytes, page-aligned, and lives until `self` is dropped; `T` is `Page`: atomics
        // only, valid for every bit pattern, so writers elsewhere break no rule.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly these bytes, and no reference into them outlives `self`.
        if let Err(error) = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE_SIZE) } {
            tracing::warn!(%error, "cannot unmap a page");
        }
    }
}

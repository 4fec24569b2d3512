//! A process's two pages and its ledgers: three small BPF arrays, two of them mapped here and handed to the process.
//!
//! The process gets page 0 through a descriptor that was opened read-only: the kernel then refuses a writable mapping, a
//! later mprotect and every update through it. Page 1 it may write as it likes; nobody believes more of it than hints need.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use morpheus_abi::{Direction, LINE_SIZE, PAGE_SIZE, PageHeader, SharedKernelPage, SharedRuntimePage, WorkerState};
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
        let kernel_page = Mapping::new(&kernel)?;
        let runtime_page = Mapping::new(&runtime)?;
        let pages = Self { kernel, runtime, ledger, kernel_page, runtime_page };
        let mut header = PageHeader::new(Direction::KernelToRuntime, generation, flags);
        header.heartbeat_ns = heartbeat_ns;
        pages.kernel().header.write(&header);
        pages.runtime().header.write(&PageHeader::new(Direction::RuntimeToKernel, generation, flags));
        Ok(pages)
    }

    /// Page 0.
    pub fn kernel(&self) -> &SharedKernelPage {
        self.kernel_page.get()
    }

    /// Page 1, which the process writes: believe nothing.
    pub fn runtime(&self) -> &SharedRuntimePage {
        self.runtime_page.get()
    }

    pub(super) fn maps(&self) -> PageMaps<'_> {
        PageMaps { kernel: &self.kernel, runtime: &self.runtime, ledger: &self.ledger }
    }

    /// Empties a place for its new owner: both lines zero, then the state, then the generation, which the programs check.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn open(&self, place: Place) -> Result<(), BpfError> {
        use std::sync::atomic::Ordering::{Relaxed, Release};
        let line = &self.kernel().lines[place.slot.index()];
        line.slot_generation.store(0, Relaxed);
        line.write(&morpheus_abi::KernelLine::default());
        self.runtime().lines[place.slot.index()].write(&morpheus_abi::RuntimeLine::default());
        self.ledger
            .update(&place.line().to_ne_bytes(), &Ledger::fresh_bytes(place.generation), MapFlags::ANY)
            .map_err(BpfError::libbpf("cannot begin a ledger"))?;
        line.state.store(WorkerState::Registered.number(), Relaxed);
        line.slot_generation.store(place.generation, Release);
        Ok(())
    }

    /// Says that a place has no living worker any more, if it is still this registration's.
    pub fn close(&self, place: Place) {
        use std::sync::atomic::Ordering::Relaxed;
        let line = &self.kernel().lines[place.slot.index()];
        if line.slot_generation.load(Relaxed) == place.generation {
            line.state.store(WorkerState::Dead.number(), Relaxed);
        }
    }

    /// Says that nobody writes these pages any more: no living worker, and a heartbeat of long ago.
    pub fn retire(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        for line in &self.kernel().lines {
            if line.slot_generation.load(Relaxed) != 0 {
                line.state.store(WorkerState::Dead.number(), Relaxed);
            }
        }
        self.kernel().header.heartbeat_ns.store(0, Relaxed);
    }

    /// The descriptors the process gets: page 0 read-only, page 1 writable.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn hand_out(&self) -> Result<[OwnedFd; 2], BpfError> {
        let writable =
            self.runtime.as_fd().try_clone_to_owned().map_err(BpfError::system("cannot duplicate page 1"))?;
        Ok([read_only(&self.kernel)?, writable])
    }
}

/// Opens a map once more, read-only.
fn read_only(map: &MapHandle) -> Result<OwnedFd, BpfError> {
    let id = map.info().map_err(BpfError::libbpf("cannot learn a map's number"))?.info.id;
    let options = libbpf_sys::bpf_get_fd_by_id_opts {
        sz: size_of::<libbpf_sys::bpf_get_fd_by_id_opts>() as libbpf_sys::size_t,
        open_flags: libbpf_sys::BPF_F_RDONLY,
        ..Default::default()
    };
    // SAFETY: the options are a whole structure that says its own size and lives until the call returns.
    let fd = unsafe { libbpf_sys::bpf_map_get_fd_by_id_opts(id, &raw const options) };
    if fd < 0 {
        let source = std::io::Error::from_raw_os_error(-fd);
        return Err(BpfError::System { what: "cannot open page 0 read-only", source });
    }
    // SAFETY: a descriptor that libbpf returns is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One of our pages, mapped shared and writable until dropped.
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
    fn new(map: &MapHandle) -> Result<Self, BpfError> {
        const { assert!(size_of::<T>() == PAGE_SIZE) };
        // SAFETY: no address is asked for, so no other mapping is touched. The array has LINES * LINE_SIZE = PAGE_SIZE
        // bytes and cannot shrink.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MmapFlags::SHARED,
                map.as_fd(),
                0,
            )
        }
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

//! Everything unsafe: mapping the agent's pages, putting private pages in their place, fork, and the watcher's signals.
//!
//! The rules the rest relies on: a page once mapped stays mapped at its address for the life of the process, first with
//! the agent's memory and later with private memory, and is only ever seen as atomics. So references to it are `'static`.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

use morpheus_abi::{Direction, LayoutError, PAGE_SIZE, SharedKernelPage, SharedPageHeader, SharedRuntimePage};
use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::domain::Domains;
use crate::lines;
use crate::refusal::NotAvailable;

/// A value that lives for ever, or none yet, or none any more. Setting it leaks the one before.
struct Leaked<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Leaked<T> {
    const fn empty() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn get(&self) -> Option<&'static T> {
        let value = self.0.load(Ordering::Acquire);
        // SAFETY: the pointer is null or comes from `Box::into_raw` in `replace_if`, which published it with release
        // ordering after it was written; nobody frees it or takes it back.
        unsafe { value.as_ref() }
    }

    /// Stores the value if what is there is still `expected`; else gives it back.
    fn replace_if(&self, expected: Option<&'static T>, value: Box<T>) -> Result<&'static T, Box<T>> {
        let expected = expected.map_or(ptr::null_mut(), |expected| ptr::from_ref(expected).cast_mut());
        let value = Box::into_raw(value);
        match self.0.compare_exchange(expected, value, Ordering::AcqRel, Ordering::Relaxed) {
            // SAFETY: `value` comes from the box above and is never freed from here on.
            Ok(_) => Ok(unsafe { &*value }),
            // SAFETY: `value` comes from the box above and was not published, so this is its only owner.
            Err(_) => Err(unsafe { Box::from_raw(value) }),
        }
    }

    fn clear(&self) {
        self.0.store(ptr::null_mut(), Ordering::Release);
    }
}

/// The two pages of one conversation with an agent, kept for ever. See the module's rules.
pub(crate) struct Mapping {
    pub(crate) kernel: &'static SharedKernelPage,
    pub(crate) runtime: &'static SharedRuntimePage,
    /// Whether the pages have become this process's own memory.
    retired: AtomicBool,
    /// The conversation's socket, for a forked child to close; -1 for none.
    socket: AtomicI32,
    next: Option<&'static Mapping>,
}

static MAPPINGS: Leaked<Mapping> = Leaked::empty();
static DOMAINS: Leaked<Domains> = Leaked::empty();

impl Mapping {
    /// Maps both pages if they are what they should be.
    pub(crate) fn new(kernel: &OwnedFd, runtime: &OwnedFd, socket: &OwnedFd) -> Result<&'static Self, NotAvailable> {
        for page in [kernel, runtime] {
            cannot_shrink(page).map_err(NotAvailable::Mapping)?;
        }
        let kernel = map(kernel, ProtFlags::READ).map_err(NotAvailable::Mapping)?.cast::<SharedKernelPage>();
        // SAFETY: `map` gave a readable mapping of PAGE_SIZE bytes, aligned to a page, and it is not unmapped before the
        // reference is gone. The page type is all atomics, so any content and any change by others is valid.
        let checked = unsafe { &*kernel }.header.snapshot().check(Direction::KernelToRuntime);
        let pages = checked.map_err(NotAvailable::Pages).and_then(|()| {
            let runtime = map(runtime, ProtFlags::READ | ProtFlags::WRITE).map_err(NotAvailable::Mapping)?;
            let runtime = runtime.cast::<SharedRuntimePage>();
            // SAFETY: as above; this mapping is also writable.
            let header: &SharedPageHeader = unsafe { &(*runtime).header };
            match header.snapshot().check(Direction::RuntimeToKernel) {
                Ok(()) => Ok(runtime),
                Err(error) => Err(unmap(runtime.cast(), error)),
            }
        });
        let runtime = match pages {
            Ok(runtime) => runtime,
            Err(error) => {
                // SAFETY: the mapping is this function's own, and the only reference to it ended with `checked`.
                let _ = unsafe { munmap(kernel.cast(), PAGE_SIZE) };
                return Err(error);
            }
        };
        // SAFETY: both mappings are valid for their types (see above) and by the module's rules stay so for ever.
        let (kernel, runtime) = unsafe { (&*kernel, &*runtime) };
        let mut mapping = Box::new(Self {
            kernel,
            runtime,
            retired: AtomicBool::new(false),
            socket: AtomicI32::new(socket.as_raw_fd()),
            next: None,
        });
        loop {
            mapping.next = MAPPINGS.get();
            match MAPPINGS.replace_if(mapping.next, mapping) {
                Ok(mapping) => return Ok(mapping),
                Err(returned) => mapping = returned,
            }
        }
    }

    /// Puts private zero pages in the place of the agent's: no hint is pending in them, and nobody else writes them.
    pub(crate) fn retire(&self) {
        if !self.retired() && self.replace_by_private_memory() {
            self.retired.store(true, Ordering::Release);
        }
    }

    /// Whether both pages are this process's own memory by now.
    pub(crate) fn retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// To be called before the socket's number can become another file's.
    pub(crate) fn forget_socket(&self) {
        self.socket.store(-1, Ordering::Release);
    }

    fn replace_by_private_memory(&self) -> bool {
        let pages = [ptr::from_ref(self.kernel).cast_mut().cast(), ptr::from_ref(self.runtime).cast_mut().cast()];
        pages.into_iter().all(|page| {
            let (access, place) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
            // SAFETY: the address range is exactly one page this module mapped and nobody else uses. The kernel swaps
            // the mapping in one step under its lock, so other threads see the old page or the new one. Zero is valid
            // for the page types, and all access is atomic.
            unsafe { mmap_anonymous(page, PAGE_SIZE, access, place) }.is_ok()
        })
    }
}

/// A file that could be cut short while mapped would kill whoever reads it then. BPF arrays cannot; memory files may be
/// sealed against it; all else is refused.
fn cannot_shrink(page: &OwnedFd) -> io::Result<()> {
    let stat = fstat(page)?;
    // The kernel's anonymous inodes, as those of BPF maps, have no file type.
    let anonymous = stat.st_mode & libc::S_IFMT == 0;
    let sealed = || {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && usize::try_from(stat.st_size).is_ok_and(|size| size >= PAGE_SIZE)
            && fcntl_get_seals(page).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
    };
    if anonymous || sealed() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "the page is neither a BPF map nor sealed against shrinking"))
    }
}

fn map(page: &OwnedFd, access: ProtFlags) -> io::Result<*mut libc::c_void> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
    Ok(unsafe { mmap(ptr::null_mut(), PAGE_SIZE, access, MapFlags::SHARED, page, 0) }?)
}

fn unmap(page: *mut libc::c_void, error: LayoutError) -> NotAvailable {
    // SAFETY: the caller mapped the page itself and keeps no reference to it.
    let _ = unsafe { munmap(page, PAGE_SIZE) };
    NotAvailable::Pages(error)
}

/// In a forked child: the pages are the parent's. Puts private zero pages in their place, so that whatever still points
/// there is harmless, closes the parent's sockets, and forgets all workers.
///
/// Only this thread exists in the child, and locks may be held by threads that do not: so it takes none, allocates
/// nothing, and calls nothing but mmap(2) and close(2).
extern "C" fn after_fork_in_child() {
    lines::leave();
    let mut next = MAPPINGS.get();
    while let Some(mapping) = next {
        if !mapping.retired() {
            mapping.replace_by_private_memory();
        }
        let socket = mapping.socket.swap(-1, Ordering::Relaxed);
        if socket >= 0 {
            // SAFETY: a number other than -1 is the open socket of a conversation that still stood when the process
            // was forked: `forget_socket` comes before its end. The child never drops that socket's owner, since only
            // the domains forgotten below own it.
            unsafe { libc::close(socket) };
        }
        next = mapping.next;
    }
    MAPPINGS.clear();
    DOMAINS.clear();
}

/// The process's conversations, made at the first call and again after a fork.
pub(crate) fn domains() -> &'static Domains {
    static AT_FORK: Once = Once::new();
    AT_FORK.call_once(|| {
        // SAFETY: `after_fork_in_child` keeps to what a forked child of a threaded process may do (see there) and stays
        // loaded as long as this code does. Should the C library be out of memory, fork goes unnoticed: the child then
        // shares its parent's pages as any child of a raw clone(2) does, without memory being unsafe.
        unsafe { libc::pthread_atfork(None, None, Some(after_fork_in_child)) };
    });
    loop {
        if let Some(domains) = DOMAINS.get() {
            return domains;
        }
        // Who comes second finds the first's.
        let _ = DOMAINS.replace_if(None, Box::new(Domains::new()));
    }
}

/// Runs `start` with all signals blocked, so that a thread started there leaves the process's signals to the others.
pub(crate) fn without_signals<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: a signal set is plain bits, all zero is a valid one, and the calls get pointers to live ones.
    let before = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        before
    };
    let result = start();
    // SAFETY: `before` is the set the call above filled.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
}

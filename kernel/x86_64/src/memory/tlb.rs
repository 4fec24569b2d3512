//! What processors remember of page tables, and how they are made to forget.
//!
//! Each processor tags what it remembers by address space (PCID), so that changing between spaces costs nothing. A tag is
//! chosen by the space's number, and holds the space's serial number and how many of its flushes the processor has seen; when
//! either differs, entering the space forgets everything under the tag. So a flush reaches other processors only where the
//! space is loaded right now, by an interrupt, or by the loop in which a processor waits for the kernel's lock
//! ([`serve`]): there interrupts are off.

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::Ordering;

use holm_kernel_core::SpaceId;
use holm_kernel_core::machine::{Flush, PAGE_SIZE};

use super::space::Spaces;
use crate::percpu::{NO_SPACE, PerCpu, cpus, this_cpu};
use crate::{apic, cpu};

/// Tags per processor; number 0 is the kernel's own space, and the others are a power of two.
const TAGS: u32 = 65;
/// More pages than this are forgotten by forgetting all.
const PAGES: u64 = 32;
/// Tells a load of CR3 to keep what is remembered under the tag.
const KEEP: u64 = 1 << 63;

/// The tags of one processor.
#[derive(Debug)]
pub(crate) struct Tags {
    /// Serial number and generation of the space that uses the tag; see [`Spaces::generation`].
    tags: [Cell<(u64, u64)>; TAGS as usize],
    /// How the space that uses the tag is loaded.
    known: [Known; TAGS as usize],
    /// Whether the processor has tags at all.
    pub(crate) enabled: Cell<bool>,
}

/// What was found out about a space when it was last entered with a look at its generation; true until the next flush of any.
#[derive(Debug)]
struct Known {
    space: Cell<SpaceId>,
    /// Of all spaces: [`Spaces::flushes`].
    flushes: Cell<u64>,
    /// What CR3 is loaded with.
    root: Cell<u64>,
}

impl Tags {
    pub(crate) const fn new() -> Self {
        Self {
            tags: [const { Cell::new((0, 0)) }; TAGS as usize],
            known: [const { Known { space: Cell::new(NO_SPACE), flushes: Cell::new(0), root: Cell::new(0) } };
                TAGS as usize],
            enabled: Cell::new(false),
        }
    }
}

const fn tag(space: SpaceId) -> u32 {
    1 + (space.0 & (TAGS - 2))
}

/// Loads `space` on this processor. The kernel is locked.
#[inline(always)]
pub(crate) fn enter(cpu: &PerCpu, spaces: &Spaces, id: SpaceId) {
    if cpu.space.get() == id {
        return;
    }
    let known = &cpu.tags.known[tag(id) as usize];
    let root = if known.space.get() == id && known.flushes.get() == spaces.flushes() {
        known.root.get()
    } else if let Some(root) = look(cpu, spaces, id) {
        root
    } else {
        return;
    };
    cpu.space.set(id);
    // SAFETY: the root of a living space, which shares the kernel half; `KEEP` only where the tag was used for this very
    // space and no flush was missed since: a space that ends counts as one.
    unsafe { cpu::load_root(root) };
}

/// How the root of a space is loaded on this processor, by its generation. `None`: there is no such space.
#[cold]
#[inline(never)]
fn look(cpu: &PerCpu, spaces: &Spaces, id: SpaceId) -> Option<u64> {
    let space = spaces.get(id)?;
    let wanted = (space.serial, spaces.generation(space));
    let tag = tag(id);
    let keeps = if cpu.tags.enabled.get() { space.root.0 | u64::from(tag) | KEEP } else { space.root.0 };
    let known = &cpu.tags.known[tag as usize];
    known.space.set(id);
    known.flushes.set(spaces.flushes());
    known.root.set(keeps);
    Some(if cpu.tags.tags[tag as usize].get() == wanted { keeps } else { first_use(cpu, space.root.0, tag, wanted) })
}

/// Gives a tag to a space, and says how its root is loaded. A processor without tags gives none.
#[cold]
fn first_use(cpu: &PerCpu, root: u64, tag: u32, wanted: (u64, u64)) -> u64 {
    if !cpu.tags.enabled.get() {
        return root;
    }
    cpu.tags.tags[tag as usize].set(wanted);
    root | u64::from(tag)
}

/// Loads the kernel's own space: an idle processor holds on to no other.
#[inline]
pub(crate) fn leave(cpu: &PerCpu, spaces: &Spaces) {
    if cpu.space.replace(NO_SPACE) != NO_SPACE {
        let keep = if cpu.tags.enabled.get() { KEEP } else { 0 };
        // SAFETY: the kernel's root, whose mappings never change after boot.
        unsafe { cpu::load_root(spaces.kernel_root().0 | keep) };
    }
}

/// What other processors are to forget: written by the one that holds the kernel's lock, read by those whose `flush` it set.
struct Request(UnsafeCell<Wanted>);

#[derive(Clone, Copy)]
struct Wanted {
    what: Flush,
    /// Of the space that the processor has loaded, after this flush.
    generation: [u64; crate::percpu::MAX_CPUS],
}

// SAFETY: it is written only under the kernel's lock while no processor's `flush` is set, and read only by processors whose
// `flush` is set (released by the writer, acquired by the reader); the writer waits until all are clear again.
unsafe impl Sync for Request {}

static REQUEST: Request =
    Request(UnsafeCell::new(Wanted { what: Flush::Space, generation: [0; crate::percpu::MAX_CPUS] }));

/// Makes every processor forget translations of `id`; done when it returns. The kernel is locked.
pub(crate) fn flush(spaces: &mut Spaces, id: SpaceId, what: Flush) {
    spaces.flushed(id);
    let this = this_cpu();
    let mut asked = 0u64;
    for cpu in cpus() {
        // A processor changes its space only under the kernel's lock, which is ours.
        let Some(active) = cpu.loaded().filter(|active| spaces.shows(*active, id)) else { continue };
        let generation = spaces.get(active).map_or(0, |space| spaces.generation(space));
        if core::ptr::eq(cpu, this) {
            forget(cpu, what, generation);
            continue;
        }
        // SAFETY: under the kernel's lock; whoever was asked last time has answered, and nobody is asked yet this time.
        let request = unsafe { &mut *REQUEST.0.get() };
        request.what = what;
        request.generation[cpu.id.0 as usize] = generation;
        asked |= 1 << cpu.id.0;
    }
    if asked == 0 {
        return;
    }
    let asked = || cpus().filter(move |cpu| asked >> cpu.id.0 & 1 == 1);
    for cpu in asked() {
        cpu.flush.store(true, Ordering::Release);
        apic::send(cpu.apic, apic::FLUSH);
    }
    while asked().any(|cpu| cpu.flush.load(Ordering::Acquire)) {
        core::hint::spin_loop();
    }
}

/// Does what another processor asked this one to forget, if one did.
#[inline]
pub(crate) fn serve(cpu: &PerCpu) {
    if cpu.flush.load(Ordering::Acquire) {
        answer(cpu);
    }
}

/// Does what another processor asked.
#[cold]
fn answer(cpu: &PerCpu) {
    // SAFETY: this processor's `flush` is set, so nobody writes until it is cleared below.
    let (what, generation) = unsafe {
        let request = &*REQUEST.0.get();
        (request.what, request.generation[cpu.id.0 as usize])
    };
    forget(cpu, what, generation);
    cpu.flush.store(false, Ordering::Release);
}

/// Forgets translations of the loaded space, and notes that its flushes up to `generation` are seen.
fn forget(cpu: &PerCpu, what: Flush, generation: u64) {
    let Some(id) = cpu.loaded() else { return };
    let holder = &cpu.tags.tags[tag(id) as usize];
    holder.set((holder.get().0, generation));
    match what {
        Flush::Range { address, pages } if pages <= PAGES => {
            for page in 0..pages {
                cpu::forget_page(address.wrapping_add(page * PAGE_SIZE as u64));
            }
        }
        Flush::Range { .. } | Flush::Space => cpu::reload_root(),
    }
}

//! A kernel with units and threads to test capabilities and channels with.

use std::vec::Vec;

use holm_abi::{Backing, Protection};

use crate::caller::Caller;
use crate::kernel::{Kernel, MemoryRange};
use crate::machine::{CpuId, FrameNumber, PAGE_SIZE, SpaceId};
use crate::memory::Frames;
use crate::memory::space::Placement;
use crate::quota::Quotas;
use crate::sched::Params;
use crate::sim::SimMachine;
use crate::thread::{EntryKind, ThreadState};
use crate::thread_life::ThreadStart;
use crate::unit::{Unit, UnitId, UnitState};

/// The page that every unit of [`kernel`] has.
pub(crate) const PAGE: u64 = 0x10_0000;
/// Its length in bytes.
pub(crate) const BYTES: u64 = 4 * PAGE_SIZE as u64;
/// What each unit of [`kernel`] may have of everything.
pub(crate) const LIMIT: u64 = 1 << 24;

/// A kernel with `units` units of `threads` running threads each.
pub(crate) fn kernel(units: u32, threads: u32) -> (Kernel<SimMachine>, Vec<UnitId>, Vec<Vec<Caller>>) {
    kernel_on(4, units, threads)
}

/// As [`kernel`], with `cpus` processors.
pub(crate) fn kernel_on(cpus: u32, units: u32, threads: u32) -> (Kernel<SimMachine>, Vec<UnitId>, Vec<Vec<Caller>>) {
    let mut kernel = Kernel::bare(SimMachine::new(cpus));
    let memory = MemoryRange { first: FrameNumber(1), count: 4096 };
    kernel.frames = Frames::new(&[memory]).unwrap();
    let (mut ids, mut callers) = (Vec::new(), Vec::new());
    for _ in 0..units {
        let unit = kernel
            .units
            .insert({
                let mut unit = Unit::new(None, Quotas::new(LIMIT, LIMIT, 65_536, LIMIT));
                (unit.state, unit.references) = (UnitState::Running, 1);
                unit
            })
            .unwrap();
        let space = kernel.space_new(unit, PAGE, 2 * PAGE).unwrap();
        let region = kernel.region_new(None, 4, Backing::Anonymous, &[]).unwrap();
        let rights = Protection::READ | Protection::WRITE;
        kernel.map_step(space, region, 0, BYTES, Placement::Free(PAGE), rights, rights, None).unwrap();
        let entry = kernel.units.get_mut(unit).unwrap();
        entry.memory.space = Some(space);
        // What the memory costs is not what these tests count.
        entry.quotas = Quotas::new(LIMIT, LIMIT, 65_536, LIMIT);
        let of_unit: Vec<Caller> = (0..threads).map(|number| thread(&mut kernel, unit, number)).collect();
        // The threads' holds are not what these tests count.
        kernel.units.get_mut(unit).unwrap().references = 1;
        callers.push(of_unit);
        ids.push(unit);
    }
    (kernel, ids, callers)
}

fn thread(kernel: &mut Kernel<SimMachine>, unit: UnitId, number: u32) -> Caller {
    let start = ThreadStart { entry: 0, stack: 0, arguments: [0; 3], space: SpaceId(0) };
    let thread = kernel.thread_new(unit, start, Params::default(), u64::MAX).unwrap();
    let entry = kernel.threads.get_mut(thread).unwrap();
    (entry.state, entry.entry, entry.number) = (ThreadState::Running, EntryKind::SystemCall, number);
    // What threads cost, and that they keep their unit, is not what these tests count.
    let owner = kernel.units.get_mut(unit).unwrap();
    (owner.quotas, owner.references) = (Quotas::new(LIMIT, LIMIT, 65_536, LIMIT), 1);
    Caller { cpu: CpuId(0), thread, unit }
}

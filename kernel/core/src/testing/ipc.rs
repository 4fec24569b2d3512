//! A kernel with units and threads to test capabilities and channels with.

use std::vec::Vec;

use crate::caller::Caller;
use crate::kernel::Kernel;
use crate::machine::{CpuId, FrameNumber, FramePool, Machine, PAGE_SIZE, PageRights};
use crate::quota::{Quota, Quotas};
use crate::sim::SimMachine;
use crate::thread::{ThreadId, ThreadState};
use crate::unit::{Unit, UnitId, UnitState};

/// Frames from a counter.
struct Pool(u32);

impl FramePool for Pool {
    fn take(&mut self) -> Option<FrameNumber> {
        self.0 += 1;
        Some(FrameNumber(self.0))
    }
    fn give(&mut self, _frame: FrameNumber) {}
}

/// The page that every unit of [`kernel`] has.
pub(crate) const PAGE: u64 = 0x10_0000;
/// Its length in bytes.
pub(crate) const BYTES: u64 = 4 * PAGE_SIZE as u64;
/// What each unit of [`kernel`] may have of everything.
pub(crate) const LIMIT: u64 = 1 << 24;

/// A kernel with `units` units of `threads` running threads each.
pub(crate) fn kernel(units: u32, threads: u32) -> (Kernel<SimMachine>, Vec<UnitId>, Vec<Vec<Caller>>) {
    let mut kernel = Kernel::empty(SimMachine::new(4)).unwrap();
    let mut pool = Pool(0);
    let (mut ids, mut callers) = (Vec::new(), Vec::new());
    for _ in 0..units {
        let unit = kernel
            .units
            .insert(Unit {
                state: UnitState::Running,
                parent: None,
                quotas: Quotas {
                    frames: Quota::new(LIMIT),
                    threads: Quota::new(LIMIT),
                    handles: Quota::new(65_536),
                    kernel: Quota::new(LIMIT),
                },
                memory: crate::memory::UnitMemory::default(),
                caps: crate::cap::CapTable::default(),
                sched: crate::sched::UnitSched::default(),
                threads: crate::queue::Queue::new(crate::queue::Through::Unit),
                threads_made: 0,
                watchers: crate::event::Watchers::default(),
                references: 1,
            })
            .unwrap();
        let space = kernel.machine.space_create(&mut pool).unwrap();
        for page in 0..4 {
            let frame = pool.take().unwrap();
            let rights = PageRights { write: true, execute: false };
            kernel.machine.map(space, PAGE + page * PAGE_SIZE as u64, frame, rights, &mut pool).unwrap();
        }
        callers.push((0..threads).map(|number| thread(&mut kernel, unit, number)).collect());
        ids.push(unit);
    }
    (kernel, ids, callers)
}

fn thread(kernel: &mut Kernel<SimMachine>, unit: UnitId, number: u32) -> Caller {
    let start = crate::thread_life::ThreadStart { entry: 0, stack: 0, arguments: [0; 3], space: crate::SpaceId(unit.index() + 1) };
    let thread: ThreadId = kernel.thread_new(unit, start, crate::sched::Params::default(), u64::MAX).unwrap();
    if let Some(entry) = kernel.threads.get_mut(thread) {
        entry.state = ThreadState::Running;
        entry.number = number;
    }
    Caller { cpu: CpuId(0), thread, unit }
}

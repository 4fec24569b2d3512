//! A kernel with units and threads to test capabilities and channels with.

use std::vec::Vec;

use crate::arena::Arena;
use crate::caller::Caller;
use crate::kernel::Kernel;
use crate::machine::{CpuId, FrameNumber, FramePool, Machine, Nanos, PAGE_SIZE, PageRights};
use crate::queue::Link;
use crate::quota::{Quota, Quotas};
use crate::sim::SimMachine;
use crate::thread::{EntryKind, Registers, Thread, ThreadId, ThreadState};
use crate::unit::{Unit, UnitId, UnitState};
use crate::wait::Wait;

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
    let mut kernel = Kernel {
        machine: SimMachine::new(4),
        units: Arena::default(),
        threads: Arena::default(),
        regions: Arena::default(),
        channels: Arena::default(),
        channel_work: crate::channel::ChannelWork::default(),
        subscriptions: Arena::default(),
        images: Arena::default(),
        caps: crate::cap::Capabilities::default(),
        frames: crate::memory::Frames::default(),
        sched: crate::sched::Sched::default(),
        timers: crate::time::Timers::default(),
        trace: crate::trace::Trace::default(),
        halt: None,
    };
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
                threads,
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
    let thread: ThreadId = kernel
        .threads
        .insert(Thread {
            registers: Registers::default(),
            vector: crate::thread::Vector::default(),
            entry: EntryKind::SystemCall,
            unit,
            state: ThreadState::Running,
            wait: Wait::Nothing,
            deadline: Nanos::NEVER,
            wait_link: Link::default(),
            run_link: Link::default(),
            sched: crate::sched::ThreadSched::default(),
            calls: crate::channel::ThreadCalls::default(),
            restricted: crate::restricted::ThreadRestricted::default(),
            references: 1,
            number,
            exit_code: 0,
        })
        .unwrap();
    Caller { cpu: CpuId(0), thread, unit }
}

//! A booted kernel whose units are played by a test: system calls as programs make them, interrupts as they come, and what
//! must be the same when all units have ended.

use std::format;
use std::string::String;
use std::vec::Vec;

use holm_abi::{Error, SchedClass, UnitSpec};

use crate::caller::Caller;
use crate::kernel::{Kernel, Next};
use crate::machine::{CpuId, Machine, Nanos, SpaceId};
use crate::quota::Quotas;
use crate::sched::Params;
use crate::sim::SimMachine;
use crate::testing::memory::boot_info;
use crate::thread::ThreadId;
use crate::thread_life::ThreadStart;
use crate::unit::UnitId;
use crate::unit::create::Plan;
use crate::wait::Wait;

/// A kernel on `cpus` processors, and its first unit, whose program does nothing.
pub(crate) fn boot(cpus: u32) -> (Kernel<SimMachine>, UnitId) {
    let mut kernel = Kernel::new(SimMachine::new(cpus), &boot_info()).unwrap();
    let root = kernel.units.iter().next().unwrap().0;
    let first = kernel.units.get(root).unwrap().threads.first().unwrap();
    kernel.kicked(CpuId(0));
    kernel.arrive(CpuId(0));
    kernel.block(Caller { cpu: CpuId(0), thread: first, unit: root }, Wait::Time, Nanos::NEVER);
    kernel.leave(CpuId(0));
    (kernel, root)
}

/// A unit under the first one, and its main thread; it does not run yet.
pub(crate) fn unit(kernel: &mut Kernel<SimMachine>, root: UnitId) -> (UnitId, ThreadId) {
    let image = kernel.archive.find(&kernel.images, b"init");
    let mut spec = UnitSpec::new();
    (spec.sched_class, spec.max_sched_class) = (SchedClass::BestEffort, SchedClass::RtEdf);
    let quotas = Quotas::new(1 << 10, 16, 1 << 10, 1 << 20);
    let unit = kernel.unit_new(&Plan { parent: Some(root), creator: Some(root), image, spec, quotas }).unwrap();
    (unit, kernel.units.get(unit).unwrap().threads.first().unwrap())
}

/// One more thread of a unit.
pub(crate) fn thread(kernel: &mut Kernel<SimMachine>, unit: UnitId, params: Params, affinity: u64) -> ThreadId {
    let start = ThreadStart { entry: 0x1000, stack: 0, arguments: [0; 3], space: SpaceId(1) };
    kernel.thread_new(unit, start, params, affinity).unwrap()
}

/// The thread that runs on `cpu` makes a system call. The answer is only meaningful of calls that are over.
pub(crate) fn make(
    kernel: &mut Kernel<SimMachine>,
    cpu: CpuId,
    thread: ThreadId,
    call: u64,
    words: [u64; 6],
) -> Result<u64, Error> {
    let registers = &mut kernel.running(thread).unwrap().registers;
    registers.rax = call;
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = words;
    let next = kernel.system_call(cpu);
    assert!(!matches!(next, Next::Halt(_)));
    match kernel.threads.get(thread) {
        Some(thread) => Error::from_register(thread.registers.rax),
        None => Err(Error::Canceled),
    }
}

/// The timer of `cpu` fires when it is due.
pub(crate) fn fire(kernel: &mut Kernel<SimMachine>, cpu: CpuId) {
    if kernel.machine.timer(cpu) <= kernel.now() {
        kernel.machine.set_timer(cpu, Nanos::NEVER);
        kernel.timer(cpu);
    }
}

/// Everything that is due happens, until nothing is and no work waits.
pub(crate) fn settle(kernel: &mut Kernel<SimMachine>) {
    let cpus = kernel.machine.cpus();
    for _ in 0..100_000 {
        let mut calm = true;
        for cpu in (0..cpus).map(CpuId) {
            while kernel.machine.take_kick_of(cpu) {
                kernel.kicked(cpu);
                calm = false;
            }
            calm &= kernel.machine.timer(cpu) > kernel.now();
            fire(kernel, cpu);
        }
        if calm && !kernel.work_waits() {
            return;
        }
        if calm {
            // Work that waits while threads run goes on when a timer fires: one must be set.
            let next = (0..cpus).map(|cpu| kernel.machine.timer(CpuId(cpu))).min().unwrap();
            assert_ne!(next, Nanos::NEVER, "work waits and nobody comes back for it");
            let now = kernel.now();
            kernel.machine.advance(next.since(now));
        }
    }
    panic!(
        "the background work does not end: {:?}, {:?}, {:?}, {:?}, {:?}, sweeping {:?}",
        kernel.channel_work,
        kernel.dying_regions,
        kernel.dying_spaces,
        kernel.dying_units,
        kernel.events.dying,
        kernel.caps.grants.sweeping().map(|id| kernel.caps.grants.get(id)),
    );
}

/// What is there, and what the first unit is charged with.
pub(crate) fn inventory(kernel: &Kernel<SimMachine>, root: UnitId) -> String {
    let quotas = &kernel.units.get(root).unwrap().quotas;
    format!(
        "{} units, {} threads, {} regions, {} channels, {} spaces, {} grants, {} frames free, used {:?}",
        kernel.units.len(),
        kernel.threads.len(),
        kernel.regions.len(),
        kernel.channels.len(),
        kernel.spaces.len(),
        kernel.caps.grants.len(),
        kernel.frames.free(),
        [&quotas.frames, &quotas.threads, &quotas.handles, &quotas.kernel].map(|quota| quota.used),
    )
}

/// Ends units that were made here, as by the first one, and lets go of the references to them.
pub(crate) fn release(kernel: &mut Kernel<SimMachine>, units: Vec<UnitId>) {
    for unit in units {
        kernel.release(crate::object::Object::Unit(unit));
    }
    kernel.kicked(CpuId(0));
    settle(kernel);
}

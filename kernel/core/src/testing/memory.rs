//! A kernel that booted a small program, to test memory, units and restricted mode with.

use std::vec::Vec;

use crate::caller::Caller;
use crate::kernel::{BootInfo, Kernel, MemoryRange};
use crate::machine::{CpuId, FrameNumber};
use crate::memory::archive::tests::pack;
use crate::memory::elf::tests::sample;
use crate::sim::SimMachine;
use crate::thread::ThreadId;
use crate::unit::UnitId;

/// Frames that the kernel of [`boot`] has.
pub(crate) const FRAMES: u32 = 4096;

/// What the loader gives: `init` is [`sample`].
pub(crate) fn boot_info() -> BootInfo {
    let archive = pack(&[(b"init", 0o100_755, &sample()), (b"notes", 0o100_644, b"some text")]).leak();
    let memory = Vec::from([
        MemoryRange { first: FrameNumber(16), count: FRAMES / 2 },
        MemoryRange { first: FrameNumber(8192), count: FRAMES / 2 },
    ]);
    BootInfo { memory, archive: Some(archive), command_line: Vec::new(), heap: 1 << 26 }
}

/// A kernel whose first unit runs.
pub(crate) fn boot() -> (Kernel<SimMachine>, UnitId) {
    let mut kernel = Kernel::bare(SimMachine::new(2));
    let root = kernel.boot_root(&boot_info()).unwrap();
    kernel.unit_run(root).unwrap();
    (kernel, root)
}

/// The first thread of a unit.
pub(crate) fn first_thread(kernel: &Kernel<SimMachine>, unit: UnitId) -> ThreadId {
    kernel.units.get(unit).unwrap().threads.first().unwrap()
}

/// The first thread of a unit as a caller.
pub(crate) fn caller(kernel: &Kernel<SimMachine>, unit: UnitId) -> Caller {
    Caller { cpu: CpuId(0), thread: first_thread(kernel, unit), unit }
}

/// Lets the background work come to its end.
pub(crate) fn settle(kernel: &mut Kernel<SimMachine>) {
    for _ in 0..1_000_000 {
        if !kernel.work_step() {
            return;
        }
    }
    panic!("the background work does not end");
}

//! Units on the simulated machine: boot, life, end, and that nothing is left.

use std::string::ToString;
use std::vec::Vec;

use holm_abi::{ExitReason, ObjectType, SchedClass, StartInfo, UnitFlags, UnitSpec, UnitState};
use proptest::prelude::*;

use super::boot::BootError;
use super::create::Plan;
use super::*;
use crate::kernel::{Fault, Kernel};
use crate::machine::{CpuId, PAGE_SIZE, SpaceId};
use crate::memory::Access;
use crate::object::Object;
use crate::sched::Params;
use crate::sim::SimMachine;
use crate::testing::memory::{FRAMES, boot, boot_info, first_thread, settle};
use crate::thread_life::ThreadStart;

fn spec() -> UnitSpec {
    let mut spec = UnitSpec::new();
    (spec.sched_class, spec.max_sched_class) = (SchedClass::BestEffort, SchedClass::RtEdf);
    spec
}

/// A unit under `parent` that runs `init`, not started, with one reference.
fn child(kernel: &mut Kernel<SimMachine>, parent: UnitId, spec: UnitSpec) -> Result<UnitId, holm_abi::Error> {
    let image = kernel.archive.find(&kernel.images, b"init");
    let quotas = Quotas::new(1 << 12, 64, 1 << 12, 1 << 20);
    kernel.unit_new(&Plan { parent: Some(parent), creator: Some(parent), image, spec, quotas })
}

fn touch(kernel: &mut Kernel<SimMachine>, unit: UnitId, address: u64, access: Access) -> Result<u8, holm_abi::Error> {
    let space = kernel.units.get(unit).unwrap().memory.space.unwrap();
    kernel.space_fault(space, address, access)?;
    let root = kernel.spaces.get(space).unwrap().root;
    Ok(kernel.machine.user_read(CpuId(0), root, address).unwrap())
}

#[test]
fn every_processor_takes_part_from_boot_on() {
    let mut kernel = Kernel::new(SimMachine::new(4), &boot_info()).unwrap();
    kernel.kicked(CpuId(0));
    let mut entered = Vec::new();
    while let Some(cpu) = kernel.machine.take_kick() {
        entered.push(cpu.0);
        kernel.kicked(cpu);
    }
    assert_eq!(entered, [1, 2, 3]);
    let root = kernel.units.iter().next().unwrap().0;
    for _ in 0..3 {
        // Started on processor 0, which goes on with the first thread: the others come for them.
        kernel.arrive(CpuId(0));
        let start = ThreadStart { entry: 0x1000, stack: 0, arguments: [0; 3], space: SpaceId(1) };
        let thread = kernel.thread_new(root, start, Params::default(), u64::MAX).unwrap();
        kernel.thread_start(thread).unwrap();
        kernel.leave(CpuId(0));
        while let Some(cpu) = kernel.machine.take_kick() {
            kernel.kicked(cpu);
        }
    }
    assert!(kernel.sched.cpus.iter().all(|cpu| cpu.current.is_some()), "every processor has a thread");
}

#[test]
fn the_first_unit_finds_its_program_its_stack_and_its_capabilities() {
    let (mut kernel, root) = boot();
    assert_eq!(kernel.units.get(root).unwrap().state, UnitState::Running);
    let registers = kernel.threads.get(first_thread(&kernel, root)).unwrap().registers;
    assert_eq!(registers.rip, 0x40_0123);
    assert_eq!((registers.rsp + 8) % 16, 0);
    let mut bytes = [0; StartInfo::SIZE];
    kernel.copy_in(root, registers.rdi, &mut bytes).unwrap();
    let info = StartInfo::decode(&bytes).unwrap();
    assert_eq!((info.unit_id, info.cap_count, info.cpu_count), (root.number(), 3, 2));
    assert!(info.stack_top > registers.rsp && info.stack_top - info.stack_bytes < registers.rsp);
    // Below the stack lies a page that cannot be touched.
    let guard = info.stack_top - info.stack_bytes - 1;
    assert_eq!(touch(&mut kernel, root, guard, Access::Read), Err(holm_abi::Error::Fault));
    assert_eq!(touch(&mut kernel, root, guard + 1, Access::Write), Ok(0));
    // Text as in the file and not writable, data as in the file and zero behind.
    assert_eq!(touch(&mut kernel, root, 0x40_0123, Access::Execute), Ok(sample_byte(0x123)));
    assert_eq!(touch(&mut kernel, root, 0x40_0123, Access::Write), Err(holm_abi::Error::Fault));
    assert_eq!(touch(&mut kernel, root, 0x40_2801, Access::Read), Ok(sample_byte(0x1801)));
    assert_eq!(touch(&mut kernel, root, 0x40_30ff, Access::Read), Ok(sample_byte(0x20ff)));
    assert_eq!(touch(&mut kernel, root, 0x40_3100, Access::Read), Ok(0));
    assert_eq!(touch(&mut kernel, root, 0x40_5fff, Access::Write), Ok(0));
    assert_eq!(touch(&mut kernel, root, 0x40_2801, Access::Execute), Err(holm_abi::Error::Fault));
    for (slot, object) in [
        Object::Unit(root),
        Object::Thread(first_thread(&kernel, root)),
        Object::System,
        Object::Archive,
        Object::Console,
    ]
    .into_iter()
    .enumerate()
    {
        let handle = holm_abi::Handle::initial(slot as u16);
        let cap = kernel.resolve(root, handle, crate::cap::Types::ANY, holm_abi::Rights::NONE).unwrap();
        assert_eq!(cap.object, object);
        assert_eq!(cap.rights, object.object_type().rights());
    }
}

fn sample_byte(at: usize) -> u8 {
    crate::memory::elf::tests::sample()[at]
}

#[test]
fn a_boot_that_cannot_be_says_what_is_wrong() {
    let boot_with = |change: &dyn Fn(&mut crate::kernel::BootInfo)| {
        let mut info = boot_info();
        change(&mut info);
        Kernel::bare(SimMachine::new(1)).boot_root(&info).map_err(|error: BootError| error.to_string())
    };
    let say = |text: &str| Err(text.to_string());
    assert_eq!(
        boot_with(&|info| info.archive = None),
        say("there is no boot archive: give one to the loader as initrd")
    );
    assert_eq!(boot_with(&|info| info.archive = Some(&[])), say("the boot archive is empty"));
    let packed =
        |name: &[u8], content: &[u8]| crate::memory::archive::tests::pack(&[(name, 0o100_755, content)]).leak();
    let other: &'static [u8] = packed(b"other", b"x");
    assert_eq!(boot_with(&|info| info.archive = Some(other)), say("the boot archive has no file named init"));
    let script: &'static [u8] = packed(b"init", b"#!/bin/sh");
    assert_eq!(boot_with(&|info| info.archive = Some(script)), say("init cannot be started: it is not an ELF file"));
    assert_eq!(
        boot_with(&|info| info.memory.iter_mut().for_each(|range| range.count = 2)),
        say("there is too little memory to start")
    );
    assert_eq!(boot_with(&|info| info.heap = 4096), say("there is too little memory to start"));
}

#[test]
fn what_the_processor_refuses_is_told_as_what_it_is() {
    let (mut kernel, root) = boot();
    for (vector, reason) in [
        (0, ExitReason::Arithmetic),
        (3, ExitReason::Breakpoint),
        (6, ExitReason::IllegalInstruction),
        (13, ExitReason::Exception),
        (19, ExitReason::Arithmetic),
    ] {
        let unit = child(&mut kernel, root, spec()).unwrap();
        kernel.unit_run(unit).unwrap();
        let thread = first_thread(&kernel, unit);
        kernel.user_fault(CpuId(0), thread, Fault::Exception { vector, code: 0 });
        let end = kernel.units.get(unit).unwrap().end;
        assert_eq!((end.reason, end.code), (reason, i64::from(vector)));
    }
}

#[test]
fn a_unit_that_ends_gives_everything_back_and_says_why() {
    let (mut kernel, root) = boot();
    // What all units share is made before the count.
    let warm = child(&mut kernel, root, spec()).unwrap();
    touch(&mut kernel, warm, 0x40_0123, Access::Execute).unwrap();
    kernel.unit_discard(warm);
    settle(&mut kernel);
    let quotas = kernel.units.get(root).unwrap().quotas;
    let free = kernel.frames.free();
    let (spaces, nodes, regions) = (kernel.machine.spaces(), kernel.nodes.live(), kernel.regions.len());
    let unit = child(&mut kernel, root, spec()).unwrap();
    kernel.unit_run(unit).unwrap();
    for address in [0x40_0123, 0x40_2801, 0x40_5000] {
        touch(&mut kernel, unit, address, Access::Read).unwrap();
    }
    let region = kernel.region_new(Some(unit), 100, holm_abi::Backing::Anonymous, &[]).unwrap();
    kernel
        .cap_install(unit, Object::Region(region), ObjectType::Region.rights(), ObjectType::Region.transfer_flags())
        .unwrap();
    kernel.region_release(region);
    for page in 0..70 {
        kernel.region_page(region, page, true).unwrap();
    }
    assert!(kernel.units.get(root).unwrap().quotas.frames.used > quotas.frames.used);
    let thread = first_thread(&kernel, unit);
    kernel.threads.get_mut(thread).unwrap().registers.rip = 0x40_0777;
    let fault = Fault::Page { address: 0xdead_b000, write: true, execute: false, present: false };
    kernel.user_fault(CpuId(0), thread, fault);
    assert_eq!(kernel.units.get(unit).unwrap().state, UnitState::Zombie);
    settle(&mut kernel);
    let ended = kernel.units.get(unit).unwrap();
    assert_eq!(ended.state, UnitState::Failed);
    assert_eq!(ended.end.reason, ExitReason::MemoryFault);
    assert_eq!((ended.end.address, ended.end.instruction), (0xdead_b000, 0x40_0777));
    kernel.release(Object::Unit(unit));
    settle(&mut kernel);
    assert!(kernel.units.get(unit).is_none());
    let now = kernel.units.get(root).unwrap().quotas;
    assert_eq!((now.frames.used, now.threads.used), (quotas.frames.used, quotas.threads.used));
    assert_eq!((now.handles.used, now.kernel.used), (quotas.handles.used, quotas.kernel.used));
    assert_eq!(kernel.frames.free(), free);
    assert_eq!((kernel.machine.spaces(), kernel.nodes.live(), kernel.regions.len()), (spaces, nodes, regions));
    assert_eq!(kernel.units.get(root).unwrap().state, UnitState::Running);
}

#[test]
fn a_unit_that_cannot_be_furnished_leaves_nothing() {
    let (mut kernel, root) = boot();
    let warm = child(&mut kernel, root, spec()).unwrap();
    kernel.unit_discard(warm);
    settle(&mut kernel);
    let before = kernel.units.get(root).unwrap().quotas;
    let free = kernel.frames.free();
    let image = kernel.archive.find(&kernel.images, b"init");
    let mut made = 0;
    for frames in 0..16 {
        for kernel_bytes in (0..12_000).step_by(400) {
            let quotas = Quotas::new(frames, 1, 64, kernel_bytes);
            let plan = Plan { parent: Some(root), creator: Some(root), image, spec: spec(), quotas };
            match kernel.unit_new(&plan) {
                Ok(unit) => {
                    made += 1;
                    kernel.unit_discard(unit);
                }
                Err(error) => assert_eq!(error, holm_abi::Error::Quota),
            }
            settle(&mut kernel);
            assert_eq!(kernel.units.get(root).unwrap().quotas.kernel.used, before.kernel.used);
            assert_eq!(kernel.units.get(root).unwrap().quotas.frames.used, before.frames.used);
            assert_eq!(kernel.frames.free(), free);
        }
    }
    assert!(made > 0);
    assert_eq!(kernel.units.len(), 1);
}

#[test]
fn units_that_are_to_go_with_their_parent_go_and_others_stay() {
    let (mut kernel, root) = boot();
    let parent = child(&mut kernel, root, spec()).unwrap();
    kernel.unit_run(parent).unwrap();
    let mut with = spec();
    with.flags = UnitFlags::KILL_WITH_PARENT;
    let goes: Vec<UnitId> = (0..20).map(|_| child(&mut kernel, parent, with).unwrap()).collect();
    let stays = child(&mut kernel, parent, spec()).unwrap();
    for unit in goes.iter().chain([&stays]) {
        kernel.unit_run(*unit).unwrap();
    }
    kernel.unit_end(parent, End::because(ExitReason::Stopped, 7));
    settle(&mut kernel);
    assert_eq!(kernel.units.get(parent).unwrap().state, UnitState::Stopped);
    assert!(goes.iter().all(|unit| kernel.units.get(*unit).unwrap().state == UnitState::Failed));
    assert_eq!(kernel.units.get(stays).unwrap().state, UnitState::Running);
    // The record of the parent pays for the one that stays, and goes with it.
    goes.iter().chain([&parent]).for_each(|unit| kernel.release(Object::Unit(*unit)));
    assert!(kernel.units.get(parent).is_some());
    kernel.unit_end(stays, End::because(ExitReason::Stopped, 0));
    kernel.release(Object::Unit(stays));
    settle(&mut kernel);
    assert_eq!(kernel.units.len(), 1);
}

#[test]
fn a_unit_that_was_never_started_ends_with_its_last_handle() {
    let (mut kernel, root) = boot();
    let unit = child(&mut kernel, root, spec()).unwrap();
    let handle = kernel
        .cap_install(root, Object::Unit(unit), ObjectType::Unit.rights(), ObjectType::Unit.transfer_flags())
        .unwrap();
    kernel.release(Object::Unit(unit));
    settle(&mut kernel);
    assert_eq!(kernel.units.get(unit).unwrap().state, UnitState::Created);
    kernel.cap_close_handle(root, handle).unwrap();
    settle(&mut kernel);
    assert!(kernel.units.get(unit).is_none());
}

#[test]
fn a_started_unit_without_a_thread_ends_with_its_last_handle() {
    let (mut kernel, root) = boot();
    let quotas = Quotas::new(1 << 12, 64, 1 << 12, 1 << 20);
    let plan = Plan { parent: Some(root), creator: Some(root), image: None, spec: spec(), quotas };
    // One whose creator ends without having given it a thread, and one whose only thread is killed before it starts.
    for killed in [false, true] {
        let unit = kernel.unit_new(&plan).unwrap();
        let thread = killed.then(|| {
            let space = kernel.units.get(unit).unwrap().memory.root.unwrap();
            let start = ThreadStart { entry: 0x1000, stack: 0, arguments: [0; 3], space };
            let thread = kernel.thread_new(unit, start, Params::default(), u64::MAX).unwrap();
            kernel.retain(Object::Thread(thread));
            assert!(kernel.thread_stop(thread, 0, ExitReason::Killed));
            thread
        });
        kernel.unit_run(unit).unwrap();
        kernel.retain(Object::Unit(unit));
        kernel.release(Object::Unit(unit));
        settle(&mut kernel);
        assert_eq!(kernel.units.get(unit).unwrap().state, UnitState::Running, "its creator can give it a thread");
        kernel.release(Object::Unit(unit));
        if let Some(thread) = thread {
            kernel.release(Object::Thread(thread));
        }
        settle(&mut kernel);
        assert!(kernel.units.get(unit).is_none(), "nobody could ever end it");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Units come, work and end in any interleaving with the steps of the background; in the end all is as before.
    #[test]
    fn teardown_in_any_interleaving_leaves_nothing(steps in proptest::collection::vec((0u8..8, any::<prop::sample::Index>(), 0u64..6), 1..120)) {
        let (mut kernel, root) = boot();
        let warm = child(&mut kernel, root, spec()).unwrap();
        for page in 0..6 {
            let _ = touch(&mut kernel, warm, 0x40_0000 + page * PAGE_SIZE as u64, Access::Read);
        }
        kernel.unit_discard(warm);
        touch(&mut kernel, root, 0x40_2801, Access::Read).unwrap();
        settle(&mut kernel);
        let before = kernel.units.get(root).unwrap().quotas;
        let free = kernel.frames.free();
        let mut units: Vec<UnitId> = Vec::new();
        for (kind, which, page) in steps {
            let unit = if units.is_empty() { None } else { Some(units[which.index(units.len())]) };
            match (kind, unit) {
                (0 | 1, _) => {
                    let parent = unit.filter(|_| page < 3).unwrap_or(root);
                    if let Ok(unit) = child(&mut kernel, parent, spec()) {
                        units.push(unit);
                    }
                }
                (2, Some(unit)) => {
                    let _ = kernel.unit_run(unit);
                }
                (3, Some(unit)) => kernel.unit_end(unit, End::because(ExitReason::Killed, 1)),
                (4, Some(unit)) => {
                    let thread = kernel.units.get(unit).unwrap().threads.first();
                    if let Some(thread) = thread {
                        let address = 0x40_2000 + page * PAGE_SIZE as u64;
                        let fault = Fault::Page { address, write: true, execute: false, present: false };
                        kernel.user_fault(CpuId(0), thread, fault);
                    }
                }
                (5, Some(unit)) => {
                    let _ = kernel.copy_between(root, 0x40_2801, unit, 0x40_2000 + page * 4096, 8);
                }
                (6, Some(unit)) => {
                    let source = kernel.regions.iter().find(|(_, region)| region.owner == Some(unit)).map(|(id, _)| id);
                    if let Some(source) = source && kernel.regions.get(source).unwrap().references > 0 {
                        let thread = first_thread(&kernel, root);
                        if let Ok(Some(copy)) = kernel.region_snapshot_step(source, root, thread) {
                            kernel.region_release(copy);
                        }
                    }
                }
                _ => {
                    kernel.work_step();
                }
            }
        }
        for unit in units {
            kernel.unit_end(unit, End::because(ExitReason::Killed, 1));
            kernel.release(Object::Unit(unit));
        }
        settle(&mut kernel);
        prop_assert_eq!(kernel.units.len(), 1);
        let now = kernel.units.get(root).unwrap().quotas;
        prop_assert_eq!((now.frames.used, now.kernel.used), (before.frames.used, before.kernel.used));
        prop_assert_eq!(now.threads.used, before.threads.used);
        prop_assert_eq!(kernel.frames.free(), free);
        prop_assert!(free < u64::from(FRAMES));
    }
}

//! What the trace records, and that its readers are told of it.

use std::vec::Vec;

use holm_abi::{
    ExitReason, Handle, ObjectType, RevokeFlags, Rights, TraceKind, TransferFlags, TransferMode, UnitState,
};

use super::{Reader, ReaderId, Told};
use crate::event::Watchers;
use crate::kernel::{Fault, Kernel};
use crate::machine::{CpuId, Nanos};
use crate::object::Object;
use crate::sched::Params;
use crate::sim::SimMachine;
use crate::testing::{ipc, memory, world::World};
use crate::unit::UnitId;

const MS: u64 = 1_000_000;

/// A reader of some kinds.
pub(crate) fn reader(kernel: &mut Kernel<SimMachine>, unit: UnitId, kinds: &[TraceKind]) -> ReaderId {
    let kinds = kinds.iter().fold(0, |all, kind| all | 1 << *kind as u32);
    let next = std::vec![0; kernel.trace.rings.len()];
    let watchers = Watchers::default();
    let reader = Reader { references: 1, watchers, unit, kinds, only_unit: 0, cpus: u64::MAX, next, told: Told::No };
    kernel.config.trace = true;
    let reader = kernel.trace.readers.insert(reader).unwrap();
    kernel.trace_renew();
    reader
}

/// The payloads of the records of a kind, oldest first.
pub(crate) fn records(kernel: &Kernel<SimMachine>, kind: TraceKind) -> Vec<[u64; 4]> {
    let all = kernel.trace.rings.iter().flat_map(|ring| &ring.records);
    all.filter(|record| record.kind == kind).map(|record| record.data).collect()
}

#[test]
fn the_life_of_a_unit_and_its_faults_are_recorded() {
    let (mut kernel, root) = memory::boot();
    let unit = {
        let image = kernel.archive.find(&kernel.images, b"init");
        let quotas = crate::quota::Quotas::new(1 << 12, 64, 1 << 12, 1 << 20);
        let mut spec = holm_abi::UnitSpec::new();
        (spec.sched_class, spec.max_sched_class) = (holm_abi::SchedClass::BestEffort, holm_abi::SchedClass::RtEdf);
        let plan = crate::unit::create::Plan { parent: Some(root), creator: Some(root), image, spec, quotas };
        kernel.unit_new(&plan).unwrap()
    };
    reader(&mut kernel, root, &[TraceKind::UnitState, TraceKind::PageFault, TraceKind::ThreadState]);
    kernel.unit_run(unit).unwrap();
    let thread = memory::first_thread(&kernel, unit);
    let page = |address| Fault::Page { address, write: true, execute: false, present: false };
    let before = kernel.trace.counts.page_faults;
    kernel.user_fault(CpuId(0), thread, page(0x40_5000));
    assert_eq!(kernel.trace.counts.page_faults, before + 1);
    kernel.user_fault(CpuId(0), thread, page(0xdead_b000));
    assert_eq!(kernel.trace.counts.page_faults, before + 1);
    memory::settle(&mut kernel);
    assert_eq!(records(&kernel, TraceKind::PageFault), [[0x40_5000, 6, 1, 0], [0xdead_b000, 6, 0, 0]]);
    let state = |state: UnitState, reason: ExitReason| [unit.number(), state as u64, reason as u64, 0];
    let life = [
        state(UnitState::Running, ExitReason::None),
        state(UnitState::Zombie, ExitReason::MemoryFault),
        state(UnitState::Failed, ExitReason::MemoryFault),
    ];
    assert_eq!(records(&kernel, TraceKind::UnitState), life);
    let thread = |state: holm_abi::ThreadState| [thread.number(), state as u64, 0, 0];
    let life = [thread(holm_abi::ThreadState::Runnable), thread(holm_abi::ThreadState::Exited)];
    assert_eq!(records(&kernel, TraceKind::ThreadState), life);
}

#[test]
fn budgets_deadlines_and_wakes_are_recorded() {
    let mut world = World::new(1);
    let unit = world.unit;
    reader(&mut world.kernel, unit, &[TraceKind::Throttle, TraceKind::DeadlineMiss, TraceKind::Wake]);
    let ms = |count: u64| Nanos(count * MS);
    let task = world.spawn(Params::edf(ms(2), ms(5), ms(10)), u64::MAX);
    assert_eq!(records(&world.kernel, TraceKind::Wake), [[task.number(), 0, 0, 0]]);
    world.run_until(ms(11), |_, _, _| {});
    assert_eq!(records(&world.kernel, TraceKind::Throttle), [[task.number(), 10 * MS, 0, 0]]);
    assert_eq!(world.kernel.threads.get(task).unwrap().sched.stats.periods, 2);
    world.yield_now(task);
    // The job was to be done after 5 ms.
    assert_eq!(records(&world.kernel, TraceKind::DeadlineMiss), [[task.number(), 6 * MS, 0, 0]]);
}

#[test]
fn readers_are_told_once_before_the_entry_ends_also_of_a_switch() {
    let mut world = World::new(1);
    let unit = world.unit;
    let reader = reader(&mut world.kernel, unit, &[TraceKind::Switch]);
    let told = |world: &World| world.kernel.trace.readers.get(reader).unwrap().told;
    assert_eq!(told(&world), Told::No);
    let thread = world.spawn(Params::default(), u64::MAX);
    assert_eq!(world.on(0), Some(thread));
    assert_eq!(told(&world), Told::Yes);
    assert!(!world.kernel.trace.tells);
    assert_eq!(records(&world.kernel, TraceKind::Switch), [[0, thread.number(), 0, 0]]);
}

#[test]
fn capabilities_that_are_given_and_revoked_are_recorded() {
    let (mut kernel, units, callers) = ipc::kernel(2, 1);
    reader(&mut kernel, units[0], &[TraceKind::CapGrant, TraceKind::CapRevoke]);
    let caller = callers[0][0];
    let install = |kernel: &mut Kernel<SimMachine>, object, kind: ObjectType| {
        kernel.cap_install(units[0], object, kind.rights(), kind.transfer_flags()).unwrap()
    };
    let region = kernel.region_new(Some(units[0]), 1, holm_abi::Backing::Anonymous, &[]).unwrap();
    let handle = install(&mut kernel, Object::Region(region), ObjectType::Region);
    kernel.retain(Object::Unit(units[1]));
    let other = install(&mut kernel, Object::Unit(units[1]), ObjectType::Unit);
    let resolve = |kernel: &mut Kernel<SimMachine>, handle: Handle| {
        kernel.resolve(units[0], handle, crate::cap::Types::ANY, Rights::NONE).unwrap()
    };
    let (cap, to) = (resolve(&mut kernel, handle), resolve(&mut kernel, other));
    kernel.cap_derive(caller, cap, Rights::READ, TransferFlags::NONE, 0).unwrap();
    kernel.cap_grant(caller, to, handle, Rights::READ, TransferMode::Clone).unwrap();
    let given = |to: UnitId| [region.number(), units[0].number(), to.number(), Rights::READ.bits()];
    assert_eq!(records(&kernel, TraceKind::CapGrant), [given(units[0]), given(units[1])]);
    kernel.cap_revoke(caller, handle, RevokeFlags::NONE).unwrap();
    assert_eq!(records(&kernel, TraceKind::CapRevoke), [[region.number(), 0, 0, 0]]);
}

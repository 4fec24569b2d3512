//! Restricted mode: what each of its states does with each event, and that no kick is lost.

use holm_abi::{Error, Handle, ObjectType, Protection, RegionSpec, RestrictedReason, RestrictedState, Rights};
use proptest::prelude::*;
use std::format;

use super::*;
use crate::cap::Types;
use crate::memory::space::Placement;
use crate::sim::SimMachine;
use crate::testing::memory::{boot, caller, settle};

const STATE_AT: u64 = HALF + 0x10_0000;
const GUEST_AT: u64 = 0x1000_0000;
const RETURN: u64 = HALF + 0x1234;

/// A kernel whose first unit lives in the upper half alone, and what it needs to bind its thread.
struct World {
    kernel: Kernel<SimMachine>,
    caller: Caller,
    space: Cap,
    state: Cap,
}

impl World {
    fn new() -> Self {
        let (mut kernel, root) = boot();
        let caller = caller(&kernel, root);
        // The sample program is linked below; nothing of it is needed here.
        let own = kernel.units.get(root).unwrap().memory.space.unwrap();
        while kernel.unmap_step(own, 0x1_0000, HALF).unwrap() == crate::cap::Progress::More {}
        let space = kernel.space_create(caller).unwrap();
        let state = kernel.vm_region_create(caller, RegionSpec { bytes: 2 * PAGE, ..RegionSpec::new() }).unwrap();
        let [space, state] = [space, state].map(|made| {
            let Outcome::Done(handle) = made else { panic!("{made:?}") };
            kernel.resolve(root, Handle::from_register(handle).unwrap(), Types::ANY, Rights::NONE).unwrap()
        });
        let Object::Region(region) = state.object else { panic!() };
        let rights = Protection::READ | Protection::WRITE;
        kernel.map_step(own, region, 0, 2 * PAGE, Placement::Free(STATE_AT), rights, rights, None).unwrap();
        Self { kernel, caller, space, state }
    }

    fn bind(&mut self) -> Answer {
        self.kernel.restricted_bind(self.caller, self.space, self.state, PAGE)
    }

    /// A region of the guest with `pages` pages at [`GUEST_AT`].
    fn guest_memory(&mut self, pages: u64) {
        let Object::Space(guest) = self.space.object else { panic!() };
        let unit = self.caller.unit;
        let region = self.kernel.region_new(Some(unit), pages, holm_abi::Backing::Anonymous, &[]).unwrap();
        let rights = Protection::READ | Protection::WRITE;
        self.kernel.map_step(guest, region, 0, pages * PAGE, Placement::Free(GUEST_AT), rights, rights, None).unwrap();
        self.kernel.region_release(region);
    }

    fn write_state(&mut self, state: &RestrictedState) {
        let mut bytes = [0; RestrictedState::SIZE];
        state.encode_whole(&mut bytes);
        self.kernel.copy_out(self.caller.unit, STATE_AT + PAGE, &bytes).unwrap();
    }

    fn state(&mut self) -> RestrictedState {
        let mut bytes = [0; RestrictedState::SIZE];
        self.kernel.copy_in(self.caller.unit, STATE_AT + PAGE, &mut bytes).unwrap();
        RestrictedState::decode_whole(&bytes).unwrap()
    }

    fn thread(&mut self) -> &mut Thread {
        self.kernel.threads.get_mut(self.caller.thread).unwrap()
    }

    fn kick(&mut self) -> Answer {
        let thread = Cap { object: Object::Thread(self.caller.thread), ..self.space };
        self.kernel.restricted_kick(self.caller, thread)
    }

    fn enter(&mut self) -> Answer {
        self.kernel.restricted_enter(self.caller, RETURN, 77)
    }

    /// The personality goes on: with its registers, its root, and this reason.
    fn assert_home(&mut self, reason: RestrictedReason) {
        let joined = {
            let Object::Space(guest) = self.space.object else { panic!() };
            self.kernel.spaces.get(guest).unwrap().joined.unwrap()
        };
        let thread = self.thread();
        assert!(!thread.restricted.is_active());
        assert_eq!((thread.registers.rip, thread.registers.rdi, thread.registers.rsi), (RETURN, 77, reason as u64));
        assert_eq!((thread.registers.rsp, thread.registers.rbx, thread.registers.r15), (0x7000, 11, 15));
        assert_eq!((thread.space, thread.entry), (joined, EntryKind::Interrupt));
        assert_eq!(self.state().reason, reason);
    }

    fn personality_registers(&mut self) {
        let registers = &mut self.thread().registers;
        (registers.rsp, registers.rbx, registers.r15) = (0x7000, 11, 15);
    }
}

fn guest_state() -> RestrictedState {
    RestrictedState {
        rax: 1,
        rdi: 2,
        r15: 3,
        rip: GUEST_AT,
        rsp: GUEST_AT + PAGE,
        rflags: u64::MAX,
        fs_base: 0x1000,
        ..RestrictedState::new()
    }
}

#[test]
fn a_guest_runs_from_its_state_and_comes_back_with_its_system_call() {
    let mut world = World::new();
    assert_eq!(world.enter(), Err(Error::BadState));
    world.bind().unwrap();
    world.write_state(&guest_state());
    world.personality_registers();
    assert_eq!(world.enter(), Ok(Outcome::Registers));
    let Object::Space(guest) = world.space.object else { panic!() };
    let root = world.kernel.spaces.get(guest).unwrap().root;
    let thread = world.thread();
    assert!(thread.restricted.is_active());
    assert_eq!((thread.space, thread.entry), (root, EntryKind::Interrupt));
    assert_eq!((thread.registers.rip, thread.registers.rax, thread.registers.r15), (GUEST_AT, 1, 3));
    assert_eq!(thread.registers.rflags & !GUEST_FLAGS, USER_FLAGS);
    assert_eq!(thread.registers.rflags & 0x4000 | thread.registers.rflags & 0x3000, 0, "no NT, no I/O privilege");
    (thread.registers.rax, thread.registers.rip) = (39, GUEST_AT + 2);
    let id = world.caller.thread;
    world.kernel.restricted_system_call(CpuId(0), id);
    world.assert_home(RestrictedReason::Syscall);
    let state = world.state();
    assert_eq!((state.rax, state.rip, state.rcx), (39, GUEST_AT + 2, GUEST_AT + 2));
    assert_eq!((state.r15, state.fs_base), (3, 0x1000));
}

#[test]
fn registers_that_could_fault_in_the_kernel_are_refused() {
    let mut world = World::new();
    world.bind().unwrap();
    let changes: [fn(&mut RestrictedState); 4] = [
        |state| state.rip = 0x8000_0000_0000,
        |state| state.rsp = u64::MAX,
        |state| state.fs_base = 0xffff_8000_0000_0000,
        |state| state.gs_base = USER_END,
    ];
    for change in changes {
        let mut state = guest_state();
        change(&mut state);
        world.write_state(&state);
        assert_eq!(world.enter(), Err(Error::Fault));
        assert!(!world.thread().restricted.is_active());
    }
    world.write_state(&guest_state());
    assert_eq!(world.kernel.restricted_enter(world.caller, USER_END, 0), Err(Error::Invalid));
    assert_eq!(world.enter(), Ok(Outcome::Registers));
}

#[test]
fn exceptions_of_a_guest_go_to_its_personality_and_missing_pages_do_not() {
    let mut world = World::new();
    world.guest_memory(4);
    world.bind().unwrap();
    world.write_state(&guest_state());
    world.personality_registers();
    world.enter().unwrap();
    let id = world.caller.thread;
    let page = |address| Fault::Page { address, write: true, execute: false, present: false };
    world.kernel.user_fault(CpuId(0), id, page(GUEST_AT + 8));
    assert!(world.thread().restricted.is_active());
    let Object::Space(guest) = world.space.object else { panic!() };
    let root = world.kernel.spaces.get(guest).unwrap().root;
    assert!(world.kernel.machine.user_write(CpuId(0), root, GUEST_AT + 8, 5).is_some());
    world.kernel.user_fault(CpuId(0), id, page(GUEST_AT + 4 * PAGE));
    world.assert_home(RestrictedReason::Exception);
    let state = world.state();
    assert_eq!((state.vector, state.error_code, state.fault_address), (14, STORE | USER, GUEST_AT + 4 * PAGE));
    // The personality sees the guest's memory below its own, and touches it into being.
    let joined = world.kernel.spaces.get(guest).unwrap().joined.unwrap();
    assert_eq!(world.kernel.machine.user_read(CpuId(1), joined, GUEST_AT + 8), Some(5));
    assert_eq!(world.kernel.machine.user_read(CpuId(1), joined, GUEST_AT + PAGE), None);
    world.kernel.user_fault(CpuId(0), id, page(GUEST_AT + PAGE));
    assert_eq!(world.kernel.machine.user_read(CpuId(1), joined, GUEST_AT + PAGE), Some(0));
    // The guest's own root shows nothing of the personality.
    assert_eq!(world.kernel.machine.user_read(CpuId(0), root, STATE_AT + PAGE), None);
    world.personality_registers();
    world.enter().unwrap();
    world.kernel.user_fault(CpuId(0), id, Fault::Exception { vector: 6, code: 0 });
    world.assert_home(RestrictedReason::Exception);
    assert_eq!(world.state().vector, 6);
    assert_eq!(world.kernel.units.get(world.caller.unit).unwrap().state, holm_abi::UnitState::Running);
}

#[test]
fn a_bound_page_stays_and_a_personality_keeps_out_of_its_lower_half() {
    let mut world = World::new();
    let own = world.kernel.units.get(world.caller.unit).unwrap().memory.space.unwrap();
    let Object::Region(region) = world.state.object else { panic!() };
    let read = Protection::READ;
    world.kernel.map_step(own, region, 0, PAGE, Placement::Free(0x5000_0000), read, read, None).unwrap();
    assert_eq!(world.bind(), Err(Error::NotPermitted));
    while world.kernel.unmap_step(own, 0x5000_0000, 0x5000_1000).unwrap() == crate::cap::Progress::More {}
    assert_eq!(world.kernel.restricted_bind(world.caller, world.space, world.state, 1), Err(Error::Invalid));
    assert_eq!(world.kernel.restricted_bind(world.caller, world.space, world.state, 2 * PAGE), Err(Error::Invalid));
    world.bind().unwrap();
    let mut spec = holm_abi::MapSpec::new();
    (spec.address, spec.protection, spec.flags) = (0x5000_0000, read, holm_abi::MapFlags::FIXED);
    let me = Object::Unit(world.caller.unit);
    assert_eq!(world.kernel.vm_map(world.caller, me, world.state, spec), Err(Error::NotPermitted));
    assert_eq!(world.kernel.vm_decommit(world.caller, world.state, 0, 2 * PAGE), Err(Error::BadState));
    assert_eq!(world.kernel.vm_snapshot(world.caller, world.state), Err(Error::BadState));
    world.kernel.restricted_unbind(world.caller).unwrap();
    assert_eq!(world.kernel.restricted_unbind(world.caller), Err(Error::BadState));
    let root = world.kernel.units.get(world.caller.unit).unwrap().memory.root.unwrap();
    assert_eq!(world.thread().space, root);
    assert_eq!(world.kernel.vm_decommit(world.caller, world.state, 0, 2 * PAGE), Ok(Outcome::OK));
}

#[test]
fn everything_of_a_personality_goes_with_its_unit() {
    let mut world = World::new();
    world.guest_memory(8);
    world.bind().unwrap();
    world.write_state(&guest_state());
    world.enter().unwrap();
    let id = world.caller.thread;
    for page in 0..8 {
        let fault = Fault::Page { address: GUEST_AT + page * PAGE, write: true, execute: false, present: false };
        world.kernel.user_fault(CpuId(0), id, fault);
    }
    let unit = world.caller.unit;
    world.kernel.unit_end(unit, crate::unit::End::because(holm_abi::ExitReason::Killed, 0));
    settle(&mut world.kernel);
    let quotas = world.kernel.units.get(unit).unwrap().quotas;
    assert_eq!((quotas.frames.used, quotas.threads.used, quotas.handles.used), (0, 0, 0));
    assert_eq!(world.kernel.machine.spaces(), 0);
    assert_eq!(ObjectType::Space.concurrency_class(), holm_abi::ConcurrencyClass::LocalOnly);
}

#[test]
fn a_personality_goes_on_where_it_said_after_a_fault_on_its_guests_memory() {
    let mut world = World::new();
    world.guest_memory(1);
    world.bind().unwrap();
    let id = world.caller.thread;
    let fault = |address| Fault::Page { address, write: false, execute: false, present: false };
    world.write_state(&RestrictedState { fault_return: RETURN + 8, ..guest_state() });
    let before = world.thread().registers;
    world.kernel.user_fault(CpuId(0), id, fault(GUEST_AT));
    assert_eq!(world.thread().registers, before, "a page that was due is there, and the access is tried again");
    world.kernel.user_fault(CpuId(0), id, fault(GUEST_AT + PAGE));
    assert_eq!(world.thread().registers, Registers { rip: RETURN + 8, ..before });
    let state = |world: &World| world.kernel.units.get(world.caller.unit).unwrap().state;
    assert_eq!(state(&world), holm_abi::UnitState::Running);
    // Of its own half it says nothing.
    world.kernel.user_fault(CpuId(0), id, fault(STATE_AT + 16 * PAGE));
    assert_eq!(world.kernel.units.get(world.caller.unit).unwrap().end.reason, holm_abi::ExitReason::MemoryFault);
    for wrong in [0, USER_END, u64::MAX] {
        let mut world = World::new();
        world.bind().unwrap();
        world.write_state(&RestrictedState { fault_return: wrong, ..guest_state() });
        let id = world.caller.thread;
        world.kernel.user_fault(CpuId(0), id, fault(GUEST_AT));
        assert_eq!(world.kernel.units.get(world.caller.unit).unwrap().end.reason, holm_abi::ExitReason::MemoryFault);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// The specification of the short way is the long one.
    #[test]
    fn the_short_way_into_a_guest_and_back_leads_where_the_long_one_does(
        words in proptest::collection::vec(
            prop_oneof![8 => 0..USER_END, 1 => any::<u64>(), 1 => Just(USER_END - 1), 1 => Just(USER_END)], 20),
        own in proptest::collection::vec(any::<u64>(), 18),
        return_to in prop_oneof![4 => HALF..USER_END, 1 => any::<u64>()],
        (bound, kicked, kicked_inside) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let run = |short: bool| {
            let mut world = World::new();
            world.kernel.kicked(CpuId(0));
            assert_eq!(world.kernel.sched.cpu(CpuId(0)).unwrap().current, Some(world.caller.thread));
            if bound {
                world.bind().unwrap();
            }
            let mut bytes = [0; RestrictedState::SIZE];
            for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(&words) {
                *to = word.to_le_bytes();
            }
            world.kernel.copy_out(world.caller.unit, STATE_AT + PAGE, &bytes).unwrap();
            if bound && kicked {
                world.kick().unwrap();
            }
            let enter = |world: &mut World| {
                if !short || world.kernel.restricted_direct(CpuId(0)).is_none() {
                    world.kernel.system_call_slowly(CpuId(0));
                }
            };
            let mut registers = [0; REGISTERS];
            registers.iter_mut().zip(&own).for_each(|(to, from)| *to = *from);
            let mut registers = Registers::from_words(&registers);
            (registers.rax, registers.rdi, registers.rsi) = (holm_abi::number::restricted_enter, return_to, 5);
            world.thread().registers = registers;
            enter(&mut world);
            let looks = |world: &mut World| {
                let thread = format!("{:?}", world.thread());
                format!("{thread} {:?} {:?}", world.kernel.sched, world.kernel.trace.counts)
            };
            let entered = looks(&mut world);
            if world.thread().restricted.is_active() {
                if kicked_inside {
                    world.kick().unwrap();
                }
                world.thread().registers.rip += 2;
                enter(&mut world);
            }
            let mut bytes = [0; RestrictedState::SIZE];
            world.kernel.copy_in(world.caller.unit, STATE_AT + PAGE, &mut bytes).unwrap();
            (entered, looks(&mut world), bytes)
        };
        prop_assert_eq!(run(true), run(false));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Bind,
    Unbind,
    Enter,
    Kick,
    /// The thread is about to run.
    Resume,
    SystemCall,
    Exception,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Every event in every state, against a state machine of three states and a latch.
    #[test]
    fn no_kick_is_lost_and_kicks_do_not_add_up(events in proptest::collection::vec(prop_oneof![
        Just(Event::Bind), Just(Event::Unbind), Just(Event::Enter), Just(Event::Enter), Just(Event::Kick),
        Just(Event::Resume), Just(Event::SystemCall), Just(Event::Exception),
    ], 1..60), running in any::<bool>()) {
        let mut world = World::new();
        if running {
            world.kernel.kicked(CpuId(0));
        }
        let (mut bound, mut active, mut kicked) = (false, false, false);
        for event in events {
            let id = world.caller.thread;
            match event {
                // A guest makes no system calls of ours.
                Event::Bind if !active => {
                    world.bind().unwrap();
                    // A new binding begins without a kick.
                    (bound, kicked) = (true, false);
                }
                Event::Unbind if !active => {
                    prop_assert_eq!(world.kernel.restricted_unbind(world.caller).is_ok(), bound);
                    (bound, kicked) = (false, false);
                }
                Event::Enter if !active => {
                    if bound {
                        world.write_state(&guest_state());
                    }
                    world.personality_registers();
                    let answer = world.enter();
                    prop_assert_eq!(answer.is_ok(), bound);
                    if bound && kicked {
                        world.assert_home(RestrictedReason::Kick);
                        prop_assert_eq!(world.state().rax, 1, "the guest has not run");
                        kicked = false;
                    } else if bound {
                        active = true;
                    }
                }
                Event::Kick => {
                    prop_assert_eq!(world.kick(), if bound { Ok(Outcome::OK) } else { Err(Error::BadState) });
                    kicked |= bound;
                    if active && !running {
                        // It need not run to come back.
                        world.assert_home(RestrictedReason::Kick);
                        (active, kicked) = (false, false);
                    }
                }
                Event::Resume => {
                    prop_assert_eq!(world.thread().restricted.wants_out(), active && kicked);
                    world.kernel.restricted_leave_kicked(id);
                    if active && kicked {
                        world.assert_home(RestrictedReason::Kick);
                        (active, kicked) = (false, false);
                    }
                }
                Event::SystemCall if active => {
                    world.kernel.restricted_system_call(CpuId(0), id);
                    world.assert_home(RestrictedReason::Syscall);
                    active = false;
                }
                Event::Exception if active => {
                    world.kernel.user_fault(CpuId(0), id, Fault::Exception { vector: 13, code: 8 });
                    world.assert_home(RestrictedReason::Exception);
                    active = false;
                }
                _ => {}
            }
            prop_assert_eq!(world.thread().restricted.is_active(), active);
            prop_assert_eq!(world.thread().restricted.is_bound(), bound);
        }
    }
}

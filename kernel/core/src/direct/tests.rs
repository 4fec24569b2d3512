//! The short ways come to what the long ways come to, and are taken where they should be.

use std::format;
use std::string::String;
use std::vec::Vec;

use holm_abi::{
    CapTransfer, ChanMode, ChanSpec, Handle, Rights, Short, ShortFlags, TransferFlags, TransferMode, number,
};
use proptest::prelude::*;

use super::*;
use crate::caller::{Caller, Outcome};
use crate::cap::Types;
use crate::channel::{ChannelId, End};
use crate::object::Object;
use crate::sched::Params;
use crate::sim::SimMachine;
use crate::testing::ipc;
use crate::thread::ThreadState;
use crate::unit::UnitId;

/// Clients 0 to 2 and servers 3 to 4, in two units, and channels with their handles there: to send, to receive.
struct World {
    kernel: Kernel<SimMachine>,
    units: Vec<UnitId>,
    callers: Vec<Caller>,
    handles: Vec<[Handle; 2]>,
    channels: Vec<ChannelId>,
    /// A handle that was closed: the next step uses it.
    stale: Option<Handle>,
    taken: u32,
}

impl World {
    fn new(cpus: u32, params: &[Params]) -> Self {
        Self::of(cpus, params, [None, None], u64::MAX)
    }

    /// `parents` are those of the clients' and the servers' unit, by number; 2 is a unit without threads. `spare` is how
    /// many capabilities more each unit may have.
    fn of(cpus: u32, params: &[Params], parents: [Option<usize>; 2], spare: u64) -> Self {
        let (mut kernel, units, callers) = ipc::kernel_on(cpus, 3, 3);
        let callers: Vec<Caller> = callers.into_iter().take(2).flatten().collect();
        for (unit, parent) in units.iter().zip(parents) {
            kernel.units.get_mut(*unit).unwrap().parent = parent.map(|parent| units[parent]);
        }
        let (mut handles, mut channels) = (Vec::new(), Vec::new());
        for priorities in [false, true] {
            let owner = callers[3];
            let mode = if priorities { ChanMode::Bidi } else { ChanMode::Uni };
            let spec = ChanSpec { mode, max_messages: 4, ..ChanSpec::new() };
            let Outcome::Done(first) = kernel.chan_create(owner, spec).unwrap() else { panic!("it is made") };
            let second = kernel.threads.get(owner.thread).unwrap().registers.rdx;
            let [a, b] = [first, second].map(|handle| Handle::from_register(handle).unwrap());
            let cap = kernel.resolve(owner.unit, b, Types::ANY, Rights::SEND).unwrap();
            let Object::Channel(id, _) = cap.object else { panic!("a channel") };
            channels.push(id);
            // Both units hold the sending end; the servers' the receiving one.
            let client = kernel.cap_install(units[0], cap.object, cap.rights, TransferFlags::ALL).unwrap();
            handles.push([client, a]);
        }
        for unit in &units {
            let quota = &mut kernel.units.get_mut(*unit).unwrap().quotas.handles;
            quota.limit = quota.limit.min(quota.used.saturating_add(spare));
        }
        for (caller, params) in callers.iter().zip(params) {
            let thread = kernel.threads.get_mut(caller.thread).unwrap();
            thread.sched.params = *params;
            (thread.sched.class, thread.sched.priority) = (params.class, params.priority);
            thread.state = ThreadState::Created;
            kernel.thread_start(caller.thread).unwrap();
        }
        for cpu in (0..cpus).map(CpuId) {
            kernel.kicked(cpu);
        }
        Self { kernel, units, callers, handles, channels, stale: None, taken: 0 }
    }

    /// A capability of the console of `unit`, as a call carries it.
    fn transfer(&self, unit: UnitId, word: u64) -> u64 {
        let unit = self.kernel.units.get(unit).unwrap();
        let own: Vec<Handle> = unit
            .caps
            .handles()
            .filter(|(_, slot)| matches!(slot.object, Object::Console | Object::Thread(_)))
            .map(|(handle, _)| handle)
            .collect();
        let mode = match word % 8 {
            6 => TransferMode::Borrow,
            7 => TransferMode::Clone,
            _ => TransferMode::Move,
        };
        let rights = if word.is_multiple_of(5) { Rights::WRITE } else { Rights::READ };
        let rights = if word.is_multiple_of(3) { rights | Rights::TRANSFER } else { rights };
        let cap = own.get(word as usize % own.len().max(1)).copied().unwrap_or(Handle::NONE);
        CapTransfer { cap, mode, rights }.register()
    }

    /// The current thread closes a handle of a channel by a system call, and another one takes its place.
    fn replace(&mut self, cpu: CpuId, unit: UnitId, which: usize, serves: bool) -> String {
        let which = which % self.handles.len();
        let old = self.handles[which][usize::from(serves)];
        let kernel = &mut self.kernel;
        let Ok(cap) = kernel.resolve(unit, old, Types::ANY, Rights::NONE) else { return String::new() };
        let Ok(new) = kernel.cap_install(unit, cap.object, cap.rights, TransferFlags::ALL) else {
            return String::new();
        };
        self.handles[which][usize::from(serves)] = new;
        self.stale = Some(old);
        let current = kernel.sched.cpus[cpu.0 as usize].current.unwrap();
        let registers = &mut kernel.running(current).unwrap().registers;
        (registers.rax, registers.rdi) = (number::cap_close, old.raw() as u64);
        kernel.system_call_slowly(cpu);
        self.drain(cpu)
    }

    /// What happens on `cpu` next; says what it does then.
    fn step(&mut self, cpu: CpuId, op: u8, which: usize, word: u64) -> String {
        let kernel = &mut self.kernel;
        let Some(current) = kernel.sched.cpus[cpu.0 as usize].current else { return String::new() };
        let unit = kernel.threads.get(current).unwrap().unit;
        let serves = self.callers[3..].iter().any(|caller| caller.thread == current);
        let [send, receive] = self.handles[which % self.handles.len()];
        let channel = if serves { receive } else { send };
        if op == 13 {
            return self.replace(cpu, unit, which, serves);
        }
        let channel = self.stale.take().unwrap_or(channel);
        let bytes = if word.is_multiple_of(7) { (word % 40) as u8 } else { 32 };
        let flags = if op == 7 { ShortFlags::NONBLOCK } else { ShortFlags::NONE };
        let flags = if serves && !word.is_multiple_of(4) { flags | ShortFlags::CAP } else { flags };
        if op == 11 || op == 12 {
            let object = if word.is_multiple_of(9) { Object::Thread(current) } else { Object::Console };
            let rights = if word.is_multiple_of(7) { Rights::READ } else { Rights::READ | Rights::TRANSFER };
            let policy = if word.is_multiple_of(11) { TransferFlags::NONE } else { TransferFlags::ALL };
            let _ = kernel.cap_install(unit, object, rights, policy);
        }
        let transfer = self.transfer(unit, word);
        let kernel = &mut self.kernel;
        let short = Short { channel, bytes, priority: (word % 3) as u8, flags }.register();
        let registers = &mut kernel.running(current).unwrap().registers;
        let token = registers.rdi;
        let (call, second) = match (op, serves) {
            (0..=2 | 9 | 10, true) => (number::chan_reply_recv_short, token),
            (9 | 10, false) => (number::chan_call_cap, transfer),
            (0..=2, false) => (number::chan_call_short, u64::MAX),
            (3, true) => (number::chan_recv_short, u64::MAX),
            (3, false) | (7, false) => (number::chan_send_short, u64::MAX),
            (4, true) => (number::chan_reply_recv_short, 0),
            (7, true) => (number::chan_recv_short, u64::MAX),
            (4, false) => (number::chan_call_short, word),
            (5, _) => (number::thread_yield, 0),
            (8, _) => (number::cap_revoke, 0),
            _ => (number::time_get, 0),
        };
        registers.rax = call;
        (registers.rdi, registers.rsi) = (short, second);
        if op == 8 {
            // Of a capability of its own, which was used or not.
            let object = Object::Channel(self.channels[which % 2], End::A);
            let handle = kernel.cap_install(unit, object, Rights::SEND, TransferFlags::ALL).unwrap_or_default();
            if !handle.is_none() && word.is_multiple_of(2) {
                kernel.resolve(unit, handle, Types::ANY, Rights::NONE).unwrap();
            }
            kernel.running(current).unwrap().registers.rdi = handle.raw() as u64;
        }
        let registers = &mut kernel.running(current).unwrap().registers;
        [registers.rdx, registers.r10, registers.r8, registers.r9] = [word, !word, word.rotate_left(9), 4];
        kernel.machine.taken_up = None;
        if let Some(way) = kernel.direct(cpu, call) {
            self.taken += 1;
            if way == Direct::Leave {
                kernel.direct_leave(cpu);
            }
            let thread = kernel.sched.cpus[cpu.0 as usize].current;
            match way {
                Direct::Same => assert_eq!(thread, Some(current)),
                Direct::Switched => {
                    let space = thread.and_then(|thread| kernel.threads.get(thread)).unwrap().space;
                    assert_eq!(kernel.machine.taken_up, Some((thread.unwrap(), space)));
                }
                Direct::Leave => assert_eq!(kernel.machine.taken_up, None),
            }
            return self.drain(cpu);
        }
        kernel.system_call_slowly(cpu);
        self.drain(cpu)
    }

    /// Work that waits is the one thing that the short ways leave for later: `cpu` does it now, and attends to what it left
    /// there. Says which thread it runs then.
    fn drain(&mut self, cpu: CpuId) -> String {
        self.kernel.sched.here = cpu;
        while self.kernel.work_step() {}
        if self.kernel.sched.cpus[cpu.0 as usize].attention != 0 {
            self.kernel.kicked(cpu);
        }
        format!("{:?}", self.kernel.sched.cpus[cpu.0 as usize].current)
    }

    /// Timers that are due and processors that were kicked enter the kernel.
    fn interrupts(&mut self) {
        let kernel = &mut self.kernel;
        for cpu in (0..kernel.machine.cpus()).map(CpuId) {
            while kernel.machine.timer(cpu) <= kernel.now() {
                kernel.machine.set_timer(cpu, Nanos::NEVER);
                kernel.timer(cpu);
            }
            while let Some(kicked) = kernel.machine.take_kick() {
                kernel.kicked(kicked);
            }
            assert_eq!(kernel.broken_invariant(cpu), None);
        }
    }

    fn state(&mut self) -> String {
        // Of the last entry alone.
        (self.kernel.sched.clock, self.kernel.sched.here) = (Nanos(0), CpuId(0));
        let mut text = format!("{:?}\n{:?}\n", self.kernel.sched, self.kernel.trace.counts);
        for (id, thread) in self.kernel.threads.iter() {
            let calls = format!("{:?}", thread.calls);
            // What was sent last means nothing while the thread sends nothing.
            let calls = calls.split_once("receive: ").map_or(&*calls, |(_, calls)| calls);
            text += &format!(
                "{id:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {calls} {}\n",
                thread.registers,
                thread.state,
                thread.wait,
                thread.deadline,
                thread.wait_link,
                thread.run_link,
                thread.sched,
                thread.syscalls,
            );
        }
        for (_, unit) in self.kernel.units.iter() {
            text += &format!("{:?} {:?} {}\n", unit.sched, unit.quotas, unit.holds);
            for (handle, slot) in unit.caps.handles() {
                text += &format!("{handle:?} {slot:?}\n");
            }
        }
        for (id, grant) in self.kernel.caps.grants.iter() {
            text += &format!("{id:?} {grant:?}\n");
        }
        for (_, channel) in self.kernel.channels.iter() {
            text += &format!("{channel:?}\n");
        }
        text
    }
}

fn params() -> impl Strategy<Value = Params> {
    prop_oneof![
        4 => Just(Params::default()),
        2 => Just(Params::fixed(3)),
        1 => Just(Params::fixed(4)),
        1 => Just(Params::background()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_short_way_leads_where_the_long_one_does(
        cpus in 1u32..3,
        params in prop_oneof![
            2 => Just(std::vec![Params::default(); 6]),
            1 => Just(std::vec![Params::fixed(3); 6]),
            3 => prop::collection::vec(params(), 6),
        ],
        parents in prop_oneof![
            Just([None, None]), Just([None, Some(0)]), Just([Some(1), None]), Just([Some(2), Some(2)]),
            Just([Some(2), None]),
        ],
        spare in prop_oneof![Just(u64::MAX), 2u64..6],
        steps in prop::collection::vec(
            (
                prop_oneof![2 => Just(0u8), 3 => 0u8..14],
                prop_oneof![Just(0usize), 0usize..3],
                // Usual messages, with room for a capability and without, and others.
                prop_oneof![3 => Just(3u64), 2 => Just(12u64), 2 => 1u64..500],
                0u64..900_000,
                1usize..5,
            ),
            1..50,
        ),
    ) {
        let mut short = World::of(cpus, &params, parents, spare);
        let mut long = World::of(cpus, &params, parents, spare);
        long.kernel.channel_work.slow_only = true;
        // The same again, as servers and their clients do.
        let steps = steps.into_iter().flat_map(|(op, which, word, pause, times)| {
            core::iter::repeat_n((op, which, word, pause), times)
        });
        for (op, which, word, pause) in steps {
            for cpu in (0..cpus).map(CpuId) {
                let (one, other) = (short.step(cpu, op, which, word), long.step(cpu, op, which, word));
                prop_assert_eq!(one, other);
                prop_assert_eq!(short.state(), long.state());
            }
            for world in [&mut short, &mut long] {
                world.kernel.machine.advance(Nanos(pause / 10));
                world.interrupts();
            }
            prop_assert_eq!(short.state(), long.state());
        }
    }
}

#[test]
fn calls_replies_messages_and_yields_of_equals_take_the_short_way() {
    let mut world = World::new(1, &[Params::default(); 6]);
    let cpu = CpuId(0);
    let turn_to = |world: &mut World, caller: usize| {
        let wanted = Some(world.callers[caller].thread);
        for _ in 0..6 {
            if world.kernel.sched.cpus[0].current != wanted {
                let before = world.taken;
                world.step(cpu, 5, 0, 8);
                assert_eq!(world.taken, before + 1, "a yield");
            }
        }
        assert_eq!(world.kernel.sched.cpus[0].current, wanted);
    };
    let short = |world: &mut World, op: u8, what: &str| {
        let before = world.taken;
        world.step(cpu, op, 0, 8);
        assert_eq!(world.taken, before + 1, "{what}");
    };
    turn_to(&mut world, 0);
    // The first use of a handle looks at its grants.
    world.step(cpu, 3, 0, 8);
    short(&mut world, 3, "a message into the inbox");
    turn_to(&mut world, 3);
    world.step(cpu, 3, 0, 8);
    short(&mut world, 3, "a message out of it");
    world.step(cpu, 4, 0, 8);
    turn_to(&mut world, 0);
    short(&mut world, 0, "a call");
    assert_eq!(world.kernel.sched.cpus[0].current, Some(world.callers[3].thread));
    short(&mut world, 0, "a reply");
    short(&mut world, 8, "a revocation");
    assert_eq!(world.kernel.sched.cpus[0].current, Some(world.callers[0].thread));
}

#[test]
fn what_is_known_is_used_until_the_kernel_is_entered_in_another_way() {
    let cpu = CpuId(0);
    let known = |world: &mut World, op: u8| {
        let before = world.kernel.channel_work.known;
        world.step(cpu, op, 0, 12);
        world.kernel.channel_work.known - before
    };
    let turn_to = |world: &mut World, caller: usize| {
        for _ in 0..6 {
            if world.kernel.sched.cpus[0].current != Some(world.callers[caller].thread) {
                world.step(cpu, 5, 0, 12);
            }
        }
    };
    let mut world = World::new(1, &[Params::default(); 6]);
    turn_to(&mut world, 3);
    world.step(cpu, 4, 0, 12);
    turn_to(&mut world, 0);
    // The call and the reply of each round.
    let round = |world: &mut World| [known(world, 0), known(world, 0)];
    assert_eq!(round(&mut world), [0, 0]);
    assert_eq!(round(&mut world), [1, 1]);
    assert_eq!(round(&mut world), [1, 1]);
    world.step(cpu, 6, 0, 12);
    assert_eq!(round(&mut world), [0, 0], "after another system call");
    world.step(cpu, 8, 0, 12);
    assert_eq!(round(&mut world), [0, 0], "after a revocation, the long way");
    assert_eq!(round(&mut world), [0, 0], "with handles that were found alive");
    assert_eq!(round(&mut world), [1, 1]);
    world.step(cpu, 13, 0, 12);
    assert_eq!(known(&mut world, 0), 0, "by a handle that was closed");
    let mut world = World::new(1, &[Params::default(); 6]);
    turn_to(&mut world, 0);
    assert_eq!([known(&mut world, 3), known(&mut world, 3)], [0, 1], "messages into the inbox");
    let [high, low] = [Params::fixed(4), Params::fixed(3)];
    let mut world = World::new(1, &[high, high, low, low, low, low]);
    let yields = [known(&mut world, 5), known(&mut world, 5), known(&mut world, 5), known(&mut world, 5)];
    assert_eq!(yields, [0, 0, 1, 1]);
}

#[test]
fn a_capability_moves_by_the_short_way_between_parent_child_and_siblings() {
    for parents in [[None, Some(0)], [Some(1), None], [Some(2), Some(2)]] {
        let mut world = World::of(1, &[Params::default(); 6], parents, u64::MAX);
        let cpu = CpuId(0);
        let current = |world: &World| world.kernel.sched.cpus[0].current.unwrap();
        for _ in 0..6 {
            if current(&world) != world.callers[3].thread {
                world.step(cpu, 5, 0, 8);
            }
        }
        // The server waits with room for a capability.
        world.step(cpu, 0, 0, 2);
        for _ in 0..6 {
            if current(&world) != world.callers[0].thread {
                world.step(cpu, 5, 0, 8);
            }
        }
        for round in 0..3 {
            world.step(cpu, 11, 0, 8);
            let before = world.taken;
            let held = |world: &World, unit: usize| {
                let unit = world.kernel.units.get(world.units[unit]).unwrap();
                let console = |slot: &&crate::cap::table::Slot| slot.object == Object::Console;
                (unit.caps.handles().filter(|(_, slot)| console(slot)).count(), unit.holds)
            };
            let (clients, servers) = (held(&world, 0), held(&world, 1));
            world.step(cpu, 9, 0, 8);
            assert_eq!((round, world.taken), (round, before + 1), "{parents:?}");
            assert_eq!(held(&world, 0), (clients.0 - 1, clients.1 - 1));
            assert_eq!(held(&world, 1), (servers.0 + 1, servers.1 + 1));
            let server = world.kernel.threads.get(world.callers[3].thread).unwrap();
            let told = Short::from_result(server.registers.rax).unwrap();
            assert!(told.flags.contains(ShortFlags::CAP | ShortFlags::CALL));
            let cap = world.kernel.resolve(world.units[1], told.channel, Types::ANY, Rights::READ).unwrap();
            assert_eq!(cap.object, Object::Console);
            world.step(cpu, 0, 0, 2);
            assert_eq!(world.taken, before + 2, "the reply");
        }
    }
}

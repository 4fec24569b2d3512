//! The shortest ways through the kernel: system calls that are done without the dispatcher, the run queues and a look at
//! the work that waits. Every reason to go the long way is looked at first; then they commit and cannot fail. The long way
//! is their specification: from the same state both lead to the same one.

use holm_abi::number;

use crate::arena::Arena;
use crate::cap::grant::Grants;
use crate::channel::{Channel, ChannelWork, Stamp};
use crate::config::Config;
use crate::kernel::{Kernel, Next};
use crate::machine::{CpuId, Machine, Nanos};
use crate::memory::Region;
use crate::sched::Cpu;
use crate::thread::{Thread, ThreadId};
use crate::trace::Counts;
use crate::unit::Unit;

/// What a processor does after a system call that went a short way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// It goes on with the thread that made the call.
    Same,
    /// It goes on with another thread: the one of the last [`Machine::take_up`].
    Switched,
    /// It goes on with what [`Kernel::direct_leave`] says; the machine knows nothing of it yet.
    Leave,
}

/// How a short way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// With the thread that made the call.
    Same,
    /// With another one.
    Switched,
    /// With another one, at this time, and the timer is to be set.
    Timed(Nanos),
}

impl Way {
    const fn told(self, clock: &mut Nanos) -> Direct {
        match self {
            Self::Same => Direct::Same,
            Self::Switched => Direct::Switched,
            Self::Timed(now) => {
                *clock = now;
                Direct::Leave
            }
        }
    }
}

/// What the short ways have to do with: the parts of the kernel, each borrowed for itself, so that what was found once need
/// not be found again.
#[derive(Debug)]
pub(crate) struct Ways<'a, M> {
    pub(crate) machine: &'a mut M,
    pub(crate) threads: &'a mut Arena<Thread, 1>,
    pub(crate) units: &'a mut Arena<Unit, 1>,
    pub(crate) channels: &'a mut Arena<Channel, 1>,
    pub(crate) work: &'a mut ChannelWork,
    pub(crate) counts: &'a mut Counts,
    pub(crate) config: &'a Config,
    /// All grants, and the revocation epoch.
    pub(crate) grants: &'a mut Grants,
    pub(crate) epoch: u64,
    pub(crate) regions: &'a Arena<Region>,
    /// The processor, and whether it is the only one.
    pub(crate) cpu: CpuId,
    pub(crate) entry: &'a mut Cpu,
    pub(crate) alone: bool,
    /// See [`crate::sched::Sched`].
    pub(crate) waiting_fixed: u64,
    pub(crate) stamp: &'a mut Stamp,
    /// Who made the call.
    pub(crate) current: ThreadId,
}

/// Whether a call with this number can go the way of the thread's last one.
const fn is_line(number: u64) -> bool {
    number != number::cap_revoke
}

impl<M: Machine> Kernel<M> {
    /// The system call of the thread on `cpu`, when it is one of the few that have a short way, and that is free. `None`:
    /// nothing was done.
    ///
    /// `number` is what stands in the thread's `rax`.
    pub fn direct(&mut self, cpu: CpuId, number: u64) -> Option<Direct> {
        match number {
            number::chan_call_short => self.direct_of::<{ number::chan_call_short }>(cpu),
            number::chan_call_cap => self.direct_of::<{ number::chan_call_cap }>(cpu),
            number::chan_reply_recv_short => self.direct_of::<{ number::chan_reply_recv_short }>(cpu),
            number::chan_send_short => self.direct_of::<{ number::chan_send_short }>(cpu),
            number::chan_recv_short => self.direct_of::<{ number::chan_recv_short }>(cpu),
            number::thread_yield => self.direct_of::<{ number::thread_yield }>(cpu),
            number::cap_revoke => self.direct_of::<{ number::cap_revoke }>(cpu),
            _ => None,
        }
    }

    /// As [`Kernel::direct`], of the one call with this number: each is compiled for itself.
    #[inline(always)]
    pub fn direct_of<const NUMBER: u64>(&mut self, cpu: CpuId) -> Option<Direct> {
        if is_line(NUMBER) {
            // What is to be attended to comes with a new stamp.
            let way = match (self.ways::<true>(cpu), NUMBER) {
                (Some(ways), number::chan_call_short) => ways.call::<false, true>(),
                (Some(ways), number::chan_call_cap) => ways.call::<true, true>(),
                (Some(ways), number::chan_reply_recv_short) => ways.reply_recv::<true>(),
                (Some(ways), number::chan_send_short) => ways.send::<true>(),
                (Some(ways), number::chan_recv_short) => ways.recv::<true>(),
                (Some(ways), number::thread_yield) => ways.yields_again(),
                _ => None,
            };
            if let Some(way) = way {
                return Some(way.told(&mut self.sched.clock));
            }
            return self.direct_look::<NUMBER>(cpu);
        }
        self.direct_found::<NUMBER>(cpu)
    }

    /// As [`Kernel::direct_of`], where nothing is known.
    #[inline(never)]
    fn direct_look<const NUMBER: u64>(&mut self, cpu: CpuId) -> Option<Direct> {
        self.direct_found::<NUMBER>(cpu)
    }

    #[inline(always)]
    fn direct_found<const NUMBER: u64>(&mut self, cpu: CpuId) -> Option<Direct> {
        if self.trace.kinds != 0 {
            return None;
        }
        if !is_line(NUMBER) {
            self.sched.stamp.count();
        }
        let ways = self.ways::<false>(cpu)?;
        // Its vector registers are kept over system calls, or its guest made this one.
        if ways.threads.get(ways.current)?.restricted.is_bound() {
            return None;
        }
        let way = match NUMBER {
            number::chan_call_short => ways.call::<false, false>(),
            number::chan_call_cap => ways.call::<true, false>(),
            number::chan_reply_recv_short => ways.reply_recv::<false>(),
            number::chan_send_short => ways.send::<false>(),
            number::chan_recv_short => ways.recv::<false>(),
            number::thread_yield => ways.yields(),
            number::cap_revoke => ways.revoke(),
            _ => None,
        };
        Some(way?.told(&mut self.sched.clock))
    }

    /// What the short ways have to do with, on a processor that runs a thread and has nothing to attend to; `KNOWN`: that is
    /// to be known otherwise.
    #[inline(always)]
    fn ways<const KNOWN: bool>(&mut self, cpu: CpuId) -> Option<Ways<'_, M>> {
        #[cfg(test)]
        if self.channel_work.slow_only {
            return None;
        }
        let alone = self.sched.cpus.len() == 1;
        let entry = self.sched.cpus.get_mut(cpu.0 as usize)?;
        if !KNOWN && entry.attention != 0 {
            return None;
        }
        let current = entry.current?;
        Some(Ways {
            machine: &mut self.machine,
            threads: &mut self.threads,
            units: &mut self.units,
            channels: &mut self.channels,
            work: &mut self.channel_work,
            counts: &mut self.trace.counts,
            config: &self.config,
            epoch: self.caps.grants.epoch,
            grants: &mut self.caps.grants,
            regions: &self.regions,
            cpu,
            entry,
            alone,
            waiting_fixed: self.sched.waiting_fixed,
            stamp: &mut self.sched.stamp,
            current,
        })
    }

    /// Leaves after [`Direct::Leave`]: the timer has to be set after a switch.
    #[cold]
    pub fn direct_leave(&mut self, cpu: CpuId) -> Next {
        self.sched.here = cpu;
        self.sched.stamp.count();
        self.leave(cpu)
    }
}

impl<M: Machine> Ways<'_, M> {
    /// The switch from one thread to another, which the scheduler knows of already; whether the timer is to be set.
    #[inline(always)]
    pub(crate) fn switched(
        machine: &mut M,
        timed: bool,
        from: &mut Thread,
        to: (ThreadId, &mut Thread),
        now: Nanos,
    ) -> Way {
        if timed {
            return Way::Timed(now);
        }
        machine.set_down(from);
        machine.take_up(to.0, to.1);
        Way::Switched
    }
}

#[cfg(test)]
mod tests {
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
            Self { kernel, units, callers, handles, channels, taken: 0 }
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

        /// What happens on `cpu` next; says what it does then.
        fn step(&mut self, cpu: CpuId, op: u8, which: usize, word: u64) -> String {
            let kernel = &mut self.kernel;
            let Some(current) = kernel.sched.cpus[cpu.0 as usize].current else { return String::new() };
            let unit = kernel.threads.get(current).unwrap().unit;
            let serves = self.callers[3..].iter().any(|caller| caller.thread == current);
            let [send, receive] = self.handles[which % self.handles.len()];
            let channel = if serves { receive } else { send };
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
                self.drain();
                return format!("{:?}", thread);
            }
            kernel.system_call_slowly(cpu);
            let thread = kernel.sched.cpus[cpu.0 as usize].current;
            self.drain();
            format!("{:?}", thread)
        }

        /// Work that waits is the one thing that the short ways leave for later.
        fn drain(&mut self) {
            while self.kernel.work_step() {}
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
                (0u8..13, 0usize..3, prop_oneof![1u64..500, Just(2u64)], 0u64..900_000, 1usize..5), 1..50,
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
}

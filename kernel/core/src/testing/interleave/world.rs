//! Three units and what their programs do, one system call at a time, and what each call may answer.

use std::collections::{BTreeMap, VecDeque};
use std::string::String;
use std::vec::Vec;

use holm_abi::{
    Backing, CapTransfer, ChanMode, ChanSpec, Error, ExitReason, Handle, MapFlags, MapSpec, MsgFlags, MsgIo,
    Protection, RevokeFlags, Rights, Short, ShortFlags, TransferFlags, TransferMode, number,
};

use super::{Kicks, Op, Scenario};
use crate::caller::{Caller, Outcome};
use crate::cap::Types;
use crate::cap::table::Content;
use crate::kernel::{Fault, Kernel};
use crate::machine::{CpuId, Machine, Nanos, PAGE_SIZE};
use crate::memory::space::Placement;
use crate::object::Object;
use crate::sched::Params;
use crate::sim::SimMachine;
use crate::testing::stage;
use crate::testing::tree::{Known, Life, Tree};
use crate::thread::{ThreadId, ThreadState};
use crate::unit::{End as UnitEnd, UnitId};

mod act;
mod answers;
mod check;

/// Units of every scenario.
const UNITS: usize = 3;
const PAGE: u64 = PAGE_SIZE as u64;
/// Where each unit has a page for structs.
const STRUCTS: u64 = 0x1000_0000;
const RECORD: u64 = STRUCTS + 512;
/// Where a program maps the region.
const MAPPED: u64 = 0x2000_0000;
/// The program counter at a system call, behind its instruction.
const CALL: u64 = 0x5002;

/// A call that was made and has not answered, or is to be made again.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    op: Op,
    /// It was found good, and goes on in steps.
    again: bool,
}

/// A thread and what is left of its program.
#[derive(Debug)]
struct Actor {
    unit: usize,
    thread: ThreadId,
    cpu: CpuId,
    program: VecDeque<Op>,
    under_way: Option<UnderWay>,
    /// Names the call that it received last.
    token: u64,
}

/// The kernel, the programs, and the model.
#[derive(Debug)]
pub(super) struct World {
    kernel: Kernel<SimMachine>,
    root: UnitId,
    before: String,
    kicks: Kicks,
    units: Vec<UnitId>,
    dead: [bool; UNITS],
    /// Each unit's handle in each unit.
    names: Vec<[Handle; UNITS]>,
    /// Handles of each unit that stay.
    fixed: [u32; UNITS],
    actors: Vec<Actor>,
    tree: Tree<Object>,
    /// What unit and thread name a capability of the scenario; it may have none yet.
    caps: BTreeMap<usize, usize>,
    /// Handles of what was moved away, by unit and capability.
    stale: BTreeMap<(usize, usize), Handle>,
    /// The carrier's ends, in unit 1 and 2: messages queued there, by capability.
    carrier: [Handle; 2],
    queue: VecDeque<usize>,
    /// The service's ends, in unit 1 and 2, and what was lent for the call that is open.
    service: [Handle; 2],
    loan: Option<usize>,
    /// What the program of each unit mapped, and through which capability.
    mapped: [Option<usize>; UNITS],
    /// Revocations that have returned.
    returned: Vec<usize>,
}

impl World {
    pub(super) fn new(scenario: &Scenario, cpus: u32, kicks: Kicks) -> Self {
        let (mut kernel, root) = stage::boot(cpus);
        let before = stage::inventory(&kernel, root);
        let made: Vec<(UnitId, ThreadId)> = (0..UNITS).map(|_| stage::unit(&mut kernel, root)).collect();
        let units: Vec<UnitId> = made.iter().map(|(unit, _)| *unit).collect();
        let mut first: Vec<Option<ThreadId>> = made.iter().map(|(_, thread)| Some(*thread)).collect();
        let mut actors = Vec::new();
        for (number, (unit, program)) in scenario.programs.iter().enumerate() {
            let cpu = CpuId(number as u32 % cpus);
            let affinity = 1 << cpu.0;
            let thread = match first[*unit].take() {
                Some(thread) => {
                    kernel.thread_set_affinity(thread, affinity).unwrap();
                    thread
                }
                None => stage::thread(&mut kernel, units[*unit], Params::default(), affinity),
            };
            let program = program.iter().copied().collect();
            actors.push(Actor { unit: *unit, thread, cpu, program, under_way: None, token: 0 });
        }
        for unit in &units {
            let space = kernel.units.get(*unit).unwrap().memory.space.unwrap();
            let region = kernel.region_new(Some(*unit), 1, Backing::Anonymous, &[]).unwrap();
            let rights = Protection::READ | Protection::WRITE;
            kernel.map_step(space, region, 0, PAGE, Placement::Free(STRUCTS), rights, rights, None).unwrap();
            kernel.region_release(region);
        }
        let names = units
            .iter()
            .map(|holder| {
                let mut handles = [Handle::NONE; UNITS];
                for (handle, unit) in handles.iter_mut().zip(&units) {
                    *handle =
                        kernel.cap_install(*holder, Object::Unit(*unit), Rights::ALL, TransferFlags::NONE).unwrap();
                }
                handles
            })
            .collect();
        let mut world = Self {
            kernel,
            root,
            before,
            kicks,
            units,
            dead: [false; UNITS],
            names,
            fixed: [0; UNITS],
            actors,
            tree: Tree(Vec::new()),
            caps: BTreeMap::new(),
            stale: BTreeMap::new(),
            carrier: [Handle::NONE; 2],
            queue: VecDeque::new(),
            service: [Handle::NONE; 2],
            loan: None,
            mapped: [None; UNITS],
            returned: Vec::new(),
        };
        world.furnish(scenario);
        for (unit, unplayed) in first.into_iter().enumerate() {
            // One that nobody plays is never started.
            if unplayed.is_none() {
                world.kernel.unit_run(world.units[unit]).unwrap();
            }
        }
        for cpu in (0..cpus).map(CpuId) {
            world.kernel.kicked(cpu);
        }
        world
    }

    /// Channels, the region, and the first capabilities: 0 receives from a channel and 1 sends to it, 2 is a region, all of
    /// unit 0; 3 to 5 are what the scenario gives unit 1 of them.
    fn furnish(&mut self, scenario: &Scenario) {
        let all = TransferFlags::ALL;
        let channel = |world: &mut Self, units: [usize; 2]| {
            let thread = world.actors[0].thread;
            let caller = Caller { cpu: CpuId(0), thread, unit: world.units[units[0]] };
            let spec = ChanSpec { mode: ChanMode::Uni, ..ChanSpec::new() };
            let Outcome::Done(receives) = world.kernel.chan_create(caller, spec).unwrap() else { panic!("made") };
            let sends = world.kernel.threads.get(thread).unwrap().registers.rdx;
            let [receives, sends] = [receives, sends].map(|word| Handle::from_register(word).unwrap());
            let object = world.kernel.units.get(caller.unit).unwrap().caps.slot(sends).unwrap().object;
            if units[0] == units[1] {
                return [receives, sends];
            }
            let there = world.kernel.cap_install(world.units[units[1]], object, Rights::SEND, all).unwrap();
            world.kernel.cap_close_handle(caller.unit, sends).unwrap();
            [receives, there]
        };
        let [receives, sends] = channel(self, [0, 0]);
        let [fetch, post] = channel(self, [2, 1]);
        let [serve, call] = channel(self, [2, 1]);
        (self.carrier, self.service) = ([post, fetch], [call, serve]);
        let region = self.kernel.region_new(Some(self.units[0]), 2, Backing::Anonymous, &[]).unwrap();
        let region_cap = self.kernel.cap_install(self.units[0], Object::Region(region), Rights::ALL, all).unwrap();
        self.kernel.region_release(region);
        for unit in 0..UNITS {
            let movable = if unit == 0 { 3 } else { 0 };
            self.fixed[unit] = self.kernel.units.get(self.units[unit]).unwrap().caps.len() - movable;
        }
        for (name, handle) in [receives, sends, region_cap].into_iter().enumerate() {
            self.know(name, 0, handle, None, false);
        }
        for (name, mode) in scenario.given.iter().enumerate() {
            let caller = Caller { cpu: CpuId(0), thread: self.actors[0].thread, unit: self.units[0] };
            let handle = self.tree.0[self.caps[&name]].handle;
            let rights = self.tree.0[self.caps[&name]].rights;
            let target = self.kernel.resolve(self.units[0], self.names[0][1], Types::ANY, Rights::NONE).unwrap();
            let Outcome::Done(word) = self.kernel.cap_grant(caller, target, handle, rights, *mode).unwrap() else {
                panic!("granted")
            };
            self.know(
                name + 3,
                1,
                Handle::from_register(word).unwrap(),
                Some(self.caps[&name]),
                *mode == TransferMode::Borrow,
            );
        }
    }

    fn know(&mut self, name: usize, unit: usize, handle: Handle, parent: Option<usize>, lent: bool) {
        let slot = self.kernel.units.get(self.units[unit]).unwrap().caps.slot(handle).unwrap();
        let depth = parent.map_or(0, |parent| self.tree.0[parent].depth + 1);
        let known = Known {
            of: slot.object,
            unit,
            handle,
            rights: slot.rights,
            parent,
            lent,
            depth,
            life: Life::Holds,
            closed: false,
        };
        self.caps.insert(name, self.tree.0.len());
        self.tree.0.push(known);
    }
}

//! Random histories of system calls on several processors, against a small model: rights, messages, handles, wake-ups, and
//! that nothing is left when all units have ended.
//!
//! Threads of three units run on the simulated machine. At every step one processor does something: its thread makes a
//! call, its timer fires, a kick that was sent a while ago arrives. So a revocation, a grant or a unit's end meets every state
//! that the others' calls can be in. The model knows which capability derives from which, which message was sent where, and
//! which call is under way; the kernel's answers must be among those that it allows.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use holm_abi::{
    ChanMode, ChanSpec, Error, ExitReason, Handle, Rights, Short, ShortFlags, TransferFlags, TransferMode, number,
};

use crate::caller::{Caller, Outcome};
use crate::cap::{Cap, GrantId};
use crate::channel::{ChannelId, End};
use crate::kernel::Kernel;
use crate::machine::{CpuId, Nanos};
use crate::object::Object;
use crate::random::Random;
use crate::sched::Params;
use crate::sim::SimMachine;
use crate::testing::stage;
use crate::testing::tree::{Known, Life, Tree};
use crate::thread::ThreadId;
use crate::unit::{End as UnitEnd, UnitId};

mod answers;
mod check;

const UNITS: usize = 3;
const CHANNELS: usize = 2;
/// Messages that each channel holds.
const ROOM: [u32; CHANNELS] = [3, 24];
/// Derivations below one another that the model makes.
const DEPTH: u32 = 20;
/// Among what a thread can do, by number: what changes capabilities begins here, and one of it is to close one.
const CHANGES: usize = 15;
const CLOSE: usize = 21;

/// An end of a channel, by the channel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Of {
    channel: usize,
    sends: bool,
}

/// What a message call does. Messages have numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Send(u64),
    /// A call and its reply.
    Call(u64),
    /// With the reply to this call before.
    Receive(Option<u64>),
}

/// A call that was made and has not answered.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    cap: usize,
    what: What,
    /// It was there after the step that made it.
    waited: bool,
}

/// A call that a thread received and has not replied to.
#[derive(Debug, Clone, Copy)]
struct Owed {
    token: u64,
    serial: u64,
    /// What it was received through.
    cap: usize,
}

#[derive(Debug, Default)]
struct ModelChannel {
    sent: BTreeSet<u64>,
    received: BTreeSet<u64>,
    /// By sender and receiver: the last message of the one that the other received.
    order: BTreeMap<(u64, ThreadId), u64>,
}

struct World {
    kernel: Kernel<SimMachine>,
    cpus: u32,
    random: Random,
    units: Vec<UnitId>,
    threads: Vec<(usize, ThreadId)>,
    channels: Vec<ChannelId>,
    tree: Tree<Of>,
    model: Vec<ModelChannel>,
    under_way: BTreeMap<ThreadId, UnderWay>,
    owed: BTreeMap<ThreadId, Owed>,
    /// Calls that were replied to, and whose callers have not gone on.
    replied: BTreeSet<u64>,
    /// What each thread did last, and through what.
    last: BTreeMap<ThreadId, (usize, usize)>,
    dead: [bool; UNITS],
    serial: u64,
    /// Capabilities change seldom: the same threads send to each other for long.
    calm: bool,
}

/// Plays `steps` steps of the history that `seed` begins. Says how many calls went the way of the one before.
///
/// # Panics
/// When the kernel does what the model does not allow.
pub(crate) fn play(seed: u64, cpus: u32, steps: usize) -> u32 {
    let (kernel, root) = stage::boot(cpus);
    let before = stage::inventory(&kernel, root);
    let mut world = World::new(kernel, root, seed, cpus);
    for step in 0..steps {
        world.step();
        if step % 16 == 15 {
            world.settle();
            world.check();
        }
    }
    for unit in 0..UNITS {
        world.end(unit);
        world.settle();
        world.check();
    }
    stage::release(&mut world.kernel, core::mem::take(&mut world.units));
    assert_eq!(stage::inventory(&world.kernel, root), before, "something is left");
    world.kernel.channel_work.known
}

impl World {
    fn new(mut kernel: Kernel<SimMachine>, root: UnitId, seed: u64, cpus: u32) -> Self {
        kernel.arrive(CpuId(0));
        let (mut units, mut threads) = (Vec::new(), Vec::new());
        for number in 0..UNITS {
            let (unit, first) = stage::unit(&mut kernel, root);
            let params = if number == 2 { Params::fixed(5) } else { Params::default() };
            let second = stage::thread(&mut kernel, unit, params, u64::MAX);
            threads.extend([(number, first), (number, second)]);
            units.push(unit);
        }
        let mut world = Self {
            kernel,
            cpus,
            random: Random(seed),
            units,
            threads,
            channels: Vec::new(),
            tree: Tree(Vec::new()),
            model: Vec::new(),
            under_way: BTreeMap::new(),
            owed: BTreeMap::new(),
            replied: BTreeSet::new(),
            last: BTreeMap::new(),
            dead: [false; UNITS],
            serial: 0,
            calm: seed % 8 >= 4,
        };
        for number in 0..CHANNELS {
            world.channel(number, number % UNITS);
        }
        for unit in world.units.clone() {
            world.kernel.unit_run(unit).unwrap();
        }
        if world.calm {
            world.share_out();
        }
        world.kernel.leave(CpuId(0));
        world
    }

    /// Every unit gets every capability.
    fn share_out(&mut self) {
        for cap in 0..self.tree.0.len() {
            let known = self.tree.0[cap];
            for to in (0..UNITS).filter(|unit| *unit != known.unit) {
                let caller = Caller { cpu: CpuId(0), thread: self.threads[0].1, unit: self.units[known.unit] };
                let mode = TransferMode::Clone;
                let answer = self.kernel.cap_grant(caller, self.target(to), known.handle, known.rights, mode);
                let Ok(Outcome::Done(word)) = answer else { panic!("it is granted") };
                let handle = Handle::from_register(word).unwrap();
                self.add(Known { unit: to, handle, parent: Some(cap), depth: 1, ..known });
            }
        }
    }

    /// What grants to a unit.
    fn target(&self, unit: usize) -> Cap {
        Cap {
            handle: Handle::NONE,
            object: Object::Unit(self.units[unit]),
            rights: Rights::ALL,
            badge: 0,
            grant: GrantId::from_number(0),
        }
    }

    /// Channel `number`, whose ends `unit` has.
    fn channel(&mut self, number: usize, unit: usize) {
        let thread = self.threads[unit * 2].1;
        let caller = Caller { cpu: CpuId(0), thread, unit: self.units[unit] };
        let spec = ChanSpec { mode: ChanMode::Uni, max_messages: ROOM[number], ..ChanSpec::new() };
        let Outcome::Done(first) = self.kernel.chan_create(caller, spec).unwrap() else { panic!("it is made") };
        let second = self.kernel.threads.get(thread).unwrap().registers.rdx;
        for (word, sends) in [(first, false), (second, true)] {
            let handle = Handle::from_register(word).unwrap();
            let slot = self.kernel.units.get(self.units[unit]).unwrap().caps.slot(handle).unwrap();
            let (rights, object) = (slot.rights, slot.object);
            let of = Of { channel: number, sends };
            self.tree.0.push(Known {
                of,
                unit,
                handle,
                rights,
                parent: None,
                lent: false,
                depth: 0,
                life: Life::Holds,
                closed: false,
            });
            if let (Object::Channel(id, _), false) = (object, sends) {
                self.channels.push(id);
            }
        }
        self.model.push(ModelChannel::default());
    }

    fn step(&mut self) {
        let cpu = CpuId(self.random.below(self.cpus as usize) as u32);
        match self.random.below(16) {
            0 => {
                let length = 1 + self.random.next() % 3_000_000;
                self.kernel.machine.advance(Nanos(length));
            }
            1..=3 => {
                if self.kernel.machine.take_kick_of(cpu) {
                    self.kernel.kicked(cpu);
                }
            }
            4 => stage::fire(&mut self.kernel, cpu),
            5 if self.random.below(120) == 0 => {
                let unit = self.random.below(UNITS);
                self.end(unit);
            }
            _ => self.call(cpu),
        }
        if self.kernel.sched.cpus.iter().all(|cpu| cpu.current.is_none()) {
            self.interrupt();
        }
        self.learn();
    }

    /// Everybody may wait for ever for somebody else: one of them is woken, as by a kick.
    fn interrupt(&mut self) {
        let waiting: Vec<ThreadId> = self.under_way.keys().copied().collect();
        if !waiting.is_empty() {
            let thread = waiting[self.random.below(waiting.len())];
            self.kernel.arrive(CpuId(0));
            self.kernel.give_up(thread, Error::Interrupted);
            self.kernel.leave(CpuId(0));
        }
    }

    /// Everything that is due happens, until nothing is.
    fn settle(&mut self) {
        stage::settle(&mut self.kernel);
        // What was done meanwhile was done before a loan that faded was gone.
        self.learn();
        self.tree.settled();
    }

    /// A unit is killed, as by the first one.
    fn end(&mut self, unit: usize) {
        if core::mem::replace(&mut self.dead[unit], true) {
            return;
        }
        self.kernel.arrive(CpuId(0));
        let how = UnitEnd::because(ExitReason::Killed, 3);
        self.kernel.unit_end(self.units[unit], how);
        // As every entry does it on its way out: a step of the work, and the timer for the rest.
        self.kernel.kicked(CpuId(0));
        for cap in 0..self.tree.0.len() {
            if self.tree.0[cap].unit == unit && !self.tree.0[cap].closed {
                self.tree.fade(cap);
            }
        }
        for (_, thread) in self.threads.iter().filter(|(of, _)| *of == unit) {
            self.under_way.remove(thread);
        }
    }

    fn call(&mut self, cpu: CpuId) {
        let Some(thread) = self.kernel.sched.cpus[cpu.0 as usize].current else { return };
        let Some(&(unit, _)) = self.threads.iter().find(|(_, id)| *id == thread) else { return };
        // One that was ended from elsewhere does nothing more; its processor finds that out when it enters.
        let doomed = self.kernel.threads.get(thread).unwrap().sched.doomed.is_some();
        let held: Vec<usize> = (0..self.tree.0.len()).filter(|cap| self.tree.0[*cap].unit == unit).collect();
        let sends = self.threads.iter().position(|(_, id)| *id == thread).is_some_and(|at| at % 2 == 0);
        if held.is_empty() || doomed || self.dead[unit] {
            let _ = self.make(cpu, thread, number::thread_yield, [0; 6]);
            return;
        }
        let (mut op, mut cap) = (self.random.below(24), held[self.random.below(held.len())]);
        if self.calm && self.random.below(12) > 0 {
            // One of the two threads serves the calls of the others.
            let fitting: Vec<usize> = held.iter().copied().filter(|cap| self.tree.0[*cap].of.sends == sends).collect();
            if !fitting.is_empty() {
                (op, cap) = (if sends { self.random.below(8) } else { 8 }, fitting[self.random.below(fitting.len())]);
            }
        }
        // Programs do the same again and again.
        if let Some(last) = self.last.get(&thread)
            && self.random.below(3) > 0
        {
            (op, cap) = *last;
        }
        if op == CLOSE {
            cap = self.last_of_others(unit, thread).unwrap_or(cap);
        }
        self.last.insert(thread, (op, cap));
        match op {
            0..=4 => self.send(cpu, thread, cap, false),
            5..=7 => self.send(cpu, thread, cap, true),
            8..=14 => self.receive(cpu, thread, cap),
            CHANGES..=16 => self.derive(cpu, thread, cap),
            17..=19 => self.grant(cpu, thread, cap),
            20 => {
                let answer = self.make(cpu, thread, number::cap_revoke, [raw(self.tree.0[cap].handle), 0, 0, 0, 0, 0]);
                self.tree.0[cap].must_answer(Rights::NONE, &answer, &[]);
                if answer.is_ok() {
                    self.tree.revoke(cap);
                }
            }
            CLOSE if self.tree.0[cap].depth > 0 => {
                let answer = self.make(cpu, thread, number::cap_close, [raw(self.tree.0[cap].handle), 0, 0, 0, 0, 0]);
                match answer {
                    Ok(_) => {
                        assert!(!self.tree.0[cap].closed, "a closed handle was closed");
                        self.tree.close(cap);
                    }
                    Err(error) => assert_eq!((error, self.tree.0[cap].closed), (Error::BadHandle, true)),
                }
            }
            _ => {
                self.make(cpu, thread, number::thread_yield, [0; 6]).unwrap();
            }
        }
    }

    /// What another thread of the unit used last.
    fn last_of_others(&self, unit: usize, thread: ThreadId) -> Option<usize> {
        let mut others = self.threads.iter().filter(|(of, id)| *of == unit && *id != thread);
        others.find_map(|(_, id)| self.last.get(id)).map(|(_, cap)| *cap)
    }

    fn make(&mut self, cpu: CpuId, thread: ThreadId, call: u64, words: [u64; 6]) -> Result<u64, Error> {
        stage::make(&mut self.kernel, cpu, thread, call, words)
    }

    fn deadline(&mut self) -> u64 {
        match self.random.below(3) {
            0 => 0,
            1 => self.kernel.now().0 + self.random.next() % 5_000_000,
            _ => u64::MAX,
        }
    }

    fn short(&self, cap: usize) -> u64 {
        Short { channel: self.tree.0[cap].handle, bytes: 32, priority: 0, flags: ShortFlags::NONE }.register()
    }

    fn send(&mut self, cpu: CpuId, thread: ThreadId, cap: usize, calls: bool) {
        self.serial += 1;
        let (serial, deadline) = (self.serial, self.deadline());
        let (what, call) = if calls {
            (What::Call(serial), number::chan_call_short)
        } else {
            (What::Send(serial), number::chan_send_short)
        };
        self.under_way.insert(thread, UnderWay { cap, what, waited: false });
        let words = [self.short(cap), deadline, serial, thread.number(), 0, 0];
        let _ = self.make(cpu, thread, call, words);
    }

    /// Receives, and replies to what was received last.
    fn receive(&mut self, cpu: CpuId, thread: ThreadId, cap: usize) {
        if let Some(Owed { token, serial, cap }) = self.owed.get(&thread).copied() {
            let what = What::Receive(Some(serial));
            self.under_way.insert(thread, UnderWay { cap, what, waited: false });
            let words = [self.short(cap), token, !serial, 0, 0, 0];
            let _ = self.make(cpu, thread, number::chan_reply_recv_short, words);
            return;
        }
        let deadline = self.deadline();
        self.under_way.insert(thread, UnderWay { cap, what: What::Receive(None), waited: false });
        let _ = self.make(cpu, thread, number::chan_recv_short, [self.short(cap), deadline, 0, 0, 0, 0]);
    }

    fn derive(&mut self, cpu: CpuId, thread: ThreadId, cap: usize) {
        let known = self.tree.0[cap];
        if known.depth >= DEPTH {
            return;
        }
        let rights = self.fewer(known.rights);
        let words = [raw(known.handle), rights.bits(), TransferFlags::ALL.bits(), 0, 0, 0];
        let answer = self.make(cpu, thread, number::cap_derive, words);
        known.must_answer(Rights::DERIVE.or(rights), &answer, &[Error::NotPermitted, Error::Quota, Error::NoHandles]);
        if let Ok(word) = answer {
            let handle = Handle::from_register(word).unwrap();
            self.add(Known { handle, rights, parent: Some(cap), lent: false, depth: known.depth + 1, ..known });
        }
    }

    fn fewer(&mut self, rights: Rights) -> Rights {
        let gone = Rights::from_register(1 << self.random.below(9)).unwrap_or(Rights::NONE);
        // Now and then one that the parent may not have.
        if self.random.below(4) == 0 { rights.or(gone) } else { rights.without(gone) }
    }

    fn add(&mut self, cap: Known<Of>) {
        let slot = self.kernel.units.get(self.units[cap.unit]).unwrap().caps.slot(cap.handle).unwrap();
        assert_eq!(slot.rights, cap.rights, "the new capability has the rights that were asked for");
        self.tree.0.push(cap);
    }

    /// Passes a capability to another unit by a channel's inside: what cap_grant does, whose target is given here.
    fn grant(&mut self, cpu: CpuId, thread: ThreadId, cap: usize) {
        let known = self.tree.0[cap];
        let to = self.random.below(UNITS);
        if known.depth >= DEPTH || to == known.unit {
            return;
        }
        let mode = [TransferMode::Borrow, TransferMode::Clone][self.random.below(2)];
        let rights = self.fewer(known.rights);
        let target = self.target(to);
        self.kernel.arrive(cpu);
        let caller = Caller { cpu, thread, unit: self.units[known.unit] };
        let answer = self.kernel.cap_grant(caller, target, known.handle, rights, mode);
        self.kernel.leave(cpu);
        let answer = answer.map(|done| match done {
            Outcome::Done(word) => word,
            other => panic!("cap_grant answered {other:?}"),
        });
        let ended = if self.dead[to] { Error::BadState } else { Error::Quota };
        known.must_answer(
            Rights::TRANSFER.or(rights),
            &answer,
            &[ended, Error::NotPermitted, Error::Quota, Error::NoHandles],
        );
        if let Ok(word) = answer {
            let handle = Handle::from_register(word).unwrap();
            let lent = mode == TransferMode::Borrow;
            // What is lent is not passed on.
            let rights = if lent { rights.without(Rights::TRANSFER) } else { rights };
            self.add(Known { unit: to, handle, rights, parent: Some(cap), lent, depth: known.depth + 1, ..known });
        }
    }
}

fn raw(handle: Handle) -> u64 {
    handle.raw() as u64
}

/// `HOLM_MODEL_STEPS` says how many steps are played; without it so many that the test takes seconds.
#[test]
fn random_histories_follow_the_model() {
    let steps =
        std::env::var("HOLM_MODEL_STEPS").ok().map_or(300_000, |steps| steps.parse().expect("a number of steps"));
    let begin = std::env::var("HOLM_MODEL_SEED").ok().map_or(0, |seed| seed.parse().expect("a number"));
    let length = 1_500;
    // Those that once found something: a channel that was removed while it was queued, a wait through a closed handle.
    for seed in [186, 127] {
        play(seed, 1 + (seed % 4) as u32, length as usize);
    }
    let mut known = 0;
    for history in 0..u64::div_ceil(steps, length) {
        let seed = begin + history;
        let cpus = 1 + (seed % 4) as u32;
        let played = std::panic::catch_unwind(|| play(seed, cpus, length as usize));
        known += u64::from(played.unwrap_or_else(|why| {
            std::eprintln!("HOLM_MODEL_SEED={seed} with {cpus} processors");
            std::panic::resume_unwind(why);
        }));
    }
    assert!(known > steps / 200, "only {known} calls of {steps} steps went the way of the one before");
}

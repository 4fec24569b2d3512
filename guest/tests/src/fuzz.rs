//! The fuzzer: a unit that makes random calls with random arguments, and what must not come of it.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use holm_rt::abi::{
    ArgKind, CALLS, CallInfo, ClockId, Error, MsgFlags, ObjectType, Protection, ResultKind, RevokeFlags, Rights,
    SchedClass, ShortFlags, StructInfo, UnitFlags, UnitInfo, number,
};
use holm_rt::channel::ReplyToken;
use holm_rt::startup;
use holm_rt::{Channel, Deadline, Events, Handle, Mapping, Object, Owned, Region, Timer, sys, thread, time};

use crate::harness::{Failure, Outcome, Test, World, check_eq};

pub(crate) const TESTS: &[Test] = &[("fuzz_random_calls_harm_nobody_else", harm_nobody)];

/// Calls in all when nothing else is said.
const CALLS_IN_ALL: u64 = 1_000_000;

/// Where the child notes what it does, in the shared region.
const COUNT: u64 = 0;
const LAST_CALL: u64 = 8;

/// Random numbers: xorshift64*, good enough to wander and the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

fn harm_nobody(world: &World) -> Outcome {
    let wanted = startup::variable("FUZZ_CALLS").and_then(|count| count.parse().ok()).unwrap_or(CALLS_IN_ALL);
    let (server, canary) = Channel::queue(64, 4)?;
    let echo = world.child("echo", &[]).cap("serve", server.moved(Rights::RECEIVE)).start()?;
    let shared = Region::new(4096)?;
    let notes = shared.map(Protection::READ | Protection::WRITE)?;
    // The first life warms up what the kernel keeps for good.
    let mut seed = startup::variable("FUZZ_SEED").and_then(|seed| seed.parse().ok()).unwrap_or(1);
    life(world, &shared, &notes, seed, 2000)?;
    let before = world.inventory()?;
    let mut done = notes.atomic_u64(COUNT)?.load(Ordering::Relaxed);
    let (mut lives, mut fruitless) = (1u64, 0);
    while done < wanted {
        seed += 1;
        lives += 1;
        let end = life(world, &shared, &notes, seed, wanted - done)?;
        let now = notes.atomic_u64(COUNT)?.load(Ordering::Relaxed);
        fruitless = if now == done { fruitless + 1 } else { 0 };
        if fruitless > 20 {
            return Err(Failure(alloc::format!(
                "after {done} calls in {lives} lives the fuzzer dies before its first call: {:?} code {}",
                end.exit_reason,
                end.exit_code
            )));
        }
        done = now;
        check_eq!(canary.call(&seed.to_le_bytes(), 64, crate::harness::soon())?.payload, seed.to_le_bytes());
    }
    let figures = world.system.metrics()?;
    holm_rt::println!("fuzz: {done} calls in {lives} lives, {} system calls in all", figures.syscalls);
    check_eq!(world.inventory()?, before);
    drop(canary);
    check_eq!(echo.wait(crate::harness::soon())?.exit_code, 0);
    Ok(())
}

/// One child from its start to its end.
fn life(world: &World, shared: &Region, notes: &Mapping, seed: u64, count: u64) -> Result<UnitInfo, Failure> {
    let all = Rights::READ | Rights::WRITE | Rights::MAP | Rights::INSPECT;
    let (seed_text, count_text) = (alloc::format!("{seed}"), alloc::format!("{count}"));
    let system = ObjectType::System.rights().without(Rights::ADMIN);
    let unit = world
        .child("fuzz", &[seed_text.as_str(), count_text.as_str()])
        .memory(8 << 20, 2 << 20)
        .counts(16, 256)
        .class(SchedClass::BestEffort, 0, SchedClass::BestEffort)
        .cap("notes", shared.cloned(all))
        .cap("system", world.system.cloned(system))
        .cap("archive", world.archive.cloned(ObjectType::Archive.rights()))
        .cap("quiet", world.console.cloned(Rights::INSPECT))
        .start()?;
    let end = match unit.wait(Deadline::after(Duration::from_secs(300))) {
        Ok(end) => end,
        Err(Error::TimedOut) => {
            let last = notes.atomic_u64(LAST_CALL)?.load(Ordering::Relaxed);
            let name = holm_rt::abi::call(last).map_or("?", |call| call.name);
            unit.kill(0)?;
            return Err(Failure(alloc::format!("seed {seed} hangs in {name}")));
        }
        Err(error) => return Err(error.into()),
    };
    // Its own children go with it.
    let children = holm_rt::abi::UnitFilter { parent: unit.info()?.id, ..holm_rt::abi::UnitFilter::new() };
    let mut left = Vec::new();
    crate::harness::eventually("the fuzzer's children to end", || {
        left = world.system.units_that(&children)?;
        Ok(left.is_empty())
    })
    .map_err(|Failure(why)| Failure(alloc::format!("{why} (seed {seed}): {left:?}")))?;
    Ok(end)
}

/// The fuzzing child.
struct Fuzzer {
    random: Random,
    /// The sending end of the one channel that is served, and the thread that serves it.
    served: Handle,
    server: Handle,
    handles: Vec<Handle>,
    scratch: Vec<u8>,
}

/// Handles kept at most; older ones are closed.
const KEPT: usize = 48;

/// Calls that end or cripple the fuzzer itself: they are made, but seldom.
const DANGEROUS: &[u64] = &[
    number::unit_stop,
    number::unit_kill,
    number::unit_destroy,
    number::thread_exit,
    number::thread_create,
    number::thread_kill,
    number::vm_map,
    number::vm_unmap,
    number::vm_protect,
    number::cap_close,
    number::cap_revoke,
    number::restricted_enter,
    // What is moved is gone for good.
    number::chan_call_cap,
];

/// The role of the fuzzer: so many calls from a seed.
pub(crate) fn child(seed: u64, count: u64) -> i32 {
    let Some(shared) = startup::take_named::<Region>("notes") else { return 3 };
    let Ok(notes) = shared.map(Protection::READ | Protection::WRITE) else { return 4 };
    let (Ok(counter), Ok(last)) = (notes.atomic_u64(COUNT), notes.atomic_u64(LAST_CALL)) else { return 5 };
    let mut fuzzer = Fuzzer {
        random: Random::new(seed),
        served: Handle::NONE,
        server: Handle::NONE,
        handles: Vec::with_capacity(KEPT + 2),
        scratch: alloc::vec![0; 16384],
    };
    fuzzer.handles.extend(["system", "archive", "quiet"].iter().filter_map(|name| startup::initial_named(name)));
    if fuzzer.begin().is_err() {
        return 6;
    }
    for _ in 0..count {
        let Some(call) = CALLS.get(fuzzer.random.below(CALLS.len() as u64) as usize) else { continue };
        if DANGEROUS.contains(&call.number) && !fuzzer.random.one_in(40) {
            continue;
        }
        last.store(call.number, Ordering::Relaxed);
        fuzzer.make(call);
        counter.fetch_add(1, Ordering::Relaxed);
    }
    0
}

/// Answers every call and closes what comes with it, until nobody can call.
fn serve(inbox: &Channel) {
    let mut token = None;
    loop {
        match inbox.reply_receive_words_with(token.take(), [0; 4]) {
            Ok((question, _closed)) => token = ReplyToken::of(&question),
            // What is too long for registers is taken out.
            Err(Error::MessageSize) => drop(inbox.receive_with(256, MsgFlags::NONBLOCK, Deadline::NEVER)),
            Err(Error::Interrupted) => {}
            Err(_) => return,
        }
    }
}

impl Fuzzer {
    /// Something to begin with.
    fn begin(&mut self) -> Result<(), Error> {
        let (one, two) = Channel::pair(256, 4)?;
        let (three, four) = Channel::queue(256, 4)?;
        let region = Region::new(65536)?;
        self.handles.extend([one, two, three, four].map(Object::into_handle));
        self.handles.push(Timer::new(ClockId::Monotonic)?.into_handle());
        self.handles.push(Events::new()?.into_handle());
        self.handles.push(region.into_handle());
        let (inbox, outbox) = Channel::queue(256, 4)?;
        let server = thread::spawn(move || serve(&inbox))?;
        self.server = server.thread().handle();
        core::mem::forget(server);
        self.served = outbox.into_handle();
        self.handles.push(self.served);
        Ok(())
    }

    /// Makes one call with random arguments.
    fn make(&mut self, call: &CallInfo) {
        let mut registers = [0; 6];
        let mut used = 0;
        let wild = self.random.one_in(12);
        for argument in call.arguments {
            let values = if wild && !matches!(argument.kind, ArgKind::Deadline | ArgKind::Short(_)) {
                [self.any_word(), self.any_word()]
            } else {
                self.likely(argument.kind)
            };
            for value in values.into_iter().take(argument.kind.registers()) {
                if let Some(register) = registers.get_mut(used) {
                    *register = value;
                    used += 1;
                }
            }
        }
        if call.number == number::thread_exit {
            // The unit is to end with its last thread.
            let _gone = sys::thread_kill(self.server, 0);
        }
        if call.number == number::chan_call_cap {
            // It has no deadline: somebody must answer.
            registers[0] = u64::from(self.served.raw().unsigned_abs()) | registers[0] >> 32 << 32;
            if !wild {
                let rights = self.random.next() & self.random.next() & 0x1fff;
                registers[1] = self.handle() & 0xffff_ffff | rights << 32 | self.random.below(4) << 56;
            }
        }
        // SAFETY: this program may break its own memory: then it ends, and the test starts another. It holds nothing that
        // anybody needs, and the kernel keeps it from all else: that is what is tested.
        let answer = unsafe { sys::raw(call.number, registers) };
        let Ok(value) = answer.result() else { return };
        match call.result {
            ResultKind::Handle(_) => self.keep(value),
            ResultKind::Handles(_) => {
                self.keep(value);
                self.keep(answer.rdx);
            }
            _ => {}
        }
    }

    fn keep(&mut self, word: u64) {
        let Ok(handle) = Handle::from_register(word) else { return };
        self.handles.push(handle);
        if self.handles.len() > KEPT {
            let at = self.random.below(KEPT as u64 - 16) as usize + 10;
            drop(Owned::new(self.handles.swap_remove(at)));
            if self.random.one_in(8) {
                let _revoked = sys::cap_revoke(handle, RevokeFlags::CHILDREN_ONLY);
            }
        }
    }

    fn handle(&mut self) -> u64 {
        match self.random.below(16) {
            0 => 0,
            1 => self.random.next(),
            _ => {
                let at = self.random.below(self.handles.len().max(1) as u64) as usize;
                self.handles.get(at).map_or(0, |handle| u64::from(handle.raw().unsigned_abs()))
            }
        }
    }

    fn address(&mut self) -> u64 {
        let scratch = self.scratch.as_ptr() as u64;
        match self.random.below(10) {
            0 => self.any_word(),
            1 => scratch + self.random.below(16384),
            _ => scratch + self.random.below(12) * 1024,
        }
    }

    /// Numbers at the edges of things.
    fn any_word(&mut self) -> u64 {
        match self.random.below(8) {
            0 => 0,
            1 => self.random.below(64),
            2 => u64::MAX - self.random.below(4096),
            3 => 1 << self.random.below(64),
            4 => (1u64 << self.random.below(64)).wrapping_sub(1),
            5 => self.random.below(1 << 20) << 12,
            6 => self.handle(),
            _ => self.random.next(),
        }
    }

    fn likely(&mut self, kind: ArgKind) -> [u64; 2] {
        match kind {
            ArgKind::Handle { .. } | ArgKind::RawHandle => [self.handle(), 0],
            ArgKind::In(info) | ArgKind::Out(info) | ArgKind::InOut(info) => [self.structure(info), 0],
            ArgKind::BytesIn | ArgKind::BytesOut => [self.address(), self.random.below(3000)],
            ArgKind::RecordsOut(_) => [self.address(), self.random.below(20)],
            ArgKind::Flags(info) => [self.random.next() & info.mask & self.random.next(), 0],
            ArgKind::Value(info) => [self.random.below(info.values.len() as u64 + 1), 0],
            // Without a deadline of its own a short receive must not wait.
            ArgKind::Short(_) => {
                let facts = self.random.below(34) | self.random.below(33) << 8 | ShortFlags::NONBLOCK.bits() << 16;
                [self.handle() & 0xffff_ffff | facts << 32, 0]
            }
            ArgKind::Number | ArgKind::Signed => [self.any_word(), 0],
            ArgKind::Address => [self.address(), 0],
            ArgKind::Deadline => {
                let soon = time::now() + self.random.below(20_000);
                [if self.random.one_in(4) { soon } else { 0 }, 0]
            }
        }
    }

    /// A struct in the scratch memory: a good header mostly, fields that mean something now and then.
    fn structure(&mut self, info: &StructInfo) -> u64 {
        let base = self.random.below(8) as usize * 2048;
        let small = self.random.below(3);
        for at in (0..info.size.min(2040)).step_by(4) {
            let word = match (small, self.random.below(12)) {
                (_, 0..7) | (0, _) => 0,
                (_, 7) => self.random.below(4) as u32,
                (_, 8) => self.handle() as u32,
                (_, 9) => 1 << self.random.below(20),
                _ => self.random.next() as u32 & self.random.next() as u32,
            };
            self.put(base + at, &word.to_le_bytes());
        }
        for field in info.fields.iter().filter(|field| field.size == 8 && field.length == 0) {
            if self.random.one_in(4) {
                let address = self.address();
                self.put(base + field.offset, &address.to_le_bytes());
            }
        }
        if info.version > 0 && !self.random.one_in(30) {
            self.put(base, &info.version.to_le_bytes());
            // A shorter one of a unit would leave its flags out, see below.
            let cut = self.random.one_in(10) && info.name != "UnitSpec";
            let size = if cut { self.random.below(600) as u32 } else { info.size as u32 };
            self.put(base + 4, &size.to_le_bytes());
        }
        if info.name == "UnitSpec" {
            // Nobody could end them otherwise once the fuzzer is gone.
            let flags = info.fields.iter().find(|field| field.type_name == "UnitFlags");
            self.put(base + flags.map_or(0, |field| field.offset), &UnitFlags::KILL_WITH_PARENT.bits().to_le_bytes());
        }
        self.scratch.as_ptr() as u64 + base as u64
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(slots) = self.scratch.get_mut(at..at + bytes.len()) {
            slots.copy_from_slice(bytes);
        }
    }
}

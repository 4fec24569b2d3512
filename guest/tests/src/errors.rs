//! Every error that an argument's kind implies, of every call: made from the kernel's own table.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use holm_rt::abi::{
    ArgKind, CALLS, CallInfo, Error, ObjectType, RevokeFlags, Rights, ShortFlags, StructInfo, TraceFilter,
    TransferFlags, field, limits,
};
use holm_rt::{Channel, Deadline, Events, Handle, Object, Owned, Region, Space, Timer, sys, thread, time};

use crate::harness::{Failure, Outcome, Test, World, check, saw};

pub(crate) const TESTS: &[Test] = &[
    ("errors_of_every_argument_of_every_call", every_argument),
    ("errors_unknown_numbers_answer_no_call", unknown_numbers),
];

/// Bytes that can only be read.
static READ_ONLY: [u8; 4096] = [0; 4096];

/// One handle of each type, with all rights, without any, and revoked.
struct Handles {
    good: Vec<(ObjectType, Handle)>,
    bare: Vec<(ObjectType, Handle)>,
    revoked: Vec<(ObjectType, Handle)>,
}

fn of(list: &[(ObjectType, Handle)], object_type: ObjectType) -> Option<Handle> {
    list.iter().find(|(other, _)| *other == object_type).map(|(_, handle)| *handle)
}

/// A register with a handle.
fn register(handle: Handle) -> u64 {
    u64::from(handle.raw().unsigned_abs())
}

impl Handles {
    fn make(good: Vec<(ObjectType, Handle)>) -> Result<Self, Error> {
        let (mut bare, mut revoked) = (Vec::new(), Vec::new());
        for (object_type, handle) in &good {
            bare.push((*object_type, sys::cap_derive(*handle, Rights::NONE, TransferFlags::NONE, 0)?));
            let gone = sys::cap_derive(*handle, Rights::NONE, TransferFlags::NONE, 0)?;
            sys::cap_revoke(gone, RevokeFlags::NONE)?;
            revoked.push((*object_type, gone));
        }
        Ok(Self { good, bare, revoked })
    }

    fn close(&self) {
        for (_, handle) in self.bare.iter().chain(&self.revoked) {
            drop(Owned::new(*handle));
        }
    }
}

/// Memory for the structs and bytes that arguments point to.
struct Scratch {
    bytes: Vec<u8>,
}

impl Scratch {
    fn address(&self) -> u64 {
        self.bytes.as_ptr() as u64
    }

    /// A struct of zeroes with a header.
    fn structure(&mut self, info: &StructInfo, version: u32, size: u32) -> u64 {
        self.bytes.fill(0);
        if info.version > 0 {
            for (to, from) in self.bytes.iter_mut().zip(version.to_le_bytes().into_iter().chain(size.to_le_bytes())) {
                *to = from;
            }
        }
        self.address()
    }
}

/// What is wrong on purpose: the registers of one argument and the errors allowed for it.
struct Wrong {
    words: [u64; 2],
    wanted: &'static [Error],
    /// Whether success is fine too: what is wrong may not have been looked at.
    may_succeed: bool,
}

const NOT_MAPPED: [u64; 4] = [8, 0xffff_8000_0000_1000, limits::USER_END - 4, 0x8000_0000_0000_0000];

fn every_argument(world: &World) -> Outcome {
    let (channel, _peer) = Channel::pair(64, 4)?;
    let timer = Timer::new(holm_rt::abi::ClockId::Monotonic)?;
    let unit = world.child("sleep", &[]).create()?;
    let sleeper = thread::spawn(|| {
        let _slept = time::sleep(core::time::Duration::from_millis(1));
    })?;
    let (region, events, space) = (Region::new(4096)?, Events::new()?, Space::new()?);
    let trace = world.system.trace(&TraceFilter::new())?;
    let handles = Handles::make(alloc::vec![
        (ObjectType::Channel, channel.handle()),
        (ObjectType::Timer, timer.handle()),
        (ObjectType::Unit, unit.handle()),
        (ObjectType::Thread, sleeper.thread().handle()),
        (ObjectType::Region, region.handle()),
        (ObjectType::Event, events.handle()),
        (ObjectType::Space, space.handle()),
        (ObjectType::Image, world.image.handle()),
        (ObjectType::Trace, trace.handle()),
        (ObjectType::Archive, world.archive.handle()),
        (ObjectType::Console, world.console.handle()),
        (ObjectType::System, world.system.handle()),
    ])?;
    let mut scratch = Scratch { bytes: alloc::vec![0; 8192] };
    let (mut tried, mut failures) = (0, Vec::new());
    for call in CALLS {
        for index in 0..call.arguments.len() {
            for round in 0.. {
                match one(call, index, round, &handles, &mut scratch) {
                    Some(Ok(())) => tried += 1,
                    Some(Err(failure)) => {
                        tried += 1;
                        failures.push(failure);
                    }
                    None => break,
                }
            }
        }
    }
    handles.close();
    sleeper.join(crate::harness::soon())?;
    check!(tried > 400, "only {tried} cases were made");
    if failures.is_empty() {
        return Ok(());
    }
    let count = failures.len();
    for failure in &failures {
        holm_rt::println!("  {failure}");
    }
    Err(Failure(format!("{count} of {tried} cases, listed above")))
}

/// Makes one call with one argument wrong in the `round`th way; `None` when there are no more ways.
fn one(
    call: &CallInfo,
    index: usize,
    round: usize,
    handles: &Handles,
    scratch: &mut Scratch,
) -> Option<Result<(), String>> {
    let kind = call.arguments.get(index)?.kind;
    let wrong = wrong(kind, round, handles, scratch)?;
    // The other arguments point elsewhere, so that they do not disturb what is wrong.
    let mut others = Scratch { bytes: alloc::vec![0; 4096] };
    let mut words = Vec::new();
    for (place, argument) in call.arguments.iter().enumerate() {
        let values = if place == index { wrong.words } else { right(argument.kind, handles, &mut others)? };
        words.extend(values.into_iter().take(argument.kind.registers()));
    }
    let mut registers = [0; 6];
    registers.iter_mut().zip(&words).for_each(|(to, from)| *to = *from);
    // SAFETY: one argument is refused before the call does anything; where it could pass, the call only writes into the
    // scratch memory of this function, of which no reference is used meanwhile.
    let result = unsafe { sys::raw(call.number, registers) }.result();
    let argument = call.arguments.get(index).map_or("", |argument| argument.name);
    match result {
        Err(error) if wrong.wanted.contains(&error) => {
            saw(call.number, error);
            Some(Ok(()))
        }
        _ if wrong.may_succeed => Some(Ok(())),
        other => Some(Err(format!(
            "{} with a wrong {argument} ({:#x} {:#x}) answered {other:?} instead of {:?}",
            call.name, wrong.words[0], wrong.words[1], wrong.wanted
        ))),
    }
}

/// Registers of an argument that nothing is wrong with.
fn right(kind: ArgKind, handles: &Handles, scratch: &mut Scratch) -> Option<[u64; 2]> {
    let address = scratch.address();
    Some(match kind {
        ArgKind::Handle { types, .. } => {
            let object_type = types.first().copied().unwrap_or(ObjectType::Region);
            [register(of(&handles.good, object_type)?), 0]
        }
        ArgKind::RawHandle => [register(of(&handles.good, ObjectType::Region)?), 0],
        ArgKind::In(info) | ArgKind::Out(info) | ArgKind::InOut(info) => {
            [scratch.structure(info, info.version, info.size as u32), 0]
        }
        ArgKind::BytesIn | ArgKind::BytesOut => [address, 16],
        ArgKind::RecordsOut(_) => [address, 1],
        ArgKind::Short(_) => {
            let channel = register(of(&handles.good, ObjectType::Channel)?);
            [channel | ShortFlags::NONBLOCK.bits() << 48, 0]
        }
        ArgKind::Address => [0x10_0000, 0],
        ArgKind::Flags(_) | ArgKind::Value(_) | ArgKind::Number | ArgKind::Signed => [0, 0],
        ArgKind::Deadline => [Deadline::PAST.nanos(), 0],
    })
}

/// The `round`th way in which an argument can be wrong.
fn wrong(kind: ArgKind, round: usize, handles: &Handles, scratch: &mut Scratch) -> Option<Wrong> {
    let one = |word: u64, wanted: &'static [Error]| Wrong { words: [word, 0], wanted, may_succeed: false };
    match kind {
        ArgKind::Handle { types, rights, or_self } => {
            wrong_handle(types, rights, or_self, round, handles).map(|(word, wanted)| one(word, wanted))
        }
        ArgKind::RawHandle => [u64::MAX, 0, 1, 0x7fff_ffff].get(round).map(|word| one(*word, &[Error::BadHandle])),
        ArgKind::In(info) => wrong_struct(info, true, false, round, scratch),
        ArgKind::InOut(info) => wrong_struct(info, true, false, round, scratch),
        ArgKind::Out(info) => wrong_struct(info, false, true, round, scratch),
        ArgKind::BytesIn | ArgKind::BytesOut | ArgKind::RecordsOut(_) => {
            let address = *NOT_MAPPED.get(round)?;
            Some(Wrong { words: [address, 16], wanted: &[Error::Fault], may_succeed: true })
        }
        ArgKind::Flags(info) => {
            let unknown = [1u64 << 63, !info.mask & info.mask.wrapping_add(1).max(1), u64::MAX];
            unknown.get(round).map(|word| one(if *word == 0 { 1 << 62 } else { *word }, &[Error::Invalid]))
        }
        ArgKind::Value(_) => [99u64, u64::MAX, 1 << 32].get(round).map(|word| one(*word, &[Error::Invalid])),
        ArgKind::Short(right) => {
            let good = register(of(&handles.good, ObjectType::Channel)?) | ShortFlags::NONBLOCK.bits() << 48;
            match round {
                0 => Some(one(good | 33 << 32, &[Error::MessageSize])),
                1 => Some(one(good | 32 << 40, &[Error::Invalid])),
                2 => Some(one(good | 1 << 55, &[Error::Invalid])),
                _ => {
                    let (word, wanted) = wrong_handle(&[ObjectType::Channel], right, false, round - 3, handles)?;
                    (word <= u64::from(u32::MAX))
                        .then(|| one(word, wanted))
                        .or_else(|| Some(one(0, &[Error::BadHandle])))
                }
            }
        }
        ArgKind::Address | ArgKind::Number | ArgKind::Signed | ArgKind::Deadline => None,
    }
}

fn wrong_handle(
    types: &[ObjectType],
    rights: Rights,
    or_self: bool,
    round: usize,
    handles: &Handles,
) -> Option<(u64, &'static [Error])> {
    let object_type = types.first().copied().unwrap_or(ObjectType::Region);
    match round {
        0 => Some((u64::MAX, &[Error::BadHandle])),
        1 => Some((0x7fff_ffff, &[Error::BadHandle])),
        2 => Some((if or_self { 1 } else { 0 }, &[Error::BadHandle])),
        3 => {
            let other = handles.good.iter().find(|(other, _)| !types.is_empty() && !types.contains(other));
            Some(other.map_or((1, &[Error::BadHandle][..]), |(_, handle)| (register(*handle), &[Error::WrongType][..])))
        }
        4 if !rights.is_none() => Some((register(of(&handles.bare, object_type)?), &[Error::Access])),
        4 | 5 => Some((register(of(&handles.revoked, object_type)?), &[Error::Revoked])),
        _ => None,
    }
}

fn wrong_struct(info: &StructInfo, reads: bool, writes: bool, round: usize, scratch: &mut Scratch) -> Option<Wrong> {
    let size = info.size as u32;
    let one = |word: u64, wanted: &'static [Error]| Wrong { words: [word, 0], wanted, may_succeed: false };
    match round {
        0..4 => Some(one(*NOT_MAPPED.get(round)?, &[Error::Fault])),
        4 => Some(one(scratch.structure(info, 0, size), &[Error::Invalid])),
        5 => Some(one(scratch.structure(info, info.version + 1, size), &[Error::Invalid])),
        6 => Some(one(scratch.structure(info, info.version, field::HEADER as u32 - 1), &[Error::Invalid])),
        7 => Some(one(scratch.structure(info, info.version, field::MAX_STRUCT as u32 + 1), &[Error::TooBig])),
        8 if writes => Some(one(READ_ONLY.as_ptr() as u64, &[Error::Fault, Error::Invalid])),
        8 if reads => {
            let at = scratch.structure(info, info.version, size + 8);
            *scratch.bytes.get_mut(info.size + 3)? = 1;
            Some(one(at, &[Error::TooBig]))
        }
        9 if reads => {
            let at = scratch.structure(info, info.version, size);
            scratch.bytes.get_mut(field::HEADER..info.size)?.fill(0xff);
            let mut out = alloc::vec![0; info.size];
            // Only where a field has values it does not know.
            let refused = (info.recode)(scratch.bytes.get(..info.size)?, &mut out).is_err();
            refused.then(|| one(at, &[Error::Invalid]))
        }
        _ => None,
    }
}

fn unknown_numbers(_: &World) -> Outcome {
    let known = |number: u64| CALLS.iter().any(|call| call.number == number);
    let numbers = (0..400).chain([1 << 31, 1 << 32, 1 << 63, u64::MAX]);
    for number in numbers.filter(|number| !known(*number)) {
        // SAFETY: no call has this number, so nothing is done.
        let result = unsafe { sys::raw(number, [u64::MAX; 6]) }.result();
        check!(result == Err(Error::NoCall), "number {number} answered {result:?}");
    }
    Ok(())
}

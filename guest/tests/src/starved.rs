//! Errors of want: a unit that has used up its handles, its kernel memory or its memory, and what each call answers then.
//!
//! The child tries the calls and tells what it saw through a channel that it was given, in messages of two words: the number of
//! the call and the error's code.

use alloc::vec::Vec;

use holm_rt::abi::{
    CapTransfer, Error, MapSpec, MsgIo, Protection, RegionFlags, Rights, Short, ShortFlags, TraceFilter, TransferFlags,
    TransferMode, limits, number,
};
use holm_rt::{
    Archive, Channel, Deadline, Events, Handle, Image, Mapping, Object, Owned, Region, Space, System, Timer, Unit,
    UnitBuilder, startup, sys,
};

use crate::harness::{Outcome, Test, World, check, saw, soon};

pub(crate) const TESTS: &[Test] = &[
    ("starved_of_handles_every_call_says_so", of_handles),
    ("starved_of_kernel_memory_every_call_says_so", of_kernel_memory),
    ("starved_of_memory_every_call_says_so", of_memory),
];

/// Runs a child in want of `what` and notes what it saw: at least `least` calls must have answered `error`.
fn starve(world: &World, what: &str, child: UnitBuilder, error: Error, least: usize) -> Outcome {
    let (told, tell) = Channel::queue(64, 64)?;
    let unit = child
        .cap("tell", tell.moved(Rights::SEND | Rights::TRANSFER))
        .cap("image", world.image.cloned(world.image.capability()?.rights))
        .cap("archive", world.archive.cloned(world.archive.capability()?.rights))
        .cap("system", world.system.cloned(world.system.capability()?.rights))
        .start()?;
    let mut seen: Vec<(u64, Option<Error>)> = Vec::new();
    loop {
        match told.receive_words(soon()) {
            Ok(answer) => seen.push((answer.words[0], Error::from_code(answer.words[1] as i64))),
            Err(Error::PeerClosed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let end = unit.wait(soon())?;
    check!(end.exit_code == 0, "in want of {what} the child ended with {} ({:?})", end.exit_code, end.exit_reason);
    let wanted = seen.iter().filter(|(_, answer)| *answer == Some(error)).count();
    check!(wanted >= least, "in want of {what} only {wanted} calls answered {}: {seen:?}", error.name());
    for (call, answer) in seen {
        let Some(error) = answer else { continue };
        let known = holm_rt::abi::call(call).filter(|call| call.can_answer(error));
        check!(known.is_some(), "in want of {what} call {call} answered {}, which its table lacks", error.name());
        saw(call, error);
    }
    Ok(())
}

fn of_handles(world: &World) -> Outcome {
    let child = world.child("starved", &["handles"]).counts(8, 64);
    starve(world, "handles", child, Error::NoHandles, 10)
}

fn of_kernel_memory(world: &World) -> Outcome {
    let child = world.child("starved", &["kernel"]).counts(8, 60_000).memory(0, 256 << 10);
    starve(world, "kernel memory", child, Error::Quota, 6)
}

fn of_memory(world: &World) -> Outcome {
    let child = world.child("starved", &["memory"]).memory(2 << 20, 0);
    starve(world, "memory", child, Error::Quota, 3)
}

/// What the child has.
struct Child {
    tell: Channel,
    image: Image,
    archive: Archive,
    system: System,
    region: Region,
    events: Events,
    channel: (Channel, Channel),
    /// Where a call waits for its reply, and its token.
    service: (Channel, u64),
    /// Holds what fills the table.
    kept: Vec<Owned>,
}

impl Child {
    fn new() -> Result<Self, Error> {
        let missing = Error::NotFound;
        let (inbox, outbox) = Channel::queue(64, 4)?;
        let caller = holm_rt::thread::spawn(move || outbox.call(b"x", 64, Deadline::NEVER).map(drop))?;
        core::mem::forget(caller);
        let question = inbox.receive(64, soon())?;
        let token = question.reply.as_ref().ok_or(missing)?.number();
        Ok(Self {
            tell: startup::take_named("tell").ok_or(missing)?,
            image: startup::take_named("image").ok_or(missing)?,
            archive: startup::take_named("archive").ok_or(missing)?,
            system: startup::take_named("system").ok_or(missing)?,
            region: Region::new(4 * limits::PAGE_SIZE)?,
            events: Events::new()?,
            channel: Channel::pair(64, 4)?,
            service: (inbox, token),
            kept: Vec::new(),
        })
    }

    /// Tells what a call answered.
    fn tell<T>(&self, call: u64, result: Result<T, Error>) -> Result<(), Error> {
        let code = result.err().map_or(0, |error| error.code() as u64);
        self.tell.send_words([call, code, 0, 0], Deadline::NEVER)
    }

    fn derive(&self) -> Result<Handle, Error> {
        sys::cap_derive(self.region.handle(), Rights::READ, TransferFlags::NONE, 0)
    }

    /// Derives capabilities until there is no more room for them.
    fn fill(&mut self) -> Result<(), Error> {
        loop {
            match self.derive() {
                Ok(handle) => self.kept.push(Owned::new(handle)),
                Err(Error::Quota | Error::NoHandles) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells what a call answers while there is no room. What others that were refused had begun is given back in the
    /// background, so that there may be some again meanwhile.
    fn filled(&mut self, call: u64, make: impl Fn(&Self) -> Result<(), Error>) -> Result<(), Error> {
        for _ in 0..100 {
            self.fill()?;
            let made = make(self);
            if made.is_err() {
                return self.tell(call, made);
            }
        }
        self.tell(call, Ok(()))
    }

    /// Every call that makes an object or a handle.
    fn makers(&self) -> Result<(), Error> {
        self.tell(number::cap_derive, self.derive())?;
        self.tell(number::vm_region_create, Region::new(limits::PAGE_SIZE))?;
        self.tell(number::space_create, Space::new())?;
        self.tell(number::chan_create, Channel::pair(64, 4))?;
        self.tell(number::timer_create, Timer::new(holm_rt::abi::ClockId::Monotonic))?;
        self.tell(number::event_subscribe, Events::new())?;
        self.tell(number::trace_subscribe, self.system.trace(&TraceFilter::new()))?;
        self.tell(number::archive_open, self.archive.open("tests"))?;
        self.tell(number::image_map_region, self.image.region())?;
        self.tell(number::vm_snapshot, self.region.snapshot())?;
        self.tell(number::unit_create, UnitBuilder::empty("one more").create())?;
        let own = Unit::from_owned(Owned::new(Handle::initial(0)));
        self.tell(number::vm_share, self.region.share(&own, Rights::READ))?;
        self.tell(number::cap_grant, own.grant(self.region.handle(), Rights::READ, TransferMode::Clone))?;
        let _stays = own.into_handle();
        Ok(())
    }

    /// A thread without a stack of its own: what is in question is refused before it runs.
    fn thread(&self) -> Result<Handle, Error> {
        let spec = holm_rt::abi::ThreadSpec { entry: limits::USER_HALF, ..holm_rt::abi::ThreadSpec::new() };
        // SAFETY: the table or the memory for the thread is used up, so none is made.
        unsafe { sys::thread_create(Handle::NONE, &spec) }
    }

    /// A message with a capability, which waits to be received.
    fn send(&self) -> Result<(), Error> {
        let sending = [self.region.cloned(Rights::READ)];
        let sending = holm_rt::channel::Sending { caps: &sending, ..Default::default() };
        self.channel.0.send_with(b"x", &sending, soon())
    }

    /// Every call that receives, where the message that waits carries a capability: it stays when it is refused.
    fn receivers(&self) -> Result<(), Error> {
        let channel = &self.channel.1;
        let (mut payload, mut slots) = ([0u8; 8], [[0u8; CapTransfer::SIZE]; 1]);
        let room = MsgIo {
            buffer: payload.as_mut_ptr() as u64,
            buffer_bytes: 8,
            caps: slots.as_mut_ptr() as u64,
            cap_count: 1,
            ..MsgIo::new()
        };
        let (handle, past) = (channel.handle(), Deadline::PAST.nanos());
        let mut message = room;
        // SAFETY: buffer and records are arrays of this function of the sizes given.
        let received = unsafe { sys::chan_recv(handle, &mut message, past) };
        self.tell(number::chan_recv, received)?;
        let mut message = room;
        // SAFETY: as above.
        let received = unsafe { sys::chan_reply_recv(handle, 0, &MsgIo::new(), &mut message, past) };
        self.tell(number::chan_reply_recv, received)?;
        let short = Short { channel: handle, bytes: 0, priority: 0, flags: ShortFlags::CAP };
        self.tell(number::chan_recv_short, sys::chan_recv_short(short, past))?;
        self.tell(number::chan_reply_recv_short, sys::chan_reply_recv_short(short, 0, 0, 0, 0, 0))
    }

    /// Replies with a capability to a caller, of the same unit, that has no room for it.
    fn repliers(&self) -> Result<(), Error> {
        let cap = self.region.cloned(Rights::READ);
        let reply = MsgIo { caps: core::ptr::from_ref(&cap) as u64, cap_count: 1, ..MsgIo::new() };
        let (inbox, token) = &self.service;
        self.tell(number::chan_reply, sys::chan_reply(inbox.handle(), *token, &reply))?;
        // SAFETY: the reply is refused, and nothing is received.
        let both = unsafe { sys::chan_reply_recv(inbox.handle(), *token, &reply, &mut MsgIo::new(), 0) };
        self.tell(number::chan_reply_recv, both)
    }

    /// Changes the middle of a mapping, which would make three of it.
    fn splitters(&self, mapping: &Mapping) -> Result<(), Error> {
        let middle = mapping.address() + limits::PAGE_SIZE;
        // SAFETY: nobody uses the mapping.
        let split = unsafe { sys::vm_protect(Handle::NONE, middle, limits::PAGE_SIZE, Protection::NONE) };
        self.tell(number::vm_protect, split)?;
        // SAFETY: as above.
        let split = unsafe { sys::vm_unmap(Handle::NONE, middle, limits::PAGE_SIZE) };
        self.tell(number::vm_unmap, split)
    }
}

/// The role of the child.
pub(crate) fn child(what: &str) -> i32 {
    let tried = Child::new().and_then(|mut child| match what {
        "handles" => {
            // The message with a capability is there before there is no room for it.
            child.send()?;
            child.fill()?;
            child.makers()?;
            child.tell(number::thread_create, child.thread())?;
            child.repliers()?;
            child.receivers()
        }
        "kernel" => {
            let mut mapped = Vec::with_capacity(1024);
            let whole = child.region.map(Protection::READ)?;
            child.send()?;
            child.fill()?;
            child.receivers()?;
            child.repliers()?;
            child.filled(number::chan_send, Child::send)?;
            let spec = MapSpec { protection: Protection::READ, bytes: limits::PAGE_SIZE, ..MapSpec::new() };
            child.makers()?;
            child.fill()?;
            child.tell(number::thread_create, child.thread())?;
            // A capability needs more than a mapping now and then: what is left goes into mappings.
            let full = loop {
                match child.region.map_with(&spec) {
                    Ok(mapping) if mapped.len() < mapped.capacity() => mapped.push(mapping),
                    answer => break answer,
                }
            };
            child.tell(number::vm_map, full)?;
            child.splitters(&whole)?;
            child.filled(number::event_subscribe, |child| {
                child.events.subscribe(
                    holm_rt::Source::Channel(&child.channel.0),
                    holm_rt::abi::EventMask::READABLE,
                    holm_rt::abi::EventFlags::NONE,
                    1,
                )
            })
        }
        _ => {
            let whole = Region::new(64 << 20)?;
            let space = Space::new()?;
            let state = Region::new(limits::PAGE_SIZE)?;
            let full = (0..).map(|page| whole.write(page * limits::PAGE_SIZE, &[1])).find_map(Result::err);
            child.tell(number::vm_region_write, full.map_or(Ok(()), Err))?;
            // Some pages for itself.
            whole.decommit(0, 8 * limits::PAGE_SIZE)?;
            child.tell(number::vm_region_create, Region::with(1 << 20, RegionFlags::COMMIT))?;
            child.tell(number::vm_snapshot, whole.snapshot())?;
            let _full = (0..).map(|page| whole.write(page * limits::PAGE_SIZE, &[1])).find_map(Result::err);
            child.tell(number::space_create, Space::new())?;
            // SAFETY: it is refused for want of the state's page.
            let bound = unsafe { sys::restricted_bind(space.handle(), state.handle(), 0) };
            child.tell(number::restricted_bind, bound)
        }
    });
    match tried {
        Ok(()) => 0,
        Err(error) => 100 + error.code(),
    }
}

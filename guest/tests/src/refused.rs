//! Errors that need a state before: what is too deep or may not travel, full queues, replies, circles, what has ended, what is
//! in use. Each call that can answer such an error is made in that state.

use holm_rt::abi::{
    CapTransfer, ChanAttr, ChanAttrMask, ChanSpec, DropPolicy, Error, EventFlags, EventMask, KernelConfig, MapFlags,
    MapSpec, MsgFlags, MsgIo, Protection, Rights, SchedClass, SchedParams, Short, ShortFlags, ThreadAttr,
    ThreadAttrMask, ThreadSpec, TransferFlags, TransferMode, UnitAttr, UnitAttrMask, limits, number,
};
use holm_rt::channel::{ReplyToken, Sending};
use holm_rt::{
    Channel, Deadline, Events, Handle, Object, Owned, Region, Source, Space, ThreadBuilder, startup, sys, thread,
};

use crate::harness::{Outcome, Test, World, check_eq, eventually, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("refused_what_is_too_deep_to_travel", too_deep),
    ("refused_what_may_not_travel", may_not_travel),
    ("refused_beyond_quotas_and_ceilings", beyond),
    ("refused_for_what_has_ended", ended),
    ("refused_by_full_queues", full),
    ("refused_replies", replies),
    ("refused_circles_of_calls", circles),
    ("refused_addresses_that_are_written", addresses),
    ("refused_where_there_is_no_space", no_space),
    ("refused_while_in_use", in_use),
];

/// What is sent: these bytes and capabilities.
fn message(payload: &[u8], caps: &[CapTransfer]) -> MsgIo {
    MsgIo {
        buffer: payload.as_ptr() as u64,
        buffer_bytes: payload.len() as u64,
        caps: caps.as_ptr() as u64,
        cap_count: caps.len() as u32,
        ..MsgIo::new()
    }
}

/// chan_reply_recv as it is.
fn reply_receive(
    inbox: &Channel,
    token: u64,
    reply: &MsgIo,
    flags: MsgFlags,
    deadline: Deadline,
) -> Result<u64, Error> {
    let mut room = [0u8; 64];
    let mut io = MsgIo { buffer: room.as_mut_ptr() as u64, buffer_bytes: 64, flags, ..MsgIo::new() };
    // SAFETY: the buffer is an array of this function, of the size given, and there is no room for capabilities.
    unsafe { sys::chan_reply_recv(inbox.handle(), token, reply, &mut io, deadline.nanos()) }
}

/// Calls that carry one capability on a channel with nobody at its other end, by name.
fn carried(outbox: &Channel, cap: CapTransfer) -> [(u64, Result<(), Error>); 3] {
    let sending = Sending { caps: &[cap], ..Sending::default() };
    [
        (number::chan_send, outbox.send_with(b"", &sending, soon())),
        (number::chan_call, outbox.call_with(b"", &sending, 64, soon()).map(drop)),
        (number::chan_call_cap, outbox.call_words_with([0; 4], cap).map(drop)),
    ]
}

/// Replies that carry `caps`, to a call that is open; both ways answer `error`, and the call stays open.
fn reply_refused(error: Error, payload: &[u8], caps: &[CapTransfer]) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let caller = thread::spawn(move || outbox.call(b"question", 64, soon()).map(drop))?;
    let question = inbox.receive(64, soon())?;
    let token = question.reply.as_ref().map(ReplyToken::number).ok_or(Error::NotFound)?;
    let reply = message(payload, caps);
    must_answer(number::chan_reply, error, sys::chan_reply(inbox.handle(), token, &reply))?;
    let both = reply_receive(&inbox, token, &reply, MsgFlags::NONE, soon());
    must_answer(number::chan_reply_recv, error, both)?;
    sys::chan_reply(inbox.handle(), token, &MsgIo::new())?;
    caller.join(soon())?.ok_or(Error::NotFound)??;
    Ok(())
}

fn too_deep(world: &World) -> Outcome {
    let rights = Rights::READ | Rights::DERIVE | Rights::TRANSFER;
    let region = Region::new(4096)?;
    let mut chain = alloc::vec![region.derive(rights)?];
    while let Some(Ok(next)) = chain.last().map(|last| last.derive(rights)) {
        chain.push(next);
    }
    let deep = chain.last().ok_or(Error::NotFound)?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    for (call, answer) in carried(&outbox, deep.cloned(Rights::READ)) {
        must_answer(call, Error::TooDeep, answer)?;
    }
    reply_refused(Error::TooDeep, b"", &[deep.cloned(Rights::READ)])?;
    let unit = world.child("sleep", &[]).create()?;
    must_answer(number::vm_share, Error::TooDeep, deep.share(&unit, Rights::READ))?;
    let granted = unit.grant(deep.handle(), Rights::READ, TransferMode::Clone);
    must_answer(number::cap_grant, Error::TooDeep, granted)?;
    check_eq!(inbox.info()?.queued_messages, 0);
    Ok(())
}

fn may_not_travel(world: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let (events, region) = (Events::new()?, Region::new(4096)?);
    for (call, answer) in carried(&outbox, events.cloned(Rights::READ)) {
        must_answer(call, Error::NotPermitted, answer)?;
    }
    reply_refused(Error::NotPermitted, b"", &[events.cloned(Rights::READ)])?;
    let bound = region.derive_with(Rights::READ | Rights::TRANSFER, TransferFlags::NONE, 0)?;
    let unit = world.child("sleep", &[]).create()?;
    must_answer(number::vm_share, Error::NotPermitted, bound.share(&unit, Rights::READ))?;
    let attr = ChanAttr { mask: ChanAttrMask::MAX_MESSAGES, max_messages: 1, ..ChanAttr::new() };
    must_answer(number::chan_set_attr, Error::NotPermitted, outbox.set(&attr))?;
    check_eq!(inbox.info()?.max_messages, 4);
    Ok(())
}

/// A thread of a unit that does not run.
fn thread_of(unit: Handle, spec: &ThreadSpec) -> Result<Handle, Error> {
    let spec = ThreadSpec { entry: limits::USER_HALF, ..*spec };
    // SAFETY: its unit does not run, and never will.
    unsafe { sys::thread_create(unit, &spec) }
}

fn beyond(world: &World) -> Outcome {
    let unit = world.child("sleep", &[]).class(SchedClass::BestEffort, 0, SchedClass::BestEffort).create()?;
    let more = UnitAttr { mask: UnitAttrMask::HANDLE_QUOTA, handle_quota: u32::MAX, ..UnitAttr::new() };
    must_answer(number::unit_set_attr, Error::NotPermitted, unit.set(&more))?;
    let urgent = ThreadSpec { sched_class: SchedClass::RtFixed, base_priority: 3, ..ThreadSpec::new() };
    must_answer(number::thread_create, Error::NotPermitted, thread_of(unit.handle(), &urgent))?;
    let plain = Owned::new(thread_of(unit.handle(), &ThreadSpec::new())?);
    let params = SchedParams { class: SchedClass::RtFixed, priority: 3, ..SchedParams::new() };
    let raised = sys::sched_set_thread_params(plain.handle(), &params);
    must_answer(number::sched_set_thread_params, Error::NotPermitted, raised)?;
    // A personality maps nothing where its guests are.
    let (space, state, low) = (Space::new()?, Region::new(4096)?, Region::new(4096)?);
    let spec = MapSpec { address: 0x10_0000, flags: MapFlags::FIXED, protection: Protection::READ, ..MapSpec::new() };
    // SAFETY: nothing of a program is mapped in the lower half.
    match unsafe { sys::vm_map(Handle::NONE, low.handle(), &spec) } {
        Ok(address) => {
            // SAFETY: it is refused, since something is mapped in the lower half.
            let bound = unsafe { sys::restricted_bind(space.handle(), state.handle(), 0) };
            // SAFETY: what was mapped above, which nobody uses.
            unsafe { sys::vm_unmap(Handle::NONE, address, 4096)? };
            must_answer(number::restricted_bind, Error::NotPermitted, bound)
        }
        // This unit was a personality before.
        refused => must_answer(number::vm_map, Error::NotPermitted, refused.map(drop)),
    }
}

fn ended(world: &World) -> Outcome {
    let unit = world.child("sleep", &[]).start()?;
    unit.kill(0)?;
    unit.wait(soon())?;
    must_answer(number::thread_create, Error::BadState, thread_of(unit.handle(), &ThreadSpec::new()))?;
    let region = Region::new(4096)?;
    let spec = MapSpec { protection: Protection::READ, ..MapSpec::new() };
    // SAFETY: it is refused, since the other unit has no memory any more.
    let mapped = unsafe { sys::vm_map(unit.handle(), region.handle(), &spec) };
    must_answer(number::vm_map, Error::BadState, mapped)?;
    let granted = unit.grant(region.handle(), Rights::READ, TransferMode::Clone);
    must_answer(number::cap_grant, Error::BadState, granted)?;
    let gone = thread::spawn(|| ())?;
    gone.thread().wait(soon())?;
    let attr = ThreadAttr { mask: ThreadAttrMask::AFFINITY, affinity: 1, ..ThreadAttr::new() };
    let set = sys::thread_set_attr(gone.thread().handle(), &attr);
    must_answer(number::thread_set_attr, Error::BadState, set)?;
    let params = SchedParams { class: SchedClass::BestEffort, weight: 100, ..SchedParams::new() };
    must_answer(number::sched_set_thread_params, Error::BadState, gone.thread().schedule(&params))?;
    let (inbox, _outbox) = Channel::queue(64, 4)?;
    let watched = inbox.derive(Rights::RECEIVE | Rights::WAIT)?;
    watched.revoke()?;
    let subscribed = Events::new()?.subscribe(Source::Channel(&watched), EventMask::READABLE, EventFlags::NONE, 1);
    must_answer(number::event_subscribe, Error::Revoked, subscribed)
}

/// All calls that send 32 bytes or less, made with NONBLOCK where there is such a flag.
fn at_once(outbox: &Channel, cap: CapTransfer) -> [(u64, Result<(), Error>); 5] {
    let short = Short { channel: outbox.handle(), bytes: 8, priority: 0, flags: ShortFlags::NONBLOCK };
    let sending = Sending { flags: MsgFlags::NONBLOCK, ..Sending::default() };
    let never = Deadline::NEVER.nanos();
    [
        (number::chan_send, outbox.send_with(b"x", &sending, soon())),
        (number::chan_call, outbox.call_with(b"x", &sending, 64, soon()).map(drop)),
        (number::chan_send_short, sys::chan_send_short(short, never, 0, 0, 0, 0)),
        (number::chan_call_short, sys::chan_call_short(short, never, 0, 0, 0, 0).map(drop)),
        (number::chan_call_cap, sys::chan_call_cap(short, cap.register(), 0, 0, 0, 0).map(drop)),
    ]
}

fn full(_: &World) -> Outcome {
    let region = Region::new(4096)?;
    for (drop_policy, error) in [(DropPolicy::Block, Error::WouldBlock), (DropPolicy::Refuse, Error::NoSpace)] {
        let spec = ChanSpec { max_messages: 1, max_message: 64, drop_policy, ..ChanSpec::new() };
        let (inbox, outbox) = Channel::with(&spec)?;
        outbox.send(b"full", soon())?;
        for (call, answer) in at_once(&outbox, region.cloned(Rights::READ)) {
            must_answer(call, error, answer)?;
        }
        check_eq!(inbox.receive(64, soon())?.payload, b"full");
        let nothing = reply_receive(&inbox, 0, &MsgIo::new(), MsgFlags::NONBLOCK, soon());
        must_answer(number::chan_reply_recv, Error::WouldBlock, nothing)?;
        let nothing = reply_receive(&inbox, 0, &MsgIo::new(), MsgFlags::NONE, Deadline::PAST);
        must_answer(number::chan_reply_recv, Error::TimedOut, nothing)?;
        must_answer(number::chan_call, Error::MessageSize, outbox.call(&[0; 65], 64, soon()).map(drop))?;
        outbox.send(b"long enough for no register: more than 32 bytes", soon())?;
        let long = reply_receive(&inbox, 0, &MsgIo::new(), MsgFlags::NONE, soon());
        check_eq!(long, Ok(47));
        drop(outbox);
        let gone = reply_receive(&inbox, 0, &MsgIo::new(), MsgFlags::NONE, soon());
        must_answer(number::chan_reply_recv, Error::PeerClosed, gone)?;
        must_answer(
            number::chan_reply_recv_short,
            Error::PeerClosed,
            inbox.reply_receive_words(None, [0; 4]).map(drop),
        )?;
    }
    Ok(())
}

fn replies(_: &World) -> Outcome {
    reply_refused(Error::MessageSize, &[0; 65], &[])?;
    let (inbox, _outbox) = Channel::queue(64, 4)?;
    let nobody = reply_receive(&inbox, 0x7_0000_0001, &MsgIo::new(), MsgFlags::NONE, soon());
    must_answer(number::chan_reply_recv, Error::NotFound, nobody)
}

/// Calls that a unit of one thread makes to itself, while it serves a call: nobody could ever answer.
fn circles(world: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let rights = Rights::SEND | Rights::INSPECT;
    let unit = world
        .child("circle", &[])
        .cap("serve", inbox.moved(Rights::RECEIVE))
        .cap("own", outbox.cloned(rights))
        .cap("region", Region::new(4096)?.moved(Rights::READ | Rights::TRANSFER))
        .start()?;
    for call in [number::chan_call, number::chan_call_short, number::chan_call_cap] {
        let answer = outbox.call_words([call, 0, 0, 0], soon())?.words;
        let error = Error::from_code(answer.first().copied().unwrap_or(0) as i64);
        must_answer(call, Error::Deadlock, error.map_or(Ok(()), Err))?;
    }
    drop(outbox);
    unit.kill(0)?;
    unit.wait(soon())?;
    Ok(())
}

/// The role of the unit that calls itself, in the way that it is asked for, and tells the answer.
pub(crate) fn circle() -> i32 {
    let (Some(serve), Some(own), Some(region)) = (
        startup::take_named::<Channel>("serve"),
        startup::take_named::<Channel>("own"),
        startup::take_named::<Region>("region"),
    ) else {
        return 3;
    };
    while let Ok(question) = serve.receive_words(Deadline::NEVER) {
        let answer = match question.words[0] {
            number::chan_call => own.call(b"", 64, Deadline::NEVER).map(drop),
            number::chan_call_short => own.call_words([0; 4], Deadline::NEVER).map(drop),
            _ => own.call_words_with([0; 4], region.cloned(Rights::READ)).map(drop),
        };
        let code = answer.err().map_or(0, |error| error.code() as u64);
        let Some(token) = ReplyToken::of(&question) else { return 4 };
        if serve.reply_words(token, [code, 0, 0, 0]).is_err() {
            return 5;
        }
    }
    0
}

fn addresses(world: &World) -> Outcome {
    let nowhere = [8, 1];
    let raw = |call: u64, handle: Handle, rest: [u64; 3]| {
        let handle = u64::from(handle.raw().unsigned_abs());
        let [address, count, deadline] = rest;
        // SAFETY: the address is refused: nothing is mapped there.
        unsafe { sys::raw(call, [handle, address, count, deadline, 0, 0]) }.result()
    };
    let unit = world.child("sleep", &[]).label("role", "web").create()?;
    let [address, count] = nowhere;
    let labels = raw(number::unit_get_labels, unit.handle(), [address, count, 0]);
    must_answer(number::unit_get_labels, Error::Fault, labels)?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let events = Events::new()?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::EDGE, 3)?;
    outbox.send(b"x", soon())?;
    let waited = raw(number::event_wait, events.handle(), [address, count, soon().nanos()]);
    must_answer(number::event_wait, Error::Fault, waited)?;
    check_eq!(events.wait_one(soon())?.token, 3);
    // SAFETY: it is refused: it is no beginning of a page.
    let odd = unsafe { sys::vm_unmap(Handle::NONE, 1, 4096) };
    must_answer(number::vm_unmap, Error::Invalid, odd)?;
    must_answer(number::console_read, Error::TimedOut, world.console.read(&mut [0], Deadline::PAST))
}

/// As much as either half of a space has: it fits in neither with something else beside it.
fn no_space(_: &World) -> Outcome {
    let huge = Region::new(limits::MAX_REGION)?;
    let spec = MapSpec { protection: Protection::READ, ..MapSpec::new() };
    let mut mapped = alloc::vec::Vec::new();
    let refused = loop {
        match huge.map_with(&spec) {
            Ok(mapping) if mapped.len() < 4 => mapped.push(mapping),
            answer => break answer.map(drop),
        }
    };
    must_answer(number::vm_map, Error::NoSpace, refused)
}

fn in_use(world: &World) -> Outcome {
    let old = world.system.config()?;
    let params = SchedParams {
        class: SchedClass::RtEdf,
        runtime: 5_000_000,
        deadline: 100_000_000,
        period: 100_000_000,
        ..SchedParams::new()
    };
    let admitted = ThreadBuilder::default().spawn(move || -> Result<(), Error> {
        sys::sched_set_thread_params(Handle::NONE, &params)?;
        holm_rt::time::sleep_until(soon())
    })?;
    eventually("a thread to be admitted", || Ok(admitted.thread().info()?.sched_class == SchedClass::RtEdf))?;
    let none = world.system.configure(&KernelConfig { edf_limit: 0, ..old });
    admitted.thread().kill(0)?;
    admitted.thread().wait(soon())?;
    must_answer(number::kernel_config_set, Error::Busy, none)?;
    check_eq!(world.system.config()?.edf_limit, old.edf_limit);
    Ok(())
}

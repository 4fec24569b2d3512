//! Channels: order, bounds, priorities, calls, many at once.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use holm_rt::abi::{
    ChanAttr, ChanAttrMask, ChanFlags, ChanMode, ChanSpec, DropPolicy, Error, MsgFlags, Rights, SchedClass, Short,
    ShortFlags, limits, number,
};
use holm_rt::channel::{ReplyToken, Sending};
use holm_rt::{Channel, Deadline, Events, Object, Region, ThreadBuilder, sys, thread, time};

use crate::harness::{Outcome, Test, World, check, check_eq, eventually, must_answer, shortly, soon};

pub(crate) const TESTS: &[Test] = &[
    ("channel_ping_pong_between_units_keeps_order", ping_pong),
    ("channel_full_makes_senders_wait_or_say_so", backpressure),
    ("channel_bounds_count_messages_and_bytes", bounds),
    ("channel_timeouts_are_kept", timeouts),
    ("channel_priorities_order_messages", priorities),
    ("channel_drop_policies_drop_what_they_say", drop_policies),
    ("channel_peek_leaves_the_message", peek),
    ("channel_long_messages_are_refused_or_cut", long_messages),
    ("channel_many_senders_lose_nothing", many_senders),
    ("channel_many_receivers_get_each_message_once", many_receivers),
    ("channel_call_gets_its_own_reply", calls),
    ("channel_call_of_a_dead_server_ends", dead_server),
    ("channel_reply_token_works_once", reply_once),
    ("channel_caller_lends_its_priority_along_chains", inheritance),
    ("channel_circle_of_calls_is_refused", circle),
    ("channel_short_and_long_messages_mix", short_messages),
    ("channel_call_carries_a_capability_in_registers", call_with_cap),
    ("channel_badge_names_the_sender", badges),
    ("channel_bad_specs_are_refused", bad_specs),
    ("channel_attributes_change_within_what_was_made", attributes),
    ("channel_random_histories_match_a_queue", random_histories),
];

fn ping_pong(world: &World) -> Outcome {
    let (server, client) = Channel::queue(4096, 8)?;
    let unit = world.child("echo", &[]).cap("serve", server.moved(Rights::RECEIVE)).start()?;
    for round in 0..500u64 {
        let payload: Vec<u8> = round.to_le_bytes().repeat(1 + round as usize % 100);
        let reply = client.call(&payload, 4096, soon())?;
        check_eq!(reply.payload, payload);
    }
    drop(client);
    check_eq!(unit.wait(soon())?.exit_code, 0);
    Ok(())
}

fn backpressure(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 3)?;
    let nonblock = Sending { flags: MsgFlags::NONBLOCK, ..Sending::default() };
    for _ in 0..3 {
        outbox.send_with(b"fill", &nonblock, Deadline::NEVER)?;
    }
    must_answer(number::chan_send, Error::WouldBlock, outbox.send_with(b"more", &nonblock, Deadline::NEVER))?;
    must_answer(number::chan_send, Error::TimedOut, outbox.send(b"more", shortly()))?;
    must_answer(number::chan_send_short, Error::TimedOut, outbox.send_words([0; 4], shortly()))?;
    let sender = thread::spawn(move || outbox.send(b"waited", soon()))?;
    eventually("a sender that waits", || Ok(inbox.info()?.senders == 1))?;
    check!(!sender.is_done(), "the sender did not wait");
    check_eq!(inbox.receive(64, soon())?.payload, b"fill");
    check_eq!(sender.join(soon())?, Some(Ok(())));
    for wanted in [&b"fill"[..], b"fill", b"waited"] {
        check_eq!(inbox.receive(64, soon())?.payload, wanted);
    }
    must_answer(number::chan_recv, Error::PeerClosed, inbox.receive(64, soon()).map(|_| ()))?;
    Ok(())
}

fn bounds(_: &World) -> Outcome {
    let spec = ChanSpec { max_message: 100, max_messages: 10, max_bytes: 250, ..ChanSpec::new() };
    let (inbox, outbox) = Channel::with(&spec)?;
    outbox.send(&[1; 100], Deadline::PAST)?;
    outbox.send(&[2; 100], Deadline::PAST)?;
    must_answer(number::chan_send, Error::TimedOut, outbox.send(&[3; 100], Deadline::PAST))?;
    outbox.send(&[4; 50], Deadline::PAST)?;
    let info = inbox.info()?;
    check_eq!((info.queued_messages, info.queued_bytes, info.max_bytes), (3, 250, 250));
    check_eq!(inbox.receive(100, soon())?.payload, [1; 100]);
    outbox.send(&[], Deadline::PAST)?;
    must_answer(number::chan_send, Error::MessageSize, outbox.send(&[0; 101], soon()))?;
    Ok(())
}

fn timeouts(_: &World) -> Outcome {
    let (inbox, _outbox) = Channel::queue(64, 3)?;
    let started = time::now();
    must_answer(number::chan_recv, Error::TimedOut, inbox.receive(64, Deadline::at(started + 3_000_000)).map(|_| ()))?;
    let waited = time::now() - started;
    check!(waited >= 3_000_000, "waited only {waited} ns");
    must_answer(number::chan_recv_short, Error::TimedOut, inbox.receive_words(Deadline::PAST).map(|_| ()))?;
    let received = inbox.receive_with(64, MsgFlags::NONBLOCK, Deadline::NEVER);
    must_answer(number::chan_recv, Error::WouldBlock, received.map(|_| ()))?;
    let (server, client) = Channel::queue(64, 3)?;
    must_answer(number::chan_call, Error::TimedOut, client.call(b"hello?", 64, shortly()).map(|_| ()))?;
    must_answer(number::chan_call_short, Error::TimedOut, client.call_words([1; 4], shortly()).map(|_| ()))?;
    check_eq!(server.info()?.open_calls, 0);
    Ok(())
}

fn priorities(_: &World) -> Outcome {
    let spec = ChanSpec { flags: ChanFlags::PRIORITY_AWARE, max_messages: 16, ..ChanSpec::new() };
    let (inbox, outbox) = Channel::with(&spec)?;
    for (priority, text) in [(0, "a"), (5, "b"), (31, "c"), (5, "d"), (0, "e"), (31, "f")] {
        outbox.send_with(text.as_bytes(), &Sending { priority, ..Sending::default() }, soon())?;
    }
    for wanted in ["c", "f", "b", "d", "a", "e"] {
        check_eq!(inbox.receive(64, soon())?.payload, wanted.as_bytes());
    }
    let high = Sending { priority: 32, ..Sending::default() };
    must_answer(number::chan_send, Error::Invalid, outbox.send_with(b"x", &high, soon()))?;
    Ok(())
}

fn drop_policies(_: &World) -> Outcome {
    for (policy, wanted, dropped) in [
        (DropPolicy::DropNewest, &["1", "2"][..], 2),
        (DropPolicy::DropOldest, &["3", "4"], 2),
        (DropPolicy::Refuse, &["1", "2"], 0),
    ] {
        let (inbox, outbox) = Channel::with(&ChanSpec { drop_policy: policy, max_messages: 2, ..ChanSpec::new() })?;
        for text in ["1", "2", "3", "4"] {
            let sent = outbox.send(text.as_bytes(), soon());
            match policy {
                DropPolicy::Refuse if text > "2" => must_answer(number::chan_send, Error::NoSpace, sent)?,
                _ => sent?,
            }
        }
        for text in wanted {
            check_eq!(inbox.receive(64, soon())?.payload, text.as_bytes());
        }
        check_eq!(inbox.info()?.dropped, dropped);
    }
    Ok(())
}

fn peek(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 3)?;
    outbox.send(b"first", soon())?;
    outbox.send(b"second", soon())?;
    for _ in 0..3 {
        check_eq!(inbox.receive_with(64, MsgFlags::PEEK, soon())?.payload, b"first");
    }
    check_eq!(inbox.receive(64, soon())?.payload, b"first");
    check_eq!(inbox.receive(64, soon())?.payload, b"second");
    Ok(())
}

fn long_messages(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(5000, 3)?;
    outbox.send(&[7; 5000], soon())?;
    must_answer(number::chan_recv, Error::MessageSize, inbox.receive(4999, soon()).map(|_| ()))?;
    must_answer(number::chan_recv_short, Error::MessageSize, inbox.receive_words(soon()).map(|_| ()))?;
    let cut = inbox.receive_with(100, MsgFlags::TRUNCATE, soon())?;
    check_eq!(cut.payload, [7; 100]);
    outbox.send(&[8; 5000], soon())?;
    check_eq!(inbox.receive(5000, soon())?.payload, [8; 5000]);
    Ok(())
}

fn many_senders(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let outbox = Arc::new(outbox);
    let mut senders = Vec::new();
    for sender in 0..8u64 {
        let outbox = Arc::clone(&outbox);
        senders
            .push(thread::spawn(move || (0..100u64).try_for_each(|n| outbox.send_words([sender, n, 0, 0], soon())))?);
    }
    drop(outbox);
    let mut next = [0u64; 8];
    for _ in 0..800 {
        let [sender, n, ..] = inbox.receive_words(soon())?.words;
        let place = next.get_mut(sender as usize).ok_or(Error::Invalid)?;
        check_eq!(n, *place);
        *place += 1;
    }
    for sender in senders {
        check_eq!(sender.join(soon())?, Some(Ok(())));
    }
    must_answer(number::chan_recv_short, Error::PeerClosed, inbox.receive_words(soon()).map(|_| ()))?;
    Ok(())
}

fn many_receivers(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let (inbox, sum) = (Arc::new(inbox), Arc::new(AtomicU64::new(0)));
    let mut receivers = Vec::new();
    for _ in 0..6 {
        let (inbox, sum) = (Arc::clone(&inbox), Arc::clone(&sum));
        receivers.push(thread::spawn(move || {
            let mut count = 0u64;
            while let Ok(message) = inbox.receive_words(soon()) {
                sum.fetch_add(message.words[0], Ordering::Relaxed);
                count += 1;
            }
            count
        })?);
    }
    for n in 1..=600u64 {
        outbox.send_words([n, 0, 0, 0], soon())?;
    }
    drop(outbox);
    let mut count = 0;
    for receiver in receivers {
        count += receiver.join(soon())?.unwrap_or(0);
    }
    check_eq!((count, sum.load(Ordering::Relaxed)), (600, 600 * 601 / 2));
    Ok(())
}

/// A thread that answers every short call with each word one higher; ends with the callers.
fn counting_server(server: Channel) -> Result<holm_rt::JoinHandle<()>, Error> {
    thread::spawn(move || {
        let (mut token, mut answer) = (None, [0; 4]);
        while let Ok(question) = server.reply_receive_words(token.take(), answer) {
            token = ReplyToken::of(&question);
            answer = question.words.map(|word| word.wrapping_add(1));
        }
    })
}

fn calls(_: &World) -> Outcome {
    let (server, client) = Channel::queue(64, 4)?;
    let server = counting_server(server)?;
    let client = Arc::new(client);
    let mut callers = Vec::new();
    for caller in 0..6u64 {
        let client = Arc::clone(&client);
        callers.push(thread::spawn(move || {
            (0..100u64).all(|n| {
                let words = [caller, n, caller * n, 7];
                client.call_words(words, soon()).is_ok_and(|reply| reply.words == words.map(|word| word + 1))
            })
        })?);
    }
    drop(client);
    for caller in callers {
        check_eq!(caller.join(soon())?, Some(true));
    }
    server.join(soon())?;
    Ok(())
}

fn dead_server(world: &World) -> Outcome {
    let (server, client) = Channel::queue(64, 4)?;
    let unit = world.child("sleep", &[]).cap("serve", server.moved(Rights::RECEIVE)).start()?;
    let caller = thread::spawn(move || (client.call(b"?", 64, soon()).map(|_| ()), client))?;
    time::sleep(Duration::from_millis(3))?;
    unit.kill(0)?;
    let (answer, client) = caller.join(soon())?.ok_or(Error::NotFound)?;
    must_answer(number::chan_call, Error::PeerClosed, answer)?;
    must_answer(number::chan_call_short, Error::PeerClosed, client.call_words([0; 4], soon()).map(|_| ()))?;
    must_answer(number::chan_send, Error::PeerClosed, client.send(b"x", soon()))?;
    must_answer(number::chan_send_short, Error::PeerClosed, client.send_words([0; 4], soon()))?;
    Ok(())
}

fn reply_once(_: &World) -> Outcome {
    let (server, client) = Channel::queue(64, 4)?;
    let caller = thread::spawn(move || client.call(b"question", 64, soon()).map(|reply| reply.payload))?;
    let mut question = server.receive(64, soon())?;
    let token = question.reply.take().ok_or(Error::NotFound)?;
    let raw = token.number();
    check_eq!(server.info()?.open_calls, 1);
    must_answer(number::chan_reply, Error::NotFound, {
        let message = holm_rt::abi::MsgIo::new();
        sys::chan_reply(server.handle(), raw ^ 1 << 40, &message)
    })?;
    server.reply(token, b"answer", &[])?;
    check_eq!(caller.join(soon())?, Some(Ok(b"answer".to_vec())));
    let again = sys::chan_reply(server.handle(), raw, &holm_rt::abi::MsgIo::new());
    must_answer(number::chan_reply, Error::NotFound, again)?;
    let short = Short { channel: server.handle(), bytes: 0, priority: 0, flags: ShortFlags::NONE };
    must_answer(number::chan_reply_short, Error::NotFound, sys::chan_reply_short(short, raw, 0, 0, 0, 0))?;
    let received = sys::chan_reply_recv_short(short, raw, 0, 0, 0, 0).map(|_| ());
    must_answer(number::chan_reply_recv_short, Error::NotFound, received)?;
    Ok(())
}

/// Two servers in a row: the second one's rank while a caller of a high rank waits is that rank.
fn inheritance(_: &World) -> Outcome {
    let (outer, client) = Channel::queue(64, 4)?;
    let (inner, middle) = Channel::queue(64, 4)?;
    let low = ThreadBuilder::default().class(SchedClass::RtFixed, 2).affinity(1);
    let second = low.spawn(move || -> Result<(u32, u32), Error> {
        let question = inner.receive_words(soon())?;
        let during = thread::info(holm_rt::Handle::NONE)?.effective_priority;
        inner.reply_words(ReplyToken::of(&question).ok_or(Error::NotFound)?, [0; 4])?;
        Ok((during, thread::info(holm_rt::Handle::NONE)?.effective_priority))
    })?;
    let first = low.spawn(move || -> Result<(u32, u32), Error> {
        let question = outer.receive_words(soon())?;
        let during = thread::info(holm_rt::Handle::NONE)?.effective_priority;
        middle.call_words([0; 4], soon())?;
        outer.reply_words(ReplyToken::of(&question).ok_or(Error::NotFound)?, [0; 4])?;
        Ok((during, thread::info(holm_rt::Handle::NONE)?.effective_priority))
    })?;
    time::sleep(Duration::from_millis(2))?;
    let high = ThreadBuilder::default().class(SchedClass::RtFixed, 20).affinity(1);
    let caller = high.spawn(move || client.call_words([0; 4], soon()).map(|_| ()))?;
    check_eq!(caller.join(soon())?, Some(Ok(())));
    check_eq!(second.join(soon())?, Some(Ok((20, 2))));
    check_eq!(first.join(soon())?, Some(Ok((20, 2))));
    Ok(())
}

fn circle(_: &World) -> Outcome {
    let (server, client) = Channel::queue(64, 4)?;
    let client = Arc::new(client);
    let own = Arc::clone(&client);
    let server = thread::spawn(move || -> Result<Error, Error> {
        let question = server.receive_words(soon())?;
        // The caller of this server is the only one who could answer; here the server calls itself.
        let refused = own.call_words([0; 4], Deadline::after(Duration::from_millis(50))).map(|_| ());
        server.reply_words(ReplyToken::of(&question).ok_or(Error::NotFound)?, [0; 4])?;
        Ok(refused.err().unwrap_or(Error::Invalid))
    })?;
    client.call_words([1; 4], soon())?;
    let refused = server.join(soon())?.ok_or(Error::NotFound)??;
    check!(matches!(refused, Error::Deadlock | Error::TimedOut), "a call to itself answered {}", refused.name());
    if refused == Error::Deadlock {
        crate::harness::saw(number::chan_call_short, refused);
    }
    Ok(())
}

fn short_messages(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 8)?;
    let words = [0x0807_0605_0403_0201, 0x1009, 3, u64::MAX];
    for bytes in 0..=32u8 {
        let short = Short { channel: outbox.handle(), bytes, priority: 0, flags: ShortFlags::NONE };
        sys::chan_send_short(short, soon().nanos(), words[0], words[1], words[2], words[3])?;
        let whole: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let wanted = whole.get(..usize::from(bytes)).unwrap_or_default();
        if bytes % 2 == 0 {
            check_eq!(inbox.receive(64, soon())?.payload, wanted);
        } else {
            let received = inbox.receive_words(soon())?;
            let got: Vec<u8> = received.words.iter().flat_map(|word| word.to_le_bytes()).collect();
            check_eq!((received.short.bytes, got.get(..usize::from(bytes))), (bytes, Some(wanted)));
            check!(
                got.iter().skip(usize::from(bytes)).all(|byte| *byte == 0),
                "{bytes} bytes came with more behind them"
            );
        }
    }
    outbox.send(b"long to short", soon())?;
    check_eq!(inbox.receive_words(soon())?.short.bytes, 13);
    let short = Short { channel: outbox.handle(), bytes: 33, priority: 0, flags: ShortFlags::NONE };
    must_answer(number::chan_send_short, Error::MessageSize, sys::chan_send_short(short, 0, 0, 0, 0, 0))?;
    let short = Short { channel: inbox.handle(), bytes: 0, priority: 0, flags: ShortFlags::NONBLOCK };
    must_answer(number::chan_recv_short, Error::WouldBlock, sys::chan_recv_short(short, limits::NEVER).map(|_| ()))?;
    let received = sys::chan_reply_recv_short(short, 0, 0, 0, 0, 0).map(|_| ());
    must_answer(number::chan_reply_recv_short, Error::WouldBlock, received)?;
    Ok(())
}

/// Moved, cloned and lent capabilities of calls in registers, and what is refused.
fn call_with_cap(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    type Seen = Vec<(Rights, Result<(), Error>)>;
    let server = thread::spawn(move || -> Result<Seen, Error> {
        let (mut token, mut seen) = (None, Seen::new());
        loop {
            match inbox.reply_receive_words_with(token.take(), [5, 6, 7, 8]) {
                Ok((question, cap)) => {
                    if let Some(cap) = cap {
                        let region = Region::from_owned(cap);
                        let rights = region.capability()?.rights;
                        seen.push((rights, region.read(0, &mut [0]).map(drop)));
                        // A loan ends with the reply; the others live on.
                        core::mem::forget(region);
                    }
                    token = ReplyToken::of(&question);
                }
                Err(Error::PeerClosed) => return Ok(seen),
                Err(error) => return Err(error),
            }
        }
    })?;
    let region = Region::new(4096)?;
    let rights = Rights::READ | Rights::INSPECT | Rights::TRANSFER;
    let moved = region.derive(rights)?.moved(Rights::READ | Rights::INSPECT);
    check_eq!(outbox.call_words_with([1, 2, 3, 4], moved)?.words, [5, 6, 7, 8]);
    must_answer(number::chan_call_cap, Error::BadHandle, outbox.call_words_with([0; 4], moved).map(drop))?;
    outbox.call_words_with([0; 4], region.cloned(Rights::INSPECT))?;
    outbox.call_words_with([0; 4], region.lent(rights))?;
    let refused = |error, cap| must_answer(number::chan_call_cap, error, outbox.call_words_with([0; 4], cap).map(drop));
    refused(Error::Access, region.derive(Rights::READ)?.moved(Rights::READ))?;
    refused(Error::Access, region.derive(rights)?.moved(Rights::WRITE))?;
    refused(Error::NotPermitted, outbox.cloned(Rights::SEND))?;
    refused(Error::NotPermitted, Events::new()?.moved(Rights::READ))?;
    let gone = region.derive(rights)?;
    gone.revoke()?;
    refused(Error::Revoked, gone.cloned(Rights::READ))?;
    let short = Short { channel: outbox.handle(), bytes: 0, priority: 0, flags: ShortFlags::NONE };
    let wild = sys::chan_call_cap(short, 3 << 56, 0, 0, 0, 0).map(drop);
    must_answer(number::chan_call_cap, Error::Invalid, wild)?;
    drop(outbox);
    let seen = server.join(soon())?.ok_or(Error::NotFound)??;
    let (read, inspect) = (Rights::READ, Rights::INSPECT);
    let wanted = [(read | inspect, Ok(())), (inspect, Err(Error::Access)), (read | inspect, Ok(()))];
    check_eq!(seen, wanted);
    // Who has no room for a capability does not get the call, which waits until its channel goes.
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let cap = region.cloned(Rights::READ);
    let caller = thread::spawn(move || outbox.call_words_with([0; 4], cap).map(drop))?;
    eventually("the call to be queued", || Ok(inbox.info()?.queued_messages == 1))?;
    must_answer(number::chan_recv_short, Error::MessageSize, inbox.receive_words(soon()).map(drop))?;
    check_eq!(inbox.receive(64, soon())?.caps.len(), 1);
    drop(inbox);
    must_answer(number::chan_call_cap, Error::PeerClosed, caller.join(soon())?.ok_or(Error::NotFound)?)?;
    Ok(())
}

fn badges(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 8)?;
    let rights = Rights::SEND | Rights::DERIVE | Rights::INSPECT;
    let badged = outbox.derive_with(rights, outbox.capability()?.transfer, 77)?;
    outbox.send(b"plain", soon())?;
    badged.send(b"badged", soon())?;
    let again = badged.derive(rights)?;
    again.send_words([0; 4], soon())?;
    check_eq!(inbox.receive(64, soon())?.badge, 0);
    let second = inbox.receive(64, soon())?;
    check_eq!((second.badge, second.sender), (77, holm_rt::startup::unit_id()));
    check_eq!(inbox.receive_words(soon())?.badge, 77);
    let transfer = badged.capability()?.transfer;
    must_answer(number::cap_derive, Error::NotPermitted, badged.derive_with(rights, transfer, 78).map(|_| ()))?;
    Ok(())
}

fn bad_specs(_: &World) -> Outcome {
    let fine = ChanSpec::new();
    for spec in [
        ChanSpec { max_message: limits::MAX_MESSAGE as u32 + 1, ..fine },
        ChanSpec { max_messages: limits::MAX_QUEUE_MESSAGES as u32 + 1, ..fine },
        ChanSpec { max_bytes: limits::MAX_QUEUE_BYTES + 1, ..fine },
        ChanSpec { flags: ChanFlags::RELIABLE, drop_policy: DropPolicy::DropOldest, ..fine },
        ChanSpec { flags: ChanFlags::RT_SAFE, max_message: 257, ..fine },
    ] {
        must_answer(number::chan_create, Error::Invalid, sys::chan_create(&spec).map(|_| ()))?;
    }
    let (one, two) = Channel::with(&ChanSpec { mode: ChanMode::Bidi, ..fine })?;
    one.send(b"to two", soon())?;
    two.send(b"to one", soon())?;
    check_eq!(
        (one.receive(64, soon())?.payload, two.receive(64, soon())?.payload),
        (b"to one".to_vec(), b"to two".to_vec())
    );
    let (inbox, outbox) = Channel::queue(64, 2)?;
    must_answer(number::chan_send, Error::Access, inbox.send(b"wrong way", soon()))?;
    must_answer(number::chan_recv, Error::Access, outbox.receive(64, soon()).map(|_| ()))?;
    Ok(())
}

fn attributes(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 8)?;
    inbox.set(&ChanAttr { mask: ChanAttrMask::MAX_MESSAGES, max_messages: 2, ..ChanAttr::new() })?;
    outbox.send(b"1", Deadline::PAST)?;
    outbox.send(b"2", Deadline::PAST)?;
    must_answer(number::chan_send, Error::TimedOut, outbox.send(b"3", Deadline::PAST))?;
    let drop = ChanAttr { mask: ChanAttrMask::DROP_POLICY, drop_policy: DropPolicy::DropOldest, ..ChanAttr::new() };
    inbox.set(&drop)?;
    outbox.send(b"3", Deadline::PAST)?;
    check_eq!(inbox.receive(64, soon())?.payload, b"2");
    let more = ChanAttr { mask: ChanAttrMask::MAX_MESSAGES, max_messages: 9, ..ChanAttr::new() };
    let refused = inbox.set(&more);
    check!(matches!(refused, Err(Error::Invalid | Error::NotPermitted)), "limits grew: {refused:?}");
    Ok(())
}

/// Random sends and receives of random lengths against a plain queue.
fn random_histories(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(300, 8)?;
    let mut queue: alloc::collections::VecDeque<Vec<u8>> = alloc::collections::VecDeque::new();
    let mut random = crate::fuzz::Random::new(0x5eed);
    for _ in 0..3000 {
        if random.below(2) == 0 {
            let payload: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
            match outbox.send(&payload, Deadline::PAST) {
                Ok(()) => queue.push_back(payload),
                Err(Error::TimedOut) => check!(queue.len() == 8, "full with {}", queue.len()),
                Err(error) => return Err(error.into()),
            }
        } else {
            match inbox.receive(300, Deadline::PAST) {
                Ok(message) => check_eq!(Some(message.payload), queue.pop_front()),
                Err(Error::TimedOut) => check!(queue.is_empty(), "empty with {}", queue.len()),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

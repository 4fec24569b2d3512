//! Large messages, calls and beginnings of units, in every way they go: each is done in pieces, and comes whole or not at all.

use alloc::string::String;
use alloc::vec::Vec;

use holm_rt::abi::{CapTransfer, ChanMode, ChanSpec, DropPolicy, Error, MsgFlags, Rights, ThreadState, limits, number};
use holm_rt::channel::{Received, Sending};
use holm_rt::{Channel, Deadline, Object, Owned, Region, ThreadBuilder, startup};

use crate::harness::{Failure, Outcome, Test, World, check, check_eq, eventually, must_answer, shortly, soon};

pub(crate) const TESTS: &[Test] = &[
    ("pieces_of_large_calls_and_replies_arrive", calls),
    ("pieces_of_a_large_message_wait_for_a_receiver", receiver_waits),
    ("pieces_of_a_large_message_wait_for_room", sender_waits),
    ("pieces_of_a_large_message_that_drops_others_arrive", drops),
    ("pieces_of_a_large_message_go_with_their_sender", killed),
    ("pieces_of_a_large_beginning_arrive", beginning),
];

const BYTES: usize = limits::MAX_MESSAGE as usize;
const CAPS: usize = limits::MAX_MESSAGE_CAPS as usize;

/// How many words a unit begins with, and bytes of each.
const WORDS: usize = 5;
const LONG: usize = 3000;

/// The heap is large enough from here on not to grow meanwhile, which would take a region.
fn settle() {
    drop(Vec::<u8>::with_capacity(4 << 20));
}

/// A payload that tells which one it is.
fn payload(seed: usize) -> Vec<u8> {
    (0..BYTES).map(|at| (at / 5 + seed) as u8).collect()
}

/// As many capabilities as a message may have, in all ways to travel that are open to it.
fn caps(region: &Region, modes: usize) -> Result<Vec<CapTransfer>, Error> {
    let caps = (0..CAPS).map(|at| match at % modes {
        0 => Ok(region.cloned(Rights::READ)),
        1 => Ok(Region::new(limits::PAGE_SIZE)?.moved(Rights::READ)),
        _ => Ok(region.lent(Rights::READ)),
    });
    caps.collect()
}

fn spec(messages: u32) -> ChanSpec {
    ChanSpec {
        mode: ChanMode::Uni,
        max_message: BYTES as u32,
        max_messages: messages,
        max_bytes: u64::from(messages) * BYTES as u64,
        ..ChanSpec::new()
    }
}

fn whole(message: &Received, seed: usize) -> Outcome {
    check!(message.payload == payload(seed), "a large message is not what was sent");
    check_eq!(message.caps.len(), CAPS);
    Ok(())
}

fn calls(world: &World) -> Outcome {
    // What the heap grows by is there after the first time.
    call_and_reply()?;
    let before = world.inventory()?;
    call_and_reply()?;
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn call_and_reply() -> Outcome {
    const ROUNDS: usize = 3;
    let (inbox, outbox) = Channel::with(&spec(2))?;
    let region = Region::new(limits::PAGE_SIZE)?;
    let back = caps(&region, 1)?;
    let server = ThreadBuilder::default().spawn(move || {
        let mut message = inbox.receive(BYTES, soon())?;
        for _ in 1..ROUNDS {
            let Received { payload, reply, .. } = message;
            message = inbox.reply_receive(reply, &payload, BYTES, soon())?;
        }
        let reply = message.reply.ok_or(Error::NotFound)?;
        inbox.reply(reply, &message.payload, &back)?;
        Ok::<_, Error>(message.caps.len())
    })?;
    for round in 0..ROUNDS {
        let caps = caps(&region, 3)?;
        let reply = outbox.call_with(&payload(round), &Sending { caps: &caps, ..Sending::default() }, BYTES, soon())?;
        check!(reply.payload == payload(round), "a large reply is not what was called with");
        check_eq!(reply.caps.len(), if round + 1 == ROUNDS { CAPS } else { 0 });
    }
    check_eq!(server.join(soon())?, Some(Ok(CAPS)));
    Ok(())
}

fn receiver_waits(world: &World) -> Outcome {
    settle();
    let before = world.inventory()?;
    let (inbox, outbox) = Channel::with(&spec(2))?;
    let region = Region::new(limits::PAGE_SIZE)?;
    let waiting = ThreadBuilder::default().spawn(move || inbox.receive(BYTES, soon()))?;
    eventually("the receiver to wait", || Ok(waiting.thread().info()?.state == ThreadState::Blocked))?;
    outbox.send_with(&payload(1), &Sending { caps: &caps(&region, 2)?, ..Sending::default() }, soon())?;
    let got = waiting.join(soon())?.ok_or(Failure("the receiver did not end".into()))??;
    whole(&got, 1)?;
    drop((got, outbox, region));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn sender_waits(world: &World) -> Outcome {
    settle();
    let before = world.inventory()?;
    let (inbox, outbox) = Channel::with(&spec(1))?;
    let region = Region::new(limits::PAGE_SIZE)?;
    let records = caps(&region, 2)?;
    outbox.send(b"first", soon())?;
    let sender = ThreadBuilder::default().spawn(move || {
        outbox.send_with(&payload(2), &Sending { caps: &records, ..Sending::default() }, soon())?;
        Ok::<_, Error>(outbox)
    })?;
    eventually("a sender that waits", || Ok(inbox.info()?.senders == 1))?;
    check_eq!(inbox.receive(BYTES, soon())?.payload, b"first");
    let peeked = inbox.receive_with(BYTES, MsgFlags::PEEK, soon())?;
    check!(peeked.payload == payload(2), "a large message is not what was sent");
    let got = inbox.receive(BYTES, soon())?;
    whole(&got, 2)?;
    let outbox = sender.join(soon())?.ok_or(Failure("the sender did not end".into()))??;
    drop((inbox, outbox, got, region));
    check_eq!(world.inventory()?, before);
    Ok(())
}

fn drops(world: &World) -> Outcome {
    settle();
    let before = world.inventory()?;
    let region = Region::new(limits::PAGE_SIZE)?;
    for (drop_policy, last) in [(DropPolicy::DropOldest, 3), (DropPolicy::DropNewest, 0)] {
        let (inbox, outbox) = Channel::with(&ChanSpec { drop_policy, ..spec(1) })?;
        for seed in 0..4 {
            outbox.send_with(&payload(seed), &Sending { caps: &caps(&region, 2)?, ..Sending::default() }, soon())?;
        }
        check_eq!(inbox.info()?.dropped, 3);
        whole(&inbox.receive(BYTES, soon())?, last)?;
        must_answer(number::chan_recv, Error::TimedOut, inbox.receive(BYTES, Deadline::PAST).map(|_| ()))?;
    }
    drop(region);
    check_eq!(world.inventory()?, before);
    Ok(())
}

/// A unit is killed somewhere in its long sends and receives: what it had begun is gone, and the queue is as good as before.
fn killed(world: &World) -> Outcome {
    settle();
    let before = world.inventory()?;
    for _ in 0..4 {
        let (inbox, outbox) = Channel::with(&spec(2))?;
        let unit = world.child("sender", &[]).cap("out", outbox.cloned(Rights::SEND)).start()?;
        for _ in 0..3 {
            check!(inbox.receive(BYTES, soon())?.payload == payload(9), "a large message is not what was sent");
        }
        unit.kill(1)?;
        unit.wait(soon())?;
        drop(unit);
        // What it had sent whole is there, and room for as much as there ever was.
        while inbox.receive(BYTES, Deadline::PAST).is_ok() {}
        for seed in 0..2 {
            outbox.send(&payload(seed), shortly())?;
        }
        for seed in 0..2 {
            check!(inbox.receive(BYTES, soon())?.payload == payload(seed), "a large message is not what was sent");
        }
    }
    check_eq!(world.inventory()?, before);
    Ok(())
}

/// Sends large messages for ever.
pub(crate) fn send_for_ever() -> i32 {
    let Some(outbox) = startup::take_named::<Channel>("out") else { return 1 };
    let payload = payload(9);
    loop {
        if outbox.send(&payload, Deadline::NEVER).is_err() {
            return 2;
        }
    }
}

/// As many arguments, lines of the environment and capabilities as a unit may begin with.
fn beginning(world: &World) -> Outcome {
    settle();
    let before = world.inventory()?;
    let region = Region::new(limits::PAGE_SIZE)?;
    let long: String = core::iter::repeat_n('a', LONG).collect();
    for fails in [true, false] {
        let mut moved = Vec::new();
        let words = [long.as_str(); WORDS];
        let mut unit = world.child("large", &words).environment(&long).environment(&long).stack(128 * 1024);
        for at in 0..limits::MAX_INITIAL_CAPS {
            let cap = match (at % 2, fails && at + 1 == limits::MAX_INITIAL_CAPS) {
                // What is moved can be named once.
                (_, true) => CapTransfer { cap: moved[0], ..region.cloned(Rights::READ) },
                (0, _) => region.cloned(Rights::READ),
                _ => {
                    let cap = Region::new(limits::PAGE_SIZE)?.moved(Rights::READ);
                    moved.push(cap.cap);
                    cap
                }
            };
            unit = unit.cap("c", cap);
        }
        if fails {
            check_eq!(unit.create().map(|_| ()), Err(Error::Invalid));
            for handle in moved {
                check_eq!(Region::from_owned(Owned::new(handle)).info()?.bytes, limits::PAGE_SIZE);
            }
        } else {
            check_eq!(unit.start()?.wait(soon())?.exit_code, 0);
        }
    }
    drop(region);
    check_eq!(world.inventory()?, before);
    Ok(())
}

/// 0 when everything that [`beginning`] gave arrived.
pub(crate) fn arrived(words: &[&str]) -> i32 {
    if words.len() != WORDS || words.iter().any(|word| word.len() != LONG || word.bytes().any(|byte| byte != b'a')) {
        return 1;
    }
    i32::from(startup::initial().count() != limits::MAX_INITIAL_CAPS as usize)
}

//! The queue of a channel and those who wait at it against a small model: bounded by messages and bytes, first in first out
//! within a priority, nobody forgotten.

use std::collections::VecDeque;
use std::vec::Vec;

use holm_abi::{ChanFlags, ChanMode, ChanSpec, DropPolicy, Error, EventMask, MsgFlags, Rights};
use proptest::prelude::*;

use super::short::CHANNEL;
use super::tests::{answer, blocked, channel, drain, message, pass, received, recv, room, send};
use crate::caller::{Caller, Outcome};
use crate::object::Object;
use crate::testing::ipc;

#[derive(Debug, Clone, PartialEq)]
struct Letter {
    id: u8,
    length: u32,
    priority: u32,
}

impl Letter {
    fn payload(&self) -> Vec<u8> {
        (0..self.length).map(|at| (at as u8).wrapping_mul(31).wrapping_add(self.id)).collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Doing {
    Runs,
    Sends(Letter),
    Receives { room: u32, flags: MsgFlags },
}

/// What a call answered, and the letter it got.
type Ended = (Result<u64, Error>, Option<Letter>);

/// One direction of a channel, as the seed describes it.
struct Model {
    by_priority: bool,
    policy: DropPolicy,
    max_messages: usize,
    max_bytes: u32,
    queue: Vec<Letter>,
    dropped: u64,
    threads: Vec<Doing>,
    receivers: VecDeque<usize>,
    senders: VecDeque<usize>,
    /// What each thread's last call is to have answered, and the letter it got.
    results: Vec<Option<Ended>>,
}

impl Model {
    fn fits(&self, letter: &Letter) -> bool {
        let bytes: u32 = self.queue.iter().map(|letter| letter.length).sum();
        self.queue.len() < self.max_messages && bytes + letter.length <= self.max_bytes
    }

    fn first(&self) -> Option<usize> {
        let best = if self.by_priority { self.queue.iter().map(|letter| letter.priority).max()? } else { 0 };
        self.queue.iter().position(|letter| !self.by_priority || letter.priority == best)
    }

    fn worst(&self) -> Option<usize> {
        let least = if self.by_priority { self.queue.iter().map(|letter| letter.priority).min()? } else { 0 };
        self.queue.iter().position(|letter| !self.by_priority || letter.priority == least)
    }

    fn end(&mut self, thread: usize, result: Result<u64, Error>, letter: Option<Letter>) {
        self.threads[thread] = Doing::Runs;
        self.results[thread] = Some((result, letter));
    }

    fn take(&mut self, thread: usize, room: u32, flags: MsgFlags) -> bool {
        let Some(first) = self.first() else { return false };
        let letter = self.queue[first].clone();
        if letter.length > room && !flags.contains(MsgFlags::TRUNCATE) {
            self.end(thread, Err(Error::MessageSize), None);
        } else {
            if !flags.contains(MsgFlags::PEEK) {
                self.queue.remove(first);
            }
            self.end(thread, Ok(u64::from(letter.length)), Some(letter));
        }
        true
    }

    fn channel_settle(&mut self) {
        loop {
            if let Some(receiver) = self.receivers.front().copied()
                && let Doing::Receives { room, flags } = self.threads[receiver].clone()
                && self.take(receiver, room, flags)
            {
                self.receivers.pop_front();
                continue;
            }
            if let Some(sender) = self.senders.front().copied()
                && let Doing::Sends(letter) = self.threads[sender].clone()
                && self.fits(&letter)
            {
                self.senders.pop_front();
                self.queue.push(letter);
                self.end(sender, Ok(0), None);
                continue;
            }
            return;
        }
    }

    fn send(&mut self, thread: usize, letter: Letter, nonblock: bool) {
        let waits = self.policy == DropPolicy::Block && !self.senders.is_empty();
        if self.fits(&letter) && !waits {
            self.queue.push(letter);
            self.end(thread, Ok(0), None);
        } else {
            match self.policy {
                DropPolicy::Block if nonblock => self.end(thread, Err(Error::WouldBlock), None),
                DropPolicy::Block => {
                    self.threads[thread] = Doing::Sends(letter);
                    self.senders.push_back(thread);
                }
                DropPolicy::Refuse => self.end(thread, Err(Error::NoSpace), None),
                DropPolicy::DropNewest => {
                    self.dropped += 1;
                    self.end(thread, Ok(0), None);
                }
                DropPolicy::DropOldest => {
                    while !self.fits(&letter) {
                        let worst = self.worst().unwrap();
                        self.queue.remove(worst);
                        self.dropped += 1;
                    }
                    self.queue.push(letter);
                    self.end(thread, Ok(0), None);
                }
            }
        }
        self.channel_settle();
    }

    fn receive(&mut self, thread: usize, room: u32, flags: MsgFlags, nonblock: bool) {
        if !self.take(thread, room, flags) {
            if nonblock {
                self.end(thread, Err(Error::WouldBlock), None);
            } else {
                self.threads[thread] = Doing::Receives { room, flags };
                self.receivers.push_back(thread);
            }
        }
        self.channel_settle();
    }

    fn give_up(&mut self, thread: usize) {
        self.receivers.retain(|waiting| *waiting != thread);
        self.senders.retain(|waiting| *waiting != thread);
        self.end(thread, Err(Error::TimedOut), None);
        self.channel_settle();
    }
}

const POLICIES: [DropPolicy; 4] =
    [DropPolicy::Block, DropPolicy::DropNewest, DropPolicy::DropOldest, DropPolicy::Refuse];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn messages_follow_the_model(
        (mode, by_priority, policy) in (0usize..2, any::<bool>(), 0usize..4),
        (max_message, max_messages, bytes, crc) in (1u32..200, 1u32..6, 0u64..400, 0u32..3),
        steps in proptest::collection::vec((0u8..10, 0usize..4, any::<u16>(), any::<u8>()), 0..120),
    ) {
        let (mut kernel, units, callers) = ipc::kernel(2, 4);
        (kernel.config.payload_crc, kernel.config.crc_interval) = (crc > 0, crc.max(1));
        let spec = ChanSpec {
            mode: [ChanMode::Uni, ChanMode::Bidi][mode],
            drop_policy: POLICIES[policy],
            max_message,
            max_messages,
            max_bytes: u64::from(max_message) + bytes,
            flags: if by_priority { ChanFlags::PRIORITY_AWARE } else { ChanFlags::NONE },
            ..ChanSpec::new()
        };
        let [receiving, sending] = channel(&mut kernel, callers[0][0], &spec);
        let sending = pass(&mut kernel, callers[0][0], units[1], sending);
        // Threads 0 to 3 receive, 4 to 7 send.
        let all: Vec<Caller> = callers.concat();
        let mut model = Model {
            by_priority,
            policy: POLICIES[policy],
            max_messages: max_messages as usize,
            max_bytes: max_message + bytes as u32,
            queue: Vec::new(),
            dropped: 0,
            threads: std::vec![Doing::Runs; 8],
            receivers: VecDeque::new(),
            senders: VecDeque::new(),
            results: std::vec![None; 8],
        };
        for (id, (op, which, size, more)) in steps.into_iter().enumerate() {
            let sender = op >= 5;
            let thread = which + if sender { 4 } else { 0 };
            let caller = all[thread];
            let nonblock = if more.is_multiple_of(3) { MsgFlags::NONBLOCK } else { MsgFlags::NONE };
            let answered = if model.threads[thread] != Doing::Runs {
                if more % 4 > 0 {
                    continue;
                }
                kernel.give_up(caller.thread, Error::TimedOut);
                model.give_up(thread);
                None
            } else if sender {
                let letter =
                    Letter { id: id as u8, length: u32::from(size) % (max_message + 1), priority: u32::from(more) % 32 };
                let mut io = message(&mut kernel, caller, &letter.payload(), &[]);
                (io.flags, io.priority) = (nonblock, letter.priority);
                let answer = send(&mut kernel, caller, sending, io);
                model.send(thread, letter, nonblock == MsgFlags::NONBLOCK);
                Some(answer)
            } else {
                let bytes = if more.is_multiple_of(2) { max_message } else { u32::from(size) % (max_message + 1) };
                let flags = [MsgFlags::NONE, MsgFlags::PEEK, MsgFlags::TRUNCATE, MsgFlags::NONE][usize::from(more / 64)];
                let mut io = room(&mut kernel, caller, u64::from(bytes), 0);
                io.value.flags = flags | nonblock;
                let answer = recv(&mut kernel, caller, receiving, io);
                model.receive(thread, bytes, flags, nonblock == MsgFlags::NONBLOCK);
                Some(answer)
            };
            drain(&mut kernel);
            for (other, caller) in all.iter().enumerate() {
                prop_assert_eq!(blocked(&kernel, *caller), model.threads[other] != Doing::Runs, "thread {}", other);
                let Some((result, letter)) = model.results[other].take() else { continue };
                let got = match answered {
                    Some(Ok(Outcome::Done(value))) if other == thread => Ok(value),
                    Some(Err(error)) if other == thread => Err(error),
                    _ => answer(&kernel, *caller),
                };
                prop_assert_eq!(got, result, "thread {}", other);
                let Some(letter) = letter else { continue };
                let (io, payload, _) = received(&mut kernel, *caller);
                prop_assert_eq!((io.out_bytes, io.out_sender), (u64::from(letter.length), units[1].number()));
                prop_assert_eq!((io.out_priority, io.out_token, io.out_caps), (letter.priority, 0, 0));
                let bytes = kernel.threads.get(caller.thread).unwrap().calls.receive.room.min(letter.length) as usize;
                prop_assert_eq!(&payload[..bytes], &letter.payload()[..bytes]);
            }
            let cap = kernel.resolve(units[0], receiving, CHANNEL, Rights::NONE).unwrap();
            let Object::Channel(channel, end) = cap.object else { panic!("a channel") };
            let inbox = kernel.inbox(channel, end).unwrap();
            prop_assert_eq!(inbox.messages as usize, model.queue.len());
            prop_assert_eq!(inbox.bytes, model.queue.iter().map(|letter| u64::from(letter.length)).sum::<u64>());
            prop_assert_eq!(inbox.dropped, model.dropped);
            let readable = kernel.channel_ready(channel, end).contains(EventMask::READABLE);
            prop_assert_eq!(readable, !model.queue.is_empty());
        }
        // Both ends go: whoever waits is woken, and nothing is left.
        kernel.cap_close_handle(units[0], receiving).unwrap();
        kernel.cap_close_handle(units[1], sending).unwrap();
        drain(&mut kernel);
        prop_assert!(all.iter().all(|caller| !blocked(&kernel, *caller)));
        prop_assert!(kernel.channels.is_empty() && kernel.caps.grants.len() == 0);
        for (_, unit) in kernel.units.iter() {
            prop_assert_eq!(unit.quotas.kernel.used, unit.caps.bytes());
        }
    }
}

//! Calls against a model: a token works once, ranks are the best of the chain, and the fast path does what the slow one does.

use std::collections::BTreeSet;
use std::format;
use std::string::String;
use std::vec::Vec;

use holm_abi::{
    CapTransfer, ChanFlags, ChanMode, ChanSpec, Error, Handle, Rights, Short, ShortFlags, TransferFlags, TransferMode,
};
use proptest::prelude::*;

use super::tests::{Sim, answer, blocked, channel, drain, message, pass, received, room};
use super::{ChannelId, End, Stage, short::CHANNEL};
use crate::caller::{Answer, Caller, Outcome};
use crate::cap::Types;
use crate::machine::Nanos;
use crate::object::Object;
use crate::quota::Quota;
use crate::sched::Params;
use crate::testing::ipc;
use crate::thread::ThreadId;

fn short(channel: Handle, bytes: u8) -> Short {
    Short { channel, bytes, priority: 0, flags: ShortFlags::NONE }
}

fn set_words(kernel: &mut Sim, caller: Caller, words: [u64; 4]) {
    let registers = &mut kernel.threads.get_mut(caller.thread).unwrap().registers;
    [registers.rdx, registers.r10, registers.r8, registers.r9] = words;
}

fn words(kernel: &Sim, caller: Caller) -> [u64; 4] {
    let registers = &kernel.threads.get(caller.thread).unwrap().registers;
    [registers.rdx, registers.r10, registers.r8, registers.r9]
}

fn token(kernel: &Sim, caller: Caller) -> u64 {
    kernel.threads.get(caller.thread).unwrap().registers.rdi
}

fn call_short(kernel: &mut Sim, caller: Caller, handle: Handle, payload: [u64; 4], bytes: u8) -> Answer {
    set_words(kernel, caller, payload);
    kernel.chan_call_short(caller, short(handle, bytes), Nanos::NEVER, 0, 0, 0, 0)
}

/// The priority that a thread runs with now.
fn rank(kernel: &Sim, thread: ThreadId) -> u8 {
    kernel.threads.get(thread).unwrap().sched.priority
}

/// Clients 0 to 5 of one unit, servers 0 to 2 of three others, each with the receiving end of its own channel, of which
/// every other unit has the sending end.
struct World {
    kernel: Sim,
    threads: Vec<Caller>,
    /// By thread, by server: the handle of the sending end.
    send: Vec<Vec<Option<Handle>>>,
    receive: Vec<Handle>,
    ids: Vec<(ChannelId, End)>,
    /// Tokens that each server holds.
    tokens: Vec<Vec<(u64, usize)>>,
    spent: BTreeSet<u64>,
}

const CLIENTS: usize = 6;
const SERVERS: usize = 3;

impl World {
    fn new(flags: ChanFlags) -> Self {
        let (mut kernel, units, callers) = ipc::kernel(1 + SERVERS as u32, CLIENTS as u32);
        let mut threads: Vec<Caller> = callers[0].clone();
        threads.extend((0..SERVERS).map(|server| callers[server + 1][0]));
        for (unit, callers) in units.iter().zip(&callers).skip(1) {
            for caller in &callers[1..] {
                kernel.units.get_mut(*unit).unwrap().threads.remove(&mut kernel.threads, caller.thread);
            }
        }
        for (at, caller) in threads.iter().enumerate() {
            let thread = kernel.threads.get_mut(caller.thread).unwrap();
            let own = Params::fixed(at as u8 % 4);
            thread.sched.params = own;
            (thread.sched.class, thread.sched.priority) = (own.class, own.priority);
        }
        let (mut receive, mut ids) = (Vec::new(), Vec::new());
        let mut send = std::vec![std::vec![None; SERVERS]; CLIENTS + SERVERS];
        for server in 0..SERVERS {
            let owner = threads[CLIENTS + server];
            let spec = ChanSpec { mode: ChanMode::Uni, max_messages: 4, flags, ..ChanSpec::new() };
            let [a, b] = channel(&mut kernel, owner, &spec);
            receive.push(a);
            let cap = kernel.resolve(owner.unit, a, CHANNEL, Rights::RECEIVE).unwrap();
            let Object::Channel(id, end) = cap.object else { panic!("a channel") };
            ids.push((id, end));
            for (unit, id) in units.iter().enumerate() {
                let cap = kernel.resolve(owner.unit, b, CHANNEL, Rights::SEND).unwrap();
                let made = kernel.cap_derive(owner, cap, cap.rights, TransferFlags::ALL, 100 + unit as u64).unwrap();
                let Outcome::Done(made) = made else { panic!("derived") };
                let handle = pass(&mut kernel, owner, *id, Handle::from_register(made).unwrap());
                let of = if unit == 0 { 0..CLIENTS } else { CLIENTS + unit - 1..CLIENTS + unit };
                for thread in of {
                    send[thread][server] = Some(handle);
                }
            }
        }
        let tokens = std::vec![Vec::new(); SERVERS];
        Self { kernel, threads, send, receive, ids, tokens, spent: BTreeSet::new() }
    }

    fn learn(&mut self, server: usize) {
        let caller = self.threads[CLIENTS + server];
        let token = token(&self.kernel, caller);
        if !blocked(&self.kernel, caller) && token != 0 {
            let whose = self.threads.iter().position(|thread| u64::from(thread.thread.index()) == token & 0xffff_ffff);
            if !self.spent.contains(&token) && !self.tokens[server].iter().any(|(known, _)| *known == token) {
                self.tokens[server].push((token, whose.unwrap()));
            }
        }
    }

    fn step(&mut self, op: u8, which: usize, more: u16) {
        match op {
            // Anybody calls a server, servers each other, too.
            0..=4 => {
                let thread = which % (CLIENTS + SERVERS);
                let (caller, server) = (self.threads[thread], usize::from(more) % SERVERS);
                if blocked(&self.kernel, caller) {
                    return;
                }
                let Some(handle) = self.send[thread][server] else { return };
                let payload = [u64::from(more), thread as u64, u64::MAX, 7];
                let bytes = 32 - (more % 5) as u8;
                let answer = call_short(&mut self.kernel, caller, handle, payload, bytes);
                assert!(
                    matches!(answer, Ok(Outcome::Blocked) | Err(Error::Deadlock)),
                    "a call waits unless nobody could ever answer it: {answer:?}"
                );
                let server = self.threads[CLIENTS + server];
                if let Stage::Served(by) = self.kernel.threads.get(caller.thread).unwrap().calls.stage {
                    assert_eq!(by, server.thread);
                    let mut expected = payload;
                    if bytes < 32 {
                        expected[3] &= (1 << (8 * (bytes - 24))) - 1;
                    }
                    assert_eq!(words(&self.kernel, server), expected);
                    let result = Short::from_result(answer_of(&self.kernel, server)).unwrap();
                    assert_eq!((result.bytes, result.flags), (bytes, ShortFlags::CALL));
                }
            }
            // A server replies, and waits or goes on.
            5..=8 => {
                let server = which % SERVERS;
                let caller = self.threads[CLIENTS + server];
                if blocked(&self.kernel, caller) {
                    return;
                }
                let held = self.tokens[server].len();
                let mut spent = 0;
                let mut waits_for = None;
                if held > 0 && !more.is_multiple_of(5) {
                    let (token, whose) = self.tokens[server].remove(usize::from(more) % held);
                    self.spent.insert(token);
                    spent = token;
                    waits_for = Some(whose);
                }
                let payload = [!u64::from(more), 2, 3, 4];
                set_words(&mut self.kernel, caller, payload);
                self.kernel.threads.get_mut(caller.thread).unwrap().registers.rdi = 0;
                let whom = waits_for.map(|whose| self.threads[whose]);
                let waited = whom.is_some_and(|whom| self.waits_on(whom, spent));
                let answer = if op == 8 && spent != 0 {
                    self.kernel.chan_reply_short(caller, short(self.receive[server], 32), spent, 0, 0, 0, 0)
                } else {
                    self.kernel.chan_reply_recv_short(caller, short(self.receive[server], 32), spent, 0, 0, 0, 0)
                };
                if spent != 0 && !waited {
                    assert_eq!(answer, Err(Error::NotFound), "nobody waits for this reply any more");
                } else if let Some(whom) = whom {
                    assert!(answer.is_ok(), "{answer:?}");
                    assert_eq!(words(&self.kernel, whom), payload);
                    assert!(!blocked(&self.kernel, whom));
                }
                if let Ok(Outcome::Done(rax)) = answer {
                    self.kernel.threads.get_mut(caller.thread).unwrap().registers.rax = rax;
                }
            }
            // A token works once, and only for those who have it.
            9 => {
                let server = which % SERVERS;
                let caller = self.threads[CLIENTS + server];
                if blocked(&self.kernel, caller) {
                    return;
                }
                let foreign: Vec<u64> = (0..SERVERS)
                    .filter(|other| *other != server)
                    .flat_map(|other| self.tokens[other].iter().map(|(token, _)| *token))
                    .chain(self.spent.iter().copied())
                    .collect();
                for token in foreign {
                    let answer =
                        self.kernel.chan_reply_short(caller, short(self.receive[server], 0), token, 0, 0, 0, 0);
                    assert_eq!(answer, Err(Error::NotFound));
                }
            }
            // A deadline passes.
            _ => {
                let caller = self.threads[which % (CLIENTS + SERVERS)];
                if blocked(&self.kernel, caller) {
                    self.kernel.give_up(caller.thread, Error::TimedOut);
                    assert_eq!(super::tests::answer(&self.kernel, caller), Err(Error::TimedOut));
                }
            }
        }
        drain(&mut self.kernel);
        (0..SERVERS).for_each(|server| self.learn(server));
        self.check();
    }

    fn waits_on(&self, caller: Caller, token: u64) -> bool {
        let calls = &self.kernel.threads.get(caller.thread).unwrap().calls;
        blocked(&self.kernel, caller) && matches!(calls.stage, Stage::Served(_)) && calls.token(caller.thread) == token
    }

    fn check(&self) {
        for caller in &self.threads {
            let thread = self.kernel.threads.get(caller.thread).unwrap();
            let calls = &thread.calls;
            assert_eq!(calls.stage != Stage::None, calls.lends_to.is_some() || self.waits_unknown(caller.thread));
            // The best of its own rank and of everybody's who waits for it along any chain.
            let best = self
                .threads
                .iter()
                .filter(|other| self.reaches(other.thread, caller.thread))
                .map(|other| self.kernel.threads.get(other.thread).unwrap().sched.params.priority)
                .max();
            assert_eq!(rank(&self.kernel, caller.thread), best.unwrap(), "{:?}", caller.thread);
        }
        for (id, end) in &self.ids {
            let side = self.kernel.channels.get(*id).unwrap().side(*end);
            let inbox = side.inbox.as_ref().unwrap();
            let queued = self.count(|stage, channel| matches!(stage, Stage::Queued(_)) && channel == *id);
            assert_eq!(inbox.messages as usize, queued);
            assert_eq!(
                side.open_calls as usize,
                self.count(|s, channel| matches!(s, Stage::Served(_)) && channel == *id)
            );
            assert!(inbox.first().is_none() || side.receivers.is_empty(), "a message and a receiver miss each other");
            let waiting = &self.kernel.channels.get(*id).unwrap().side(end.peer()).senders;
            assert!(waiting.is_empty() || !inbox.fits(0), "room and a caller miss each other");
        }
    }

    fn count(&self, which: impl Fn(Stage, ChannelId) -> bool) -> usize {
        self.threads
            .iter()
            .filter(|caller| {
                let thread = self.kernel.threads.get(caller.thread).unwrap();
                matches!(thread.wait, crate::wait::Wait::Channel(wait) if which(thread.calls.stage, wait.channel))
            })
            .count()
    }

    /// It waits for room, or at an end where nobody received yet.
    fn waits_unknown(&self, thread: ThreadId) -> bool {
        matches!(self.kernel.threads.get(thread).unwrap().calls.stage, Stage::Room | Stage::Queued(_))
    }

    fn reaches(&self, from: ThreadId, to: ThreadId) -> bool {
        let mut at = from;
        for _ in 0..20 {
            if at == to {
                return true;
            }
            let calls = &self.kernel.threads.get(at).unwrap().calls;
            match calls.lends_to {
                Some(next) if calls.lends => at = next,
                _ => return false,
            }
        }
        panic!("a circle of calls lends ranks")
    }

    /// What both paths must agree on.
    fn state(&self) -> String {
        let mut text = String::new();
        for caller in &self.threads {
            let thread = self.kernel.threads.get(caller.thread).unwrap();
            let calls = &thread.calls;
            text += &format!(
                "{:?} {:?} {:?} {:?} {:?} {} {} {:?} {} {:?} {:?} {:?} {:?}\n",
                caller.thread,
                thread.registers,
                thread.state,
                thread.wait,
                calls.stage,
                calls.serial,
                thread.sched.priority,
                calls.lends_to,
                calls.lends,
                calls.newer,
                calls.older,
                calls.callers,
                calls.receive,
            );
        }
        for (_, channel) in self.kernel.channels.iter() {
            for side in &channel.sides {
                let inbox = side.inbox.as_ref().map(|inbox| (inbox.messages, inbox.bytes, inbox.sent, inbox.received));
                text += &format!(
                    "{:?} {:?} {:?} {:?} {}\n",
                    inbox, side.receivers, side.senders, side.server, side.open_calls
                );
            }
        }
        text + &format!("{} {}", self.kernel.channel_work.sequence, self.kernel.channel_work.serial)
    }
}

fn answer_of(kernel: &Sim, caller: Caller) -> u64 {
    kernel.threads.get(caller.thread).unwrap().registers.rax
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn calls_follow_the_model_and_the_fast_path_follows_the_slow(
        inherit: bool,
        steps in proptest::collection::vec((0u8..11, 0usize..18, any::<u16>()), 0..150),
    ) {
        let flags = if inherit { ChanFlags::NONE } else { ChanFlags::NO_INHERITANCE };
        let (mut fast, mut slow) = (World::new(flags), World::new(flags));
        slow.kernel.channel_work.slow_only = true;
        for (op, which, more) in steps {
            fast.step(op, which, more);
            slow.step(op, which, more);
            prop_assert_eq!(fast.state(), slow.state());
        }
    }
}

#[test]
fn the_fast_path_is_taken_for_a_call_and_its_reply() {
    let mut world = World::new(ChanFlags::NONE);
    let (client, server) = (world.threads[0], world.threads[CLIENTS]);
    let (to, from) = (world.send[0][0].unwrap(), world.receive[0]);
    assert_eq!(world.kernel.chan_reply_recv_short(server, short(from, 0), 0, 0, 0, 0, 0), Ok(Outcome::Blocked));
    set_words(&mut world.kernel, client, [1, 2, 3, 4]);
    assert_eq!(world.kernel.fast_call(client, short(to, 32), Nanos::NEVER), Some(()));
    assert_eq!(words(&world.kernel, server), [1, 2, 3, 4]);
    assert_eq!(world.kernel.threads.get(server.thread).unwrap().registers.rsi, 100, "the badge");
    let token = token(&world.kernel, server);
    set_words(&mut world.kernel, server, [5, 6, 7, 8]);
    assert_eq!(world.kernel.fast_reply_recv(server, short(from, 9), token), Some(()));
    assert_eq!(words(&world.kernel, client), [5, 6, 0, 0]);
    assert!(blocked(&world.kernel, server) && !blocked(&world.kernel, client));
}

#[test]
fn a_call_carries_payload_and_capabilities_both_ways_and_loans_end_with_the_reply() {
    let mut world = World::new(ChanFlags::NONE);
    let (client, server) = (world.threads[0], world.threads[CLIENTS]);
    let (to, from) = (world.send[0][0].unwrap(), world.receive[0]);
    let kernel = &mut world.kernel;
    let console = |kernel: &mut Sim, caller: Caller| {
        kernel.cap_install(caller.unit, Object::Console, Rights::ALL, TransferFlags::ALL).unwrap()
    };
    let (lent, moved, answered) = (console(kernel, client), console(kernel, client), console(kernel, server));
    let transfer = |cap, mode| CapTransfer { cap, mode, rights: Rights::READ };
    let caps = [transfer(lent, TransferMode::Borrow), transfer(moved, TransferMode::Move)];
    let question = message(kernel, client, &[9; 200], &caps);
    let reply_room = room(kernel, client, 64, 2);
    let cap = kernel.resolve(client.unit, to, CHANNEL, Rights::SEND).unwrap();
    assert_eq!(kernel.chan_call(client, cap, question, reply_room, Nanos::NEVER), Ok(Outcome::Blocked));
    assert!(kernel.resolve(client.unit, moved, Types::ANY, Rights::NONE).is_ok(), "until the call is received");
    let cap = kernel.resolve(server.unit, from, CHANNEL, Rights::RECEIVE).unwrap();
    let io = room(kernel, server, 300, 2);
    assert_eq!(kernel.chan_recv(server, cap, io, Nanos::NEVER), Ok(Outcome::Done(200)));
    let (facts, payload, got) = received(kernel, server);
    assert_eq!((payload, got.len(), facts.out_badge), (std::vec![9; 200], 2, 100));
    assert_eq!(kernel.resolve(client.unit, moved, Types::ANY, Rights::NONE), Err(Error::BadHandle));
    for record in &got {
        assert_eq!(kernel.resolve(server.unit, record.cap, Types::ANY, Rights::READ).unwrap().object, Object::Console);
    }
    // A reply that does not fit is the replier's error; the call stays open.
    let long = message(kernel, server, &[1; 65], &[]);
    assert_eq!(kernel.chan_reply(server, cap, facts.out_token, long), Err(Error::MessageSize));
    let reply = message(kernel, server, b"done", &[transfer(answered, TransferMode::Move)]);
    assert_eq!(kernel.chan_reply(server, cap, facts.out_token, reply), Ok(Outcome::OK));
    assert_eq!(answer(kernel, client), Ok(4));
    let (_, payload, back) = received(kernel, client);
    assert_eq!((&payload[..], back.len()), (&b"done"[..], 1));
    assert!(kernel.resolve(client.unit, back[0].cap, Types::ANY, Rights::READ).is_ok());
    assert_eq!(kernel.resolve(server.unit, got[0].cap, Types::ANY, Rights::READ), Err(Error::Revoked), "the loan");
    assert!(kernel.resolve(server.unit, got[1].cap, Types::ANY, Rights::READ).is_ok(), "what was moved");
    assert_eq!(kernel.chan_reply(server, cap, facts.out_token, reply), Err(Error::NotFound), "a token works once");
}

#[test]
fn a_call_that_cannot_be_installed_waits_and_one_that_went_bad_fails() {
    let mut world = World::new(ChanFlags::NONE);
    let (client, server) = (world.threads[0], world.threads[CLIENTS]);
    let (to, from) = (world.send[0][0].unwrap(), world.receive[0]);
    let kernel = &mut world.kernel;
    let send = kernel.resolve(client.unit, to, CHANNEL, Rights::SEND).unwrap();
    let receive = kernel.resolve(server.unit, from, CHANNEL, Rights::RECEIVE).unwrap();
    let moved = kernel.cap_install(client.unit, Object::Console, Rights::ALL, TransferFlags::ALL).unwrap();
    let transfer = CapTransfer { cap: moved, mode: TransferMode::Move, rights: Rights::READ };
    let question = message(kernel, client, b"?", &[transfer]);
    let reply_room = room(kernel, client, 64, 2);
    kernel.chan_call(client, send, question, reply_room, Nanos::NEVER).unwrap();
    let quota = kernel.units.get(server.unit).unwrap().quotas.handles;
    kernel.units.get_mut(server.unit).unwrap().quotas.handles = Quota { limit: quota.used, ..quota };
    let io = room(kernel, server, 300, 2);
    assert_eq!(kernel.chan_recv(server, receive, io, Nanos::NEVER), Err(Error::NoHandles));
    kernel.units.get_mut(server.unit).unwrap().quotas.handles = quota;
    assert!(blocked(kernel, client) && kernel.resolve(client.unit, moved, Types::ANY, Rights::NONE).is_ok());
    // Another thread of the caller closes what was to be moved: the call fails, the server goes on waiting.
    kernel.cap_close_handle(client.unit, moved).unwrap();
    assert_eq!(kernel.chan_recv(server, receive, io, Nanos::NEVER), Ok(Outcome::Blocked));
    assert_eq!(answer(kernel, client), Err(Error::BadHandle));
    // The same with payloads and rooms that are not there.
    let bad = holm_abi::MsgIo { buffer: 0xdead_0000, cap_count: 0, ..question };
    assert_eq!(kernel.chan_call(client, send, bad, reply_room, Nanos::NEVER), Ok(Outcome::Blocked));
    assert_eq!(answer(kernel, client), Err(Error::Fault));
    assert!(blocked(kernel, server));
    let good = holm_abi::MsgIo { cap_count: 0, ..question };
    let mut nowhere = reply_room;
    nowhere.value.buffer = 0xdead_0000;
    kernel.chan_call(client, send, good, nowhere, Nanos::NEVER).unwrap();
    let (facts, ..) = received(kernel, server);
    let reply = message(kernel, server, b"!", &[]);
    assert_eq!(kernel.chan_reply(server, receive, facts.out_token, reply), Err(Error::NotFound));
    assert_eq!(answer(kernel, client), Err(Error::Fault));
}

#[test]
fn callers_are_told_when_their_server_or_its_end_is_gone() {
    for how in 0..3 {
        let mut world = World::new(ChanFlags::NONE);
        let server = world.threads[CLIENTS];
        let from = world.receive[0];
        world.kernel.chan_recv_short(server, short(from, 0), Nanos::NEVER).unwrap();
        for client in 0..3 {
            let to = world.send[client][0].unwrap();
            call_short(&mut world.kernel, world.threads[client], to, [0; 4], 0).unwrap();
        }
        // One is served, two are queued.
        let mut expected = [Some(Error::PeerClosed); 3];
        match how {
            0 => {
                world.kernel.cap_close_handle(server.unit, from).unwrap();
            }
            1 => {
                world.kernel.cap_revoke(server, from, holm_abi::RevokeFlags::NONE).unwrap();
            }
            _ => {
                world.kernel.calls_thread_ended(server.thread);
                expected = [Some(Error::PeerClosed), None, None];
            }
        }
        drain(&mut world.kernel);
        for (client, error) in expected.into_iter().enumerate() {
            let client = world.threads[client];
            assert_eq!(blocked(&world.kernel, client), error.is_none(), "{how}");
            if let Some(error) = error {
                assert_eq!(answer(&world.kernel, client), Err(error));
            }
        }
        assert_eq!(world.kernel.threads.get(server.thread).unwrap().calls.callers, None);
        assert_eq!(world.kernel.threads.get(server.thread).unwrap().references, 1);
    }
}

#[test]
fn a_thousand_callers_of_a_server_that_ends_are_told_in_bounded_steps() {
    let (mut kernel, units, callers) = ipc::kernel(2, 1000);
    let server = callers[1][0];
    let spec = ChanSpec { max_messages: 4000, max_message: 32, ..ChanSpec::new() };
    let [a, b] = channel(&mut kernel, server, &spec);
    let b = pass(&mut kernel, server, units[0], b);
    for caller in &callers[0] {
        kernel.chan_recv_short(server, short(a, 0), Nanos::NEVER).unwrap();
        assert_eq!(call_short(&mut kernel, *caller, b, [0; 4], 0), Ok(Outcome::Blocked));
    }
    kernel.calls_thread_ended(server.thread);
    let mut steps = 0;
    while kernel.caps_work_step() == crate::cap::Progress::More {
        steps += 1;
    }
    assert!(steps >= 1000 / 16, "{steps}");
    assert!(callers[0].iter().all(|caller| answer(&kernel, *caller) == Err(Error::PeerClosed)));
}

#[test]
fn a_circle_of_calls_that_nobody_could_answer_is_refused() {
    let mut world = World::new(ChanFlags::NONE);
    // Server 0 serves client 0 and calls server 1, which then calls server 0: both have one thread.
    for server in 0..2 {
        let caller = world.threads[CLIENTS + server];
        world.kernel.chan_recv_short(caller, short(world.receive[server], 0), Nanos::NEVER).unwrap();
    }
    let servers = [world.threads[CLIENTS], world.threads[CLIENTS + 1]];
    let first = world.send[0][0].unwrap();
    call_short(&mut world.kernel, world.threads[0], first, [0; 4], 0).unwrap();
    let second = world.send[CLIENTS][1].unwrap();
    assert_eq!(call_short(&mut world.kernel, servers[0], second, [0; 4], 0), Ok(Outcome::Blocked));
    let back = world.send[CLIENTS + 1][0].unwrap();
    assert_eq!(call_short(&mut world.kernel, servers[1], back, [0; 4], 0), Err(Error::Deadlock));
    // With another thread that could answer it only waits, and lends nothing around the circle.
    let other =
        world.kernel.threads.iter().find(|(_, thread)| thread.unit == servers[0].unit && !thread.unit_link.queued());
    let other = other.map(|(id, _)| id).unwrap();
    world.kernel.units.get_mut(servers[0].unit).unwrap().threads.push(&mut world.kernel.threads, other);
    assert_eq!(call_short(&mut world.kernel, servers[1], back, [0; 4], 0), Ok(Outcome::Blocked));
    world.check();
}

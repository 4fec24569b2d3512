//! Calls against a model: a token works once, ranks are the best of the chain, and the fast path does what the slow one does.

use std::collections::BTreeSet;
use std::format;
use std::string::String;
use std::vec::Vec;

use holm_abi::{ChanFlags, ChanMode, ChanSpec, Error, Handle, Rights, Short, ShortFlags, TransferFlags};
use proptest::prelude::*;

use super::tests::{Sim, blocked, channel, drain, pass};
use super::tests_call::{call_short, rank, set_words, short, token, words};
use super::{ChannelId, End, Stage, short::CHANNEL};
use crate::caller::{Caller, Outcome};
use crate::object::Object;
use crate::sched::Params;
use crate::testing::ipc;
use crate::thread::ThreadId;

/// Clients 0 to 5 of one unit, servers 0 to 2 of three others, each with the receiving end of its own channel, of which
/// every other unit has the sending end.
pub(super) struct World {
    pub(super) kernel: Sim,
    pub(super) threads: Vec<Caller>,
    /// By thread, by server: the handle of the sending end.
    pub(super) send: Vec<Vec<Option<Handle>>>,
    pub(super) receive: Vec<Handle>,
    ids: Vec<(ChannelId, End)>,
    /// Tokens that each server holds.
    tokens: Vec<Vec<(u64, usize)>>,
    spent: BTreeSet<u64>,
}

pub(super) const CLIENTS: usize = 6;
const SERVERS: usize = 3;

impl World {
    pub(super) fn new(flags: ChanFlags) -> Self {
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

    pub(super) fn check(&self) {
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

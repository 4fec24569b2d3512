//! Calls, case by case: the fast path, capabilities both ways, peers that end, circles.

use holm_abi::{
    CapTransfer, ChanFlags, ChanSpec, Error, Handle, Rights, Short, ShortFlags, TransferFlags, TransferMode,
};

use super::short::CHANNEL;
use super::tests::{Sim, answer, blocked, channel, drain, message, pass, received, room};
use super::tests_call_model::{CLIENTS, World};
use crate::caller::{Answer, Caller, Outcome};
use crate::cap::Types;
use crate::machine::Nanos;
use crate::object::Object;
use crate::quota::Quota;
use crate::testing::ipc;
use crate::thread::ThreadId;

pub(super) fn short(channel: Handle, bytes: u8) -> Short {
    Short { channel, bytes, priority: 0, flags: ShortFlags::NONE }
}

pub(super) fn set_words(kernel: &mut Sim, caller: Caller, words: [u64; 4]) {
    let registers = &mut kernel.threads.get_mut(caller.thread).unwrap().registers;
    [registers.rdx, registers.r10, registers.r8, registers.r9] = words;
}

pub(super) fn words(kernel: &Sim, caller: Caller) -> [u64; 4] {
    let registers = &kernel.threads.get(caller.thread).unwrap().registers;
    [registers.rdx, registers.r10, registers.r8, registers.r9]
}

pub(super) fn token(kernel: &Sim, caller: Caller) -> u64 {
    kernel.threads.get(caller.thread).unwrap().registers.rdi
}

pub(super) fn call_short(kernel: &mut Sim, caller: Caller, handle: Handle, payload: [u64; 4], bytes: u8) -> Answer {
    set_words(kernel, caller, payload);
    kernel.chan_call_short(caller, short(handle, bytes), Nanos::NEVER, 0, 0, 0, 0)
}

/// The priority that a thread runs with now.
pub(super) fn rank(kernel: &Sim, thread: ThreadId) -> u8 {
    kernel.threads.get(thread).unwrap().sched.priority
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

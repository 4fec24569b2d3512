//! Messages, their capabilities, and every way in which sending and receiving can fail.

use std::vec::Vec;

use holm_abi::{
    CapFlags, CapInfo, CapTransfer, ChanAttr, ChanAttrMask, ChanFlags, ChanInfo, ChanMode, ChanSpec, DropPolicy, Error,
    Handle, MsgFlags, MsgIo, ObjectType, Rights, TransferFlags, TransferMode,
};

use super::short::CHANNEL;
use crate::caller::{Answer, Caller, InOut, Out, Outcome};
use crate::cap::{Cap, Progress, Types};
use crate::kernel::Kernel;
use crate::machine::Nanos;
use crate::object::Object;
use crate::quota::Quota;
use crate::sim::SimMachine;
use crate::testing::ipc::{self, PAGE};
use crate::thread::ThreadState;
use crate::unit::UnitId;

pub(super) type Sim = Kernel<SimMachine>;

/// Each thread of a unit has its own place for a payload to send, for the struct and the records, and for what it receives.
pub(super) fn out_area(thread: u32) -> u64 {
    PAGE + u64::from(thread) * 0x400
}
pub(super) fn io_area(thread: u32) -> u64 {
    PAGE + 0x1000 + u64::from(thread) * 0x400
}
pub(super) fn in_area(thread: u32) -> u64 {
    PAGE + 0x2000 + u64::from(thread) * 0x400
}

pub(super) fn number(kernel: &Sim, caller: Caller) -> u32 {
    kernel.threads.get(caller.thread).unwrap().number
}

pub(super) fn channel(kernel: &mut Sim, caller: Caller, spec: &ChanSpec) -> [Handle; 2] {
    let Outcome::Done(first) = kernel.chan_create(caller, *spec).unwrap() else { panic!("chan_create is done") };
    let second = kernel.threads.get(caller.thread).unwrap().registers.rdx;
    [first, second].map(|handle| Handle::from_register(handle).unwrap())
}

/// Gives `handle` of `from` away; answers the handle of the new holder.
pub(super) fn pass(kernel: &mut Sim, from: Caller, to: UnitId, handle: Handle) -> Handle {
    let target = Cap {
        handle,
        object: Object::Unit(to),
        rights: Rights::ALL,
        badge: 0,
        grant: crate::cap::GrantId::from_number(0),
    };
    let rights = kernel.units.get(from.unit).unwrap().caps.slot(handle).unwrap().rights;
    let Outcome::Done(handle) = kernel.cap_grant(from, target, handle, rights, TransferMode::Move).unwrap() else {
        panic!("cap_grant is done")
    };
    Handle::from_register(handle).unwrap()
}

pub(super) fn message(kernel: &mut Sim, caller: Caller, payload: &[u8], caps: &[CapTransfer]) -> MsgIo {
    let thread = number(kernel, caller);
    kernel.copy_out(caller.unit, out_area(thread), payload).unwrap();
    for (at, record) in caps.iter().enumerate() {
        let mut bytes = [0; CapTransfer::SIZE];
        record.encode(&mut bytes);
        kernel.copy_out(caller.unit, io_area(thread) + 0x100 + (at * CapTransfer::SIZE) as u64, &bytes).unwrap();
    }
    MsgIo {
        buffer: out_area(thread),
        buffer_bytes: payload.len() as u64,
        caps: io_area(thread) + 0x100,
        cap_count: caps.len() as u32,
        ..MsgIo::new()
    }
}

pub(super) fn room(kernel: &mut Sim, caller: Caller, bytes: u64, caps: u32) -> InOut<MsgIo> {
    let thread = number(kernel, caller);
    let value = MsgIo {
        buffer: in_area(thread),
        buffer_bytes: bytes,
        caps: io_area(thread) + 0x200,
        cap_count: caps,
        ..MsgIo::new()
    };
    InOut { address: io_area(thread), value }
}

/// The out fields of the struct of a thread that received.
fn told(kernel: &mut Sim, caller: Caller) -> MsgIo {
    let mut bytes = [0; MsgIo::SIZE];
    let thread = number(kernel, caller);
    kernel.copy_in(caller.unit, io_area(thread), &mut bytes).unwrap();
    bytes[..48].fill(0);
    bytes[0] = 1;
    bytes[4] = 88;
    MsgIo::decode(&bytes).unwrap()
}

/// The out fields of the struct of a thread that received, its payload, and the records of its capabilities.
pub(super) fn received(kernel: &mut Sim, caller: Caller) -> (MsgIo, Vec<u8>, Vec<CapTransfer>) {
    let thread = number(kernel, caller);
    let io = told(kernel, caller);
    let mut payload = std::vec![0; (io.out_bytes as usize).min(0x400)];
    kernel.copy_in(caller.unit, in_area(thread), &mut payload).unwrap();
    let records = (0..io.out_caps as usize)
        .map(|at| {
            let mut record = [0; CapTransfer::SIZE];
            let address = io_area(thread) + 0x200 + (at * CapTransfer::SIZE) as u64;
            kernel.copy_in(caller.unit, address, &mut record).unwrap();
            CapTransfer::decode(&record).unwrap()
        })
        .collect();
    (io, payload, records)
}

pub(super) fn send(kernel: &mut Sim, caller: Caller, handle: Handle, message: MsgIo) -> Answer {
    let cap = kernel.resolve(caller.unit, handle, CHANNEL, Rights::SEND)?;
    kernel.chan_send(caller, cap, message, Nanos::NEVER)
}

pub(super) fn recv(kernel: &mut Sim, caller: Caller, handle: Handle, room: InOut<MsgIo>) -> Answer {
    let cap = kernel.resolve(caller.unit, handle, CHANNEL, Rights::RECEIVE)?;
    kernel.chan_recv(caller, cap, room, Nanos::NEVER)
}

pub(super) fn blocked(kernel: &Sim, caller: Caller) -> bool {
    kernel.threads.get(caller.thread).unwrap().state == ThreadState::Blocked
}

/// What the last system call of a thread that was woken answered.
pub(super) fn answer(kernel: &Sim, caller: Caller) -> Result<u64, Error> {
    assert!(!blocked(kernel, caller));
    Error::from_register(kernel.threads.get(caller.thread).unwrap().registers.rax)
}

pub(super) fn drain(kernel: &mut Sim) {
    while kernel.caps_work_step() == Progress::More {}
}

fn info(kernel: &mut Sim, caller: Caller, handle: Handle) -> ChanInfo {
    let cap = kernel.resolve(caller.unit, handle, CHANNEL, Rights::INSPECT).unwrap();
    let out = Out { address: PAGE + 0x3000, bytes: ChanInfo::SIZE, of: core::marker::PhantomData };
    kernel.chan_get_info(caller, cap, out).unwrap();
    let mut bytes = [0; ChanInfo::SIZE];
    kernel.copy_in(caller.unit, PAGE + 0x3000, &mut bytes).unwrap();
    ChanInfo::decode(&bytes).unwrap()
}

fn cap_info(kernel: &mut Sim, caller: Caller, handle: Handle) -> CapInfo {
    let out = Out { address: PAGE + 0x3000, bytes: CapInfo::SIZE, of: core::marker::PhantomData };
    kernel.cap_get_info(caller, handle, out).unwrap();
    let mut bytes = [0; CapInfo::SIZE];
    kernel.copy_in(caller.unit, PAGE + 0x3000, &mut bytes).unwrap();
    CapInfo::decode(&bytes).unwrap()
}

/// Two units with a thread each and a BIDI channel between them.
fn pair() -> (Sim, [UnitId; 2], [Caller; 2], [Handle; 2]) {
    let (mut kernel, units, callers) = ipc::kernel(2, 1);
    let [a, b] = channel(&mut kernel, callers[0][0], &ChanSpec { mode: ChanMode::Bidi, ..ChanSpec::new() });
    let b = pass(&mut kernel, callers[0][0], units[1], b);
    (kernel, [units[0], units[1]], [callers[0][0], callers[1][0]], [a, b])
}

#[test]
fn capabilities_travel_by_move_borrow_and_clone() {
    for mode in [TransferMode::Move, TransferMode::Borrow, TransferMode::Clone] {
        let (mut kernel, units, callers, ends) = pair();
        let cap = kernel.cap_install(units[0], Object::Console, Rights::ALL, TransferFlags::ALL).unwrap();
        let rights = Rights::READ | Rights::TRANSFER | Rights::DERIVE;
        let io = message(&mut kernel, callers[0], b"take this", &[CapTransfer { cap, mode, rights }]);
        assert_eq!(send(&mut kernel, callers[0], ends[0], io), Ok(Outcome::OK));
        let sender_has = kernel.resolve(units[0], cap, Types::ANY, Rights::ALL);
        assert_eq!(sender_has.is_ok(), mode != TransferMode::Move, "{mode:?}");
        let io = room(&mut kernel, callers[1], 64, 4);
        assert_eq!(recv(&mut kernel, callers[1], ends[1], io), Ok(Outcome::Done(9)));
        let (io, payload, caps) = received(&mut kernel, callers[1]);
        assert_eq!((io.out_caps, &payload[..], caps.len()), (1, &b"take this"[..], 1));
        let has = kernel.resolve(units[1], caps[0].cap, Types::ANY, Rights::READ).unwrap();
        assert_eq!((has.object, caps[0].mode), (Object::Console, mode));
        let lent = mode == TransferMode::Borrow;
        assert_eq!(has.rights, if lent { rights.without(Rights::TRANSFER) } else { rights });
        assert_eq!(caps[0].rights, has.rights);
        let facts = cap_info(&mut kernel, callers[1], caps[0].cap);
        assert_eq!(facts.flags.contains(CapFlags::BORROWED), lent);
        assert_eq!(facts.flags.contains(CapFlags::DERIVED), mode != TransferMode::Move);
        assert_eq!((facts.object_type, facts.owner_unit), (ObjectType::Console, units[1].number()));
        // A loan cannot be passed on; whatever was cloned outlives its source, a loan does not.
        let again = message(&mut kernel, callers[1], b"", &[CapTransfer { cap: caps[0].cap, ..caps[0] }]);
        let passed_on = send(&mut kernel, callers[1], ends[1], again);
        assert_eq!(passed_on, if lent { Err(Error::Access) } else { Ok(Outcome::OK) });
        if mode != TransferMode::Move {
            kernel.cap_close_handle(units[0], cap).unwrap();
            let after = kernel.resolve(units[1], caps[0].cap, Types::ANY, Rights::READ);
            assert_eq!(after.err(), lent.then_some(Error::Revoked));
        }
    }
}

#[test]
fn a_message_whose_capabilities_do_not_fit_stays_whole() {
    let (mut kernel, units, callers, ends) = pair();
    let cap = kernel.cap_install(units[0], Object::Console, Rights::ALL, TransferFlags::ALL).unwrap();
    let transfer = CapTransfer { cap, mode: TransferMode::Move, rights: Rights::READ };
    let io = message(&mut kernel, callers[0], b"payload", &[transfer]);
    send(&mut kernel, callers[0], ends[0], io).unwrap();
    let limit = core::mem::replace(&mut kernel.units.get_mut(units[1]).unwrap().quotas.handles, Quota::new(1));
    kernel.units.get_mut(units[1]).unwrap().quotas.handles.used = 1;
    let io = room(&mut kernel, callers[1], 64, 4);
    assert_eq!(recv(&mut kernel, callers[1], ends[1], io), Err(Error::NoHandles));
    kernel.units.get_mut(units[1]).unwrap().quotas.handles = limit;
    let kernel_quota = core::mem::replace(&mut kernel.units.get_mut(units[1]).unwrap().quotas.kernel, Quota::new(0));
    assert_eq!(recv(&mut kernel, callers[1], ends[1], io), Err(Error::Quota));
    kernel.units.get_mut(units[1]).unwrap().quotas.kernel = kernel_quota;
    // Neither room for the payload, nor for the capability, nor memory to write to.
    let small = room(&mut kernel, callers[1], 6, 4);
    assert_eq!(recv(&mut kernel, callers[1], ends[1], small), Err(Error::MessageSize));
    let told = told(&mut kernel, callers[1]);
    assert_eq!((told.out_bytes, told.out_caps), (7, 1), "what is needed is told");
    let no_caps = room(&mut kernel, callers[1], 64, 0);
    assert_eq!(recv(&mut kernel, callers[1], ends[1], no_caps), Err(Error::MessageSize));
    for bad in [
        MsgIo { buffer: 0xdead_0000, ..io.value },
        MsgIo { buffer: u64::MAX - 2, ..io.value },
        MsgIo { caps: 0xdead_0000, ..io.value },
    ] {
        assert_eq!(recv(&mut kernel, callers[1], ends[1], InOut { value: bad, ..io }), Err(Error::Fault));
    }
    assert_eq!(recv(&mut kernel, callers[1], ends[1], InOut { address: 0xdead_0000, ..io }), Err(Error::Fault));
    assert_eq!(recv(&mut kernel, callers[1], ends[1], io), Ok(Outcome::Done(7)));
    let (_, payload, caps) = received(&mut kernel, callers[1]);
    assert_eq!(payload, b"payload");
    assert!(kernel.resolve(units[1], caps[0].cap, Types::ANY, Rights::READ).is_ok());
}

#[test]
fn a_send_that_fails_changes_nothing() {
    let (mut kernel, units, callers, ends) = pair();
    let good = kernel.cap_install(units[0], Object::Console, Rights::ALL, TransferFlags::ALL).unwrap();
    let local =
        kernel.cap_install(units[0], Object::Thread(callers[0].thread), Rights::ALL, TransferFlags::ALL).unwrap();
    let weak = kernel.cap_install(units[0], Object::Console, Rights::READ, TransferFlags::ALL).unwrap();
    let bound = kernel.cap_install(units[0], Object::Console, Rights::ALL, TransferFlags::BORROW_ALLOWED).unwrap();
    let dead = kernel.cap_install(units[0], Object::Console, Rights::ALL, TransferFlags::ALL).unwrap();
    kernel.cap_revoke(callers[0], dead, holm_abi::RevokeFlags::NONE).unwrap();
    let moved = |cap| CapTransfer { cap, mode: TransferMode::Move, rights: Rights::READ };
    let table: &[(&[CapTransfer], Error)] = &[
        (&[moved(good), moved(local)], Error::NotPermitted),
        (&[moved(good), moved(weak)], Error::Access),
        (&[moved(good), moved(bound)], Error::NotPermitted),
        (&[moved(good), moved(dead)], Error::Revoked),
        (&[moved(good), moved(Handle::initial(999))], Error::BadHandle),
        (&[moved(good), moved(good)], Error::Invalid),
        (&[moved(good), CapTransfer { rights: Rights::SEND, ..moved(ends[0]) }], Error::NotPermitted),
    ];
    let handles = |kernel: &Sim| kernel.units.get(units[0]).unwrap().quotas.handles.used;
    let before = (handles(&kernel), kernel.caps.grants.len());
    for (caps, error) in table {
        let io = message(&mut kernel, callers[0], b"x", caps);
        assert_eq!(send(&mut kernel, callers[0], ends[0], io), Err(*error), "{caps:?}");
        assert_eq!((handles(&kernel), kernel.caps.grants.len()), before);
    }
    let io = message(&mut kernel, callers[0], b"x", &[moved(good)]);
    let bad: &[(MsgIo, Error)] = &[
        (MsgIo { buffer_bytes: 257, ..io }, Error::MessageSize),
        (MsgIo { buffer_bytes: 70_000, ..io }, Error::MessageSize),
        (MsgIo { buffer: 0xdead_0000, ..io }, Error::Fault),
        (MsgIo { caps: 0xdead_0000, ..io }, Error::Fault),
        (MsgIo { cap_count: 17, ..io }, Error::TooBig),
        (MsgIo { priority: 32, ..io }, Error::Invalid),
        (MsgIo { flags: MsgFlags::PEEK, ..io }, Error::Invalid),
    ];
    for (io, error) in bad {
        assert_eq!(send(&mut kernel, callers[0], ends[0], *io), Err(*error));
        assert_eq!((handles(&kernel), kernel.caps.grants.len()), before);
    }
    let facts = info(&mut kernel, callers[1], ends[1]);
    assert_eq!((facts.queued_messages, facts.queued_bytes, facts.sent), (0, 0, 0));
}

#[test]
fn what_was_sent_before_the_end_closed_is_still_received() {
    let (mut kernel, units, callers, ends) = pair();
    for payload in [b"one", b"two"] {
        let io = message(&mut kernel, callers[0], payload, &[]);
        send(&mut kernel, callers[0], ends[0], io).unwrap();
    }
    kernel.cap_close_handle(units[0], ends[0]).unwrap();
    drain(&mut kernel);
    assert_eq!(info(&mut kernel, callers[1], ends[1]).peer_closed, 1);
    let io = room(&mut kernel, callers[1], 64, 0);
    for payload in [b"one", b"two"] {
        assert_eq!(recv(&mut kernel, callers[1], ends[1], io), Ok(Outcome::Done(3)));
        assert_eq!(received(&mut kernel, callers[1]).1, payload);
    }
    assert_eq!(recv(&mut kernel, callers[1], ends[1], io), Err(Error::PeerClosed));
    let io = message(&mut kernel, callers[1], b"x", &[]);
    assert_eq!(send(&mut kernel, callers[1], ends[1], io), Err(Error::PeerClosed));
}

#[test]
fn capabilities_in_messages_that_nobody_receives_are_released() {
    let (mut kernel, units, callers, ends) = pair();
    let object = Object::Unit(units[1]);
    let cap = kernel.cap_install(units[0], object, Rights::ALL, TransferFlags::ALL).unwrap();
    for mode in [TransferMode::Borrow, TransferMode::Clone, TransferMode::Move] {
        let io = message(&mut kernel, callers[0], b"x", &[CapTransfer { cap, mode, rights: Rights::READ }]);
        send(&mut kernel, callers[0], ends[0], io).unwrap();
    }
    assert_eq!(*kernel.references(object).unwrap(), 4);
    kernel.cap_close_handle(units[1], ends[1]).unwrap();
    drain(&mut kernel);
    assert_eq!(*kernel.references(object).unwrap(), 1);
    kernel.cap_close_handle(units[0], ends[0]).unwrap();
    drain(&mut kernel);
    assert!(kernel.channels.is_empty() && kernel.caps.grants.len() == 0);
}

#[test]
fn a_capability_that_is_revoked_in_a_message_arrives_revoked() {
    for swept in [false, true] {
        let (mut kernel, units, callers, ends) = pair();
        let object = Object::Unit(units[1]);
        let cap = kernel.cap_install(units[0], object, Rights::ALL, TransferFlags::ALL).unwrap();
        let clone = CapTransfer { cap, mode: TransferMode::Clone, rights: Rights::READ };
        let io = message(&mut kernel, callers[0], b"x", &[clone, clone]);
        send(&mut kernel, callers[0], ends[0], io).unwrap();
        kernel.cap_revoke(callers[0], cap, holm_abi::RevokeFlags::NONE).unwrap();
        if swept {
            drain(&mut kernel);
            assert_eq!(*kernel.references(object).unwrap(), 1, "what was revoked keeps nothing");
        }
        let io = room(&mut kernel, callers[1], 64, 4);
        recv(&mut kernel, callers[1], ends[1], io).unwrap();
        let (.., caps) = received(&mut kernel, callers[1]);
        assert_eq!(caps.len(), 2);
        for record in caps {
            assert_eq!(kernel.resolve(units[1], record.cap, Types::ANY, Rights::NONE), Err(Error::Revoked));
            assert!(cap_info(&mut kernel, callers[1], record.cap).flags.contains(CapFlags::REVOKED));
            kernel.cap_close_handle(units[1], record.cap).unwrap();
        }
        kernel.cap_close_handle(units[0], cap).unwrap();
        drain(&mut kernel);
        assert_eq!(kernel.caps.grants.len(), 2, "only the ends of the channel are left");
    }
}

#[test]
fn who_waits_through_a_revoked_capability_is_woken() {
    let (mut kernel, units, callers) = ipc::kernel(2, 3);
    let one = ChanSpec { mode: ChanMode::Bidi, max_messages: 1, ..ChanSpec::new() };
    let [a, b] = channel(&mut kernel, callers[0][0], &one);
    let target = Cap {
        handle: b,
        object: Object::Unit(units[1]),
        rights: Rights::ALL,
        badge: 0,
        grant: crate::cap::GrantId::from_number(0),
    };
    let all = ObjectType::Channel.rights();
    let Ok(Outcome::Done(lent)) = kernel.cap_grant(callers[0][0], target, b, all, TransferMode::Borrow) else {
        panic!("granted")
    };
    let lent = Handle::from_register(lent).unwrap();
    // One waits for a message, one for room; the lender's own thread waits, too.
    let io = room(&mut kernel, callers[1][0], 64, 0);
    assert_eq!(recv(&mut kernel, callers[1][0], lent, io), Ok(Outcome::Blocked));
    let io = room(&mut kernel, callers[0][1], 64, 0);
    assert_eq!(recv(&mut kernel, callers[0][1], b, io), Ok(Outcome::Blocked));
    for (caller, outcome) in [(callers[1][1], Outcome::OK), (callers[1][2], Outcome::Blocked)] {
        let io = message(&mut kernel, caller, b"full", &[]);
        assert_eq!(send(&mut kernel, caller, lent, io), Ok(outcome));
    }
    kernel.cap_revoke(callers[0][0], b, holm_abi::RevokeFlags::CHILDREN_ONLY).unwrap();
    drain(&mut kernel);
    assert_eq!(answer(&kernel, callers[1][0]), Err(Error::Revoked));
    assert_eq!(answer(&kernel, callers[1][2]), Err(Error::Revoked));
    assert!(blocked(&kernel, callers[0][1]));
    let io = message(&mut kernel, callers[0][0], b"for b", &[]);
    send(&mut kernel, callers[0][0], a, io).unwrap();
    assert_eq!(answer(&kernel, callers[0][1]), Ok(5));
}

#[test]
fn limits_can_be_lowered_and_raised_to_those_it_was_made_with() {
    let (mut kernel, _, callers, ends) = pair();
    let cap = kernel.resolve(callers[1].unit, ends[1], CHANNEL, Rights::ADMIN).unwrap();
    let set = |kernel: &mut Sim, attr: ChanAttr| kernel.chan_set_attr(callers[1], cap, attr);
    let messages = |max_messages| ChanAttr { mask: ChanAttrMask::MAX_MESSAGES, max_messages, ..ChanAttr::new() };
    let bytes = |max_bytes| ChanAttr { mask: ChanAttrMask::MAX_BYTES, max_bytes, ..ChanAttr::new() };
    for attr in [messages(0), messages(17), bytes(255), bytes(16 * 256 + 1)] {
        assert_eq!(set(&mut kernel, attr), Err(Error::Invalid));
    }
    set(&mut kernel, messages(1)).unwrap();
    let io = message(&mut kernel, callers[0], b"x", &[]);
    send(&mut kernel, callers[0], ends[0], io).unwrap();
    assert_eq!(send(&mut kernel, callers[0], ends[0], io), Ok(Outcome::Blocked));
    set(&mut kernel, messages(16)).unwrap();
    assert_eq!(answer(&kernel, callers[0]), Ok(0), "room that an attribute makes wakes the sender");
    assert_eq!(info(&mut kernel, callers[1], ends[1]).queued_messages, 2);
}

#[test]
fn what_cannot_be_made_is_refused_and_costs_nothing() {
    let (mut kernel, units, callers) = ipc::kernel(1, 1);
    let spec = ChanSpec::new();
    for bad in [
        ChanSpec { max_message: 65_537, ..spec },
        ChanSpec { max_messages: 4097, ..spec },
        ChanSpec { max_bytes: 255, ..spec },
        ChanSpec { max_bytes: 4_194_305, ..spec },
        ChanSpec { flags: ChanFlags::RELIABLE, drop_policy: DropPolicy::DropNewest, ..spec },
        ChanSpec { flags: ChanFlags::RELIABLE, drop_policy: DropPolicy::DropOldest, ..spec },
        ChanSpec { flags: ChanFlags::RT_SAFE, max_message: 257, ..spec },
    ] {
        assert_eq!(kernel.chan_create(callers[0][0], bad), Err(Error::Invalid), "{bad:?}");
    }
    let [a, b] = channel(&mut kernel, callers[0][0], &spec);
    for handle in [a, b] {
        kernel.cap_close_handle(units[0], handle).unwrap();
    }
    drain(&mut kernel);
    let unit = kernel.units.get_mut(units[0]).unwrap();
    assert_eq!(unit.quotas.kernel.used, unit.caps.bytes());
    unit.quotas.kernel.limit = unit.quotas.kernel.used + 4000;
    assert_eq!(kernel.chan_create(callers[0][0], spec), Err(Error::Quota));
    let unit = kernel.units.get(units[0]).unwrap();
    assert_eq!((unit.quotas.kernel.used, kernel.channels.len()), (unit.caps.bytes(), 0));
}

#[test]
fn a_damaged_message_is_dropped_and_counted() {
    let (mut kernel, _, callers, ends) = pair();
    (kernel.config.payload_crc, kernel.config.crc_interval) = (true, 1);
    for payload in [b"first", b"later"] {
        let io = message(&mut kernel, callers[0], payload, &[]);
        send(&mut kernel, callers[0], ends[0], io).unwrap();
    }
    let (id, _) = kernel.channels.iter().next().unwrap();
    let inbox = kernel.inbox_mut(id, super::End::B).unwrap();
    let mut blocks = inbox.lend();
    blocks[2] ^= 1;
    inbox.give_back(blocks);
    let io = room(&mut kernel, callers[1], 64, 0);
    assert_eq!(recv(&mut kernel, callers[1], ends[1], io), Ok(Outcome::Done(5)));
    assert_eq!(received(&mut kernel, callers[1]).1, b"later");
    assert_eq!(kernel.channel_work.damaged, 1);
    assert_eq!(info(&mut kernel, callers[1], ends[1]).dropped, 1);
}

#[test]
fn an_rt_safe_channel_carries_no_capabilities() {
    let (mut kernel, units, callers) = ipc::kernel(1, 1);
    let [_, b] = channel(&mut kernel, callers[0][0], &ChanSpec { flags: ChanFlags::RT_SAFE, ..ChanSpec::new() });
    let cap = kernel.cap_install(units[0], Object::Console, Rights::ALL, TransferFlags::ALL).unwrap();
    let transfer = CapTransfer { cap, mode: TransferMode::Clone, rights: Rights::READ };
    let io = message(&mut kernel, callers[0][0], b"", &[transfer]);
    assert_eq!(send(&mut kernel, callers[0][0], b, io), Err(Error::NotPermitted));
}

//! Capabilities: moving, lending, cloning, deriving, revoking.

use holm_rt::abi::{
    CapFlags, CapInfo, ConcurrencyClass, Error, ObjectType, RevokeFlags, Rights, TransferFlags, TransferMode, limits,
    number,
};
use holm_rt::channel::Sending;
use holm_rt::{Channel, Deadline, Events, Handle, Object, Owned, Region, Timer, sys};

use crate::agent::{Agent, Order};
use crate::harness::{Outcome, Test, World, check, check_eq, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("cap_moved_leaves_the_sender_and_works_for_the_receiver", moved),
    ("cap_lent_in_a_call_ends_with_the_reply", lent),
    ("cap_cloned_works_for_both_within_its_rights", cloned),
    ("cap_rights_only_shrink", rights_shrink),
    ("cap_transfer_policy_is_obeyed", policy),
    ("cap_local_objects_stay", local_only),
    ("cap_revoked_ends_for_all_descendants_at_once", revoke_all),
    ("cap_revoke_children_keeps_the_capability", revoke_children),
    ("cap_revoked_while_somebody_waits_wakes_them", revoke_wakes),
    ("cap_stale_handles_never_name_newer_objects", stale),
    ("cap_derivations_have_a_depth", depth),
    ("cap_failed_transfers_change_nothing", all_or_nothing),
    ("cap_end_of_a_unit_releases_what_it_had", released_at_the_end),
    ("cap_grants_and_revocations_leak_nothing", leak_nothing),
];

const SEND: Rights = Rights::SEND.or(Rights::INSPECT);

fn info(handle: Handle) -> Result<CapInfo, Error> {
    let mut info = CapInfo::new();
    sys::cap_get_info(handle, &mut info)?;
    Ok(info)
}

fn moved(world: &World) -> Outcome {
    let agent = Agent::start(world)?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let handle = outbox.handle();
    let kept = agent.keep(outbox.moved(SEND | Rights::TRANSFER))?;
    must_answer(number::chan_get_info, Error::BadHandle, {
        let gone = Channel::from_owned(Owned::new(handle));
        let result = gone.info();
        let _gone = gone.into_handle();
        result
    })?;
    check_eq!(agent.order(Order::Send, kept, 0)?, 0);
    check_eq!(inbox.receive(64, soon())?.payload, b"hello");
    let (_, mut reply) = agent.order_with(Order::GiveBack, kept, SEND.bits(), &[])?;
    check_eq!(agent.order(Order::Send, kept, 0), Err(Error::NotFound));
    let back = reply.caps.pop().ok_or(Error::NotFound)?;
    check_eq!(info(back.owned.handle())?.rights, SEND);
    let outbox = Channel::from_owned(back.owned);
    outbox.send(b"mine again", soon())?;
    check_eq!(inbox.receive(64, soon())?.payload, b"mine again");
    Ok(())
}

fn lent(world: &World) -> Outcome {
    let agent = Agent::start(world)?;
    let region = Region::new(4096)?;
    // The agent keeps it, but the loan ends with the reply to this very call.
    let kept = agent.keep(region.lent(Rights::READ))?;
    let after = agent.order(Order::Read, kept, 0);
    check!(matches!(after, Err(Error::Revoked | Error::BadHandle)), "a loan outlived its reply: {after:?}");
    let mut bytes = [0; 8];
    region.read(0, &mut bytes)?;
    // Granted outside of a call it lasts until it is revoked, and cannot be passed on.
    let there = agent.unit.grant(region.handle(), Rights::READ, TransferMode::Borrow)?;
    check!(there.raw() > 0, "no handle");
    Ok(())
}

fn cloned(world: &World) -> Outcome {
    let agent = Agent::start(world)?;
    let region = Region::new(4096)?;
    let kept = agent.keep(region.cloned(Rights::READ))?;
    region.write(0, &8u64.to_le_bytes())?;
    check_eq!(agent.order(Order::Read, kept, 0)?, 4);
    check_eq!(agent.order(Order::Write, kept, 1), Err(Error::Access));
    check_eq!(agent.order(Order::Rights, kept, 0)?, Rights::READ.bits());
    check_eq!(agent.order(Order::Derive, kept, Rights::READ.bits()), Err(Error::Access));
    Ok(())
}

fn rights_shrink(_: &World) -> Outcome {
    let region = Region::new(4096)?;
    let all = region.capability()?;
    check_eq!(all.rights, ObjectType::Region.rights());
    check_eq!((all.depth, all.badge, all.owner_unit), (0, 0, holm_rt::startup::unit_id()));
    let weak = region.derive(Rights::READ | Rights::DERIVE | Rights::INSPECT)?;
    check_eq!(weak.capability()?.depth, 1);
    check!(weak.capability()?.flags.contains(CapFlags::DERIVED), "a derived capability does not say so");
    must_answer(number::cap_derive, Error::Access, weak.derive(Rights::READ | Rights::WRITE).map(|_| ()))?;
    let weakest = weak.derive(Rights::INSPECT)?;
    must_answer(number::cap_derive, Error::Access, weakest.derive(Rights::INSPECT).map(|_| ()))?;
    must_answer(number::vm_region_read, Error::Access, weakest.read(0, &mut [0; 1]))?;
    let wide = sys::cap_derive(weak.handle(), Rights::READ, TransferFlags::ALL, 0)?;
    drop(Owned::new(wide));
    Ok(())
}

fn policy(world: &World) -> Outcome {
    let agent = Agent::start(world)?;
    let region = Region::new(4096)?;
    for (policy, mode) in [
        (TransferFlags::MOVE_ALLOWED, TransferMode::Clone),
        (TransferFlags::CLONE_ALLOWED, TransferMode::Move),
        (TransferFlags::BORROW_ALLOWED, TransferMode::Clone),
        (TransferFlags::NONE, TransferMode::Borrow),
    ] {
        let bound = region.derive_with(Rights::READ | Rights::TRANSFER | Rights::DERIVE, policy, 0)?;
        let refused = agent.unit.grant(bound.handle(), Rights::READ, mode);
        must_answer(number::cap_grant, Error::NotPermitted, refused)?;
        check_eq!(bound.capability()?.transfer, policy);
    }
    let fixed = region.derive(Rights::READ)?;
    must_answer(number::cap_grant, Error::Access, agent.unit.grant(fixed.handle(), Rights::READ, TransferMode::Clone))?;
    must_answer(
        number::cap_grant,
        Error::BadHandle,
        agent.unit.grant(Handle::initial(9999), Rights::READ, TransferMode::Clone),
    )?;
    Ok(())
}

fn local_only(world: &World) -> Outcome {
    let agent = Agent::start(world)?;
    let events = Events::new()?;
    check_eq!(events.capability()?.concurrency_class, ConcurrencyClass::LocalOnly);
    let refused = agent.unit.grant(events.handle(), Rights::READ, TransferMode::Clone);
    must_answer(number::cap_grant, Error::NotPermitted, refused)?;
    check_eq!(agent.keep(events.cloned(Rights::READ)), Err(Error::NotPermitted));
    crate::harness::saw(number::chan_call, Error::NotPermitted);
    Ok(())
}

fn revoke_all(world: &World) -> Outcome {
    let agent = Agent::start(world)?;
    let (inbox, outbox) = Channel::queue(64, 16)?;
    let base = outbox.derive(ObjectType::Channel.rights().without(Rights::RECEIVE).and(outbox.capability()?.rights))?;
    let rights = SEND | Rights::DERIVE | Rights::TRANSFER;
    let kept = agent.keep(base.cloned(rights))?;
    let grandchild = agent.order(Order::Derive, kept, SEND.bits())?;
    let near = base.derive(SEND)?;
    check_eq!(agent.order(Order::Send, grandchild, 0)?, 0);
    base.revoke()?;
    check_eq!(agent.order(Order::Send, grandchild, 0), Err(Error::Revoked));
    check_eq!(agent.order(Order::Send, kept, 0), Err(Error::Revoked));
    must_answer(number::chan_send, Error::Revoked, near.send(b"x", Deadline::PAST))?;
    must_answer(number::chan_send_short, Error::Revoked, base.send_words([0; 4], Deadline::PAST))?;
    must_answer(number::cap_derive, Error::Revoked, base.derive(SEND).map(|_| ()))?;
    let told = base.capability()?;
    check!(told.flags.contains(CapFlags::REVOKED), "a revoked capability does not say so: {told:?}");
    outbox.send(b"still", soon())?;
    check_eq!(inbox.receive(64, soon())?.payload, b"hello");
    check_eq!(inbox.receive(64, soon())?.payload, b"still");
    // Revoked handles can be closed, once.
    check_eq!(agent.order(Order::Close, kept, 0)?, 0);
    Ok(())
}

fn revoke_children(_: &World) -> Outcome {
    let region = Region::new(4096)?;
    let (child, other) = (region.derive(Rights::READ | Rights::DERIVE)?, region.derive(Rights::READ)?);
    let grandchild = child.derive(Rights::READ)?;
    region.revoke_children()?;
    for gone in [&child, &other, &grandchild] {
        must_answer(number::vm_region_read, Error::Revoked, gone.read(0, &mut [0; 1]))?;
    }
    region.write(0, &[1])?;
    let new = region.derive(Rights::READ)?;
    check_eq!(new.read(0, &mut [0; 1])?, 1);
    let bad = sys::cap_revoke(region.handle(), RevokeFlags::CHILDREN_ONLY);
    check_eq!(bad, Ok(()));
    must_answer(number::vm_region_read, Error::Revoked, new.read(0, &mut [0; 1]))?;
    Ok(())
}

fn revoke_wakes(_: &World) -> Outcome {
    let (inbox, _outbox) = Channel::queue(64, 4)?;
    let lent = inbox.derive(Rights::RECEIVE | Rights::INSPECT)?;
    let handle = lent.handle();
    let waiter = holm_rt::thread::spawn(move || {
        let channel = Channel::from_owned(Owned::new(handle));
        let result = channel.receive(64, soon()).map(|_| ());
        let _kept = channel.into_handle();
        result
    })?;
    holm_rt::time::sleep(core::time::Duration::from_millis(3))?;
    inbox.revoke_children()?;
    let woken = waiter.join(soon())?.ok_or(Error::NotFound)?;
    check!(matches!(woken, Err(Error::Revoked | Error::Canceled)), "the waiter got {woken:?}");
    Ok(())
}

fn stale(_: &World) -> Outcome {
    let first = Region::new(4096)?;
    let old = first.handle();
    drop(first);
    must_answer(number::vm_region_get_info, Error::BadHandle, {
        let mut info = holm_rt::abi::RegionInfo::new();
        sys::vm_region_get_info(old, &mut info)
    })?;
    for _ in 0..200 {
        let timer = Timer::new(holm_rt::abi::ClockId::Monotonic)?;
        check!(timer.handle() != old, "a handle came back");
        must_answer(number::cap_get_info, Error::BadHandle, info(old))?;
    }
    must_answer(number::cap_close, Error::BadHandle, sys::cap_close(old))?;
    must_answer(number::cap_revoke, Error::BadHandle, sys::cap_revoke(old, RevokeFlags::NONE))?;
    Ok(())
}

fn depth(_: &World) -> Outcome {
    let region = Region::new(4096)?;
    let mut chain = alloc::vec![region.derive(Rights::READ | Rights::DERIVE)?];
    let refused = loop {
        let last = chain.last().ok_or(Error::NotFound)?;
        match last.derive(Rights::READ | Rights::DERIVE) {
            Ok(next) => chain.push(next),
            Err(error) => break error,
        }
        check!(chain.len() <= limits::MAX_DERIVATION_DEPTH as usize + 1, "no limit of depth");
    };
    check_eq!(refused, Error::TooDeep);
    crate::harness::saw(number::cap_derive, refused);
    check!(chain.len() as u64 + 1 >= limits::MAX_DERIVATION_DEPTH, "refused after {}", chain.len());
    let last = chain.last().ok_or(Error::NotFound)?;
    check_eq!(last.read(0, &mut [0; 1])?, 1);
    chain.first().ok_or(Error::NotFound)?.revoke()?;
    must_answer(number::vm_region_read, Error::Revoked, last.read(0, &mut [0; 1]))?;
    Ok(())
}

fn all_or_nothing(_: &World) -> Outcome {
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let region = Region::new(4096)?;
    let handle = region.handle();
    let caps = [
        region.moved(Rights::READ),
        holm_rt::abi::CapTransfer { cap: Handle::initial(4321), mode: TransferMode::Clone, rights: Rights::READ },
    ];
    let sending = Sending { caps: &caps, ..Sending::default() };
    must_answer(number::chan_send, Error::BadHandle, outbox.send_with(b"two", &sending, soon()))?;
    let region = Region::from_owned(Owned::new(handle));
    check_eq!(region.read(0, &mut [0; 1])?, 1);
    check_eq!(inbox.info()?.queued_messages, 0);
    let more = [region.cloned(Rights::READ); 17];
    let sending = Sending { caps: &more, ..Sending::default() };
    must_answer(number::chan_send, Error::TooBig, outbox.send_with(b"many", &sending, soon()))?;
    let wide = [region.derive(Rights::READ | Rights::TRANSFER)?.moved(Rights::READ | Rights::WRITE)];
    let sending = Sending { caps: &wide, ..Sending::default() };
    must_answer(number::chan_send, Error::Access, outbox.send_with(b"wide", &sending, soon()))?;
    drop(Owned::new(wide[0].cap));
    Ok(())
}

fn released_at_the_end(world: &World) -> Outcome {
    let agent = Agent::start(world)?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let kept = agent.keep(outbox.moved(SEND))?;
    check_eq!(agent.order(Order::Send, kept, 0)?, 0);
    agent.unit.kill(0)?;
    agent.unit.wait(soon())?;
    check_eq!(inbox.receive(64, soon())?.payload, b"hello");
    must_answer(number::chan_recv, Error::PeerClosed, inbox.receive(64, soon()).map(|_| ()))?;
    check_eq!(inbox.info()?.peer_closed, 1);
    check_eq!(agent.unit.info()?.handles, 0);
    Ok(())
}

fn leak_nothing(world: &World) -> Outcome {
    let round = || -> Result<(), crate::harness::Failure> {
        let (_inbox, outbox) = Channel::queue(64, 4)?;
        let children: Result<alloc::vec::Vec<_>, _> = (0..100).map(|_| outbox.derive(SEND | Rights::DERIVE)).collect();
        let children = children?;
        for child in children.iter().step_by(3) {
            drop(child.derive(SEND)?);
        }
        outbox.revoke_children()?;
        Ok(())
    };
    round()?;
    let before = world.inventory()?;
    for _ in 0..5 {
        round()?;
    }
    check_eq!(world.inventory()?, before);
    Ok(())
}

//! Events: one wait over many sources, and supervision built on it.

use alloc::rc::Rc;
use core::cell::Cell;
use core::time::Duration;

use holm_rt::abi::{ClockId, Error, EventFlags, EventMask, EventSource, EventSpec, ExitReason, Rights, limits, number};
use holm_rt::supervise::{Limit, Note, Restart, Rules, Strategy, Supervisor};
use holm_rt::{Channel, Deadline, Events, Object, Source, Timer, sys, thread, time};

use crate::harness::{Outcome, Test, World, check, check_eq, must_answer, shortly, soon};

pub(crate) const TESTS: &[Test] = &[
    ("event_one_wait_over_many_sources", many_sources),
    ("event_level_reports_as_long_as_it_is_true", level),
    ("event_edge_reports_each_change_once", edge),
    ("event_that_needs_ack_stays_silent_until_then", ack),
    ("event_oneshot_ends_with_its_report", oneshot),
    ("event_unit_exit_and_crash_tell_reason_and_code", unit_ends),
    ("event_thread_exit_is_told", thread_ends),
    ("event_end_before_the_subscription_is_told", late_subscription),
    ("event_closed_channel_is_told_unasked", closed),
    ("event_revoked_source_ends_the_subscription", revoked),
    ("event_bad_subscriptions_are_refused", bad_subscriptions),
    ("event_supervisor_restarts_and_gives_up", supervisor),
    ("event_repeated_failures_leak_nothing", failures_leak_nothing),
];

fn many_sources(world: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    let timer = Timer::new(ClockId::Monotonic)?;
    let unit = world.child("exit", &["3"]).create()?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::EDGE, 1)?;
    events.subscribe(Source::Timer(&timer), EventMask::EXPIRED, EventFlags::EDGE, 2)?;
    events.subscribe(Source::Unit(&unit), EventMask::STARTED | EventMask::EXIT, EventFlags::EDGE, 3)?;
    must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
    outbox.send(b"x", soon())?;
    timer.once(shortly())?;
    unit.start()?;
    let (mut seen, mut last) = ([EventMask::NONE; 4], [0; 4]);
    while !(seen[1].contains(EventMask::READABLE)
        && seen[2].contains(EventMask::EXPIRED)
        && seen[3].contains(EventMask::STARTED | EventMask::EXIT))
    {
        for record in events.wait(soon())? {
            let slot = record.token as usize;
            let (seen, last) = seen.get_mut(slot).zip(last.get_mut(slot)).ok_or(Error::Invalid)?;
            check!(record.version == 1 && record.timestamp >= *last, "records of a source are out of order");
            (*seen, *last) = (*seen | record.mask, record.timestamp);
        }
    }
    Ok(())
}

fn level(_: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::NONE, 9)?;
    outbox.send(b"x", soon())?;
    for _ in 0..3 {
        let record = events.wait_one(soon())?;
        check_eq!((record.token, record.source_type, record.mask), (9, EventSource::Channel, EventMask::READABLE));
    }
    inbox.receive(64, soon())?;
    must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
    Ok(())
}

fn edge(_: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::EDGE, 9)?;
    for _ in 0..3 {
        outbox.send(b"x", soon())?;
        events.wait_one(soon())?;
        must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
        inbox.receive(64, soon())?;
    }
    Ok(())
}

fn ack(_: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::NEEDS_ACK, 9)?;
    must_answer(number::event_ack, Error::BadState, events.acknowledge(9))?;
    outbox.send(b"x", soon())?;
    events.wait_one(soon())?;
    outbox.send(b"y", soon())?;
    must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
    events.acknowledge(9)?;
    events.wait_one(soon())?;
    must_answer(number::event_ack, Error::NotFound, events.acknowledge(10))?;
    Ok(())
}

fn oneshot(_: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::ONESHOT, 9)?;
    outbox.send(b"x", soon())?;
    events.wait_one(soon())?;
    must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
    must_answer(number::event_unsubscribe, Error::NotFound, events.unsubscribe(9))?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::NONE, 9)?;
    events.unsubscribe(9)?;
    must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
    Ok(())
}

fn unit_ends(world: &World) -> Outcome {
    let events = Events::new()?;
    let both = EventMask::EXIT | EventMask::CRASH;
    let exits = world.child("exit", &["12"]).create()?;
    let crashes = world.child("fault", &["read"]).create()?;
    let killed = world.child("sleep", &[]).create()?;
    for (token, unit) in [(1, &exits), (2, &crashes), (3, &killed)] {
        events.subscribe(Source::Unit(unit), both, EventFlags::EDGE, token)?;
        unit.start()?;
    }
    killed.kill(-3)?;
    let mut seen = 0;
    while seen != 0b1110 {
        for record in events.wait(soon())? {
            let wanted = match record.token {
                1 => (EventMask::EXIT, 12, ExitReason::Exited),
                2 => (EventMask::CRASH, 8, ExitReason::MemoryFault),
                _ => (EventMask::CRASH, -3, ExitReason::Killed),
            };
            check_eq!((record.mask, record.data0 as i64, record.data1), (wanted.0, wanted.1, wanted.2 as u64));
            check!(seen & (1 << record.token) == 0, "the end of unit {} came twice", record.token);
            seen |= 1 << record.token;
        }
    }
    Ok(())
}

fn thread_ends(_: &World) -> Outcome {
    let events = Events::new()?;
    let handle = thread::spawn(|| {
        let _slept = time::sleep(Duration::from_millis(2));
    })?;
    events.subscribe(Source::Thread(handle.thread()), EventMask::EXIT, EventFlags::EDGE, 4)?;
    let record = events.wait_one(soon())?;
    check_eq!(
        (record.token, record.mask, record.data0, record.source_type),
        (4, EventMask::EXIT, 0, EventSource::Thread)
    );
    handle.join(soon())?;
    Ok(())
}

fn late_subscription(world: &World) -> Outcome {
    let unit = world.child("exit", &["4"]).start()?;
    unit.wait(soon())?;
    let events = Events::new()?;
    events.subscribe(Source::Unit(&unit), EventMask::EXIT, EventFlags::EDGE, 1)?;
    check_eq!(events.wait_one(soon())?.data0, 4);
    must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
    Ok(())
}

fn closed(_: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, outbox) = Channel::queue(64, 4)?;
    events.subscribe(Source::Channel(&inbox), EventMask::READABLE, EventFlags::EDGE, 1)?;
    drop(outbox);
    let record = events.wait_one(soon())?;
    check!(record.mask.contains(EventMask::CLOSED), "got {:?}", record.mask);
    Ok(())
}

fn revoked(_: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, _outbox) = Channel::queue(64, 4)?;
    let lent = inbox.derive(Rights::RECEIVE | Rights::WAIT)?;
    events.subscribe(Source::Channel(&lent), EventMask::READABLE, EventFlags::NONE, 5)?;
    inbox.revoke_children()?;
    let record = events.wait_one(soon())?;
    check_eq!((record.token, record.mask.contains(EventMask::REVOKED)), (5, true));
    Ok(())
}

fn bad_subscriptions(_: &World) -> Outcome {
    let events = Events::new()?;
    let (inbox, _outbox) = Channel::queue(64, 4)?;
    let call = number::event_subscribe;
    let subscribe = |mask, flags, token| events.subscribe(Source::Channel(&inbox), mask, flags, token);
    subscribe(EventMask::READABLE, EventFlags::NONE, 1)?;
    must_answer(call, Error::Exists, subscribe(EventMask::READABLE, EventFlags::NONE, 1))?;
    must_answer(call, Error::Invalid, subscribe(EventMask::EXPIRED, EventFlags::NONE, 2))?;
    let fine = EventSpec {
        event: events.handle(),
        source: inbox.handle(),
        mask: EventMask::READABLE,
        token: 3,
        ..EventSpec::new()
    };
    let spec = EventSpec { source_type: EventSource::Timer, ..fine };
    must_answer(call, Error::WrongType, sys::event_subscribe(&spec).map(|_| ()))?;
    let spec = EventSpec { source_type: EventSource::Channel, source: holm_rt::Handle::initial(9999), ..fine };
    must_answer(call, Error::BadHandle, sys::event_subscribe(&spec).map(|_| ()))?;
    let spec = EventSpec { source_type: EventSource::Channel, event: inbox.handle(), ..fine };
    must_answer(call, Error::WrongType, sys::event_subscribe(&spec).map(|_| ()))?;
    let spec = EventSpec { source_type: EventSource::Cluster, ..fine };
    let cluster = sys::event_subscribe(&spec).map(|_| ());
    check!(matches!(cluster, Err(Error::Invalid | Error::NotSupported | Error::WrongType)), "{cluster:?}");
    let weak = inbox.derive(Rights::RECEIVE)?;
    let refused = events.subscribe(Source::Channel(&weak), EventMask::READABLE, EventFlags::NONE, 8);
    must_answer(call, Error::Access, refused)?;
    for token in 100..100 + limits::MAX_SUBSCRIPTIONS {
        match subscribe(EventMask::READABLE, EventFlags::NONE, token) {
            Ok(()) => {}
            Err(error @ (Error::NoSpace | Error::Quota)) => {
                crate::harness::saw(call, error);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(crate::harness::Failure("there is no limit of subscriptions".into()))
}

fn supervisor(world: &World) -> Outcome {
    let limit = Limit { restarts: 4, within: Duration::from_secs(60) };
    let rules = Rules::new(Strategy::OneForAll, limit, [Restart::OnFailure, Restart::OnFailure, Restart::Never]);
    let starts = Rc::new(Cell::new(0));
    let count = Rc::clone(&starts);
    let mut supervisor = Supervisor::new(rules, |index| {
        count.set(count.get() + 1);
        match index {
            0 => world.child("sleep", &[]).start(),
            1 => world.child("fault", &["illegal"]).start(),
            _ => world.child("exit", &["0"]).start(),
        }
    })?;
    let mut notes = alloc::vec::Vec::new();
    supervisor.start_all(&mut |note| notes.push(note));
    check_eq!(supervisor.running(), 3);
    while !supervisor.gave_up() {
        supervisor.step(soon(), &mut |note| notes.push(note))?;
    }
    check_eq!(supervisor.running(), 0);
    let crashes = notes.iter().filter(|note| matches!(note, Note::Ended(1, ExitReason::IllegalInstruction, _))).count();
    check_eq!(crashes, 5);
    let restarts = starts.get();
    check!((11..=15).contains(&restarts), "{restarts} starts in {notes:?}");
    Ok(())
}

fn failures_leak_nothing(world: &World) -> Outcome {
    let round = |times: u32| -> Outcome {
        let limit = Limit { restarts: times, within: Duration::from_secs(3600) };
        let rules = Rules::new(Strategy::OneForOne, limit, [Restart::Always]);
        let mut supervisor = Supervisor::new(rules, |_| world.child("fault", &["read"]).start())?;
        supervisor.start_all(&mut |_| {});
        while !supervisor.gave_up() {
            supervisor.step(soon(), &mut |_| {})?;
        }
        Ok(())
    };
    round(1)?;
    let before = world.inventory()?;
    round(15)?;
    check_eq!(world.inventory()?, before);
    Ok(())
}

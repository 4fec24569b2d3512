//! A worker and an agent over a real socket and real pages. Each test has an agent, and so a domain, of its own.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use morpheus::{
    NotAvailable, Reason, Refusal, Worker, WorkerConfig, YieldCause, critical, hint_pending, in_critical, record_yield,
    take_hint, usage, yield_for, yield_thread,
};
use morpheus_abi::{EscalationPolicy, MAX_WORKERS, RuntimeLine, WorkerState};
use morpheus_fake_agent::{FakeAgent, Manner, eventually};

fn config(agent: &FakeAgent, name: &str) -> WorkerConfig {
    WorkerConfig::new(name).socket(agent.socket()).polite()
}

fn count(line: &RuntimeLine, cause: YieldCause) -> u32 {
    line.yields[cause.number() as usize]
}

#[test]
fn a_hint_is_seen_taken_once_and_acknowledged() {
    let agent = FakeAgent::start();
    let worker = Worker::try_register(config(&agent, "one")).unwrap();
    let seat = agent.running("one");
    assert!(worker.is_attached());
    assert_eq!(worker.slot(), Some(seat.slot.index()));
    assert!(!hint_pending());
    assert_eq!(take_hint(), None);

    for (reason, deadline_ns) in Reason::ALL.iter().zip([0, 1, 2, u64::MAX, 5]) {
        let seq = agent.raise_number(&seat, reason.number(), deadline_ns);
        assert!(hint_pending());
        assert_ne!(agent.runtime_line(&seat).ack_seq, seq, "looking is not taking");
        let hint = take_hint().unwrap();
        assert_eq!((hint.reason, hint.seq), (*reason, seq));
        assert_eq!(hint.deadline_ns, (deadline_ns != 0).then_some(deadline_ns));
        assert_eq!(agent.runtime_line(&seat).ack_seq, seq);
        assert!(!hint_pending());
        assert_eq!(take_hint(), None);
    }
}

#[test]
fn several_hints_unseen_are_taken_as_the_latest() {
    let agent = FakeAgent::start();
    let _worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    agent.raise(&seat, Reason::Waiter);
    agent.raise(&seat, Reason::Local);
    assert_eq!(take_hint().unwrap().reason, Reason::Local);
    assert_eq!(take_hint(), None);
}

#[test]
fn a_reason_of_a_later_version_is_acknowledged_and_ignored() {
    let agent = FakeAgent::start();
    let _worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    for reason in [0, 6, u32::MAX] {
        let seq = agent.raise_number(&seat, reason, 0);
        assert!(hint_pending());
        assert_eq!(take_hint(), None);
        assert!(!hint_pending());
        assert_eq!(agent.runtime_line(&seat).ack_seq, seq);
    }
}

#[test]
fn a_worker_consents_to_escalation_and_rotates_only_when_it_says_so() {
    let agent = FakeAgent::start();
    let _default = Worker::register(config(&agent, "default"));
    let line = agent.runtime_line(&agent.running("default"));
    assert_eq!((line.escapable, line.escalation_policy), (0, EscalationPolicy::None.number()));
    assert!(!agent.running("default").registration.escapable);
    assert_eq!(agent.running("default").registration.rotation_ns, 0);
    let config =
        config(&agent, "escapable").escapable(Duration::from_millis(7)).rotates_after(Duration::from_millis(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _worker = Worker::register(config);
            let seat = agent.running("escapable");
            let line = agent.runtime_line(&seat);
            assert_eq!((line.escapable, line.grace_ns), (1, 7_000_000));
            assert_eq!(line.escalation_policy, EscalationPolicy::SliceEnd.number());
            assert!(seat.registration.escapable);
            assert_eq!((seat.registration.grace_ns, seat.registration.rotation_ns), (7_000_000, 2_000_000));
        });
    });
}

#[test]
fn critical_sections_nest_and_withhold_yields() {
    let agent = FakeAgent::start();
    let _worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    let depth = || agent.runtime_line(&seat).critical_depth;
    assert!(!in_critical());
    let outer = critical();
    let inner = critical();
    assert_eq!(depth(), 2);
    assert!(!yield_thread());
    agent.raise(&seat, Reason::Waiter);
    let hint = take_hint().unwrap();
    assert!(!yield_for(&hint));
    drop(outer);
    assert_eq!(depth(), 1);
    assert!(in_critical());
    assert!(!yield_thread());
    drop(inner);
    assert_eq!(depth(), 0);
    assert!(yield_for(&hint));
    let line = agent.runtime_line(&seat);
    assert_eq!(count(&line, YieldCause::Withheld), 3);
    assert_eq!(count(&line, YieldCause::Waiter), 1);
    assert_eq!(count(&line, YieldCause::Voluntary), 0);
}

#[test]
fn a_critical_section_entered_before_registration_counts() {
    let agent = FakeAgent::start();
    let guard = critical();
    let _worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    assert_eq!(agent.runtime_line(&seat).critical_depth, 1);
    drop(guard);
    assert_eq!(agent.runtime_line(&seat).critical_depth, 0);
}

#[test]
fn the_ledger_counts_each_cause_for_itself() {
    let agent = FakeAgent::start();
    let _worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    assert_eq!(agent.runtime_line(&seat).last_yield_ns, 0);
    for (times, cause) in YieldCause::ALL.iter().enumerate() {
        for _ in 0..times {
            record_yield(*cause);
        }
    }
    yield_thread();
    let line = agent.runtime_line(&seat);
    assert_eq!(line.yields, [1, 1, 2, 3, 4, 5, 6]);
    assert!(line.last_yield_ns > 0);
}

#[test]
fn a_parked_worker_says_so() {
    let agent = FakeAgent::start();
    let worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    let state = || WorkerState::from_number(agent.runtime_line(&seat).state).unwrap();
    worker.park();
    assert_eq!(state(), WorkerState::Registered);
    worker.unpark();
    assert_eq!(state(), WorkerState::Running);
    drop(worker);
    assert_eq!(state(), WorkerState::Quiescing);
    assert_eq!(agent.left(), [seat]);
}

#[test]
fn usage_is_what_the_agent_measured() {
    let agent = FakeAgent::start();
    assert_eq!(usage(), None);
    let _worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    agent.measured(&seat, 5_000, 3_000, 2);
    let usage = usage().unwrap();
    assert_eq!(usage.off_cpu, Duration::from_micros(5));
    assert_eq!(usage.runqueue_wait, Some(Duration::from_micros(3)));
    assert_eq!(usage.involuntary_switches, 2);
    // The header says that the agent does not measure it.
    assert_eq!(usage.budget_remaining, None);
}

#[test]
fn hints_of_a_hung_agent_are_ignored() {
    let agent = FakeAgent::start();
    let worker = Worker::register(config(&agent, "one"));
    let seat = agent.running("one");
    agent.raise(&seat, Reason::Waiter);
    agent.hang();
    assert_eq!(take_hint(), None);
    assert!(!hint_pending(), "an ignored hint does not stay pending");
    assert!(!worker.is_attached());
    assert_eq!(usage(), None);
}

#[test]
fn two_threads_have_two_slots_and_see_only_their_own_hints() {
    let agent = FakeAgent::start();
    let (config_a, config_b) = (config(&agent, "a"), config(&agent, "b"));
    thread::scope(|scope| {
        let worker = |config: WorkerConfig| {
            let (go, wait) = mpsc::channel::<()>();
            let handle = scope.spawn(move || {
                let worker = Worker::register(config);
                wait.recv().unwrap();
                (worker.slot().unwrap(), take_hint().map(|hint| hint.reason))
            });
            (go, handle)
        };
        let (a, b) = (worker(config_a), worker(config_b));
        let (seat_a, seat_b) = (agent.running("a"), agent.running("b"));
        assert_eq!(seat_a.process, seat_b.process, "one conversation per process");
        agent.raise(&seat_a, Reason::SliceEnd);
        for (go, _) in [&a, &b] {
            go.send(()).unwrap();
        }
        assert_eq!(a.1.join().unwrap(), (seat_a.slot.index(), Some(Reason::SliceEnd)));
        assert_eq!(b.1.join().unwrap(), (seat_b.slot.index(), None));
        assert_ne!(seat_a.slot, seat_b.slot);
    });
    eventually("both gave their slots back", || agent.left().len() == 2);
}

#[test]
fn a_reused_slot_has_another_generation_and_nothing_of_the_former_worker() {
    let agent = FakeAgent::start();
    let first = {
        let _worker = Worker::register(config(&agent, "first").escapable(Duration::from_millis(1)));
        let seat = agent.running("first");
        yield_thread();
        agent.raise(&seat, Reason::Waiter);
        seat
    };
    assert!(!hint_pending(), "a thread that is no worker has no hints");
    let _worker = Worker::register(config(&agent, "second"));
    let second = agent.running("second");
    assert_eq!(first.slot, second.slot);
    assert_ne!(first.slot_generation, second.slot_generation);
    assert!(!hint_pending(), "the former worker's hint is gone");
    let line = agent.runtime_line(&second);
    assert_eq!((line.escapable, line.grace_ns, line.yields), (0, 0, [0; 7]));
}

#[test]
fn more_workers_than_slots_go_on_without_hints() {
    let agent = FakeAgent::start();
    let config = config(&agent, "many");
    thread::scope(|scope| {
        let mut doors = Vec::new();
        for _ in 0..MAX_WORKERS {
            let (door, wait) = mpsc::channel::<()>();
            let config = config.clone();
            scope.spawn(move || {
                let _worker = Worker::register(config);
                let _ = wait.recv();
            });
            doors.push(door);
        }
        eventually("all slots are taken", || agent.seats().len() == MAX_WORKERS);
        let refused = Worker::try_register(config.clone()).unwrap_err();
        assert!(matches!(refused, NotAvailable::Refused(Refusal::Full)), "{refused}");
        let worker = Worker::register(config);
        assert!(!worker.is_attached());
        assert!(!hint_pending());
        assert!(yield_thread());
    });
}

#[test]
fn a_thread_is_one_worker_at_a_time() {
    let agent = FakeAgent::start();
    let first = Worker::register(config(&agent, "first"));
    let error = Worker::try_register(config(&agent, "second")).unwrap_err();
    assert!(matches!(error, NotAvailable::AlreadyRegistered), "{error}");
    drop(Worker::register(config(&agent, "third")));
    assert!(first.is_attached(), "the registration that did nothing took nothing away");
    assert_eq!(agent.seats().len(), 1);
    drop(first);
    assert!(Worker::try_register(config(&agent, "second")).unwrap().is_attached());
}

#[test]
fn without_an_agent_everything_works_and_nothing_happens() {
    let folder = tempfile::tempdir().unwrap();
    let config = WorkerConfig::new("alone").socket(folder.path().join("nobody.sock"));
    let error = Worker::try_register(config.clone()).unwrap_err();
    assert!(matches!(error, NotAvailable::NoAgent { .. }), "{error}");
    let worker = Worker::register(config);
    assert!(!worker.is_attached());
    assert_eq!(worker.slot(), None);
    assert!(!hint_pending());
    assert_eq!(take_hint(), None);
    worker.park();
    worker.unpark();
    {
        let _guard = critical();
        assert!(!yield_thread());
    }
    assert!(yield_thread());
    assert_eq!(usage(), None);
}

#[test]
fn an_empty_path_switches_morpheus_off() {
    let error = Worker::try_register(WorkerConfig::new("off").socket("")).unwrap_err();
    assert!(matches!(error, NotAvailable::Off), "{error}");
    let worker = Worker::register(WorkerConfig::new("off").socket(""));
    assert!(!worker.is_attached());
    assert!(yield_thread());
}

#[test]
fn forged_and_old_agents_are_refused_and_leave_the_worker_unharmed() {
    for manner in [
        Manner::OldWelcome,
        Manner::OldPages,
        Manner::ForgedPages,
        Manner::SwappedPages,
        Manner::UnsealedPages,
        Manner::ShortPages,
        Manner::NoPages,
        Manner::Gibberish,
        Manner::HangsUp,
    ] {
        let agent = FakeAgent::start_as(manner);
        let error = Worker::try_register(config(&agent, "wary")).unwrap_err();
        let as_expected = match manner {
            Manner::OldWelcome => matches!(error, NotAvailable::Refused(Refusal::Version)),
            Manner::OldPages | Manner::ForgedPages | Manner::SwappedPages => matches!(error, NotAvailable::Pages(_)),
            Manner::UnsealedPages | Manner::ShortPages => matches!(error, NotAvailable::Mapping(_)),
            Manner::NoPages => matches!(error, NotAvailable::OutOfOrder),
            Manner::Gibberish => matches!(error, NotAvailable::Message(_)),
            Manner::HangsUp => matches!(error, NotAvailable::Conversation(_)),
            Manner::Proper | Manner::Stranger => false,
        };
        assert!(as_expected, "{manner:?}: {error:?}");
        let worker = Worker::register(config(&agent, "wary"));
        assert!(!worker.is_attached());
        assert!(!hint_pending());
        assert!(agent.seats().is_empty());
    }
}

#[test]
fn an_agent_of_a_third_user_is_not_trusted() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can listen as another user");
        return;
    }
    let agent = FakeAgent::start_as(Manner::Stranger);
    let error = Worker::try_register(config(&agent, "wary")).unwrap_err();
    assert!(matches!(error, NotAvailable::Untrusted { uid: 65_534 }), "{error:?}");
    assert!(agent.seats().is_empty());
}

#[test]
fn threads_that_come_and_go_leave_no_slot_behind() {
    let agent = FakeAgent::start();
    let config = config(&agent, "brief");
    for _ in 0..250 {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert!(Worker::register(config.clone()).is_attached()));
            }
        });
    }
    assert!(agent.seats().is_empty());
    let left = agent.left();
    assert_eq!(left.len(), 1000);
    assert!(left.iter().all(|seat| seat.slot.index() < 4), "slots are used again");
    let mut generations: Vec<_> = left.iter().map(|seat| seat.slot_generation).collect();
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 1000, "and never a generation");
}

thread_local! {
    static FIRED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[test]
fn the_first_checkpoint_of_an_armed_thread_fires_once() {
    let fire = || FIRED.set(FIRED.get() + 1);
    morpheus::at_first_checkpoint(fire);
    assert!(hint_pending());
    assert_eq!(FIRED.get(), 0);
    assert_eq!(take_hint(), None);
    assert_eq!(FIRED.get(), 1);
    assert!(!hint_pending());
    assert_eq!(take_hint(), None);
    assert_eq!(FIRED.get(), 1);

    // Registering disarms, and a worker is not armed.
    let agent = FakeAgent::start();
    morpheus::at_first_checkpoint(fire);
    let worker = Worker::register(config(&agent, "armed"));
    assert!(!hint_pending());
    morpheus::at_first_checkpoint(fire);
    assert!(!hint_pending());
    assert!(worker.is_attached());
    assert_eq!(FIRED.get(), 1);
}

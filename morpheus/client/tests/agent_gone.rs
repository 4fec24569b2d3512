//! The agent dies, comes back, or comes late: the worker goes on, and attaches by itself.

use std::sync::mpsc::TryRecvError;
use std::thread;

use morpheus::{Reason, Worker, WorkerConfig, critical, hint_pending, take_hint, usage, yield_thread};
use morpheus_fake_agent::{FakeAgent, Manner, Seat, eventually};

/// What a worker's loop does: checkpoints until the agent sees it running under this name.
fn checkpoint_until_running(agent: &FakeAgent, name: &str) -> Seat {
    eventually("the worker moves to the agent at a checkpoint", || {
        assert_eq!(take_hint(), None, "moving is no hint");
        agent.seats().iter().any(|seat| {
            seat.registration.name.as_str() == name && agent.runtime_line(seat).slot_generation == seat.slot_generation
        })
    });
    agent.running(name)
}

#[test]
fn a_killed_agent_looks_like_no_hints_and_its_successor_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("morpheus.sock");
    let agent = FakeAgent::start_at(&path, Manner::Proper);
    let worker = Worker::register(WorkerConfig::new("steady").socket(&path));
    let seat = agent.running("steady");
    agent.raise(&seat, Reason::Waiter);
    assert!(take_hint().is_some());
    agent.raise(&seat, Reason::Waiter);
    agent.kill();

    // Its last hint is not taken for one. At most one look is needed until nothing is pending.
    eventually("the worker notices", || !worker.is_attached());
    assert_eq!(take_hint(), None);
    assert_eq!(usage(), None);
    assert_eq!(worker.slot(), None);
    {
        let _guard = critical();
        assert!(!yield_thread());
    }
    assert!(yield_thread());

    // Twice, so that leaving a successor's pages is seen as well.
    for _ in 0..2 {
        let agent = FakeAgent::start_at(&path, Manner::Proper);
        let guard = critical();
        let seat = checkpoint_until_running(&agent, "steady");
        assert_eq!(agent.runtime_line(&seat).critical_depth, 1, "the new line knows of the critical section");
        drop(guard);
        assert_eq!(agent.runtime_line(&seat).critical_depth, 0);
        assert!(worker.is_attached());
        assert!(!hint_pending());
        let seq = agent.raise(&seat, Reason::SliceEnd);
        let hint = take_hint().unwrap();
        assert_eq!((hint.reason, hint.seq), (Reason::SliceEnd, seq));
        agent.kill();
        eventually("the worker notices", || !worker.is_attached());
    }
}

#[test]
fn an_agent_that_comes_late_finds_all_workers_but_those_that_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("morpheus.sock");
    let config = WorkerConfig::new("late").socket(&path);
    thread::scope(|scope| {
        scope.spawn(|| drop(Worker::register(config.named("ended"))));
    });
    let worker = Worker::register(config.clone());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let parking = config.named("parking");
    thread::scope(|scope| {
        // Never looks for hints, but parks as runtimes do.
        scope.spawn(move || {
            let worker = Worker::register(parking);
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                worker.park();
                thread::park_timeout(std::time::Duration::from_millis(1));
                worker.unpark();
            }
        });
        let agent = FakeAgent::start_at(&path, Manner::Proper);
        // Ends the other thread also when an assertion fails.
        let stop = stop;
        let seat = checkpoint_until_running(&agent, "late");
        assert!(worker.is_attached());
        eventually("the other moves when it unparks", || {
            agent
                .seats()
                .iter()
                .any(|seat| seat.registration.name.as_str() == "parking" && agent.runtime_line(seat).state != 0)
        });
        assert_eq!(agent.seats().len(), 2);
        agent.raise(&seat, Reason::Local);
        assert_eq!(take_hint().unwrap().reason, Reason::Local);
        drop(stop);
    });
}

#[test]
fn hints_flow_while_agents_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("morpheus.sock");
    let config = WorkerConfig::new("churn").socket(&path);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let taken = std::sync::atomic::AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..4 {
            let (stop, taken) = (&stop, &taken);
            let config = config.named(&format!("churn-{number}"));
            scope.spawn(move || {
                let _worker = Worker::register(config);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _guard = critical();
                    if let Some(hint) = take_hint() {
                        assert_eq!(hint.reason, Reason::Waiter, "a hint nobody gave");
                        taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                }
            });
        }
        let result = std::panic::catch_unwind(|| {
            for _ in 0..5 {
                let agent = FakeAgent::start_at(&path, Manner::Proper);
                eventually("all four register", || agent.seats().len() == 4);
                let before = taken.load(std::sync::atomic::Ordering::Relaxed);
                eventually("a hint is taken", || {
                    for seat in agent.seats() {
                        agent.raise(&seat, Reason::Waiter);
                    }
                    taken.load(std::sync::atomic::Ordering::Relaxed) > before
                });
                agent.kill();
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

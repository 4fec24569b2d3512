//! A forked child is no worker: it neither sees its parent's hints nor writes its parent's line, and may register itself.

mod child;

use std::cell::Cell;

use child::fork;
use morpheus::{Reason, Worker, WorkerConfig, critical, hint_pending, take_hint};
use morpheus_fake_agent::FakeAgent;

#[test]
fn a_child_neither_takes_its_parents_hints_nor_keeps_its_pages() {
    let agent = FakeAgent::start();
    // In cells, so that the child can drop its copies and the parent keeps its own.
    let worker = Cell::new(Some(Worker::register(WorkerConfig::new("parent").socket(agent.socket()))));
    let seat = agent.running("parent");
    agent.raise(&seat, Reason::Waiter);
    let before = agent.runtime_line(&seat);
    let guard = Cell::new(Some(critical()));
    let code = fork(|| {
        let worker = worker.take().unwrap();
        if hint_pending() || take_hint().is_some() {
            return 1;
        }
        if worker.is_attached() || worker.slot().is_some() {
            return 2;
        }
        // Nothing of the parent's pages is left to read or write.
        if std::fs::read_to_string("/proc/self/maps").unwrap().contains("memfd:morpheus") {
            return 3;
        }
        worker.park();
        drop(critical());
        drop(guard.take());
        drop(worker);
        0
    });
    assert_eq!(code, 0);
    let mut after = agent.runtime_line(&seat);
    assert_eq!(after.critical_depth, 1, "the parent's own guard");
    after.critical_depth = before.critical_depth;
    assert_eq!(after, before);
    assert!(agent.left().is_empty(), "the child did not unregister its parent");
    assert_eq!(take_hint().map(|hint| hint.reason), Some(Reason::Waiter));
}

#[test]
fn a_child_can_be_a_worker_of_its_own() {
    let agent = FakeAgent::start();
    let config = WorkerConfig::new("parent").socket(agent.socket());
    let _worker = Worker::register(config.clone());
    let parent = agent.running("parent");
    let code = fork(|| {
        let child = Worker::try_register(config.named("child"));
        match child {
            Ok(worker) if worker.is_attached() => 0,
            Ok(_) => 1,
            Err(_) => 2,
        }
    });
    assert_eq!(code, 0, "the child has a conversation of its own");
    agent.raise(&parent, Reason::Local);
    assert_eq!(take_hint().map(|hint| hint.reason), Some(Reason::Local), "the parent's conversation stands");
}

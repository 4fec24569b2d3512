//! Threads that come and go: their slots, and numbers that are used again.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::mpsc;

use morpheus_abi::protocol::Message;
use morpheus_abi::{Slot, WorkerState};
use support::{Agent, Client, Lines, Repeating, bpf_is_permitted, first_cpu, own_tid, wait_for};

/// A thread that lives until it is dropped.
struct Parked {
    tid: u32,
    _end: mpsc::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Parked {
    fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(own_tid()).unwrap();
            let _ = ended.recv();
        });
        Self { tid: told.recv().unwrap(), _end: end, thread: Some(thread) }
    }

    fn end(mut self) {
        let thread = self.thread.take().unwrap();
        drop(self);
        thread.join().unwrap();
    }
}

fn register(client: &Client, tid: u32) -> (Slot, u32, Lines) {
    match client.register(tid, "w") {
        Message::Registered { slot, slot_generation } => (slot, slot_generation, client.lines(slot)),
        other => panic!("{other:?}"),
    }
}

fn is_dead(lines: Lines) -> Option<()> {
    (lines.kernel.snapshot().state == WorkerState::Dead.number()).then_some(())
}

/// Issue: slots of dead threads never leak to another worker.
#[test]
fn dead_threads_slot_never_leaks() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let thread = Parked::new();
    let (slot, generation, lines) = register(&client, thread.tid);
    assert_eq!(lines.kernel.snapshot().state, WorkerState::Registered.number());
    assert_eq!(lines.kernel.snapshot().slot_generation, generation);
    // The late word of the dead: it said RUNNING and never took it back.
    lines.begin(generation, WorkerState::Running);
    thread.end();
    wait_for("the kernel to mark the slot", || is_dead(lines));
    agent.wait_for("the agent to forget the worker", |report| (report.workers() == 0).then_some(()));
    // Others come and go: every one has a generation of its own, starts from an empty line, and nobody hears of the dead.
    let mut generations = BTreeSet::from([generation]);
    let mut seen_again = false;
    for _ in 0..200 {
        let next = Parked::new();
        let (next_slot, next_generation, next_lines) = register(&client, next.tid);
        assert!(generations.insert(next_generation), "a generation came again");
        let line = next_lines.kernel.snapshot();
        assert_eq!((line.hint_seq, line.off_cpu_ns.min(1_000_000_000)), (0, line.off_cpu_ns));
        assert_eq!((line.slot_generation, line.state), (next_generation, WorkerState::Registered.number()));
        assert_eq!(next_lines.runtime.snapshot(), Default::default(), "the last owner's word is wiped out");
        seen_again |= next_slot == slot;
        next_lines.begin(next_generation, WorkerState::Running);
        next.end();
        wait_for("the kernel to mark the slot", || is_dead(next_lines));
    }
    assert!(seen_again, "the slot itself is used again");
    agent.wait_for("the agent to forget them all", |report| {
        (report.workers() == 0 && report.gone.workers == 201).then_some(())
    });
}

#[test]
fn a_connection_that_ends_takes_its_workers_along() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let thread = Parked::new();
    let (_, _, lines) = register(&client, thread.tid);
    let other = agent.connect().hello();
    drop(client.connection);
    wait_for("the slot to be marked", || is_dead(lines));
    // The thread is free for another registration.
    let (_, generation, lines) = wait_for("the thread to be free", || match other.register(thread.tid, "w") {
        Message::Registered { slot, slot_generation } => Some((slot, slot_generation, other.lines(slot))),
        _ => None,
    });
    assert_eq!(lines.kernel.snapshot().slot_generation, generation);
    agent.wait_for("one process and one worker", |report| {
        (report.processes.len() == 1 && report.workers() == 1).then_some(())
    });
}

/// Issue: reused ids never leak to another worker.
#[test]
fn reused_id_of_a_dead_thread_is_a_stranger() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let cpu = first_cpu();
    let _competitor = Repeating::competitor(cpu);
    let first = Parked::new();
    let tid = first.tid;
    let (_, generation, lines) = register(&client, tid);
    lines.begin(generation, WorkerState::Running);
    first.end();
    wait_for("the kernel to mark the slot", || is_dead(lines));
    let Some(second) = with_number(tid) else {
        eprintln!("skipped: the number of a thread cannot be chosen here");
        return;
    };
    assert_eq!(second.tid, tid);
    // The same number, but nobody's worker: no counter of the old line moves while it runs and sleeps.
    let before = lines.kernel.snapshot();
    second.run_and_sleep();
    assert_eq!(lines.kernel.snapshot(), before);
    // It may register, whether or not the agent has heard of the first one's end.
    let (_, next, fresh) = register(&client, tid);
    assert_ne!(next, generation);
    assert_eq!(fresh.kernel.snapshot().slot_generation, next);
    agent.wait_for("one worker", |report| (report.workers() == 1 && report.gone.workers == 1).then_some(()));
}

/// A thread that can be told to run and sleep.
struct Obedient {
    tid: u32,
    order: Option<mpsc::Sender<()>>,
    done: mpsc::Receiver<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Obedient {
    fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (order, orders) = mpsc::channel::<()>();
        let (report, done) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(own_tid()).unwrap();
            for () in orders {
                report.send(()).unwrap();
            }
        });
        Self { tid: told.recv().unwrap(), order: Some(order), done, thread: Some(thread) }
    }

    fn run_and_sleep(&self) {
        for _ in 0..100 {
            self.order.as_ref().unwrap().send(()).unwrap();
            self.done.recv().unwrap();
        }
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        self.order = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A new thread with this number. The kernel gives numbers in order, and root may say where it is; others on the machine
/// may be faster, so this may take a few tries.
fn with_number(tid: u32) -> Option<Obedient> {
    for _ in 0..2_000 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (tid - 1).to_string()).ok()?;
        let thread = Obedient::new();
        if thread.tid == tid {
            return Some(thread);
        }
    }
    None
}

#[test]
fn ten_thousand_threads_leave_nothing_behind() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count();
    let before = descriptors();
    let mut generations = BTreeSet::new();
    for _ in 0..10_000 / 50 {
        let threads: Vec<Parked> = (0..50).map(|_| Parked::new()).collect();
        for thread in &threads {
            let (_, generation, _) = register(&client, thread.tid);
            assert!(generations.insert(generation));
        }
        threads.into_iter().for_each(Parked::end);
    }
    agent.wait_for("the agent to forget them all", |report| {
        (report.workers() == 0 && report.gone.workers == 10_000).then_some(())
    });
    // The connections that asked for reports end a moment after their answers.
    wait_for("the descriptors to be closed", || (descriptors() <= before).then_some(()));
}

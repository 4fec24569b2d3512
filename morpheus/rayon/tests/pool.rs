//! A pool with an agent: its threads register, hints are answered between items, results stay what they are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use morpheus::{Reason, Worker, WorkerConfig, YieldCause, critical, hint_pending};
use morpheus_fake_agent::{FakeAgent, Seat, eventually};
use morpheus_rayon::{CheckpointIterator, checkpoint, install_with};
use proptest::prelude::*;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

fn pool(agent: &FakeAgent, threads: usize) -> ThreadPool {
    let config = WorkerConfig::new("r").socket(agent.socket()).polite();
    install_with(ThreadPoolBuilder::new().num_threads(threads), config).build().expect("threads can be started")
}

fn count(agent: &FakeAgent, seat: &Seat, cause: YieldCause) -> u32 {
    agent.runtime_line(seat).yields[cause.number() as usize]
}

#[test]
fn the_pools_threads_register_and_leave_with_it() {
    let agent = FakeAgent::start();
    let pool = pool(&agent, 2);
    agent.running("r-0");
    agent.running("r-1");
    assert_eq!(agent.seats().len(), 2);
    drop(pool);
    eventually("both leave", || agent.left().len() == 2);
}

#[test]
fn each_hint_is_answered_once_as_its_reason_asks() {
    let agent = FakeAgent::start();
    let pool = pool(&agent, 1);
    let seat = agent.running("r-0");
    for reason in Reason::ALL {
        let seq = agent.raise(&seat, *reason);
        assert_eq!(pool.install(|| (checkpoint(), checkpoint())), (Some(*reason), None));
        assert_eq!(agent.runtime_line(&seat).ack_seq, seq);
        let yields = u32::from(!matches!(reason, Reason::Quota | Reason::Pressure));
        assert_eq!(count(&agent, &seat, (*reason).into()), yields, "{reason}");
    }
}

#[test]
fn a_local_hint_runs_another_job_of_the_same_thread() {
    let agent = FakeAgent::start();
    let pool = pool(&agent, 1);
    let seat = agent.running("r-0");
    let other = AtomicBool::new(false);
    pool.scope(|scope| {
        scope.spawn(|scope| {
            // On the only thread's own queue, behind this job.
            scope.spawn(|_| other.store(true, Ordering::SeqCst));
            checkpoint();
            assert!(!other.load(Ordering::SeqCst));
            agent.raise(&seat, Reason::Local);
            checkpoint();
            assert!(other.load(Ordering::SeqCst));
        });
    });
}

#[test]
fn a_job_inside_of_a_checkpoint_runs_no_further_one_inside_of_its_own() {
    let agent = FakeAgent::start();
    let pool = pool(&agent, 1);
    let seat = agent.running("r-0");
    let (depth, deepest) = (AtomicUsize::new(0), AtomicUsize::new(0));
    pool.scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|_| {
                deepest.fetch_max(depth.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                agent.raise(&seat, Reason::Local);
                assert_eq!(checkpoint(), Some(Reason::Local));
                depth.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    assert_eq!(deepest.load(Ordering::SeqCst), 2);
}

#[test]
fn a_critical_section_leaves_the_hint_pending() {
    let agent = FakeAgent::start();
    let _worker = Worker::register(WorkerConfig::new("own").socket(agent.socket()).polite());
    let seat = agent.running("own");
    agent.raise(&seat, Reason::Waiter);
    let guard = critical();
    assert_eq!(checkpoint(), None);
    assert!(hint_pending());
    drop(guard);
    assert_eq!(checkpoint(), Some(Reason::Waiter));
    assert_eq!(count(&agent, &seat, YieldCause::Withheld), 0);
}

#[test]
fn an_iterator_with_checkpoints_answers_a_hint_in_its_midst() {
    let agent = FakeAgent::start();
    let pool = pool(&agent, 1);
    let seat = agent.running("r-0");
    let seen = AtomicUsize::new(0);
    pool.install(|| {
        (0..100u32).into_par_iter().with_checkpoints().for_each(|_| {
            // With the tenth item; answered before the eleventh.
            match seen.fetch_add(1, Ordering::SeqCst) {
                10 => {
                    agent.raise(&seat, Reason::Waiter);
                }
                11 => assert_eq!(count(&agent, &seat, YieldCause::Waiter), 1),
                _ => {}
            }
        });
    });
    assert_eq!(seen.load(Ordering::SeqCst), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn checkpoints_change_no_result(
        items in prop::collection::vec(any::<u32>(), 0..200),
        hints in prop::collection::vec((0usize..200, 0u32..8), 0..10),
    ) {
        let agent = FakeAgent::start();
        let pool = pool(&agent, 2);
        let seats = [agent.running("r-0"), agent.running("r-1")];
        let done = AtomicUsize::new(0);
        let doubled: Vec<u64> = pool.install(|| {
            items
                .par_iter()
                .with_checkpoints()
                .map(|item| {
                    let now = done.fetch_add(1, Ordering::SeqCst);
                    for (_, reason) in hints.iter().filter(|(when, _)| *when == now) {
                        agent.raise_number(&seats[now % 2], *reason, 0);
                    }
                    u64::from(*item) * 2
                })
                .collect()
        });
        // Indexed stays indexed: the order is the items'.
        let expected: Vec<u64> = items.iter().map(|item| u64::from(*item) * 2).collect();
        prop_assert_eq!(doubled, expected);
    }
}

//! Real runtimes: which threads register, when they are idle, and that hints reach tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use morpheus::{Reason, WorkerConfig, YieldCause};
use morpheus_abi::WorkerState;
use morpheus_fake_agent::{FakeAgent, PATIENCE, Seat, eventually};
use morpheus_tokio::{CooperativeLayer, checkpoint, install_with};
use tokio::runtime::{Builder, Runtime};

fn config(agent: &FakeAgent) -> WorkerConfig {
    WorkerConfig::new("t").socket(agent.socket()).polite()
}

fn multi_thread(agent: &FakeAgent, workers: usize) -> Runtime {
    install_with(Builder::new_multi_thread().worker_threads(workers), config(agent))
        .enable_all()
        .build()
        .expect("threads can be started")
}

/// Waits for what a task waits for: never for ever.
async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("the future is ready in time")
}

fn names(agent: &FakeAgent) -> Vec<String> {
    let mut names: Vec<_> = agent.seats().iter().map(|seat| seat.registration.name.as_str().to_owned()).collect();
    names.sort();
    names
}

fn state(agent: &FakeAgent, seat: &Seat) -> Option<WorkerState> {
    WorkerState::from_number(agent.runtime_line(seat).state)
}

#[test]
fn workers_register_blocking_threads_do_not_and_all_leave_with_the_runtime() {
    let agent = FakeAgent::start();
    let runtime = multi_thread(&agent, 2);
    runtime.block_on(async {
        for _ in 0..4 {
            in_time(tokio::task::spawn_blocking(|| {
                // A checkpoint in blocking work neither registers the thread nor harms.
                assert_eq!(morpheus_tokio::checkpoint_blocking(), None);
            }))
            .await
            .unwrap();
        }
    });
    eventually("both workers register", || agent.seats().len() == 2);
    assert_eq!(names(&agent), ["t-0", "t-1"]);
    drop(runtime);
    eventually("both leave", || agent.seats().is_empty() && agent.left().len() == 2);
}

#[test]
fn an_idle_worker_is_not_running_and_a_busy_one_is() {
    let agent = FakeAgent::start();
    let runtime = multi_thread(&agent, 1);
    eventually("the worker registers", || agent.seats().len() == 1);
    let seat = agent.seats()[0];
    eventually("the worker parks", || state(&agent, &seat) == Some(WorkerState::Registered));
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let task = runtime.spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            checkpoint().await;
        }
    });
    eventually("the worker runs", || state(&agent, &seat) == Some(WorkerState::Running));
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(in_time(task)).unwrap();
    eventually("the worker parks again", || state(&agent, &seat) == Some(WorkerState::Registered));
}

#[test]
fn a_hint_lets_the_other_tasks_of_the_worker_run_and_a_waiter_gets_the_thread() {
    let agent = FakeAgent::start();
    let runtime = multi_thread(&agent, 1);
    for (round, reason) in (1..).zip(Reason::ALL) {
        let others = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&others);
        let hog = runtime.spawn(async move {
            // Queued behind this task on the only worker.
            tokio::spawn(async move { counted.fetch_add(1, Ordering::SeqCst) });
            while others.load(Ordering::SeqCst) == 0 {
                checkpoint().await;
            }
        });
        // The only way for the other task to run is a hint.
        let seat = agent.running("t-0");
        let seq = agent.raise(&seat, *reason);
        runtime.block_on(in_time(hog)).unwrap();
        let line = agent.runtime_line(&seat);
        assert_eq!(line.ack_seq, seq);
        assert_eq!((seq, line.yields[YieldCause::from(*reason).number() as usize]), (round, 1));
    }
}

/// `block_in_place` hands the worker to another thread of the pool, which may get to work without ever parking.
#[test]
fn a_worker_that_moved_to_a_busy_thread_registers_at_its_first_checkpoint() {
    let agent = Arc::new(FakeAgent::start());
    let runtime = multi_thread(&agent, 1);
    let former = agent.running_or_parked("t-0");
    let watched = Arc::clone(&agent);
    let stop = StopOnDrop(Arc::default());
    let stopped = Arc::clone(&stop.0);
    runtime.spawn(async move {
        // Never pending without a hint: its thread does not park once.
        tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                checkpoint().await;
            }
        });
        tokio::task::block_in_place(|| {
            eventually("the new thread registers", || {
                watched.seats().iter().any(|seat| seat.registration.tid != former.registration.tid)
            });
        });
    });
    eventually("the new thread registers", || agent.seats().len() == 2);
    let new = agent.seats().into_iter().find(|seat| seat.registration.tid != former.registration.tid).unwrap();
    assert_eq!(new.registration.name.as_str(), "t-0");
    let seq = agent.raise(&new, Reason::Waiter);
    eventually("it takes the hint", || agent.runtime_line(&new).ack_seq == seq);
}

/// Ends a spinning task with the test, however that ends.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_current_thread_runtime_registers_the_thread_that_drives_it() {
    let agent = FakeAgent::start();
    let seat = std::thread::scope(|scope| {
        let driver = scope.spawn(|| {
            let runtime =
                install_with(&mut Builder::new_current_thread(), config(&agent)).enable_all().build().unwrap();
            runtime.block_on(in_time(async {
                // Waiting for anything parks the thread.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let seat = agent.seats()[0];
                let seq = agent.raise(&seat, Reason::SliceEnd);
                checkpoint().await;
                assert_eq!(agent.runtime_line(&seat).ack_seq, seq);
                seat
            }))
        });
        driver.join().unwrap()
    });
    assert_eq!(seat.registration.name.as_str(), "t-0");
    eventually("it leaves with the thread", || agent.left() == [seat]);
}

#[test]
fn without_an_agent_the_runtime_works_the_same() {
    let folder = std::env::temp_dir().join("morpheus-tokio-nobody.sock");
    let config = WorkerConfig::new("t").socket(folder);
    let runtime = install_with(&mut Builder::new_multi_thread(), config).enable_all().build().unwrap();
    let sum = runtime.block_on(in_time(async {
        let tasks: Vec<_> = (0..10u64)
            .map(|number| {
                tokio::spawn(morpheus_tokio::cooperative(async move {
                    checkpoint().await;
                    number
                }))
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await.unwrap();
        }
        sum
    }));
    assert_eq!(sum, 45);
}

#[test]
fn a_service_behind_the_layer_answers_hints_between_its_polls() {
    use tower_layer::Layer;
    use tower_service::Service;

    #[derive(Clone)]
    struct Slow;
    impl Service<u32> for Slow {
        type Response = u32;
        type Error = std::convert::Infallible;
        type Future = std::pin::Pin<Box<dyn Future<Output = Result<u32, Self::Error>> + Send>>;
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: u32) -> Self::Future {
            Box::pin(async move {
                // No checkpoint: the layer answers when this is pending.
                tokio::task::yield_now().await;
                Ok(request + 1)
            })
        }
    }

    let agent = FakeAgent::start();
    let runtime = multi_thread(&agent, 1);
    let first = agent.running_or_parked("t-0");
    let answer = runtime.block_on(async {
        let seq = agent.raise(&first, Reason::Waiter);
        let answer = in_time(tokio::spawn(async { CooperativeLayer::new().layer(Slow).call(41).await })).await.unwrap();
        assert_eq!(agent.runtime_line(&first).ack_seq, seq);
        answer
    });
    assert_eq!(answer, Ok(42));
    assert_eq!(agent.runtime_line(&first).yields[YieldCause::Waiter.number() as usize], 1);
}

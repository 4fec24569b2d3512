//! Cooperative futures and checkpoints, polled by hand so that every poll and wake is seen: whatever hints come, a future
//! does what the bare one does, and whoever is pending has arranged a wake.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use morpheus::{Reason, Worker, WorkerConfig, YieldCause, critical, hint_pending};
use morpheus_fake_agent::{FakeAgent, Seat};
use morpheus_tokio::{checkpoint, checkpoint_blocking, cooperative};
use proptest::prelude::*;

/// Counts its wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls until ready. The number of polls, and the output. Panics when a pending poll was not woken: it would hang.
fn run<F: Future>(future: F, mut before_poll: impl FnMut(usize)) -> (usize, F::Output) {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut future = pin!(future);
    for poll in 0..10_000 {
        before_poll(poll);
        let woken = wakes.0.load(Ordering::SeqCst);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return (poll + 1, output);
        }
        assert!(wakes.0.load(Ordering::SeqCst) > woken, "pending without a wake: this hangs");
    }
    panic!("10000 polls, and not ready");
}

struct Rig {
    agent: FakeAgent,
    seat: Seat,
    _worker: Worker,
}

fn rig() -> Rig {
    let agent = FakeAgent::start();
    let worker = Worker::register(WorkerConfig::new("task").socket(agent.socket()).polite());
    let seat = agent.running("task");
    Rig { agent, seat, _worker: worker }
}

impl Rig {
    fn count(&self, cause: YieldCause) -> u32 {
        self.agent.runtime_line(&self.seat).yields[cause.number() as usize]
    }
}

/// The regression of the precursor: its wrapper hung on this after one hint.
#[test]
fn a_ready_future_is_ready_though_hints_are_pending() {
    let rig = rig();
    for reason in Reason::ALL {
        rig.agent.raise(&rig.seat, *reason);
        assert_eq!(run(cooperative(async { 42 }), |_| ()), (1, 42));
    }
}

/// The other regression: its checkpoint never acknowledged, and so yielded for ever after one hint.
#[test]
fn a_checkpoint_acknowledges_its_hint_and_yields_once() {
    let rig = rig();
    for reason in Reason::ALL {
        let seq = rig.agent.raise(&rig.seat, *reason);
        let three = async {
            for _ in 0..3 {
                checkpoint().await;
            }
        };
        assert_eq!(run(three, |_| ()).0, 2, "{reason}: one yield for one hint");
        assert_eq!(rig.agent.runtime_line(&rig.seat).ack_seq, seq);
        assert_eq!(rig.count((*reason).into()), 1);
        assert!(!hint_pending());
    }
    assert_eq!(rig.count(YieldCause::Voluntary), 0);
}

#[test]
fn a_checkpoint_inside_of_cooperative_is_answered_when_the_poll_has_ended() {
    let rig = rig();
    for reason in Reason::ALL {
        let future = async {
            let seq = rig.agent.raise(&rig.seat, *reason);
            checkpoint().await;
            seq
        };
        let mut after_first_poll = None;
        let (polls, seq) = run(cooperative(future), |poll| {
            if poll == 1 {
                after_first_poll = Some(rig.agent.runtime_line(&rig.seat).ack_seq);
            }
        });
        assert_eq!((polls, after_first_poll), (2, Some(seq)), "{reason}");
        assert_eq!(rig.count((*reason).into()), 1);
    }
}

#[test]
fn all_branches_of_a_join_give_way_to_one_hint() {
    let rig = rig();
    let passed = Cell::new(0);
    let branch = async || {
        checkpoint().await;
        passed.set(passed.get() + 1);
    };
    let both = async {
        rig.agent.raise(&rig.seat, Reason::Waiter);
        tokio::join!(branch(), branch());
    };
    let (polls, ()) = run(cooperative(both), |poll| {
        if poll == 1 {
            assert_eq!(passed.get(), 0, "neither went on while the hint was pending");
        }
    });
    assert_eq!((polls, passed.get()), (2, 2));
    assert_eq!(rig.count(YieldCause::Waiter), 1);
}

#[test]
fn nothing_yields_in_a_critical_section_and_the_hint_stays() {
    let rig = rig();
    let future = async || {
        let guard = critical();
        let seq = rig.agent.raise(&rig.seat, Reason::Waiter);
        assert_eq!(checkpoint_blocking(), None);
        // Not a `Send` future: the guard is this thread's, and so is the test's executor.
        checkpoint().await;
        assert!(hint_pending());
        drop(guard);
        checkpoint().await;
        assert_eq!(rig.agent.runtime_line(&rig.seat).ack_seq, seq);
    };
    assert_eq!(run(future(), |_| ()).0, 2, "only the second checkpoint yields");
    assert_eq!(run(cooperative(future()), |_| ()).0, 2, "only the second checkpoint yields");
    assert_eq!((rig.count(YieldCause::Waiter), rig.count(YieldCause::Withheld)), (2, 0));
}

#[test]
fn a_blocking_checkpoint_yields_the_thread_or_tells_its_caller() {
    let rig = rig();
    assert_eq!(checkpoint_blocking(), None);
    for reason in Reason::ALL {
        rig.agent.raise(&rig.seat, *reason);
        assert_eq!(checkpoint_blocking(), Some(*reason));
        let yielded = matches!(reason, Reason::Waiter | Reason::SliceEnd);
        assert_eq!(rig.count((*reason).into()), u32::from(yielded), "{reason}");
        assert_eq!(checkpoint_blocking(), None);
    }
}

#[test]
fn a_panic_in_a_poll_leaves_the_thread_as_it_was() {
    let rig = rig();
    let result = std::panic::catch_unwind(|| run(cooperative(async { panic!("the task's own") }), |_| ()));
    assert!(result.is_err());
    rig.agent.raise(&rig.seat, Reason::Waiter);
    run(checkpoint(), |_| ());
    assert_eq!(rig.count(YieldCause::Waiter), 1, "a checkpoint outside of cooperative answers by itself again");
}

/// What a future does, step by step.
#[derive(Debug, Clone)]
enum Step {
    Log(u8),
    Checkpoint,
    Yield,
    Critical(Vec<Step>),
    Nested(Vec<Step>),
    Join(Vec<Step>, Vec<Step>),
    Fail,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let leaf = prop_oneof![
        4 => any::<u8>().prop_map(Step::Log),
        4 => Just(Step::Checkpoint),
        2 => Just(Step::Yield),
        1 => prop::bool::weighted(0.2).prop_map(|fail| if fail { Step::Fail } else { Step::Checkpoint }),
    ];
    let list = prop::collection::vec(leaf, 0..6).boxed();
    let nested = list.prop_recursive(3, 40, 4, |inner| {
        let step = prop_oneof![
            any::<u8>().prop_map(Step::Log),
            Just(Step::Checkpoint),
            inner.clone().prop_map(Step::Critical),
            inner.clone().prop_map(Step::Nested),
            (inner.clone(), inner).prop_map(|(a, b)| Step::Join(a, b)),
        ];
        prop::collection::vec(step, 0..5)
    });
    nested.boxed()
}

type Log = Rc<RefCell<Vec<u8>>>;

/// The steps as a future: its output is the first failure, if any. `with` says whether Morpheus is in it.
fn play(steps: Vec<Step>, log: Log, with: bool) -> Pin<Box<dyn Future<Output = Result<(), usize>>>> {
    Box::pin(async move {
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Log(value) => log.borrow_mut().push(value),
                Step::Checkpoint if with => checkpoint().await,
                Step::Checkpoint => {}
                Step::Yield => tokio::task::yield_now().await,
                Step::Critical(inner) => {
                    let _guard = critical();
                    play(inner, Rc::clone(&log), with).await?;
                }
                Step::Nested(inner) => {
                    let inner = play(inner, Rc::clone(&log), with);
                    if with { cooperative(inner).await } else { inner.await }?;
                }
                Step::Join(a, b) => {
                    // Each branch has a log of its own: their order is the scheduler's affair.
                    let logs = [Log::default(), Log::default()];
                    let (a, b) = (play(a, Rc::clone(&logs[0]), with), play(b, Rc::clone(&logs[1]), with));
                    let (a, b) = tokio::join!(a, b);
                    for branch in logs {
                        log.borrow_mut().extend(branch.take());
                    }
                    a.and(b)?;
                }
                Step::Fail => return Err(index),
            }
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_cooperative_future_completes_exactly_like_the_bare_one(
        steps in steps(),
        hints in prop::collection::vec(prop::option::of(0u32..8), 0..50),
    ) {
        let bare_log = Log::default();
        let (_, bare) = run(play(steps.clone(), Rc::clone(&bare_log), false), |_| ());
        let rig = rig();
        let log = Log::default();
        let future = cooperative(play(steps, Rc::clone(&log), true));
        let (_, output) = run(future, |poll| {
            if let Some(Some(reason)) = hints.get(poll) {
                rig.agent.raise_number(&rig.seat, *reason, 0);
            }
        });
        prop_assert_eq!(output, bare);
        prop_assert_eq!(log.take(), bare_log.take());
        prop_assert_eq!(rig.agent.runtime_line(&rig.seat).critical_depth, 0);
        prop_assert_eq!(rig.count(YieldCause::Withheld), 0, "nothing asked for a yield it could not have");
    }
}

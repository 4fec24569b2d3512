//! The scheduler against what it promises.

use std::collections::BTreeMap;
use std::vec::Vec;

use crate::machine::{CpuId, Nanos};
use crate::sched::{Class, Params, edf};
use crate::testing::world::World;
use crate::thread::{ThreadId, ThreadState};

pub(super) const MS: u64 = 1_000_000;

pub(super) fn ms(count: u64) -> Nanos {
    Nanos(count * MS)
}

#[test]
fn two_threads_take_turns_by_yielding() {
    let mut world = World::new(1);
    let one = world.spawn(Params::default(), u64::MAX);
    let two = world.spawn(Params::default(), u64::MAX);
    for _ in 0..10 {
        assert_eq!(world.on(0), Some(one));
        world.yield_now(one);
        assert_eq!(world.on(0), Some(two));
        world.yield_now(two);
    }
}

#[test]
fn a_thread_alone_keeps_the_processor_without_a_timer() {
    let mut world = World::new(1);
    let one = world.spawn(Params::default(), u64::MAX);
    world.yield_now(one);
    assert_eq!(world.on(0), Some(one));
    assert_eq!(world.next_timer(), Nanos::NEVER);
}

#[test]
fn a_busy_thread_is_preempted_when_its_turn_ends() {
    let mut world = World::new(1);
    let one = world.spawn(Params::default(), u64::MAX);
    let two = world.spawn(Params::default(), u64::MAX);
    assert_eq!(world.on(0), Some(one));
    assert_eq!(world.next_timer(), ms(4));
    world.run_until(ms(5), |_, _, _| {});
    assert_eq!(world.on(0), Some(two));
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before() {
    let mut world = World::new(1);
    let one = world.spawn(Params::default(), u64::MAX);
    world.block(one, ms(3));
    assert_eq!(world.on(0), None);
    assert_eq!(world.next_timer(), ms(3));
    world.run_until(Nanos(3 * MS - 1), |_, _, _| {});
    assert_eq!(world.state(one), ThreadState::Blocked);
    world.run_until(ms(3), |_, _, _| {});
    assert_eq!(world.on(0), Some(one));
    assert_eq!(world.next_timer(), Nanos::NEVER);
}

#[test]
fn waking_takes_the_deadline_away() {
    let mut world = World::new(1);
    let one = world.spawn(Params::default(), u64::MAX);
    world.block(one, ms(3));
    world.wake(one);
    assert_eq!(world.on(0), Some(one));
    world.run_until(ms(10), |_, _, _| {});
    assert!(world.kernel.sched.cpus[0].deadlines.is_empty());
}

#[test]
fn background_runs_only_when_nothing_else_does() {
    let mut world = World::new(1);
    let low = world.spawn(Params::background(), u64::MAX);
    let normal = world.spawn(Params::default(), u64::MAX);
    world.run_until(ms(100), |from, _, running| {
        assert_eq!(running[0], Some(normal), "at {from:?}");
    });
    world.block(normal, ms(200));
    world.run_until(ms(200), |_, _, running| assert_eq!(running[0], Some(low)));
    assert_eq!(world.on(0), Some(normal));
}

#[test]
fn admission_is_exact_at_the_cap_and_refuses_beyond_it() {
    let mut world = World::new(1);
    let fifth = |n: u64| Params::edf(Nanos(n * MS), ms(100), ms(100));
    world.try_spawn(fifth(50), u64::MAX).unwrap();
    world.try_spawn(fifth(44), u64::MAX).unwrap();
    assert_eq!(world.try_spawn(fifth(2), u64::MAX), Err(holm_abi::Error::Busy));
    let last = world.try_spawn(Params::edf(Nanos(999_999), ms(100), ms(100)), u64::MAX).unwrap();
    assert_eq!(world.try_spawn(fifth(1), u64::MAX), Err(holm_abi::Error::Busy));
    world.inside(|kernel| kernel.thread_set_params(last, Params::default()).unwrap());
    world.try_spawn(Params::edf(Nanos(900_000), ms(100), ms(100)), u64::MAX).unwrap();
    let admitted = world.kernel.sched.cpus[0].admitted;
    assert!(admitted <= edf::CAP && admitted > edf::CAP / 100 * 99);
}

#[test]
fn time_that_runs_on_another_processor_is_seen_from_here() {
    let mut world = World::new(2);
    let other = world.spawn(Params::default(), 2);
    assert_eq!(world.on(1), Some(other));
    let unit = world.unit;
    for count in 1..4 {
        world.kernel.machine.advance(ms(7));
        assert_eq!(world.inside(|kernel| kernel.unit_cpu_time(unit)), ms(7 * count));
    }
}

#[test]
fn a_budget_that_is_seen_from_elsewhere_to_be_used_up_ends_the_turn() {
    let mut world = World::new(2);
    let spinner = world.spawn(Params::edf(ms(2), ms(10), ms(10)), 2);
    assert_eq!(world.on(1), Some(spinner));
    let unit = world.unit;
    world.kernel.machine.advance(ms(2));
    world.inside(|kernel| kernel.unit_cpu_time(unit));
    // The other processor was told by a kick, and so it is told of what comes next.
    assert_eq!(world.on(1), None);
    let next = world.spawn(Params::default(), 2);
    assert_eq!(world.on(1), Some(next));
}

/// A thread that runs on processor 0 and was just admitted by processor 1.
fn about_to_move() -> (World, ThreadId) {
    let mut world = World::new(2);
    let most = Params::edf(ms(9), ms(10), ms(10));
    let first = world.spawn(most, 1);
    world.block(first, Nanos::NEVER);
    let second = world.spawn(Params::default(), 1);
    assert_eq!(world.on(0), Some(second));
    world.kernel.arrive(CpuId(1));
    world.kernel.threads.get_mut(second).unwrap().sched.affinity = u64::MAX;
    world.kernel.thread_set_params(second, most).unwrap();
    assert_eq!(world.kernel.sched.cpus[1].admitted_threads, 1);
    (world, second)
}

#[test]
fn an_edf_thread_that_ends_before_it_moved_gives_its_share_back_where_it_was_admitted() {
    let (mut world, thread) = about_to_move();
    world.inside(|kernel| kernel.thread_end(thread, 0, holm_abi::ExitReason::Exited));
    let admitted: Vec<u32> = world.kernel.sched.cpus.iter().map(|cpu| cpu.admitted_threads).collect();
    assert_eq!(admitted, [1, 0]);
    assert_eq!(world.kernel.sched.cpus[1].admitted, 0);
}

#[test]
fn an_edf_thread_that_waits_before_it_moved_goes_on_where_it_was_admitted() {
    let (mut world, thread) = about_to_move();
    world.block(thread, Nanos::NEVER);
    world.wake(thread);
    assert_eq!((world.on(0), world.on(1)), (None, Some(thread)));
}

#[test]
fn an_edf_thread_that_changes_its_mind_before_it_moved_is_admitted_once() {
    let (mut world, thread) = about_to_move();
    world.inside(|kernel| kernel.thread_set_params(thread, Params::default()).unwrap());
    let admitted: Vec<u32> = world.kernel.sched.cpus.iter().map(|cpu| cpu.admitted_threads).collect();
    assert_eq!(admitted, [1, 0]);
    assert!(world.kernel.threads.get(thread).unwrap().sched.moves_to.is_none());
}

#[test]
fn an_edf_thread_that_uses_up_its_budget_waits_for_its_next_period() {
    let mut world = World::new(1);
    let greedy = world.spawn(Params::edf(ms(2), ms(10), ms(10)), u64::MAX);
    let other = world.spawn(Params::default(), u64::MAX);
    let mut ran = BTreeMap::new();
    world.run_until(ms(100), |from, to, running| {
        if let Some(thread) = running[0] {
            *ran.entry(thread).or_insert(0) += to.since(from).0;
        }
    });
    assert_eq!(ran[&greedy], 20 * MS);
    assert_eq!(ran[&other], 80 * MS);
    assert!(world.kernel.threads.get(greedy).unwrap().sched.stats.throttles >= 9);
}

#[test]
fn an_edf_yield_ends_the_job_until_the_next_period() {
    let mut world = World::new(1);
    let task = world.spawn(Params::edf(ms(2), ms(5), ms(10)), u64::MAX);
    world.run_until(ms(1), |_, _, _| {});
    world.yield_now(task);
    assert_eq!(world.on(0), None);
    world.run_until(Nanos(10 * MS - 1), |_, _, running| assert_eq!(running[0], None));
    world.run_until(ms(10), |_, _, _| {});
    assert_eq!(world.on(0), Some(task));
    assert_eq!(world.kernel.threads.get(task).unwrap().sched.stats.misses, 0);
}

#[test]
fn a_server_runs_with_its_callers_rank_until_it_replied() {
    let mut world = World::new(1);
    let server = world.spawn(Params::background(), u64::MAX);
    let caller = world.spawn(Params::fixed(20), u64::MAX);
    let between = world.spawn(Params::fixed(10), u64::MAX);
    assert_eq!(world.on(0), Some(caller));
    world.kernel.caller_list(server, caller, true);
    world.block(caller, Nanos::NEVER);
    assert_eq!(world.on(0), Some(between));
    world.inside(|kernel| assert!(kernel.sched_inherit(server, caller)));
    assert_eq!(world.on(0), Some(server), "nobody in between keeps the caller waiting");
    world.kernel.caller_cut(caller).unwrap();
    world.inside(|kernel| assert!(kernel.sched_disinherit(server)));
    assert_eq!(world.on(0), Some(between));
    assert_eq!(world.class(server), Class::Background);
}

#[test]
fn a_server_of_an_edf_caller_spends_the_callers_budget() {
    let mut world = World::new(1);
    let server = world.spawn(Params::default(), u64::MAX);
    world.block(server, Nanos::NEVER);
    let caller = world.spawn(Params::edf(ms(4), ms(10), ms(10)), u64::MAX);
    let other = world.spawn(Params::edf(ms(4), ms(20), ms(20)), u64::MAX);
    world.kernel.caller_list(server, caller, true);
    world.run_until(ms(1), |_, _, _| {});
    world.inside(|kernel| {
        let cpu = crate::CpuId(0);
        let unit = kernel.threads.get(caller).unwrap().unit;
        kernel.block(crate::Caller { cpu, thread: caller, unit }, crate::wait::Wait::Time, Nanos::NEVER);
        kernel.sched_inherit(server, caller);
        kernel.sched_handoff(cpu, server);
    });
    assert_eq!(world.on(0), Some(server));
    world.run_until(ms(3), |_, _, _| {});
    assert_eq!(world.kernel.threads.get(caller).unwrap().sched.reservation.budget, 3 * MS);
    // With its budget used up the deadline moves behind the other's, which then runs.
    world.run_until(ms(5), |_, _, _| {});
    assert_eq!(world.on(0), Some(other));
}

//! Random sets of threads on random numbers of processors: what each class promises holds.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::tests::{MS, ms};
use crate::machine::Nanos;
use crate::sched::{Class, Params};
use crate::testing::world::World;
use crate::thread::{ThreadId, ThreadState};

/// A job as the test releases it.
#[derive(Debug, Clone, Copy)]
struct Job {
    due: Nanos,
    left: u64,
}

/// Plays random sporadic jobs on one kernel and checks every deadline by itself.
fn play_edf(cpus: u32, tasks: &[(u64, u64, u64)], gaps: &[u64], noise: bool) -> Result<(), TestCaseError> {
    let mut world = World::new(cpus);
    let mut admitted: Vec<(ThreadId, Params)> = Vec::new();
    for &(budget, deadline, period) in tasks {
        let params = Params::edf(Nanos(budget), Nanos(deadline), Nanos(period));
        if let Ok(thread) = world.try_spawn(params, u64::MAX) {
            admitted.push((thread, params));
        }
    }
    if noise {
        for number in 0..3 {
            world.spawn(Params::fixed(31 - number), u64::MAX);
            world.spawn(Params::default(), u64::MAX);
        }
    }
    // Every task starts with a job and blocks when it is done.
    let mut jobs: BTreeMap<ThreadId, Job> = BTreeMap::new();
    let mut releases: BTreeMap<ThreadId, Nanos> = BTreeMap::new();
    let start = world.now();
    let mut gaps = gaps.iter().cycle();
    for (thread, params) in &admitted {
        jobs.insert(*thread, Job { due: start.after(params.deadline), left: params.budget.0 });
        releases.insert(*thread, Nanos::NEVER);
    }
    let end = ms(400);
    while world.now() < end {
        // The next thing that the test does: a job ends, or one is released.
        let now = world.now();
        let mut until = end;
        for (thread, job) in &jobs {
            if world.kernel.runs_on(*thread).is_some() {
                until = until.min(now.after(Nanos(job.left)));
            }
        }
        until = releases.values().copied().fold(until, Nanos::min).min(world.next_timer()).max(now);
        world.kernel.machine.advance(Nanos(0));
        let running: Vec<_> = (0..cpus).map(|cpu| world.on(cpu)).collect();
        let length = until.since(now).0;
        for thread in running.into_iter().flatten() {
            if let Some(job) = jobs.get_mut(&thread) {
                job.left = job.left.saturating_sub(length);
            }
        }
        if length > 0 {
            world.kernel.machine.advance(Nanos(length));
        }
        let now = world.now();
        for (thread, params) in &admitted {
            if let Some(job) = jobs.get(thread).copied() {
                if job.left == 0 && world.kernel.runs_on(*thread).is_some() {
                    prop_assert!(now <= job.due, "{thread:?} missed {:?} at {now:?}", job.due);
                    jobs.remove(thread);
                    let next =
                        job.due.since(params.deadline).after(params.period).0 + gaps.next().unwrap() % params.period.0;
                    releases.insert(*thread, Nanos(next.max(now.0)));
                    world.block(*thread, Nanos::NEVER);
                } else {
                    prop_assert!(job.left == 0 || now < job.due, "{thread:?} is late for {:?}", job.due);
                }
            }
        }
        for (thread, params) in &admitted {
            if releases[thread] <= now {
                releases.insert(*thread, Nanos::NEVER);
                jobs.insert(*thread, Job { due: now.after(params.deadline), left: params.budget.0 });
                world.wake(*thread);
            }
        }
        world.run_until(now, |_, _, _| {});
    }
    for (thread, _) in &admitted {
        prop_assert_eq!(world.kernel.threads.get(*thread).unwrap().sched.stats.misses, 0);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn admitted_edf_sets_never_miss(
        cpus in 1u32..=4,
        tasks in prop::collection::vec((1u64..40, 0u64..=10, 1u64..30), 1..14),
        gaps in prop::collection::vec(any::<u64>(), 16),
        noise: bool,
    ) {
        let tasks: Vec<_> = tasks
            .into_iter()
            .map(|(budget, slack, more)| {
                // Tenths of milliseconds; budget <= deadline <= period.
                let budget = budget * MS / 10;
                let deadline = budget + slack * MS + 1;
                (budget, deadline, deadline + more * MS)
            })
            .collect();
        play_edf(cpus, &tasks, &gaps, noise)?;
    }

    #[test]
    fn fixed_priorities_are_never_turned_round(
        cpus in 1u32..=4,
        steps in prop::collection::vec((0u8..5, 0usize..8, 0u8..32), 1..120),
    ) {
        let mut world = World::new(cpus);
        let threads: Vec<_> = (0..8).map(|number| world.spawn(Params::fixed(number * 4), u64::MAX)).collect();
        for (what, which, priority) in steps {
            let thread = threads[which];
            match (what, world.state(thread)) {
                (0 | 1, ThreadState::Blocked) => world.wake(thread),
                (0, ThreadState::Running) => world.block(thread, Nanos::NEVER),
                (1, ThreadState::Running) => {
                    let until = world.now().after(ms(u64::from(priority)));
                    world.block(thread, until);
                }
                (2, _) => world.inside(|kernel| kernel.thread_set_params(thread, Params::fixed(priority)).unwrap()),
                (3, ThreadState::Running) => world.yield_now(thread),
                _ => {
                    let until = world.now().after(ms(3));
                    world.run_until(until, |_, _, _| {});
                }
            }
            let priority = |thread: &ThreadId| world.kernel.threads.get(*thread).unwrap().sched.priority;
            let mut ready: Vec<u8> = threads
                .iter()
                .filter(|thread| matches!(world.state(**thread), ThreadState::Ready | ThreadState::Running))
                .map(priority)
                .collect();
            ready.sort_unstable_by(|a, b| b.cmp(a));
            ready.truncate(cpus as usize);
            let mut running: Vec<u8> =
                threads.iter().filter(|thread| world.state(**thread) == ThreadState::Running).map(priority).collect();
            running.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(running, ready);
        }
    }

    #[test]
    fn best_effort_shares_follow_the_weights(
        weights in prop::collection::vec(prop_oneof![Just(20u32), Just(50), Just(100), Just(300), Just(1000)], 2..7),
        sleepy: bool,
    ) {
        let mut world = World::new(1);
        let threads: Vec<_> = weights.iter().map(|weight| world.spawn(Params::best_effort(*weight), u64::MAX)).collect();
        let sleeper = sleepy.then(|| world.spawn(Params::best_effort(100), u64::MAX));
        let mut slept = 0;
        let mut ran: BTreeMap<ThreadId, u64> = BTreeMap::new();
        while world.now() < ms(8_000) {
            if let Some(sleeper) = sleeper.filter(|sleeper| world.on(0) == Some(*sleeper)) {
                let until = world.now().after(ms(50));
                world.block(sleeper, until);
                slept += 1;
            }
            let until = world.next_timer().max(Nanos(world.now().0 + 1));
            world.run_until(until, |from, to, running| {
                *ran.entry(running[0].unwrap()).or_insert(0) += to.since(from).0;
            });
        }
        let total: u64 = threads.iter().map(|thread| ran[thread]).sum();
        let weight: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (thread, own) in threads.iter().zip(&weights) {
            let fair = total * u64::from(*own) / weight;
            let off = ran[thread].abs_diff(fair);
            prop_assert!(off < 40 * MS, "weight {own} ran {} of {total} instead of {fair} ({slept} naps)", ran[thread]);
        }
    }

    #[test]
    fn nobody_is_lost_whatever_happens(
        cpus in 1u32..=4,
        steps in prop::collection::vec((0u8..10, 0usize..12, any::<u16>()), 1..250),
    ) {
        let mut world = World::new(cpus);
        let all = (1u64 << cpus) - 1;
        let mut threads: Vec<ThreadId> = Vec::new();
        let mut allowed: BTreeMap<ThreadId, u64> = BTreeMap::new();
        for (what, which, value) in steps {
            let affinity = match u64::from(value) & all { 0 => all, some => some };
            let params = match value % 5 {
                0 => Params::background(),
                1 => Params::fixed((value % 32) as u8),
                2 => Params::edf(ms(1), ms(8), ms(10)),
                // Within the time that this test lasts even the lightest has its turn.
                _ => Params::best_effort(50 + u32::from(value) % 500),
            };
            let thread = threads.get(which).copied();
            match (what, thread) {
                (_, None) => {
                    if let Ok(thread) = world.try_spawn(params, affinity) {
                        threads.push(thread);
                        allowed.insert(thread, affinity);
                    }
                }
                (0..=2, Some(thread)) => match world.state(thread) {
                    ThreadState::Running if value % 3 == 0 => world.block(thread, Nanos::NEVER),
                    ThreadState::Running => {
                        let until = world.now().after(Nanos(u64::from(value) * 1000));
                        world.block(thread, until);
                    }
                    ThreadState::Blocked => world.wake(thread),
                    _ => {}
                },
                (3, Some(thread)) if world.state(thread) == ThreadState::Running => world.yield_now(thread),
                (4, Some(thread)) => {
                    let _ = world.inside(|kernel| kernel.thread_set_params(thread, params));
                }
                (5, Some(thread)) => {
                    if world.inside(|kernel| kernel.thread_set_affinity(thread, affinity)).is_ok() {
                        allowed.insert(thread, affinity);
                    }
                }
                (6, Some(thread)) => {
                    world.inside(|kernel| { kernel.thread_stop(thread, 0, holm_abi::ExitReason::Killed); });
                    threads.remove(which);
                    prop_assert_eq!(world.state(thread), ThreadState::Ended);
                }
                _ => {
                    let until = world.now().after(Nanos(u64::from(value) * 500));
                    world.run_until(until, |_, _, running| {
                        for (cpu, thread) in running.iter().enumerate() {
                            if let Some(thread) = thread {
                                assert!(allowed[thread] & (1 << cpu) != 0, "{thread:?} runs where it may not");
                            }
                        }
                    });
                }
            }
            // An idle processor leaves nobody waiting who may run there (admitted threads run where they were admitted).
            for cpu in (0..cpus).filter(|cpu| world.on(*cpu).is_none()) {
                for thread in &threads {
                    let entry = world.kernel.threads.get(*thread).unwrap();
                    let waits = entry.state == ThreadState::Ready && entry.sched.class != Class::Edf;
                    prop_assert!(!(waits && allowed[thread] & (1 << cpu) != 0), "{cpu} idles while {thread:?} waits after {what} {which} {value}: {:?}", entry.sched);
                }
            }
        }
        // Everyone who is ready runs in the end.
        for thread in &threads {
            world.wake(*thread);
        }
        let before: BTreeMap<_, _> = threads.iter().map(|thread| (*thread, world.ran(*thread))).collect();
        for _ in 0..threads.len() + 1 {
            // The real-time threads step aside one after the other.
            let until = world.now().after(ms(600));
            world.run_until(until, |_, _, _| {});
            for thread in &threads {
                let had = world.ran(*thread) > before[thread] || world.state(*thread) == ThreadState::Running;
                if world.class(*thread) == Class::Fixed && had {
                    world.inside(|kernel| kernel.thread_set_params(*thread, Params::default()).unwrap());
                }
            }
        }
        for thread in &threads {
            let entry = world.kernel.threads.get(*thread).unwrap();
            let ran = world.ran(*thread) > before[thread] || entry.state == ThreadState::Running;
            prop_assert!(ran || entry.sched.class == Class::Background, "{thread:?} {:?} never ran", entry.sched.class);
        }
    }
}

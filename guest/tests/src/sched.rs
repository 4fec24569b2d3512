//! Scheduling: classes, admission, figures.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use alloc::sync::Arc;

use holm_rt::abi::{
    Error, Protection, Rights, SchedClass, SchedParams, SchedStats, ThreadAttr, ThreadAttrMask, UnitInfo, limits,
    number,
};
use holm_rt::{Handle, Object, Region, ThreadBuilder, sys, thread, time};

use crate::harness::{Outcome, Test, World, check, check_eq, eventually, must_answer, one_of_five, soon};

pub(crate) const TESTS: &[Test] = &[
    ("sched_bad_parameters_are_refused", bad_parameters),
    ("sched_edf_admits_up_to_its_limit", admission),
    ("sched_edf_gets_its_budget_and_no_more", budget),
    ("sched_edf_meets_deadlines_beside_spinners", meets_deadlines),
    ("sched_weights_share_the_processor", weights),
    ("sched_background_runs_only_when_nobody_else_wants", background),
    ("sched_figures_count", figures),
    ("sched_ceiling_of_the_unit_holds", ceiling),
    ("sched_busy_threads_spread_over_the_processors", spread),
];

const MS: u64 = 1_000_000;

fn edf(runtime: u64, deadline: u64, period: u64) -> SchedParams {
    SchedParams { class: SchedClass::RtEdf, runtime, deadline, period, cpu: 0, ..SchedParams::new() }
}

fn bad_parameters(_: &World) -> Outcome {
    let fine = SchedParams { class: SchedClass::BestEffort, ..SchedParams::new() };
    for params in [
        SchedParams { class: SchedClass::Inherit, ..fine },
        SchedParams { weight: limits::MAX_WEIGHT as u32 + 1, ..fine },
        SchedParams { class: SchedClass::RtFixed, priority: limits::PRIORITIES as u32, ..fine },
        SchedParams { class: SchedClass::RtFixed, runtime: 1, ..fine },
        edf(0, 10 * MS, 10 * MS),
        edf(11 * MS, 10 * MS, 10 * MS),
        edf(MS, 11 * MS, 10 * MS),
        edf(1, limits::MIN_PERIOD - 1, limits::MIN_PERIOD - 1),
        edf(MS, limits::MAX_PERIOD + 1, limits::MAX_PERIOD + 1),
        SchedParams { cpu: 63, ..edf(MS, 10 * MS, 10 * MS) },
    ] {
        let result = sys::sched_set_thread_params(Handle::NONE, &params);
        if params.cpu == 63 && holm_rt::startup::cpu_count() == 64 {
            continue;
        }
        check!(result == Err(Error::Invalid), "{params:?} answered {result:?}");
        crate::harness::saw(number::sched_set_thread_params, Error::Invalid);
    }
    must_answer(number::sched_set_unit_params, Error::Invalid, {
        sys::sched_set_unit_params(Handle::NONE, &edf(MS, 10 * MS, 10 * MS))
    })?;
    Ok(())
}

/// A thread that sleeps until it is told to end.
fn sleeper(stop: &Arc<AtomicBool>) -> Result<holm_rt::JoinHandle<()>, Error> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let _slept = time::sleep(Duration::from_millis(2));
        }
    })
}

fn admission(_: &World) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let threads = (0..4).map(|_| sleeper(&stop)).collect::<Result<Vec<_>, _>>()?;
    let [a, b, c, d] = threads.as_slice() else { return Err(Error::Invalid.into()) };
    a.thread().schedule(&edf(3 * MS, 10 * MS, 10 * MS))?;
    b.thread().schedule(&edf(3 * MS, 10 * MS, 10 * MS))?;
    c.thread().schedule(&edf(3 * MS, 10 * MS, 10 * MS))?;
    let call = number::sched_set_thread_params;
    must_answer(call, Error::Busy, d.thread().schedule(&edf(3 * MS, 10 * MS, 10 * MS)))?;
    check_eq!(d.thread().info()?.sched_class, SchedClass::BestEffort);
    c.thread().schedule(&SchedParams { class: SchedClass::BestEffort, ..SchedParams::new() })?;
    d.thread().schedule(&edf(3 * MS, 10 * MS, 10 * MS))?;
    stop.store(true, Ordering::Relaxed);
    for handle in threads {
        handle.join(soon())?;
    }
    // Their ends gave everything back.
    let stop = Arc::new(AtomicBool::new(false));
    let thread = sleeper(&stop)?;
    thread.thread().schedule(&edf(9 * MS, 10 * MS, 10 * MS))?;
    stop.store(true, Ordering::Relaxed);
    thread.join(soon())?;
    Ok(())
}

fn budget(_: &World) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&stop);
    let spinner = thread::spawn(move || while !ends.load(Ordering::Relaxed) {})?;
    spinner.thread().schedule(&edf(2 * MS, 10 * MS, 10 * MS))?;
    let throttled = eventually("three times without budget", || {
        let stats = spinner.thread().schedule_figures()?;
        Ok(stats.class == SchedClass::RtEdf && stats.throttles >= 3 && stats.periods >= 3)
    });
    stop.store(true, Ordering::Relaxed);
    spinner.join(soon())?;
    throttled
}

fn meets_deadlines(world: &World) -> Outcome {
    // A machine that is held up itself misses deadlines for everybody; a scheduler that prefers the spinners always does.
    one_of_five(|| meets_deadlines_once(world))
}

fn meets_deadlines_once(world: &World) -> Outcome {
    let mut spinners = Vec::new();
    for _ in 0..holm_rt::startup::cpu_count().max(1) {
        spinners.push(world.child("spin", &[]).start()?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let thread = sleeper(&stop)?;
    thread.thread().schedule(&edf(4 * MS, 20 * MS, 20 * MS))?;
    time::sleep(Duration::from_millis(100))?;
    let stats = thread.thread().schedule_figures()?;
    stop.store(true, Ordering::Relaxed);
    thread.join(soon())?;
    for spinner in &spinners {
        spinner.kill(0)?;
        spinner.wait(soon())?;
    }
    check_eq!(stats.misses, 0);
    Ok(())
}

/// How far children of these classes and weights counted, all on processor 0, while they ran together.
fn counted(world: &World, classes: &[(SchedClass, u32)]) -> Result<Vec<u64>, crate::harness::Failure> {
    let mut children = Vec::new();
    for (class, rank) in classes {
        let region = Region::new(4096)?;
        let mapping = region.map(Protection::READ | Protection::WRITE)?;
        let rights = Rights::READ | Rights::WRITE | Rights::MAP | Rights::INSPECT;
        let unit = world.child("worker", &[]).class(*class, *rank, SchedClass::BestEffort);
        children.push((unit.cap("count", region.cloned(rights)).start()?, mapping));
    }
    let counts = || {
        let counts = children.iter().map(|(_, mapping)| Ok(mapping.atomic_u64(0)?.load(Ordering::Relaxed)));
        counts.collect::<Result<Vec<u64>, Error>>()
    };
    // While the last one starts the others may have the processor for themselves.
    let begun = eventually("the last one to count", || Ok(counts()?.last().is_some_and(|count| *count > 0)));
    let before = counts()?;
    time::sleep(Duration::from_millis(200))?;
    let counts = counts()?.iter().zip(before).map(|(after, before)| after - before).collect();
    for (unit, _) in &children {
        unit.kill(0)?;
        unit.wait(soon())?;
    }
    begun?;
    Ok(counts)
}

fn weights(world: &World) -> Outcome {
    one_of_five(|| {
        let counts = counted(world, &[(SchedClass::BestEffort, 100), (SchedClass::BestEffort, 400)])?;
        let (light, heavy) = (counts[0].max(1), counts[1]);
        check!(heavy > light * 2 && heavy < light * 8, "weights 1:4 shared as {light}:{heavy}");
        Ok(())
    })
}

fn background(world: &World) -> Outcome {
    let counts = counted(world, &[(SchedClass::Background, 0), (SchedClass::BestEffort, 100)])?;
    check!(counts[1] > 100 * counts[0].max(1), "background {} beside best effort {}", counts[0], counts[1]);
    let alone = counted(world, &[(SchedClass::Background, 0)])?;
    check!(alone[0] > 1000, "background alone counted {}", alone[0]);
    Ok(())
}

fn figures(_: &World) -> Outcome {
    let mut before = SchedStats::new();
    sys::sched_query(Handle::NONE, &mut before)?;
    for _ in 0..10 {
        time::sleep(Duration::from_micros(200))?;
    }
    let mut after = SchedStats::new();
    sys::sched_query(Handle::NONE, &mut after)?;
    check!(after.voluntary >= before.voluntary + 10, "{} waits counted", after.voluntary - before.voluntary);
    check!(after.run_time > before.run_time, "no time ran");
    check!(after.switches >= before.switches + 10, "{} switches counted", after.switches - before.switches);
    Ok(())
}

fn ceiling(world: &World) -> Outcome {
    let mut own = UnitInfo::new();
    sys::unit_get_info(Handle::NONE, &mut own)?;
    let unit = world.child("sleep", &[]).class(SchedClass::Background, 0, SchedClass::Background).create()?;
    let params = SchedParams { class: SchedClass::BestEffort, ..SchedParams::new() };
    must_answer(number::sched_set_unit_params, Error::NotPermitted, unit.schedule(&params))?;
    let spawned = ThreadBuilder::default().class(SchedClass::RtFixed, 40).spawn(|| ());
    must_answer(number::thread_create, Error::Invalid, spawned.map(|_| ()))?;
    let refused = world.child("sleep", &[]).class(SchedClass::RtFixed, 3, SchedClass::BestEffort).create();
    let refused = refused.map(|unit| unit.handle());
    check!(matches!(refused, Err(Error::NotPermitted | Error::Invalid)), "a class above the ceiling: {refused:?}");
    Ok(())
}

/// Threads that were made on one processor run on all of them as soon as they may.
fn spread(_: &World) -> Outcome {
    let cpus = holm_rt::startup::cpu_count().clamp(1, 64);
    let stop = Arc::new(AtomicBool::new(false));
    let spin = |_| {
        let stop = Arc::clone(&stop);
        ThreadBuilder::default().affinity(1).spawn(move || while !stop.load(Ordering::Relaxed) {})
    };
    let threads = (0..2 * cpus).map(spin).collect::<Result<Vec<_>, _>>()?;
    for thread in &threads {
        let anywhere = ThreadAttr { mask: ThreadAttrMask::AFFINITY, affinity: u64::MAX, ..ThreadAttr::new() };
        sys::thread_set_attr(thread.thread().handle(), &anywhere)?;
    }
    let everywhere = eventually("busy threads on every processor", || {
        let mut seen = 0u64;
        for thread in &threads {
            seen |= 1 << thread.thread().info()?.last_cpu;
        }
        Ok(seen.count_ones() == cpus)
    });
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join(soon())?;
    }
    everywhere
}

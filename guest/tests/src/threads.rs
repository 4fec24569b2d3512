//! Threads: closures, ends, ranks, places.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use holm_rt::abi::{
    Error, ExitReason, SchedClass, ThreadAttr, ThreadAttrMask, ThreadSpec, ThreadState, UnitState, limits, number,
};
use holm_rt::{Deadline, Handle, Object, ThreadBuilder, sys, thread, time};

use crate::harness::{Failure, Outcome, Test, World, check, check_eq, eventually, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("thread_runs_a_closure_and_gives_its_result", runs_closure),
    ("thread_many_at_once_all_finish", many_at_once),
    ("thread_end_gives_its_stack_back", stacks_come_back),
    ("thread_of_higher_rank_runs_first", higher_rank_first),
    ("thread_yield_takes_turns", yield_takes_turns),
    ("thread_that_spins_does_not_stop_others", spinning_is_preempted),
    ("thread_killed_ends_and_unit_goes_on", killed_thread),
    ("thread_runs_where_its_affinity_says", affinity),
    ("thread_bad_specs_are_refused", bad_specs),
];

fn runs_closure(_: &World) -> Outcome {
    let text = alloc::string::String::from("captured");
    let handle = thread::spawn(move || text.len())?;
    check_eq!(handle.join(soon())?, Some(8));
    let handle = thread::spawn(|| ())?;
    let info = handle.thread().wait(soon())?;
    check_eq!((info.state, info.exit_reason, info.exit_code), (ThreadState::Exited, ExitReason::Exited, 0));
    Ok(())
}

fn many_at_once(_: &World) -> Outcome {
    let sum = Arc::new(AtomicU64::new(0));
    let mut handles = Vec::new();
    for number in 1..=32u64 {
        let sum = Arc::clone(&sum);
        handles.push(thread::spawn(move || {
            for _ in 0..100 {
                sum.fetch_add(number, Ordering::Relaxed);
                thread::yield_now();
            }
        })?);
    }
    for handle in handles {
        handle.join(soon())?;
    }
    check_eq!(sum.load(Ordering::Relaxed), 100 * 32 * 33 / 2);
    Ok(())
}

fn stacks_come_back(_: &World) -> Outcome {
    let used = || -> Result<u64, Error> {
        let mut info = holm_rt::abi::UnitInfo::new();
        sys::unit_get_info(Handle::NONE, &mut info)?;
        Ok(info.memory_bytes)
    };
    thread::spawn(|| ())?.join(soon())?;
    let before = used()?;
    for _ in 0..50 {
        thread::spawn(|| core::hint::black_box([1u8; 8192]).len())?.join(soon())?;
    }
    let after = used()?;
    check!(after <= before + 16 * limits::PAGE_SIZE, "memory grew from {before} to {after}");
    Ok(())
}

/// Runs `make` above all others on processor 0: what it starts there begins when it has made all of them, however long that
/// takes and however many processors there are.
fn made_at_once<T: Send + 'static>(make: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Failure> {
    let maker = ThreadBuilder::default().class(SchedClass::RtFixed, 31).affinity(1).spawn(make)?;
    Ok(maker.join(soon())?.ok_or(Error::NotFound)??)
}

fn higher_rank_first(_: &World) -> Outcome {
    let order = Arc::new(holm_rt::lock::Mutex::new(Vec::with_capacity(8)));
    let ranks = Arc::clone(&order);
    let handles = made_at_once(move || {
        let rank = |priority: u32| {
            let order = Arc::clone(&ranks);
            let builder = ThreadBuilder::default().class(SchedClass::RtFixed, priority).affinity(1);
            builder.spawn(move || order.lock().push(priority))
        };
        [1, 9, 5, 3, 7].into_iter().map(rank).collect::<Result<Vec<_>, _>>()
    })?;
    for handle in handles {
        handle.join(soon())?;
    }
    check_eq!(*order.lock(), [9, 7, 5, 3, 1]);
    Ok(())
}

fn yield_takes_turns(_: &World) -> Outcome {
    let turns = Arc::new(holm_rt::lock::Mutex::new(Vec::with_capacity(40)));
    let taken = Arc::clone(&turns);
    let handles = made_at_once(move || {
        let turn = |name: u32| {
            let turns = Arc::clone(&taken);
            let builder = ThreadBuilder::default().class(SchedClass::RtFixed, 4).affinity(1);
            builder.spawn(move || {
                for _ in 0..20 {
                    turns.lock().push(name);
                    thread::yield_now();
                }
            })
        };
        [0, 1].into_iter().map(turn).collect::<Result<Vec<_>, _>>()
    })?;
    for handle in handles {
        handle.join(soon())?;
    }
    let turns = turns.lock();
    let changes = turns.windows(2).filter(|pair| pair[0] != pair[1]).count();
    check!(changes >= 35, "only {changes} changes in {turns:?}");
    Ok(())
}

fn spinning_is_preempted(world: &World) -> Outcome {
    let processors = holm_rt::startup::cpu_count().max(1);
    let mut spinners = Vec::new();
    for _ in 0..processors * 2 {
        spinners.push(world.child("spin", &[]).start()?);
    }
    let answer = thread::spawn(|| 42)?.join(soon());
    for unit in &spinners {
        check_eq!(unit.info()?.state, UnitState::Running);
    }
    // One after the other: what the first had is released while the others spin.
    let ended: Result<Vec<_>, Error> =
        spinners.iter().map(|unit| unit.kill(0).and_then(|()| unit.wait(soon()))).collect();
    spinners.iter().for_each(|unit| _ = unit.kill(0));
    ended?;
    check_eq!(answer?, Some(42));
    Ok(())
}

fn killed_thread(_: &World) -> Outcome {
    let handle = thread::spawn(|| {
        loop {
            let _woken = time::sleep_until(Deadline::NEVER);
        }
    })?;
    eventually("the thread to sleep", || Ok(handle.thread().info()?.state == ThreadState::Blocked))?;
    handle.thread().kill(5)?;
    let info = handle.thread().wait(soon())?;
    check_eq!((info.state, info.exit_reason, info.exit_code), (ThreadState::Exited, ExitReason::Killed, 5));
    must_answer(number::thread_kill, Error::BadState, handle.thread().kill(5))?;
    Ok(())
}

fn affinity(_: &World) -> Outcome {
    let processors = holm_rt::startup::cpu_count().max(1);
    for processor in 0..processors.min(4) {
        let handle = ThreadBuilder::default().affinity(1 << processor).spawn(move || {
            (0..50).all(|_| {
                thread::yield_now();
                let mut topology = holm_rt::abi::Topology::new();
                sys::sys_get_topology(&mut topology).is_ok() && topology.current_cpu == processor
            })
        })?;
        check_eq!(handle.join(soon())?, Some(true));
    }
    let attr = ThreadAttr { mask: ThreadAttrMask::AFFINITY, affinity: 1 << 63, ..ThreadAttr::new() };
    if processors < 64 {
        must_answer(number::thread_set_attr, Error::Invalid, sys::thread_set_attr(Handle::NONE, &attr))?;
    }
    let attr = ThreadAttr { mask: ThreadAttrMask::AFFINITY, affinity: 1, ..ThreadAttr::new() };
    sys::thread_set_attr(Handle::NONE, &attr)?;
    check_eq!(thread::info(Handle::NONE)?.affinity, 1);
    let all = if processors >= 64 { u64::MAX } else { (1 << processors) - 1 };
    sys::thread_set_attr(Handle::NONE, &ThreadAttr { affinity: all, ..attr })?;
    Ok(())
}

fn bad_specs(_: &World) -> Outcome {
    let create = |spec: ThreadSpec| {
        // SAFETY: each of these is refused: no thread runs.
        unsafe { sys::thread_create(Handle::NONE, &spec) }
    };
    let spec = ThreadSpec { entry: 0xffff_8000_0000_0000, ..ThreadSpec::new() };
    must_answer(number::thread_create, Error::Invalid, create(spec))?;
    let spec = ThreadSpec { entry: 0x40_0000, fs_base: 0x8000_0000_0000, ..ThreadSpec::new() };
    must_answer(number::thread_create, Error::Invalid, create(spec))?;
    let handle = thread::spawn(|| {
        let _slept = time::sleep(Duration::from_millis(5));
    })?;
    let attr = ThreadAttr { mask: ThreadAttrMask::FS_BASE, fs_base: 0x1000, ..ThreadAttr::new() };
    must_answer(number::thread_set_attr, Error::NotPermitted, sys::thread_set_attr(handle.thread().handle(), &attr))?;
    handle.join(soon())?;
    Ok(())
}

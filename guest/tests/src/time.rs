//! Time: clocks and timers.

use core::time::Duration;

use holm_rt::abi::{
    ClockId, ConfigFlags, Error, EventFlags, EventMask, KernelConfig, TimerFlags, TimerMode, limits, number,
};
use holm_rt::{Deadline, Events, Object, Source, Timer, sys, time};

use crate::harness::{Failure, Outcome, Test, World, check, check_eq, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("time_monotonic_never_goes_back", never_back),
    ("time_clocks_tell_what_they_say", clocks),
    ("time_timer_never_fires_early", never_early),
    ("time_periodic_timer_does_not_drift", no_drift),
    ("time_timer_can_be_canceled_and_armed_again", cancel),
    ("time_many_timers_fire_in_order", many_timers),
    ("time_bad_timers_are_refused", bad_timers),
    ("time_page_agrees_with_the_system_call", time_page),
    ("time_passes_without_ticks_where_nothing_is_to_do", no_ticks),
];

fn never_back(_: &World) -> Outcome {
    let mut last = time::now();
    for _ in 0..2000 {
        let now = time::now();
        check!(now >= last, "{now} after {last}");
        last = now;
    }
    Ok(())
}

fn clocks(_: &World) -> Outcome {
    let real = sys::time_get(ClockId::Realtime)?;
    check!(real >= time::now(), "realtime {real} is before boot");
    let before = sys::time_get(ClockId::ThreadCpu)?;
    let end = time::now() + 2_000_000;
    while time::now() < end {}
    let ran = sys::time_get(ClockId::ThreadCpu)? - before;
    check!(ran > 0, "a thread that worked for 2 ms ran {ran} ns");
    check!(sys::time_get(ClockId::UnitCpu)? >= ran, "the unit ran less than its thread");
    let idle = sys::time_get(ClockId::CpuIdle)?;
    let busy = sys::time_get(ClockId::CpuBusy)?;
    check!(busy > 0 && busy.saturating_add(idle) <= time::now() + 1_000_000, "busy {busy}, idle {idle}");
    Ok(())
}

fn never_early(_: &World) -> Outcome {
    let (timer, events) = (Timer::new(ClockId::Monotonic)?, Events::new()?);
    events.subscribe(Source::Timer(&timer), EventMask::EXPIRED, EventFlags::EDGE, 0)?;
    for length in [0u64, 1, 1000, 50_000, 1_000_000, 7_000_000] {
        let deadline = time::now() + length;
        timer.once(Deadline::at(deadline))?;
        let record = events.wait_one(soon())?;
        check!(time::now() >= deadline, "{length} ns fired early");
        check_eq!((record.data0, record.data1), (1, deadline));
    }
    let relative = Timer::with(ClockId::Monotonic, TimerFlags::RELATIVE, Duration::ZERO)?;
    events.subscribe(Source::Timer(&relative), EventMask::EXPIRED, EventFlags::EDGE, 1)?;
    let begin = time::now();
    relative.once(Deadline::at(2_000_000))?;
    check_eq!(events.wait_one(soon())?.token, 1);
    check!(time::now() - begin >= 2_000_000, "a relative timer fired early");
    Ok(())
}

fn no_drift(_: &World) -> Outcome {
    let (timer, events) = (Timer::new(ClockId::Monotonic)?, Events::new()?);
    events.subscribe(Source::Timer(&timer), EventMask::EXPIRED, EventFlags::EDGE, 0)?;
    let (begin, period) = (time::now() + 1_000_000, 500_000);
    timer.every(Deadline::at(begin), Duration::from_nanos(period))?;
    let mut count = 0;
    while count < 40 {
        let record = events.wait_one(soon())?;
        count += record.data0;
        // The last deadline is that of the last expiration: never moved by what came late.
        check_eq!(record.data1, begin + (count - 1) * period);
        check!(time::now() >= record.data1, "expiration {count} came early");
    }
    timer.cancel()?;
    // It may have expired between the last report and its end, which takes back what was not told yet.
    let all = timer.info()?.expirations;
    check!(all >= count && time::now() >= begin + (all - 1) * period, "told of {count} of {all} expirations");
    must_answer(number::event_wait, Error::TimedOut, events.wait_one(Deadline::PAST).map(|_| ()))?;
    Ok(())
}

fn cancel(_: &World) -> Outcome {
    let (timer, events) = (Timer::new(ClockId::Monotonic)?, Events::new()?);
    events.subscribe(Source::Timer(&timer), EventMask::EXPIRED, EventFlags::EDGE, 0)?;
    must_answer(number::timer_cancel, Error::BadState, timer.cancel())?;
    timer.once(Deadline::after(Duration::from_secs(3600)))?;
    check!(timer.info()?.deadline > time::now(), "armed and not armed");
    timer.once(Deadline::after(Duration::from_secs(7200)))?;
    timer.cancel()?;
    check_eq!(timer.info()?.deadline, limits::NEVER);
    timer.once(Deadline::after(Duration::from_micros(100)))?;
    check_eq!(events.wait_one(soon())?.data0, 1);
    must_answer(number::timer_cancel, Error::BadState, timer.cancel())?;
    Ok(())
}

fn many_timers(_: &World) -> Outcome {
    // The first is to come after the last is armed, also on a machine that is busy with something else.
    for lead in [20_000_000, 200_000_000, 2_000_000_000] {
        if many_timers_from(lead)? {
            return Ok(());
        }
    }
    Err(Failure(alloc::string::String::from("64 timers cannot be armed in two seconds")))
}

/// Arms 64 timers, the first `lead` nanoseconds from now, and checks their order; false when arming took longer.
fn many_timers_from(lead: u64) -> Result<bool, Failure> {
    let events = Events::new()?;
    let begin = time::now() + lead;
    let mut timers = alloc::vec::Vec::new();
    for index in 0..64u64 {
        let timer = Timer::new(ClockId::Monotonic)?;
        events.subscribe(Source::Timer(&timer), EventMask::EXPIRED, EventFlags::ONESHOT, index)?;
        // 37 has no divisor in common with 64: every order of arming.
        timer.once(Deadline::at(begin + index * 37 % 64 * 50_000))?;
        timers.push(timer);
    }
    if time::now() >= begin {
        return Ok(false);
    }
    let (mut last, mut count) = (0, 0);
    while count < 64 {
        for record in events.wait(soon())? {
            check!(record.data1 >= last, "deadline {} after {last}", record.data1);
            last = record.data1;
            count += 1;
        }
    }
    Ok(true)
}

fn bad_timers(_: &World) -> Outcome {
    for clock in [ClockId::CpuBusy, ClockId::CpuIdle, ClockId::ThreadCpu, ClockId::UnitCpu] {
        must_answer(number::timer_create, Error::NotSupported, Timer::new(clock).map(|_| ()))?;
    }
    let timer = Timer::new(ClockId::Monotonic)?;
    let arm = |deadline, mode, period| sys::timer_arm(timer.handle(), deadline, mode, period);
    for (deadline, mode, period) in [
        (limits::NEVER, TimerMode::OneShot, 0),
        (5, TimerMode::OneShot, limits::MIN_PERIOD),
        (5, TimerMode::Periodic, 0),
        (5, TimerMode::Periodic, limits::MIN_PERIOD - 1),
        (5, TimerMode::Periodic, limits::MAX_PERIOD + 1),
    ] {
        must_answer(number::timer_arm, Error::Invalid, arm(deadline, mode, period))?;
    }
    Ok(())
}

fn time_page(_: &World) -> Outcome {
    // Where there is no page this machine cannot tell the time without the kernel; then there is nothing to compare.
    for _ in 0..200 {
        let before = sys::time_get(ClockId::Monotonic)?;
        let Some(between) = time::now_by_page() else { return Ok(()) };
        let after = sys::time_get(ClockId::Monotonic)?;
        check!(before <= between && between <= after, "{before}, {between} by the page, {after}");
    }
    Ok(())
}

/// Interrupts that come while every thread sleeps: those that end the sleep, and no ticks.
fn no_ticks(world: &World) -> Outcome {
    let old = world.system.config()?;
    let guards = ConfigFlags::SCRUBBER | ConfigFlags::WATCHDOG | ConfigFlags::TEXT_CHECK;
    world.system.configure(&KernelConfig { flags: old.flags.without(guards), ..old })?;
    // What was begun before comes to its end.
    time::sleep(Duration::from_millis(20))?;
    let before = world.system.metrics()?.interrupts;
    time::sleep(Duration::from_millis(500))?;
    let came = world.system.metrics()?.interrupts - before;
    world.system.configure(&old)?;
    check!((1..=25).contains(&came), "{came} interrupts in half a second of sleep");
    Ok(())
}

//! The kernel's guards over itself: scrubber, watchdog, text check.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use holm_rt::abi::{
    ConfigFlags, Error, EventFlags, EventMask, KernelConfig, SchedClass, TraceFilter, TraceKind, limits, number,
};
use holm_rt::{Deadline, Events, Region, Source, ThreadBuilder, time};

use crate::harness::{Outcome, Test, World, check, check_eq, eventually, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("guards_scrub_free_memory_and_sum_the_text", rounds),
    ("guards_find_a_thread_that_starves", starving),
    ("guards_have_ranges_and_a_profile", ranges),
];

const GUARDS: ConfigFlags = ConfigFlags::SCRUBBER.or(ConfigFlags::WATCHDOG).or(ConfigFlags::TEXT_CHECK);
const PAGES: u64 = 512;

/// The configuration with all guards on, when this kernel has them.
fn guarded(world: &World) -> Result<Option<(KernelConfig, KernelConfig)>, Error> {
    let old = world.system.config()?;
    let flags = old.flags | GUARDS;
    let new = KernelConfig { flags, scrub_pages: 40_000, watchdog_ms: 60_000, text_check_seconds: 1, ..old };
    Ok(old.available.contains(GUARDS).then_some((old, new)))
}

fn rounds(world: &World) -> Outcome {
    let Some((old, new)) = guarded(world)? else { return Ok(()) };
    let region = Region::with(PAGES * limits::PAGE_SIZE, holm_rt::abi::RegionFlags::COMMIT)?;
    region.write(0, &[0x5a; 64])?;
    let before = world.system.metrics()?;
    world.system.configure(&new)?;
    drop(region);
    eventually("free memory to be scrubbed and the text to be summed twice", || {
        let now = world.system.metrics()?;
        Ok(now.scrubbed_pages >= before.scrubbed_pages + PAGES && now.text_checks >= before.text_checks + 2)
    })?;
    // Pages that were scrubbed are used again as all others are.
    let region = Region::with(PAGES * limits::PAGE_SIZE, holm_rt::abi::RegionFlags::COMMIT)?;
    for page in 0..PAGES {
        let mut bytes = [1; 64];
        region.read(page * limits::PAGE_SIZE, &mut bytes)?;
        check_eq!(bytes, [0; 64]);
    }
    world.system.configure(&old)?;
    check_eq!(world.system.metrics()?.findings, before.findings);
    Ok(())
}

fn starving(world: &World) -> Outcome {
    let Some((old, new)) = guarded(world)? else { return Ok(()) };
    let filter = TraceFilter { kinds: 1 << TraceKind::Finding as u64, ..TraceFilter::new() };
    let (told, reader) = (world.system.trace(&filter)?, world.system.trace(&filter)?);
    let events = Events::new()?;
    events.subscribe(Source::Trace(&told), EventMask::READABLE, EventFlags::NONE, 0)?;
    let before = world.system.metrics()?.findings;
    world.system.configure(&KernelConfig { watchdog_ms: 50, ..new })?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let victim = ThreadBuilder::default().affinity(1).spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
    })?;
    let id = victim.thread().info()?.id;
    // It ends when it has seen that its victim was found. A busy host can give cause to other findings beside it.
    let end = time::now() + 60_000_000_000;
    let hog = ThreadBuilder::default().class(SchedClass::RtFixed, 5).affinity(1).spawn(move || {
        while time::now() < end {
            if reader.read()?.iter().any(|record| record.data[0] == 4 && record.data[1] == id) {
                return Ok(true);
            }
        }
        Ok::<bool, Error>(false)
    })?;
    let found = hog.join(Deadline::after(Duration::from_secs(120)))?.ok_or(Error::NotFound)??;
    stop.store(true, Ordering::Relaxed);
    world.system.configure(&old)?;
    victim.join(soon())?;
    check!(found, "a thread that starves was not found");
    check_eq!(events.wait_one(soon())?.mask, EventMask::READABLE);
    check!(world.system.metrics()?.findings > before, "a finding was not counted");
    let (text, _) = world.system.log(0)?;
    check!(text.contains("gets no processor for"), "the log does not tell of it");
    Ok(())
}

fn ranges(world: &World) -> Outcome {
    let Some((old, new)) = guarded(world)? else {
        let old = world.system.config()?;
        for wrong in [
            KernelConfig { flags: old.flags | ConfigFlags::WATCHDOG, ..old },
            KernelConfig { scrub_pages: 1, ..old },
            KernelConfig { watchdog_ms: 1, ..old },
            KernelConfig { text_check_seconds: 1, ..old },
        ] {
            must_answer(number::kernel_config_set, Error::NotSupported, world.system.configure(&wrong))?;
        }
        return Ok(());
    };
    for wrong in [
        KernelConfig { scrub_pages: 0, ..new },
        KernelConfig { scrub_pages: 40_001, ..new },
        KernelConfig { watchdog_ms: 9, ..new },
        KernelConfig { watchdog_ms: 3_600_001, ..new },
        KernelConfig { text_check_seconds: 0, ..new },
        KernelConfig { text_check_seconds: 86_401, ..new },
    ] {
        must_answer(number::kernel_config_set, Error::Invalid, world.system.configure(&wrong))?;
    }
    world.system.configure(&old)?;
    Ok(())
}

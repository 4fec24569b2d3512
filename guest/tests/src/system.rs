//! Introspection: topology, list, log, trace, metrics, configuration, archive.

use holm_rt::abi::{
    ConfigFlags, Error, EventFlags, EventMask, KernelConfig, Profile, Rights, Topology, TraceFilter, TraceKind,
    UnitFilter, UnitFilterFlags, UnitState, limits, number,
};
use holm_rt::startup::{padded, unpadded};
use holm_rt::{Events, Object, Source, sys};

use crate::harness::{Outcome, Test, World, check, check_eq, must_answer, soon};

pub(crate) const TESTS: &[Test] = &[
    ("system_topology_tells_the_machine", topology),
    ("system_units_are_listed_and_filtered", units),
    ("system_log_reads_on_and_chains", log),
    ("system_trace_shows_what_happened", trace),
    ("system_metrics_count", metrics),
    ("system_config_changes_and_is_checked", config),
    ("system_archive_lists_and_reads_files", archive),
    ("system_needs_the_rights", rights),
    ("system_image_region_is_a_private_copy", image_region),
];

fn topology(_: &World) -> Outcome {
    let mut topology = Topology::new();
    sys::sys_get_topology(&mut topology)?;
    check_eq!(topology.cpus, holm_rt::startup::cpu_count());
    check!(topology.current_cpu < topology.cpus, "on processor {} of {}", topology.current_cpu, topology.cpus);
    check_eq!(u64::from(topology.page_bytes), limits::PAGE_SIZE);
    check!(topology.free_bytes > 0 && topology.free_bytes < topology.memory_bytes, "{topology:?}");
    check!(!unpadded(&topology.kernel).is_empty(), "the kernel has no name");
    Ok(())
}

fn units(world: &World) -> Outcome {
    let one = world.child("sleep", &[]).label("group", "blue").create()?;
    let two = world.child("sleep", &[]).label("group", "red").start()?;
    let ids = (one.info()?.id, two.info()?.id);
    let all = world.system.units()?;
    check!(all.windows(2).all(|pair| pair[0].id < pair[1].id), "the list is out of order");
    for id in [ids.0, ids.1, holm_rt::startup::unit_id()] {
        check!(all.iter().any(|unit| unit.id == id), "unit {id} is not in the list");
    }
    let blue = UnitFilter { label_key: padded("group"), label_value: padded("blue"), ..UnitFilter::new() };
    let found = world.system.units_that(&blue)?;
    check_eq!(found.iter().map(|unit| unit.id).collect::<alloc::vec::Vec<_>>(), [ids.0]);
    let running = UnitFilter { flags: UnitFilterFlags::RUNNING, label_key: padded("group"), ..UnitFilter::new() };
    let found = world.system.units_that(&running)?;
    check_eq!(found.iter().map(|unit| unit.id).collect::<alloc::vec::Vec<_>>(), [ids.1]);
    let mine = UnitFilter { parent: holm_rt::startup::unit_id(), ..UnitFilter::new() };
    check!(world.system.units_that(&mine)?.iter().all(|unit| unit.parent == holm_rt::startup::unit_id()), "a stranger");
    two.kill(0)?;
    two.wait(soon())?;
    let ended = UnitFilter { flags: UnitFilterFlags::ENDED, ..mine };
    check!(world.system.units_that(&ended)?.iter().any(|unit| unit.state == UnitState::Failed), "no ended unit");
    Ok(())
}

fn log(world: &World) -> Outcome {
    let (text, range) = world.system.log(0)?;
    check!(!text.is_empty(), "the log is empty");
    let (again, same) = world.system.log(0)?;
    check!(again.starts_with(&text), "the log changed behind its reader");
    check!(same.sequence >= range.sequence, "the log went back");
    let (nothing, end) = world.system.log(same.sequence)?;
    check!(nothing.len() < text.len().max(1) || end.sequence > same.sequence, "reading on gave the same again");
    Ok(())
}

fn trace(world: &World) -> Outcome {
    let own =
        TraceFilter { unit: holm_rt::startup::unit_id(), kinds: 1 << TraceKind::User as u64, ..TraceFilter::new() };
    let reader = world.system.trace(&own)?;
    let events = Events::new()?;
    events.subscribe(Source::Trace(&reader), EventMask::READABLE, EventFlags::NONE, 0)?;
    check_eq!(reader.read()?.len(), 0);
    world.system.emit(77, b"abcdefgh")?;
    world.system.emit(78, &[])?;
    events.wait_one(soon())?;
    let records = reader.read()?;
    check_eq!(records.len(), 2);
    check_eq!((records[0].kind, records[0].data[0] as u32), (TraceKind::User, 77));
    check_eq!(records[0].data[1], u64::from_le_bytes(*b"abcdefgh"));
    check_eq!(records[1].data[0] as u32, 78);
    check!(records[0].timestamp <= records[1].timestamp, "out of order");
    must_answer(number::trace_emit, Error::TooBig, world.system.emit(1, &[0; 25]))?;
    let states = TraceFilter { kinds: 1 << TraceKind::UnitState as u64, ..TraceFilter::new() };
    let reader = world.system.trace(&states)?;
    let unit = world.child("exit", &["0"]).start()?;
    unit.wait(soon())?;
    let id = unit.info()?.id;
    let records = reader.read()?;
    check!(
        records.iter().any(|record| record.data[0] == id),
        "the life of unit {id} is not in {} records",
        records.len()
    );
    Ok(())
}

fn metrics(world: &World) -> Outcome {
    let before = world.system.metrics()?;
    let unit = world.child("exit", &["0"]).start()?;
    unit.wait(soon())?;
    let figures = unit.metrics()?;
    check!(figures.syscalls > 0, "a unit that exited made no system call");
    let after = world.system.metrics()?;
    check!(after.syscalls > before.syscalls && after.uptime > before.uptime, "nothing counted");
    check!(after.context_switches > before.context_switches, "no switch counted");
    check!(after.page_faults > before.page_faults, "no page fault counted");
    Ok(())
}

fn config(world: &World) -> Outcome {
    let old = world.system.config()?;
    check!(old.available.contains(old.flags), "{:?} of {:?}", old.flags, old.available);
    let version = sys::sys_get_config_version()?;
    check_eq!(version, old.config_version);
    let slower = KernelConfig { slice_us: 20_000, ..old };
    world.system.configure(&slower)?;
    check_eq!(world.system.config()?.slice_us, 20_000);
    check!(sys::sys_get_config_version()? > version, "the version stayed");
    for wrong in [
        KernelConfig { slice_us: 99, ..old },
        KernelConfig { slice_us: 1_000_001, ..old },
        KernelConfig { edf_limit: 1001, ..old },
        KernelConfig { invariant_interval: 0, ..old },
        KernelConfig { crc_interval: 0, ..old },
    ] {
        must_answer(number::kernel_config_set, Error::Invalid, world.system.configure(&wrong))?;
    }
    if old.available != ConfigFlags::ALL {
        let more = KernelConfig { flags: ConfigFlags::ALL, ..old };
        must_answer(number::kernel_config_set, Error::NotSupported, world.system.configure(&more))?;
    }
    check!(matches!(old.profile, Profile::Standard | Profile::Dev | Profile::Hardened), "profile");
    world.system.configure(&old)?;
    Ok(())
}

fn archive(world: &World) -> Outcome {
    let files = world.archive.list()?;
    let mut names = files.iter().map(|file| unpadded(&file.name));
    check!(names.clone().any(|name| name == "init") && names.any(|name| name == "tests"), "{files:?}");
    let own = files.iter().find(|file| unpadded(&file.name) == "tests").ok_or(Error::NotFound)?;
    check_eq!(own.program, 1);
    let mut start = [0; 4];
    check_eq!(world.image.read(0, &mut start)?, 4);
    check_eq!(&start, b"\x7fELF");
    check_eq!(world.image.read(own.bytes, &mut start)?, 0);
    check_eq!(world.image.read(own.bytes - 2, &mut start)?, 2);
    check_eq!(world.image.read(u64::MAX, &mut start)?, 0);
    must_answer(number::archive_open, Error::NotFound, world.archive.open("no such file").map(|_| ()))?;
    let long = alloc::string::String::from_utf8(alloc::vec![b'x'; 5000]).unwrap_or_default();
    let refused = world.archive.open(&long).map(|_| ());
    check!(matches!(refused, Err(Error::TooBig | Error::NotFound)), "{refused:?}");
    if let Err(error) = refused {
        crate::harness::saw(number::archive_open, error);
    }
    Ok(())
}

fn rights(world: &World) -> Outcome {
    let weak = world.system.derive(Rights::INSPECT)?;
    must_answer(number::kernel_config_set, Error::Access, weak.configure(&KernelConfig::new()))?;
    must_answer(number::system_power, Error::Access, weak.power(holm_rt::abi::PowerAction::Off, 0))?;
    must_answer(number::trace_subscribe, Error::Access, weak.trace(&TraceFilter::new()).map(|_| ()))?;
    must_answer(number::sys_get_logs, Error::Access, weak.log(0).map(|_| ()))?;
    let blind = world.archive.derive(Rights::INSPECT)?;
    must_answer(number::archive_open, Error::Access, blind.open("tests").map(|_| ()))?;
    Ok(())
}

fn image_region(world: &World) -> Outcome {
    let region = world.image.region()?;
    let mut bytes = [0; 4];
    region.read(0, &mut bytes)?;
    check_eq!(&bytes, b"\x7fELF");
    region.write(0, b"HOLM")?;
    region.read(0, &mut bytes)?;
    check_eq!(&bytes, b"HOLM");
    world.image.read(0, &mut bytes)?;
    check_eq!(&bytes, b"\x7fELF");
    Ok(())
}

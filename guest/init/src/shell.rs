//! The shell: what each command does.

use alloc::format;
use alloc::string::String;

use holm_init::command::{Command, HELP, parse};
use holm_init::config::{Cap, UnitConfig};
use holm_rt::abi::{
    ConfigFlags, Error, EventFlags, EventMask, ExitReason, PowerAction, TraceFilter, TraceRecord, UnitInfo,
};
use holm_rt::startup::unpadded;
use holm_rt::{Deadline, Events, Object, Source, System, println};

use crate::children::rights_text;
use crate::measure;
use crate::root::{Job, Root};

/// Looks a supervised unit's information up by its number in `init.conf`.
pub(crate) type Supervised<'a> = dyn FnMut(usize) -> Option<Result<UnitInfo, Error>> + 'a;

/// Does what a line says. Gives the job that it started.
pub(crate) fn obey(root: &mut Root, line: &str, supervised: &mut Supervised<'_>) -> Option<Job> {
    let done = match parse(line) {
        Err(wrong) => {
            println!("{wrong}");
            return None;
        }
        Ok(Command::Run(words, wait)) => match run(root, &words, wait) {
            Ok(job) => return Some(job),
            Err(error) => Err(error),
        },
        Ok(command) => perform(root, &command, supervised),
    };
    if let Err(error) = done {
        println!("{}: {error}", line.split_whitespace().next().unwrap_or(""));
    }
    None
}

fn perform(root: &Root, command: &Command, supervised: &mut Supervised<'_>) -> Result<(), Error> {
    let system = root.givens.system.as_ref().ok_or(Error::NotFound);
    match *command {
        Command::Nothing | Command::Run(..) => {}
        Command::Help => println!("{HELP}"),
        Command::Units => units(system?)?,
        Command::Info(id) => info(root, id, supervised)?,
        Command::Trace(length) => trace(system?, length)?,
        Command::Log => holm_rt::print!("{}", system?.log(0)?.0),
        Command::Files => files(root)?,
        Command::Kill(id) => kill(root, id)?,
        Command::Measure => measure::all()?,
        Command::Metrics => metrics(system?)?,
        Command::Config => config(system?)?,
        Command::PowerOff => root.switch_off(0),
        Command::Reboot => system?.power(PowerAction::Reboot, 0)?,
    }
    Ok(())
}

fn run(root: &mut Root, words: &[String], awaited: bool) -> Result<Job, Error> {
    let (program, arguments) = words.split_first().ok_or(Error::Invalid)?;
    let arguments: alloc::vec::Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut config = UnitConfig::new(program, program, &arguments);
    // A program of the shell's gets what the shell has: who types here owns the machine.
    config.caps.extend([Cap::Console, Cap::Archive, Cap::System]);
    config.ceiling = holm_rt::abi::SchedClass::RtEdf;
    let unit = root.givens.start(&config)?;
    let id = unit.info()?.id;
    if !awaited {
        println!("{program} is unit {id}");
    }
    Ok(Job { unit, id, name: program.clone(), token: root.token(), awaited })
}

fn units(system: &System) -> Result<(), Error> {
    println!("  id parent state   threads   cpu ms memory KiB kernel KiB name");
    for unit in system.units()? {
        println!(
            "{:4} {:6} {:8}{:7} {:8} {:10} {:10} {}",
            unit.id,
            unit.parent,
            unit.state.name(),
            unit.threads,
            unit.cpu_time / 1_000_000,
            unit.memory_bytes / 1024,
            unit.kernel_bytes / 1024,
            unpadded(&unit.name)
        );
    }
    Ok(())
}

/// How a unit ended, in words.
pub(crate) fn end_text(info: &UnitInfo) -> String {
    match info.exit_reason {
        ExitReason::None => format!("is {}", info.state.name()),
        ExitReason::Exited | ExitReason::Stopped => format!("ended with code {}", info.exit_code),
        ExitReason::Killed => format!("killed with reason {}", info.exit_code),
        reason => format!(
            "ended by {} at instruction {:#x}, address {:#x}",
            reason.name(),
            info.fault_instruction,
            info.fault_address
        ),
    }
}

fn info(root: &Root, id: u64, supervised: &mut Supervised<'_>) -> Result<(), Error> {
    let own = root.jobs.iter().find(|job| job.id == id).map(|job| job.unit.info());
    let known = own.or_else(|| {
        let units = 0..root.config.units.len();
        units.into_iter().filter_map(&mut *supervised).find(|info| info.as_ref().is_ok_and(|info| info.id == id))
    });
    let info = known.ok_or(Error::NotFound)??;
    println!("{} (unit {}, child of {}): {}", unpadded(&info.name), info.id, info.parent, end_text(&info));
    println!("memory  {:10} of {} bytes", info.memory_bytes, info.memory_quota);
    println!("kernel  {:10} of {} bytes", info.kernel_bytes, info.kernel_quota);
    println!("threads {:10} of {}", info.threads, info.thread_quota);
    println!("handles {:10} of {}", info.handles, info.handle_quota);
    println!("class   {} {}, at most {}", info.sched_class.name(), info.base_priority, info.max_sched_class.name());
    println!("ran     {:10} us", info.cpu_time / 1000);
    Ok(())
}

fn kill(root: &Root, id: u64) -> Result<(), Error> {
    let job = root.jobs.iter().find(|job| job.id == id).ok_or(Error::NotFound)?;
    job.unit.kill(-1)
}

fn files(root: &Root) -> Result<(), Error> {
    let archive = root.givens.archive.as_ref().ok_or(Error::NotFound)?;
    println!("rights: {}", rights_text(archive.capability()?.rights));
    for file in archive.list()? {
        let kind = if file.program == 1 { "program" } else { "data" };
        println!("{:9} {:08x} {kind:8} {}", file.bytes, file.crc, unpadded(&file.name));
    }
    Ok(())
}

fn trace(system: &System, milliseconds: u64) -> Result<(), Error> {
    let reader = system.trace(&TraceFilter::new())?;
    let events = Events::new()?;
    events.subscribe(Source::Trace(&reader), EventMask::READABLE, EventFlags::NONE, 0)?;
    let end = Deadline::after(core::time::Duration::from_millis(milliseconds));
    let mut shown = 0;
    // What is shown makes records too: no more than a screenful or two.
    while shown < 200 {
        match events.wait_one(end) {
            Err(Error::TimedOut) => break,
            other => other?,
        };
        for record in reader.read()?.iter().take(200 - shown) {
            println!("{}", trace_text(record));
            shown += 1;
        }
    }
    println!("{shown} records");
    Ok(())
}

fn trace_text(record: &TraceRecord) -> String {
    let [a, b, c, d] = record.data;
    format!(
        "{:6}.{:06} cpu {} unit {} thread {} {}: {a:#x} {b:#x} {c:#x} {d:#x}",
        record.timestamp / 1_000_000_000,
        record.timestamp / 1000 % 1_000_000,
        record.cpu,
        record.unit,
        record.thread,
        record.kind.name()
    )
}

fn metrics(system: &System) -> Result<(), Error> {
    let m = system.metrics()?;
    println!("up {} ms, busy {} ms, idle {} ms", m.uptime / 1_000_000, m.cpu_time / 1_000_000, m.idle_time / 1_000_000);
    println!("system calls {}, page faults {}, switches {}", m.syscalls, m.page_faults, m.context_switches);
    println!(
        "messages {} sent, {} received, {} dropped; calls {}",
        m.messages_sent, m.messages_received, m.messages_dropped, m.calls
    );
    println!("revocations {}, waiting to be swept {}", m.revocations, m.sweep_backlog);
    println!("timers expired {}, events {}, interrupts {}", m.timer_expirations, m.events, m.interrupts);
    println!("memory {} KiB, kernel {} KiB", m.memory_bytes / 1024, m.kernel_bytes / 1024);
    println!("units {}, threads {}, handles {}, objects {}", m.units, m.threads, m.handles, m.objects);
    println!("longest stretch in the kernel {} ticks, entry {}", m.max_kernel_ticks, m.max_kernel_entry);
    Ok(())
}

fn config(system: &System) -> Result<(), Error> {
    let config = system.config()?;
    println!("profile {}, changed {} times", config.profile.name(), config.config_version);
    for value in ConfigFlags::INFO.values {
        let state = match (config.flags.bits() & value.value != 0, config.available.bits() & value.value != 0) {
            (true, _) => "on",
            (false, true) => "off",
            (false, false) => "not built in",
        };
        println!("{:16} {state}", value.name);
    }
    println!("slice {} us, EDF up to {} thousandths", config.slice_us, config.edf_limit);
    Ok(())
}

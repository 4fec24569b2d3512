//! `cargo xtask bench kernel`: the kernel's paths in guest instructions, how long it keeps interrupts off, its boot, its
//! size; each held against `bench/kernel.toml`.
//!
//! Paths are measured by a program that runs on the kernel (`bench` of `guest/tests`), which tells each figure in a line
//! `figure NAME NUMBER`. QEMU counts instructions there, so every run gives the same numbers.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::machine;
use super::reach::Reaches;
use super::report::{Measured, Report};
use super::samples::Samples;
use crate::kernel::boots::{FIRST_LINE, LIMIT};
use crate::kernel::build::{Built, Measure, Tests};
use crate::kernel::qemu::{ENDED_WELL, Machine};
use crate::kernel::{for_measuring, linux};
use crate::workspace::workspace;

/// What the benchmark can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure only the longest stretch with interrupts off, and tell that of every way into the kernel
    #[arg(long)]
    stretches: bool,
    /// With `--stretches`: of the tests only those whose names contain one of these words
    #[arg(long, value_name = "WORD", requires = "stretches")]
    only: Vec<String>,
}

/// The figures that the program on the kernel tells.
const PATHS: [&str; 13] = [
    "null-call",
    "call-reply",
    "call-reply-cap",
    "call-reply-cap-memory",
    "send-receive",
    "yield",
    "timer-wake",
    "page-fault",
    "restricted",
    "revoke",
    "unit-memory",
    "thread-memory",
    "longest-entry",
];
/// The last of [`PATHS`] is told by the tests, on a kernel that measures itself.
const LONGEST: &str = PATHS[12];
/// Boots for the median.
const BOOTS: usize = 10;
/// All tests with instructions counted.
const TESTS_LIMIT: Duration = Duration::from_secs(1200);
/// Random calls of the fuzzer there: with instructions counted, QEMU is slow.
const FUZZ_CALLS: u64 = 100_000;

/// Measures, prints the table, writes the document. Fails when a figure is above its limit.
///
/// # Errors
/// When something cannot be measured.
pub fn run(options: &Options) -> Result<ExitCode> {
    let reaches = Reaches::read(&workspace().join("bench/kernel.toml"))?;
    let machine = machine::look();
    let tests = Tests { fuzz_calls: FUZZ_CALLS, only: options.only.join(" ") };
    let mut measured = Vec::new();
    if options.stretches {
        measured.push(longest(&for_measuring(Measure::Yes, &tests)?, true)?);
    } else {
        let built = for_measuring(Measure::No, &tests)?;
        measured = paths(&built)?;
        measured.push(longest(&for_measuring(Measure::Yes, &tests)?, false)?);
        measured.push(boot_instructions(&built)?);
        measured.push(boot_wall(&built)?);
        measured.push(image_size(&built)?);
    }
    let report = Report::new("holm.bench-kernel/1", &reaches, machine, measured)?;
    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report.document())?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = report.not_reached();
    if missed > 0 {
        println!("{missed} figures are not reached");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The figures that no other load changes, for `./test`: how many are within their limits, and how many are not.
///
/// # Errors
/// When something cannot be measured.
pub(crate) fn counted() -> Result<(u64, u64)> {
    let reaches = Reaches::read(&workspace().join("bench/kernel.toml"))?;
    let built = for_measuring(Measure::No, &Tests::default())?;
    let mut measured = paths(&built)?;
    measured.push(boot_instructions(&built)?);
    measured.push(image_size(&built)?);
    let tests = Tests { fuzz_calls: FUZZ_CALLS, ..Tests::default() };
    measured.push(longest(&for_measuring(Measure::Yes, &tests)?, false)?);
    let count = measured.len();
    let report = Report::new("holm.bench-kernel/1", &reaches, machine::look(), measured)?;
    println!("{}", report.table());
    let missed = report.not_reached();
    Ok(((count - missed) as u64, missed as u64))
}

fn image_size(built: &Built) -> Result<Measured> {
    let size = fs::metadata(&built.kernel).context("the kernel's file is not there")?.len();
    Ok(figure("image-size", size as f64 / 1024.0, "the file that is booted, without symbols"))
}

fn figure(name: &'static str, value: f64, how: &str) -> Measured {
    Measured { name, value, how: how.to_owned(), samples: BTreeMap::new() }
}

/// What the measuring program tells.
fn paths(built: &Built) -> Result<Vec<Measured>> {
    let machine = Machine { count: true, archive: Some(built.bench.clone()), ..Machine::of(built) };
    let ended = machine.run(None, TESTS_LIMIT)?;
    let figures: BTreeMap<&str, f64> = ended.console.lines().filter_map(parse).collect();
    let names = PATHS.into_iter().filter(|name| *name != LONGEST);
    let measured = names.map(|name| {
        let value =
            figures.get(name).with_context(|| format!("{name} was not told; the console:\n{}", ended.console))?;
        Ok(figure(name, *value, "a program on the kernel, instructions counted"))
    });
    let measured = measured.collect::<Result<Vec<_>>>()?;
    if ended.status != Some(ENDED_WELL) {
        bail!("the measuring program did not end well ({:?}); the console:\n{}", ended.status, ended.console);
    }
    Ok(measured)
}

/// The longest stretch in the kernel while the tests run; `each`: that of every way in is told too.
fn longest(built: &Built, each: bool) -> Result<Measured> {
    let machine = Machine { count: true, memory_mib: 256, archive: Some(built.tests.clone()), ..Machine::of(built) };
    let ended = machine.run(None, TESTS_LIMIT)?;
    for line in ended.console.lines().filter(|line| line.contains(" FAILED")) {
        println!("{line}");
    }
    if ended.status != Some(ENDED_WELL) {
        bail!("the tests did not end well ({:?}); the console:\n{}", ended.status, ended.console);
    }
    let stretches = stretches(&ended.console);
    if each {
        for (entry, length) in &stretches {
            println!("{length:>9}  {entry}");
        }
        for line in ended.console.lines().filter(|line| line.starts_with("longest ")) {
            println!("{line}");
        }
    }
    let (entry, length) = stretches.first().with_context(|| format!("no stretch was told:\n{}", ended.console))?;
    let how = format!("all tests on the kernel, 1 processor, instructions counted; entered by {entry}");
    Ok(figure(LONGEST, *length as f64, &how))
}

/// Reads the lines `stretch ENTRY LENGTH`: ways into the kernel and their longest stretches, longest first.
fn stretches(console: &str) -> Vec<(&str, u64)> {
    let words = console.lines().filter_map(|line| line.strip_prefix("stretch ")?.rsplit_once(' '));
    let mut found: Vec<(&str, u64)> = words.filter_map(|(entry, length)| Some((entry, length.parse().ok()?))).collect();
    found.sort_by_key(|(_, length)| std::cmp::Reverse(*length));
    found
}

/// From the loader's jump to the first line of init. The clock counts instructions from that jump on.
fn boot_instructions(built: &Built) -> Result<Measured> {
    let ended = Machine { count: true, ..Machine::of(built) }.run(Some(FIRST_LINE), LIMIT)?;
    let line = ended.console.lines().find(|line| line.starts_with(FIRST_LINE)).unwrap_or_default();
    let nanos = line.split(' ').find_map(|word| word.parse::<f64>().ok());
    let nanos = nanos.with_context(|| format!("init's first line tells no time:\n{}", ended.console))?;
    Ok(figure("boot-instructions", nanos, "monotonic time of init's first line, one instruction per nanosecond"))
}

/// From QEMU's start to the first line of init, and the same of Debian's Linux guest, by turns, until that one does not come
/// up; how often it did is said.
fn boot_wall(built: &Built) -> Result<Measured> {
    let (holm, linux) = (Machine::of(built), linux::machine()?);
    let boot = |machine: &Machine| {
        let ended = machine.run(Some(FIRST_LINE), LIMIT)?;
        let reached = ended.reached.with_context(|| format!("init did not come up:\n{}", ended.console))?;
        anyhow::Ok(reached.as_secs_f64())
    };
    let (mut wall, mut linux_wall) = (Samples::default(), Samples::default());
    let mut beside = true;
    for _ in 0..BOOTS {
        wall.0.push(boot(&holm)?);
        // One that hung is waited for once.
        beside = beside && boot(&linux).map(|seconds| linux_wall.0.push(seconds)).is_ok();
    }
    let came = linux_wall.0.len();
    let other = match came {
        0 => "did not come up".to_owned(),
        _ => format!("by turns: {:.2} s ({came} boots)", linux_wall.median()),
    };
    let how = format!("median of {BOOTS} boots; Debian's Linux guest, {other}");
    let value = wall.median();
    let samples = [("wall_s".to_owned(), wall), ("linux_wall_s".to_owned(), linux_wall)];
    let samples = samples.into_iter().filter(|(_, samples)| !samples.0.is_empty()).collect();
    Ok(Measured { name: "boot-wall", value, how, samples })
}

/// Reads `figure NAME NUMBER`, behind which more may be told.
fn parse(line: &str) -> Option<(&str, f64)> {
    let mut words = line.strip_prefix("figure ")?.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_lines() {
        assert_eq!(parse("figure null-call 78"), Some(("null-call", 78.0)));
        assert_eq!(parse("figure longest-entry 78 vm_map"), Some(("longest-entry", 78.0)));
        assert_eq!(parse("figure null-call"), None);
        assert_eq!(parse("null-call 78"), None);
    }

    #[test]
    fn stretches_are_read_longest_first() {
        let console = "stretch vm_map 700\nstretch\nstretch vector-0x40 90\ntest x ok\nstretch cap_revoke 1200\n";
        assert_eq!(stretches(console), [("cap_revoke", 1200), ("vm_map", 700), ("vector-0x40", 90)]);
    }

    #[test]
    fn every_figure_has_a_limit() {
        let reaches = Reaches::read(&workspace().join("bench/kernel.toml")).unwrap();
        for name in PATHS.into_iter().chain(["boot-instructions", "boot-wall", "image-size"]) {
            reaches.of(name).unwrap();
        }
    }
}

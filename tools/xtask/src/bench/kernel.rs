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
use crate::kernel::build::{Built, Measure};
use crate::kernel::qemu::{ENDED_WELL, Machine};
use crate::kernel::{for_measuring, linux};
use crate::workspace::workspace;

/// What the benchmark can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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

/// Measures, prints the table, writes the document. Fails when a figure is above its limit.
///
/// # Errors
/// When something cannot be measured.
pub fn run(options: &Options) -> Result<ExitCode> {
    let reaches = Reaches::read(&workspace().join("bench/kernel.toml"))?;
    let machine = machine::look();
    let built = for_measuring(Measure::No)?;
    let mut measured = paths(&built)?;
    measured.push(longest(&for_measuring(Measure::Yes)?)?);
    measured.push(boot_instructions(&built)?);
    measured.push(boot_wall(&built)?);
    let size = fs::metadata(&built.kernel).context("the kernel's file is not there")?.len();
    let how = "the file that is booted, without symbols".to_owned();
    measured.push(Measured { name: "image-size", value: size as f64 / 1024.0, how, samples: BTreeMap::new() });
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

/// The longest stretch in the kernel while all tests run.
fn longest(built: &Built) -> Result<Measured> {
    let machine = Machine { count: true, memory_mib: 256, archive: Some(built.tests.clone()), ..Machine::of(built) };
    let ended = machine.run(None, TESTS_LIMIT)?;
    let line = ended.console.lines().find(|line| parse(line).is_some_and(|(name, _)| name == LONGEST));
    let line = line.with_context(|| format!("the tests do not tell {LONGEST}:\n{}", ended.console))?;
    let (_, value) = parse(line).with_context(|| format!("`{line}` is no figure"))?;
    let entry = line.split(' ').nth(3).unwrap_or("an unknown entry");
    let how = format!("all tests on the kernel, 1 processor, instructions counted; entered by {entry}");
    Ok(figure(LONGEST, value, &how))
}

/// From the loader's jump to the first line of init. The clock counts instructions from that jump on.
fn boot_instructions(built: &Built) -> Result<Measured> {
    let ended = Machine { count: true, ..Machine::of(built) }.run(Some(FIRST_LINE), LIMIT)?;
    let line = ended.console.lines().find(|line| line.starts_with(FIRST_LINE)).unwrap_or_default();
    let nanos = line.split(' ').find_map(|word| word.parse::<f64>().ok());
    let nanos = nanos.with_context(|| format!("init's first line tells no time:\n{}", ended.console))?;
    Ok(figure("boot-instructions", nanos, "monotonic time of init's first line, one instruction per nanosecond"))
}

/// From QEMU's start to the first line of init, and the same of Debian's Linux guest, by turns. Where that one does not come
/// up at first it is left out, and that is said.
fn boot_wall(built: &Built) -> Result<Measured> {
    let (holm, linux) = (Machine::of(built), linux::machine()?);
    let boot = |machine: &Machine| {
        let ended = machine.run(Some(FIRST_LINE), LIMIT)?;
        let reached = ended.reached.with_context(|| format!("init did not come up:\n{}", ended.console))?;
        anyhow::Ok(reached.as_secs_f64())
    };
    let beside = boot(&linux).is_ok();
    let (mut wall, mut linux_wall) = (Samples::default(), Samples::default());
    for _ in 0..BOOTS {
        wall.0.push(boot(&holm)?);
        if beside {
            linux_wall.0.push(boot(&linux)?);
        }
    }
    let other = if beside { format!("by turns: {:.2} s", linux_wall.median()) } else { "did not come up".to_owned() };
    let how = format!("median of {BOOTS} boots; Debian's Linux guest, {other}");
    let value = wall.median();
    let samples = [("wall_s".to_owned(), wall), ("linux_wall_s".to_owned(), linux_wall)];
    let samples = samples.into_iter().filter(|(name, _)| beside || name == "wall_s").collect();
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
    fn every_figure_has_a_limit() {
        let reaches = Reaches::read(&workspace().join("bench/kernel.toml")).unwrap();
        for name in PATHS.into_iter().chain(["boot-instructions", "boot-wall", "image-size"]) {
            reaches.of(name).unwrap();
        }
    }
}

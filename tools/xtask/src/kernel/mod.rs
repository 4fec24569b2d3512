//! `cargo xtask kernel`: builds the Holm kernel and the programs that run on it, runs it, tests it.
//!
//! | module | concept |
//! | --- | --- |
//! | `build` | compiler flags, the kernel's file, the programs |
//! | `archive` | the boot archive |
//! | `qemu` | one run of the kernel on QEMU |
//! | `boots` | boots that must work, and those that must say what is wrong |
//! | `guest_tests` | the programs that test the kernel through its ABI |
//! | `shell` | a conversation with the shell on the serial console |
//! | `linux` | Debian's Linux guest, booted beside it |
//! | `check` | a check with its name and outcome |

mod archive;
pub(crate) mod boots;
pub(crate) mod build;
pub(crate) mod check;
mod guest_tests;
pub(crate) mod linux;
pub(crate) mod qemu;
mod shell;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};

use build::{Built, Profile, Tests};
use check::Outcome;
use qemu::Machine;

/// Random calls of the fuzzer unless another number is asked for.
pub(crate) const FUZZ_CALLS: u64 = 1_000_000;

/// The tests of which one more boot, of a HARDENED kernel, is worth its time in every run.
const HARDENED_BATCH: &str = "unit_ cap_ event_ refused_ guards_ system_ fuzz_";

/// What can be done with the kernel.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Build the kernel, its programs and the boot archive
    Build(BuildOptions),
    /// Boot it on QEMU, with the serial console here; Ctrl-A X ends QEMU
    Run(RunOptions),
    /// Play random histories of system calls on the host, on one to four simulated processors, against a model
    Model {
        /// Steps in all
        #[arg(long, default_value_t = 5_000_000)]
        steps: u64,
        /// The first history; those after it count on from it
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Lints, host tests, boots, and the tests that run on it
    Test {
        /// Which of them; all when none is named
        parts: Vec<Part>,
        /// Random calls that the fuzzer makes in each boot of the programs
        #[arg(long, default_value_t = FUZZ_CALLS)]
        fuzz_calls: u64,
        /// Of the programs' tests only those whose names contain one of these words
        #[arg(long, value_name = "WORD")]
        only: Vec<String>,
        /// Which checks and hardening are compiled in, but for the part `hardened`
        #[arg(long, value_enum, default_value_t = Profile::Dev)]
        profile: Profile,
    },
}

/// What belongs to the kernel's tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Clippy over the kernel and its programs as they are built
    Lints,
    /// The tests of the core on the host
    Host,
    /// Boots on many machines, and with damaged archives
    Boots,
    /// The programs that test the kernel through its ABI, on one processor
    Programs,
    /// The same on two processors
    TwoCpus,
    /// Some of the same on two processors and a HARDENED kernel, whose guards watch meanwhile, with fewer random calls; all of
    /// it is `programs two-cpus --profile hardened`
    Hardened,
}

impl Part {
    const ALL: [Self; 6] = [Self::Lints, Self::Host, Self::Boots, Self::Programs, Self::TwoCpus, Self::Hardened];
}

/// How the kernel is built.
#[derive(Debug, Args)]
pub struct BuildOptions {
    /// Which checks and hardening are compiled in
    #[arg(long, value_enum, default_value_t = Profile::Standard)]
    profile: Profile,
}

/// How the kernel is run.
#[derive(Debug, Args)]
pub struct RunOptions {
    #[command(flatten)]
    build: BuildOptions,
    /// Processors
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Memory, in MiB
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(16..))]
    memory: u32,
    /// The kernel's command line, for programs that read it
    #[arg(long, default_value = "")]
    command_line: String,
}

/// Does it.
///
/// # Errors
/// When something does not build or QEMU cannot be started.
pub fn run(task: &Task) -> Result<ExitCode> {
    match task {
        Task::Build(options) => {
            let built = build::all(options.profile, build::Measure::No, &Tests::default())?;
            let size = std::fs::metadata(&built.kernel)?.len();
            println!("{} ({} KiB)\n{}", built.kernel.display(), size / 1024, built.archive.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Run(options) => {
            let built = build::all(options.build.profile, build::Measure::No, &Tests::default())?;
            let machine = Machine { cpus: options.cpus, memory_mib: options.memory, ..Machine::of(&built) };
            let status = machine.with_command_line(&options.command_line).interactive()?;
            Ok(if status == qemu::ENDED_WELL { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Task::Model { steps, seed } => {
            build::model(*steps, *seed)?;
            println!("{steps} steps from seed {seed} follow the model");
            Ok(ExitCode::SUCCESS)
        }
        Task::Test { parts, fuzz_calls, only, profile } => {
            let tests = Tests { fuzz_calls: *fuzz_calls, only: only.join(" ") };
            let outcome = test_with(if parts.is_empty() { &Part::ALL } else { parts }, *profile, &tests)?;
            println!("{} passed, {} failed", outcome.passed, outcome.failed);
            Ok(if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// The checks of the kernel that belong to `parts`.
///
/// # Errors
/// When something does not build or QEMU cannot be started.
pub(crate) fn test(parts: &[Part]) -> Result<Outcome> {
    test_with(parts, Profile::Dev, &Tests::default())
}

/// As [`test`], with other settings.
fn test_with(parts: &[Part], profile: Profile, tests: &Tests) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if parts.contains(&Part::Lints) {
        outcome.note("kernel lints", build::lints());
    }
    if parts.contains(&Part::Host) {
        outcome.note("host tests of the core", build::host_tests());
    }
    if [Part::Boots, Part::Programs, Part::TwoCpus].iter().any(|part| parts.contains(part)) {
        let built = build::all(profile, build::Measure::Yes, tests)?;
        if parts.contains(&Part::Boots) {
            boots::check(&built, &mut outcome)?;
            outcome.note("the shell lists, traces, runs, measures and switches off", shell::check(&built));
        }
        for (part, cpus) in [(Part::Programs, 1), (Part::TwoCpus, 2)] {
            if parts.contains(&part) {
                guest_tests::run(&built, cpus, &mut outcome)?;
            }
        }
    }
    if parts.contains(&Part::Hardened) {
        let only = if tests.only.is_empty() { HARDENED_BATCH.to_owned() } else { tests.only.clone() };
        let tests = Tests { fuzz_calls: tests.fuzz_calls / 50, only };
        let built = build::all(Profile::Hardened, build::Measure::No, &tests)?;
        guest_tests::run(&built, 2, &mut outcome)?;
    }
    Ok(outcome)
}

/// Builds what is measured.
///
/// # Errors
/// When it does not build.
pub(crate) fn for_measuring(measure: build::Measure, tests: &Tests) -> Result<Built> {
    build::all(Profile::Standard, measure, tests)
}

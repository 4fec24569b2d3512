//! `cargo xtask fuzz`: libFuzzer on the targets of `fuzz/`, guided by coverage, with the stable toolchain.
//!
//! The stable compiler instruments like the nightly one (`-C passes=sancov-module`); only sanitizers need nightly, and code
//! without `unsafe` does without them. The instrumented build has a target folder of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use holm_fuzz::{TARGETS, Target};

use crate::command::{command, nice};
use crate::workspace::{cargo, target, workspace};

/// What to fuzz, and for how long.
#[derive(Debug, Args)]
pub struct Options {
    /// Targets: client-hello, control-frames, erofs, manifest, oci-json, oci-layer, proxy-header [default: all]
    targets: Vec<String>,
    /// Time for each target, in seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Put the inputs that reach something new into the corpus of the repository
    #[arg(long)]
    keep: bool,
}

/// Seconds for each target in `./test`.
const SHORT: u32 = 60;

/// The same where other tests have the processors first.
const BESIDE: u32 = 120;

/// How one target did.
#[derive(Debug)]
pub(crate) struct Trial {
    /// Nothing was found that does not hold.
    pub(crate) held: bool,
    /// What to tell of it.
    pub(crate) told: String,
}

/// Fuzzes as told.
///
/// # Errors
/// When the fuzzer does not build, there is no such target, or one found something; the message says where the input is.
pub fn run(options: &Options) -> Result<()> {
    let known = |name: &String| TARGETS.into_iter().find(|target| target.name == *name);
    let chosen = options.targets.iter().map(|name| known(name).with_context(|| format!("there is no target `{name}`")));
    let mut chosen = chosen.collect::<Result<Vec<Target>>>()?;
    if chosen.is_empty() {
        chosen = TARGETS.to_vec();
    }
    let fuzzer = build()?;
    let mut found = Vec::new();
    for target in chosen {
        let Trial { held, told } = fuzz(&fuzzer, target, options.seconds)?;
        println!("{told}");
        if !held {
            found.push(target.name);
        }
        if held && options.keep {
            merge(&fuzzer, target)?;
        }
    }
    ensure!(
        found.is_empty(),
        "something does not hold in {}; the inputs are in {}",
        found.join(", "),
        findings().display()
    );
    Ok(())
}

/// The short form for `./test`. All programs of this machine may go first, so it is given more time then: `beside`.
pub(crate) fn short(beside: bool) -> Result<Vec<Trial>> {
    let fuzzer = build()?;
    let seconds = if beside { BESIDE } else { SHORT };
    let mut trials = Vec::new();
    // Each has one thread.
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    for some in TARGETS.chunks(at_once) {
        let some = std::thread::scope(|scope| {
            let running: Vec<_> = some.iter().map(|target| scope.spawn(|| fuzz(&fuzzer, *target, seconds))).collect();
            running.into_iter().map(|one| one.join().expect("a trial does not panic")).collect::<Result<Vec<Trial>>>()
        })?;
        trials.extend(some);
    }
    Ok(trials)
}

/// Where the inputs on which something did not hold are written.
fn findings() -> PathBuf {
    target().join("fuzz/findings")
}

/// Where inputs are collected between runs.
fn collected(target: Target) -> PathBuf {
    crate::workspace::target().join("fuzz/corpus").join(target.name)
}

fn corpus(target: Target) -> PathBuf {
    workspace().join("fuzz/corpus").join(target.name)
}

/// Builds the fuzzer with coverage counters in every crate.
pub(crate) fn build() -> Result<PathBuf> {
    const HOST: &str = "x86_64-unknown-linux-gnu";
    let counters = [
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
        "-Ccodegen-units=4",
    ];
    let folder = target().join("fuzz");
    // With a named target, build scripts and macros are not instrumented.
    let arguments =
        ["build", "--quiet", "-p", "holm-fuzz", "--features", "libfuzzer", "--profile", "fuzz", "--target", HOST];
    let mut cargo = nice(&workspace(), cargo(), &arguments);
    cargo.env("CARGO_TARGET_DIR", &folder).env("CARGO_ENCODED_RUSTFLAGS", counters.join("\u{1f}"));
    let built = cargo.status().context("cannot start cargo")?.success();
    ensure!(built, "the fuzzer does not build");
    Ok(folder.join(HOST).join("fuzz/holm-fuzz"))
}

/// Runs one target, after everybody else.
fn fuzz(fuzzer: &Path, target: Target, seconds: u32) -> Result<Trial> {
    let (own, artifacts) = (collected(target), findings().join(target.name));
    for folder in [&own, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut arguments = limits(target);
    arguments.push(format!("-max_total_time={seconds}"));
    arguments.push(format!("-artifact_prefix={}/", artifacts.display()));
    arguments.push("-verbosity=0".to_owned());
    arguments.push("-print_final_stats=1".to_owned());
    let mut run = nice(&workspace(), fuzzer, &arguments);
    run.arg(own).arg(corpus(target)).env("HOLM_FUZZ_TARGET", target.name);
    // Layers are built as files: in memory that is ten times as many a second.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        run.env("TMPDIR", memory);
    }
    let output = run.output().with_context(|| format!("cannot start {}", fuzzer.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let held = output.status.success();
    let told = if held {
        let count = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        format!("{} held for {} inputs in {seconds} s", target.name, count.map_or("some", str::trim))
    } else {
        format!("{said}\n{} does not hold; the inputs are in {}", target.name, artifacts.display())
    };
    Ok(Trial { held, told })
}

/// Adds to the corpus of the repository what reaches something new, the smallest inputs first.
fn merge(fuzzer: &Path, target: Target) -> Result<()> {
    let mut arguments = limits(target);
    arguments.push("-merge=1".to_owned());
    let mut run = command(&workspace(), fuzzer, &arguments);
    run.arg(corpus(target)).arg(collected(target)).env("HOLM_FUZZ_TARGET", target.name);
    crate::command::output(&mut run).map(drop)
}

fn limits(target: Target) -> Vec<String> {
    vec![format!("-max_len={}", target.longest), "-timeout=60".to_owned(), "-rss_limit_mb=2048".to_owned()]
}

//! Building: the kernel for bare metal and the programs for the kernel, both with the ordinary toolchain for the host.
//!
//! Neither uses the host's C library or its start code. What makes the difference are flags, so each has a target folder of
//! its own: one with other flags would be built again every time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::archive::Archive;
use crate::command::{command, output};
use crate::workspace::{cargo, target, workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The cargo profile in the root manifest.
const CARGO_PROFILE: &str = "kernel";
/// The packages whose programs go into the boot archive. The first one's `holm-init` is called `init` there.
const PROGRAMS: [&str; 2] = ["holm-init", "holm-guest-tests"];
const FIRST_PROGRAM: &str = "holm-init";

/// Which checks and hardening are compiled into the kernel (the profiles of the seed, 17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Every check, debug assertions, overflow checks
    Dev,
    /// What runs in production
    Standard,
    /// Production, with hardening that costs time
    Hardened,
}

impl Profile {
    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Standard => "standard",
            Self::Hardened => "hardened",
        }
    }

    const fn feature(self) -> Option<&'static str> {
        match self {
            Self::Dev => Some("profile-dev"),
            Self::Standard => None,
            Self::Hardened => Some("profile-hardened"),
        }
    }
}

/// Whether the kernel measures its longest stretch with interrupts off, which costs a dozen instructions per entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// What was built.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// With what.
    pub(crate) profile: Profile,
    /// The kernel, without symbols.
    pub(crate) kernel: PathBuf,
    /// The boot archive: init offers a shell.
    pub(crate) archive: PathBuf,
    /// The same programs, and init starts the tests.
    pub(crate) tests: PathBuf,
    /// The same programs, and init starts the measurements.
    pub(crate) bench: PathBuf,
}

/// What init does: its configuration in the archive (see `guest/init/src/config.rs`).
const SHELL: &str = "shell on\n";

/// As [`SHELL`], for one program that may do everything and after which the machine is switched off.
fn only(program: &str) -> String {
    let name = program.split(' ').next().unwrap_or_default();
    format!("shell off\nunit {name} {program}\ncaps console archive system\nceiling rt-edf\nthen power-off\n")
}

/// What is built for: each has flags of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// The bare machine.
    Machine,
    /// The kernel.
    Kernel,
}

impl For {
    fn flags(self) -> Vec<String> {
        let script = match self {
            Self::Machine => "kernel/x86_64/kernel.ld",
            Self::Kernel => "guest/rt/program.ld",
        };
        let specific: &[&str] = match self {
            // The kernel lies in the last 2 GiB of addresses. Interrupts use stacks of their own, but what runs on its stack
            // after one may not lie below the stack pointer.
            Self::Machine => {
                &["--cfg", "bare_metal", "-Ccode-model=kernel", "-Cno-redzone=yes", "-Crelocation-model=static"]
            }
            // Programs lie above what an absolute address of 32 bits reaches: they find their own parts relative to the code.
            Self::Kernel => &["--cfg", "holm_user", "-Crelocation-model=pic"],
        };
        let common = ["-Cpanic=abort"];
        let link =
            ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,-z,max-page-size=4096", "-Wl,--build-id=none"];
        let script = format!("-Wl,-T,{}", workspace().join(script).display());
        let link = link.iter().map(|flag| (*flag).to_owned()).chain([script]).map(|flag| format!("-Clink-arg={flag}"));
        specific.iter().chain(&common).map(|flag| (*flag).to_owned()).chain(link).collect()
    }

    fn folder(self) -> PathBuf {
        target().join(match self {
            Self::Machine => "bare-metal",
            Self::Kernel => "programs",
        })
    }

    /// Cargo with these flags.
    fn cargo(self, verb: &str) -> Command {
        let mut cargo =
            command(&workspace(), cargo(), &[verb, "--quiet", "--profile", CARGO_PROFILE, "--target", TARGET]);
        cargo.arg("--target-dir").arg(self.folder());
        cargo.env("CARGO_ENCODED_RUSTFLAGS", self.flags().join("\u{1f}"));
        cargo
    }

    /// Where a program of this kind is when it is built.
    fn program(self, name: &str) -> PathBuf {
        self.folder().join(TARGET).join(CARGO_PROFILE).join(name)
    }
}

/// What the programs that test the kernel are told.
#[derive(Debug, Clone)]
pub(crate) struct Tests {
    /// How many random calls the fuzzer makes.
    pub(crate) fuzz_calls: u64,
    /// Words of which one must be in a test's name; empty for all tests.
    pub(crate) only: String,
}

impl Default for Tests {
    fn default() -> Self {
        Self { fuzz_calls: super::FUZZ_CALLS, only: String::new() }
    }
}

/// Builds the kernel and the boot archives.
///
/// # Errors
/// When something does not build; the message ends with the compiler's last lines.
pub(crate) fn all(profile: Profile, measure: Measure, tests: &Tests) -> Result<Built> {
    let measured = if measure == Measure::Yes { "-measured" } else { "" };
    let folder = target().join("holm-kernel").join(format!("{}{measured}", profile.name()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let kernel = folder.join("holm-kernel");
    let mut build = For::Machine.cargo("build");
    build.args(["--package", "holm-kernel"]);
    let features = profile.feature().into_iter().chain((measure == Measure::Yes).then_some("measure"));
    build.args(["--features", &features.collect::<Vec<_>>().join(",")]);
    if profile == Profile::Dev {
        build.env("CARGO_PROFILE_KERNEL_DEBUG_ASSERTIONS", "true").env("CARGO_PROFILE_KERNEL_OVERFLOW_CHECKS", "true");
    }
    output(&mut build).context("the kernel does not build")?;
    let symbols = For::Machine.program("holm-kernel");
    fs::copy(&symbols, folder.join("holm-kernel.symbols")).context("cannot keep the kernel's symbols")?;
    strip(&symbols, &kernel)?;
    let programs = programs()?;
    let archive = |name: &str, configuration: &str| -> Result<PathBuf> {
        let mut archive = Archive::default();
        for (name, content) in &programs {
            archive.file(name, content)?;
        }
        archive.file("init.conf", configuration.as_bytes())?;
        let file = folder.join(name);
        fs::write(&file, archive.finish()).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    };
    Ok(Built {
        profile,
        kernel,
        archive: archive("boot.cpio", SHELL)?,
        tests: archive(
            "tests.cpio",
            &format!("{}env FUZZ_CALLS={}\n", only(&format!("tests run {}", tests.only)), tests.fuzz_calls),
        )?,
        bench: archive("bench.cpio", &only("bench"))?,
    })
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    let mut strip = command::<&str>(&workspace(), "strip", &["--strip-all", "-o"]);
    output(strip.arg(to).arg(from)).map(drop).context("cannot strip a program")
}

/// Builds the programs, and gives their names and contents, init first.
fn programs() -> Result<Vec<(String, Vec<u8>)>> {
    let mut build = For::Kernel.cargo("build");
    build.args(["--bins", "--message-format", "json-render-diagnostics"]);
    build.args(PROGRAMS.iter().flat_map(|package| ["--package", package]));
    let messages = output(&mut build).context("the programs for the kernel do not build")?;
    let read = |path: PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
        let stripped = path.with_extension("stripped");
        strip(&path, &stripped)?;
        let content = fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
        Ok((if name == FIRST_PROGRAM { "init" } else { name }.to_owned(), content))
    };
    executables(&messages).into_iter().map(read).collect()
}

/// The programs in cargo's messages, the first one first.
fn executables(messages: &str) -> Vec<PathBuf> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut found: Vec<PathBuf> =
        artifacts.filter_map(|artifact| artifact.get("executable")?.as_str().map(PathBuf::from)).collect();
    found.sort_by_key(|path| (!path.ends_with(FIRST_PROGRAM), path.clone()));
    found
}

/// What is the same on every machine, and is tested on the host.
const CORE: [&str; 4] = ["--package", "holm-abi", "--package", "holm-kernel-core"];

/// Clippy over the core, and over what the workspace's own run cannot see: the kernel and the programs as they are built.
///
/// # Errors
/// The warnings.
pub(crate) fn lints() -> Result<()> {
    let mut kernel = For::Machine.cargo("clippy");
    output(kernel.args(["--no-deps", "--package", "holm-kernel", "--features", "measure", "--", "-D", "warnings"]))?;
    let mut programs = For::Kernel.cargo("clippy");
    programs.args(PROGRAMS.iter().flat_map(|package| ["--package", package]));
    output(programs.args(["--no-deps", "--bins", "--", "-D", "warnings"]))?;
    let mut core = command(&workspace(), cargo(), &["clippy", "--quiet", "--no-deps", "--all-targets"]);
    output(core.args(CORE).args(["--", "-D", "warnings"]))?;
    Ok(())
}

/// The tests of the core and of its ABI, on the host.
///
/// # Errors
/// What failed.
pub(crate) fn host_tests() -> Result<()> {
    output(command(&workspace(), cargo(), &["test", "--quiet"]).args(CORE)).map(drop)
}

/// Random histories of system calls against the model of the core's tests: `steps` of them, the first with `seed`.
///
/// # Errors
/// What the kernel did that the model does not allow, and the seed to see it again.
pub(crate) fn model(steps: u64, seed: u64) -> Result<()> {
    let mut test = command(&workspace(), cargo(), &["test", "--quiet", "--package", "holm-kernel-core"]);
    test.args(["--lib", "random_histories_follow_the_model"]);
    test.env("HOLM_MODEL_STEPS", steps.to_string()).env("HOLM_MODEL_SEED", seed.to_string());
    output(&mut test).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages_with_the_first_one_first() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/bench\"}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":null}\nnot json\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/holm-init\"}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executables(messages), [PathBuf::from("/t/holm-init"), PathBuf::from("/t/bench")]);
    }
}

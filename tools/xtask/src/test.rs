//! `cargo xtask test`: every check in turn, and one line that counts them.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::command::command;
use crate::fuzz::Trial;
use crate::kernel::{self, Part, check::Outcome};
use crate::links;
use crate::workspace::{cache, cargo, workspace};
use crate::{debian, deny, fuzz, morpheus};

/// How many checks passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    const fn of(success: bool) -> Self {
        if success { Self { passed: 1, failed: 0 } } else { Self { passed: 0, failed: 1 } }
    }
}

/// A named part of the test run.
struct Stage {
    name: &'static str,
    run: fn(&mut Run) -> Result<Count>,
}

const STAGES: [Stage; 10] = [
    Stage { name: "format", run: |run| check(&run.root, &["fmt", "--all", "--check"]) },
    Stage {
        name: "lints",
        run: |run| check(&run.root, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    },
    Stage { name: "docs", run: |run| docs(&run.root) },
    Stage {
        name: "tests",
        run: |run| tests(&run.root, &["--workspace", "--exclude", "holm-e2e", "--exclude", "morpheus-e2e"]),
    },
    // The core's tests on the host are in `tests`.
    Stage {
        name: "kernel",
        run: |_| {
            let Outcome { passed, failed } =
                kernel::test(&[Part::Lints, Part::Boots, Part::Programs, Part::TwoCpus, Part::Hardened])?;
            Ok(Count { passed, failed })
        },
    },
    // Instructions are counted, so the machine may be busy.
    Stage {
        name: "figures",
        run: |_| {
            let (passed, failed) = crate::bench::kernel::counted()?;
            Ok(Count { passed, failed })
        },
    },
    Stage { name: "python", run: |_| python() },
    Stage {
        name: "end-to-end",
        run: |run| {
            run.fuzz_beside();
            tests(&run.root, &["--package", "holm-e2e", "--package", "morpheus-e2e", "--", "--test-threads=1"])
        },
    },
    // What the last two need is built while the stages before wait for guests.
    Stage { name: FUZZ, run: Run::fuzz },
    Stage { name: DEPENDENCIES, run: |run| deny::check(&run.root).map(Count::of) },
];

/// What stages share.
struct Run {
    root: PathBuf,
    /// Fuzzing was asked for.
    fuzz: bool,
    /// Fuzzing that goes on beside other stages.
    fuzzing: Option<JoinHandle<Result<Vec<Trial>>>>,
}

impl Run {
    /// Begins to fuzz with what the guests of the stage leave of the processors.
    fn fuzz_beside(&mut self) {
        if self.fuzz {
            self.fuzzing = Some(std::thread::spawn(|| fuzz::short(true)));
        }
    }

    /// What became of it; from beginning to end if it was not begun before.
    fn fuzz(&mut self) -> Result<Count> {
        let trials = match self.fuzzing.take() {
            Some(fuzzing) => fuzzing.join().map_err(|_| anyhow!("fuzzing panicked"))?,
            None => fuzz::short(false),
        }?;
        let mut count = Count::default();
        for Trial { held, told } in trials {
            println!("{told}");
            count.add(Count::of(held));
        }
        Ok(count)
    }
}

const FUZZ: &str = "fuzz";
const DEPENDENCIES: &str = "dependencies";

/// Runs the stages named in `only` (all when empty), and prints `N passed, N failed` as the last line.
///
/// # Errors
/// When something failed, or a name is not a stage.
pub fn run(only: &[String]) -> Result<()> {
    if let Some(unknown) = only.iter().find(|name| STAGES.iter().all(|stage| stage.name != **name)) {
        let names: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("there is no stage `{unknown}`; the stages are {}", names.join(", "));
    }
    let mut total = Count::default();
    let mut red = Vec::new();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let mut run = Run { root: workspace(), fuzz: wanted(FUZZ), fuzzing: None };
    build_ahead(&run.root, run.fuzz, wanted(DEPENDENCIES));
    for stage in STAGES.iter().filter(|stage| wanted(stage.name)) {
        println!("── {} ──", stage.name);
        let began = Instant::now();
        let count = (stage.run)(&mut run).unwrap_or_else(|error| {
            println!("{error:#}");
            Count::of(false)
        });
        if count.failed > 0 {
            red.push(stage.name);
        }
        println!(
            "── {}: {} passed, {} failed, {:.0} s ──\n",
            stage.name,
            count.passed,
            count.failed,
            began.elapsed().as_secs_f64()
        );
        total.add(count);
    }
    if !red.is_empty() {
        println!("failed: {}", red.join(", "));
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// The reference pages of the crates, and the links of the others.
fn docs(root: &Path) -> Result<Count> {
    let mut count = check(root, &["doc", "--quiet", "--workspace", "--no-deps"])?;
    let broken = links::broken(root)?;
    for link in &broken {
        println!("a link leads nowhere: {link}");
    }
    count.add(Count::of(broken.is_empty()));
    Ok(count)
}

/// Begins to build the tools of the last stages. What goes wrong here is told by the stage itself, which tries again.
fn build_ahead(root: &Path, fuzzer: bool, deny: bool) {
    let root = root.to_owned();
    std::thread::spawn(move || {
        if deny {
            drop(deny::installed(&root));
        }
        if fuzzer {
            drop(fuzz::build());
        }
    });
}

/// A cargo command that is one check.
fn check(root: &Path, arguments: &[&str]) -> Result<Count> {
    let mut cargo = command(root, cargo(), arguments);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    Ok(Count::of(cargo.status().context("cannot start cargo")?.success()))
}

/// `cargo test` with `arguments`, its output passed on, its results counted.
fn tests(root: &Path, arguments: &[&str]) -> Result<Count> {
    let mut cargo = command(root, cargo(), &["test", "--quiet", "--no-fail-fast"]);
    cargo.args(arguments).env("PATH", path_with_servers()?).stdout(Stdio::piped());
    if std::env::var("CI").is_ok_and(|ci| ci == "true") && rustix::process::geteuid().is_root() {
        // Elsewhere tests that need BPF say that they are skipped; here nothing may be missing.
        cargo.env("MORPHEUS_REQUIRE_BPF", "1");
    }
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let mut count = Count::default();
    for line in BufReader::new(child.stdout.take().context("cargo has no output")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = parse_result(&line) {
            count.add(result);
        }
    }
    if !child.wait()?.success() && count.failed == 0 {
        println!("cargo test failed without naming a test: something does not build, or a test process died");
        count.failed = 1;
    }
    Ok(count)
}

/// The tests of the wheel.
fn python() -> Result<Count> {
    let morpheus::python::Outcome { passed, failed, .. } = morpheus::python::test()?;
    Ok(Count { passed, failed })
}

/// The search path with Debian's registry, nginx and HAProxy in front, which are unpacked and not installed.
fn path_with_servers() -> Result<OsString> {
    let registry = debian::unpacked(&cache().join("docker-registry"), &["docker-registry"])?;
    let nginx = debian::unpacked(&cache().join("nginx"), &["nginx"])?;
    let haproxy = debian::unpacked(&cache().join("haproxy-alone"), &["haproxy"])?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = [registry.join("usr/bin"), nginx.join("usr/sbin"), haproxy.join("usr/sbin")];
    let folders = servers.into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("the search path cannot be extended")
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |what: &str| {
        let part = counts.split("; ").find(|part| part.ends_with(what))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Count { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_test_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.60s";
        assert_eq!(parse_result(line), Some(Count { passed: 12, failed: 3 }));
        let line = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(parse_result(line), Some(Count { passed: 1, failed: 0 }));
        assert_eq!(parse_result("running 3 tests"), None);
    }
}

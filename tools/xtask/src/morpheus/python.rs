//! `cargo xtask morpheus python`: builds the wheel as a user would get it, installs it into an environment of its own below
//! `target/`, and runs its tests there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::command::{command, output};
use crate::workspace::{cache, cargo, target, workspace};

/// What is installed beside the wheel. Another list makes another environment.
const TOOLS: [&str; 2] = ["maturin==1.16.0", "pytest==9.2.0"];
/// Debian's own, whatever else the search path holds, or else the first on the path.
const INTERPRETERS: [&str; 2] = ["/usr/bin/python3", "python3"];

/// What pytest counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed or broke.
    pub failed: u64,
    /// Tests that cannot run here.
    pub skipped: u64,
}

/// Builds, installs and tests the wheel; pytest's output is passed on.
///
/// # Errors
/// When it does not come to tests: no Python 3.11, no index to install from, or something does not build.
pub fn test() -> Result<Outcome> {
    let root = workspace();
    let environment = environment()?;
    build(&root, &["--package", "morpheus-fake-agent", "--example", "console"])?;
    build(&root, &["--package", "morpheus-agent", "--bin", "morpheusd"])?;
    install(&root, &environment)?;

    let mut pytest = command(&root.join("morpheus/python"), environment.join("bin/python"), &["-m", "pytest", "-rs"]);
    pytest
        .env("MORPHEUS_FAKE_AGENT", target().join("debug/examples/console"))
        .env("MORPHEUSD", target().join("debug/morpheusd"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped());
    let mut child = pytest.spawn().context("cannot start pytest")?;
    let mut outcome = Outcome::default();
    for line in BufReader::new(child.stdout.take().context("pytest has no output")?).lines() {
        let line = line?;
        println!("{line}");
        outcome = parse_summary(&line).unwrap_or(outcome);
    }
    let success = child.wait()?.success();
    ensure!(success || outcome.failed > 0, "pytest failed without naming a test");
    ensure!(outcome.passed + outcome.failed > 0, "pytest ran no test");
    Ok(outcome)
}

/// An environment with the tools and the wheel, for programs that use it; see [`test()`].
///
/// # Errors
/// As [`test()`].
pub fn installed() -> Result<PathBuf> {
    let environment = environment()?;
    install(&workspace(), &environment)?;
    Ok(environment)
}

/// The environment, made if it is not there with these tools.
fn environment() -> Result<PathBuf> {
    let folder = cache().join("python");
    let (mark, wanted) = (folder.join("holm-tools"), TOOLS.join("\n"));
    if fs::read_to_string(&mark).is_ok_and(|made| made == wanted) {
        return Ok(folder);
    }
    let here = Path::new("/");
    let version = "import sys; sys.exit(sys.version_info < (3, 11))";
    let fits = |python: &&str| output(&mut command(here, python, &["-c", version])).is_ok();
    let python = INTERPRETERS.iter().copied().find(fits).context("there is no Python 3.11 or later")?;
    let mut make = command(here, python, &["-m", "venv", "--clear"]);
    output(make.arg(&folder)).context("cannot make a Python environment (Debian: python3-venv)")?;
    let mut pip = command(here, folder.join("bin/pip"), &["install", "--quiet", "--disable-pip-version-check"]);
    output(pip.args(TOOLS)).context("cannot install maturin and pytest")?;
    fs::write(&mark, wanted)?;
    Ok(folder)
}

/// Builds the wheel from clean sources and puts it into the environment.
fn install(root: &Path, environment: &Path) -> Result<()> {
    let wheels = target().join("morpheus-wheel");
    // What an earlier version left would be found, too.
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    let python = environment.join("bin/python");
    let mut maturin = command(&root.join("morpheus/python"), environment.join("bin/maturin"), &["build", "--release"]);
    maturin.args(["--locked", "--quiet", "--interpreter"]).arg(&python).arg("--out").arg(&wheels);
    output(maturin.env("CARGO", cargo())).context("the wheel does not build")?;
    let built = fs::read_dir(&wheels)?.collect::<std::io::Result<Vec<_>>>()?;
    ensure!(built.len() == 1, "there should be one wheel, not {}", built.len());
    let mut pip = command(root, environment.join("bin/pip"), &["install", "--quiet", "--disable-pip-version-check"]);
    output(pip.args(["--no-index", "--force-reinstall"]).arg(built[0].path()))?;
    Ok(())
}

fn build(root: &Path, what: &[&str]) -> Result<()> {
    output(command(root, cargo(), &["build", "--quiet"]).args(what)).map(drop)
}

/// Reads pytest's last line: `1 failed, 12 passed, 2 skipped in 0.53s`.
fn parse_summary(line: &str) -> Option<Outcome> {
    let (counts, time) = line.trim_matches(['=', ' ']).rsplit_once(" in ")?;
    ensure_time(time)?;
    let mut outcome = Outcome::default();
    for part in counts.split(", ") {
        let (number, what) = part.split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        match what {
            "passed" | "xfailed" => outcome.passed += number,
            "failed" | "error" | "errors" | "xpassed" => outcome.failed += number,
            "skipped" => outcome.skipped += number,
            _ => {}
        }
    }
    Some(outcome)
}

/// `0.53s`, or `75.02s (0:01:15)`.
fn ensure_time(text: &str) -> Option<()> {
    text.split(' ').next()?.strip_suffix('s')?.parse::<f64>().ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_pytest_is_counted() {
        let cases = [
            ("12 passed in 0.53s", Some((12, 0, 0))),
            ("1 failed, 12 passed, 2 skipped, 1 warning in 75.02s (0:01:15)", Some((12, 1, 2))),
            ("2 failed, 1 error in 3.00s", Some((0, 3, 0))),
            ("no tests ran in 0.01s", None),
            ("FAILED tests/test_worker.py::test - 3 passed in vain", None),
            ("....  [100%]", None),
        ];
        for (line, expected) in cases {
            let expected = expected.map(|(passed, failed, skipped)| Outcome { passed, failed, skipped });
            assert_eq!(parse_summary(line), expected, "{line}");
        }
    }
}

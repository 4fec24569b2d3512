//! Running other programs: what they say on failure is part of the error.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// A program with its arguments, to run in `folder`.
pub(crate) fn command<S: AsRef<OsStr>>(folder: &Path, program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

/// The same, on the time that others leave over.
pub(crate) fn nice<S: AsRef<OsStr>>(folder: &Path, program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
    let mut command = command(folder, "nice", &["-n", "19"]);
    command.arg(program).args(arguments);
    command
}

/// Runs `command` to its end and gives what it wrote to standard output.
///
/// # Errors
/// When it cannot be started, or exits with another status than 0; the message ends with its last lines.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("cannot start {shown}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    let last: Vec<&str> = said.lines().rev().take(12).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    bail!("{shown} ended with {status}\n{}", last.join("\n"))
}

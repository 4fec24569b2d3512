//! Running `ip` and `nft` with a batch on their standard input.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// A command that did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be run.
    #[error("run `{program}`; is it installed?")]
    Run {
        /// Name of the program.
        program: &'static str,
        /// Why it could not be run.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("`{program}` failed: {message}")]
    Failed {
        /// Name of the program.
        program: &'static str,
        /// What it said, in one line.
        message: String,
    },
    /// Its answer could not be read.
    #[error("read the answer of `{program}`")]
    Answer {
        /// Name of the program.
        program: &'static str,
        /// Why it could not be read.
        #[source]
        source: serde_json::Error,
    },
}

/// Runs a program with `input` and answers its standard output.
pub(crate) fn run(program: &'static str, args: &[&str], input: &str) -> Result<Vec<u8>, CommandError> {
    let output = spawn(program, args, input).map_err(|source| CommandError::Run { program, source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut message: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    message.truncate(3);
    let message = if message.is_empty() { output.status.to_string() } else { message.join("; ") };
    Err(CommandError::Failed { program, message })
}

fn spawn(program: &str, args: &[&str], input: &str) -> io::Result<Output> {
    let mut command = Command::new(program);
    // Messages are matched nowhere, but users read them: one language for all.
    command.args(args).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let stdin = child.stdin.take();
    // Neither program answers before it has read its whole batch, so writing first cannot block both sides.
    let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // A program that failed early closed its input; its own message is the better one.
    if output.status.success() {
        written?;
    }
    Ok(output)
}

/// Runs `ip` on a batch of IPv6 and link commands, one per line; stops at the first that fails.
pub(crate) fn ip_batch(batch: &str) -> Result<(), CommandError> {
    run("ip", &["-6", "-batch", "-"], batch).map(drop)
}

/// Applies one nftables ruleset; all of it or nothing.
pub(crate) fn nft(ruleset: &str) -> Result<(), CommandError> {
    run("nft", &["-f", "-"], ruleset).map(drop)
}

/// Runs a program that answers in JSON. No output is an empty list, as `ip` has it.
pub(crate) fn json(program: &'static str, args: &[&str]) -> Result<serde_json::Value, CommandError> {
    let answer = run(program, args, "")?;
    if answer.iter().all(u8::is_ascii_whitespace) {
        return Ok(serde_json::Value::Array(Vec::new()));
    }
    serde_json::from_slice(&answer).map_err(|source| CommandError::Answer { program, source })
}

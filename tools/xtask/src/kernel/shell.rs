//! A conversation with the shell on the serial console, as a person would have it.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::boots::LIMIT;
use super::build::Built;
use super::qemu::{ENDED_WELL, Machine};

/// What the shell says when it listens.
const PROMPT: &str = "holm> ";
/// What is typed, and what must be in the answer.
const CONVERSATION: [(&str, &[&str]); 9] = [
    ("units", &["parent state", "Running", " init"]),
    ("files", &["program", " bench", " tests"]),
    ("run tests exit 7", &["ended with code 7"]),
    ("run tests fault read", &["ended by MemoryFault", "address 0x8"]),
    ("run nothing", &["run: "]),
    ("trace 50", &[" records"]),
    ("measure", &["null system call", "call and reply", " ticks"]),
    ("dance", &["`dance` is not understood"]),
    ("metrics", &["system calls", "units "]),
];

/// Types and reads.
struct Terminal {
    keys: ChildStdin,
    bytes: Receiver<Vec<u8>>,
    began: Instant,
}

impl Terminal {
    fn on(qemu: &mut Child) -> Result<Self> {
        let (keys, mut screen) =
            (qemu.stdin.take().context("QEMU has no input")?, qemu.stdout.take().context("QEMU has no output")?);
        let (sender, bytes) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { keys, bytes, began: Instant::now() })
    }

    /// What comes until the shell listens again.
    fn answer(&self) -> Result<String> {
        let mut answer = Vec::new();
        loop {
            let left = LIMIT.saturating_sub(self.began.elapsed());
            let more = self.bytes.recv_timeout(left);
            let text = String::from_utf8_lossy(&answer).into_owned();
            answer.extend(more.with_context(|| format!("the shell does not answer; it said:\n{text}"))?);
            let text = String::from_utf8_lossy(&answer);
            if text.ends_with(PROMPT) {
                return Ok(text.into_owned());
            }
        }
    }
}

/// Boots, has the conversation, and switches off by the shell.
///
/// # Errors
/// What the shell did not say.
pub(super) fn check(built: &Built) -> Result<()> {
    let mut qemu = Machine::of(built).piped()?;
    let talked = talk(&mut qemu);
    if talked.is_err() {
        // It may have ended by itself since.
        let _ = qemu.kill();
    }
    let status = qemu.wait().context("cannot wait for QEMU")?;
    talked?;
    ensure!(status.code() == Some(ENDED_WELL), "the machine ended with {status}");
    Ok(())
}

fn talk(qemu: &mut Child) -> Result<()> {
    let mut terminal = Terminal::on(qemu)?;
    terminal.answer().context("no prompt came")?;
    for (line, wanted) in CONVERSATION {
        writeln!(terminal.keys, "{line}").context("cannot type")?;
        let answer = terminal.answer().with_context(|| format!("`{line}`"))?;
        for wanted in wanted {
            ensure!(answer.contains(wanted), "`{line}` is not answered with `{wanted}`:\n{answer}");
        }
    }
    writeln!(terminal.keys, "poweroff").context("cannot type")?;
    // The end of its output is its end.
    while terminal.bytes.recv_timeout(LIMIT.saturating_sub(terminal.began.elapsed())).is_ok() {}
    Ok(())
}

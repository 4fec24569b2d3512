//! One run of the kernel on QEMU: microvm, translated, with the serial console as its only way to speak.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::build::Built;
use crate::command::command;
use crate::workspace::workspace;

/// What QEMU ends with when the kernel powers off with status 0.
pub(crate) const ENDED_WELL: i32 = exit_status(0);
/// What QEMU ends with when the kernel could not boot.
pub(crate) const CANNOT_BOOT: i32 = exit_status(0x61);

/// QEMU's isa-debug-exit.
const fn exit_status(status: u8) -> i32 {
    (status as i32) << 1 | 1
}

/// The machine that the kernel runs on.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) kernel: PathBuf,
    pub(crate) archive: Option<PathBuf>,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    /// QEMU's name of the processor.
    pub(crate) processor: &'static str,
    /// Count instructions: the time stamp counter then counts them, one per nanosecond.
    pub(crate) count: bool,
    /// With ACPI tables, by the slower firmware.
    pub(crate) acpi: bool,
    pub(crate) command_line: String,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Everything that came over the serial console.
    pub(crate) console: String,
    /// QEMU's exit status; `None` when it was ended for taking too long, by a signal, or after the line waited for.
    pub(crate) status: Option<i32>,
    /// From QEMU's start to the line that was waited for.
    pub(crate) reached: Option<Duration>,
}

impl Machine {
    /// One processor, 128 MiB.
    pub(crate) fn of(built: &Built) -> Self {
        Self {
            kernel: built.kernel.clone(),
            archive: Some(built.archive.clone()),
            cpus: 1,
            memory_mib: 128,
            processor: "max",
            count: false,
            acpi: false,
            command_line: String::new(),
        }
    }

    /// The same machine with another command line.
    pub(crate) fn with_command_line(mut self, command_line: &str) -> Self {
        command_line.clone_into(&mut self.command_line);
        self
    }

    fn command(&self) -> Command {
        let board = if self.acpi { "microvm,acpi=on,rtc=on" } else { "microvm,acpi=off" };
        let mut qemu = command(&workspace(), "qemu-system-x86_64", &["-M", board, "-accel", "tcg", "-nodefaults"]);
        qemu.args(["-cpu", self.processor, "-smp", &self.cpus.to_string(), "-m", &self.memory_mib.to_string()]);
        qemu.args(["-display", "none", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
        if self.count {
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        qemu.arg("-kernel").arg(&self.kernel).args(["-append", &self.command_line]);
        qemu.args(self.archive.iter().flat_map(|archive| [Path::new("-initrd"), archive.as_path()]));
        qemu
    }

    /// Runs with the serial console on this terminal, and gives QEMU's exit status.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub(crate) fn interactive(&self) -> Result<i32> {
        let mut qemu = self.command();
        let status = qemu.args(["-serial", "mon:stdio"]).stdin(Stdio::inherit()).status();
        Ok(status.context("cannot start qemu-system-x86_64")?.code().unwrap_or(-1))
    }

    /// Runs with the serial console on pipes.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub(crate) fn piped(&self) -> Result<Child> {
        let mut qemu = self.command();
        qemu.args(["-serial", "stdio", "-monitor", "none"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        qemu.spawn().context("cannot start qemu-system-x86_64")
    }

    /// Runs to the end, to a line that begins with `until`, or for `limit` at most.
    ///
    /// # Errors
    /// When QEMU cannot be started, or its output not be read.
    pub(crate) fn run(&self, until: Option<&str>, limit: Duration) -> Result<Ended> {
        let mut qemu = self.command();
        qemu.args(["-serial", "stdio", "-monitor", "none"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut child = qemu.spawn().context("cannot start qemu-system-x86_64")?;
        let lines = lines(&mut child)?;
        let (mut console, mut reached, mut ended) = (String::new(), None, false);
        loop {
            match lines.recv_timeout(limit.saturating_sub(began.elapsed())) {
                Ok(line) => {
                    console += &line;
                    console.push('\n');
                    if until.is_some_and(|until| line.starts_with(until)) {
                        reached = Some(began.elapsed());
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    ended = true;
                    break;
                }
            }
        }
        if !ended {
            // It may have ended by itself since.
            let _ = child.kill();
        }
        let status = child.wait().context("cannot wait for QEMU")?;
        if let Some(mut said) = child.stderr.take() {
            said.read_to_string(&mut console).context("cannot read what QEMU says")?;
        }
        Ok(Ended { console, status: status.code().filter(|_| ended), reached })
    }
}

/// The lines of a child's output, as they come.
fn lines(child: &mut Child) -> Result<std::sync::mpsc::Receiver<String>> {
    let output = child.stdout.take().context("QEMU has no output")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

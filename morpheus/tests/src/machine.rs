//! One boot of the guest: QEMU without acceleration, and what the guest says on its console.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::kernel::Kernel;
use crate::{IDLE_SECONDS, ONLY};

/// The longest a boot with all scenarios may take on a busy machine; it takes under a minute on an idle one.
const PATIENCE: Duration = Duration::from_secs(480);

/// Everything the guest said.
#[derive(Debug)]
pub struct Console {
    /// Its lines.
    pub lines: Vec<String>,
    /// Whether it ended by itself.
    pub ended: bool,
}

/// Boots the kernel with the ramdisk and waits for its end. The guest tries the scenarios whose names contain `only`.
///
/// # Errors
/// When QEMU cannot be started.
pub fn boot(kernel: &Kernel, ramdisk: &Path, only: Option<&str>) -> Result<Console> {
    let mut qemu = Command::new("qemu-system-x86_64");
    // ACPI shows the second processor; without a clock (`rtc`) guests hung now and then.
    qemu.args(["-M", "microvm,acpi=on,rtc=on", "-cpu", "max", "-smp", "2", "-m", "1G"]);
    // KVM may be there and not be able to run this: tests of rules gain nothing from it.
    qemu.args(["-accel", "tcg,thread=multi,tb-size=256"]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(ramdisk).arg("-append").arg(command_line(only));
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = qemu.spawn().context("cannot start qemu-system-x86_64 (Debian: qemu-system-x86)")?;
    let console = running.stdout.take().context("QEMU has no standard output")?;
    let (said, heard) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else { break };
            if said.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    let ended = loop {
        match heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => lines.push(line),
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    if !ended {
        running.kill().context("cannot end QEMU")?;
    }
    let done = running.wait_with_output().context("cannot wait for QEMU")?;
    drop(heard);
    let _ = reader.join();
    lines.extend(String::from_utf8_lossy(&done.stderr).lines().map(|line| format!("qemu: {line}")));
    Ok(Console { lines, ended })
}

/// A translated guest often fails to measure its time stamp counter, and one that checks it against its own late ticks
/// drops it: it is told the rate, and to trust it.
fn command_line(only: Option<&str>) -> String {
    let khz = host_khz().map(|khz| format!(" tsc_early_khz={khz}")).unwrap_or_default();
    // The kernel gives PID 1 what it does not know itself, as environment.
    let only = only.map(|only| format!(" {ONLY}={only}")).unwrap_or_default();
    let idle = std::env::var(IDLE_SECONDS).map(|seconds| format!(" {IDLE_SECONDS}={seconds}")).unwrap_or_default();
    // Registering a worker waits for the kernel's readers, which takes ticks unless they are hurried.
    let quick = "rcupdate.rcu_expedited=1";
    format!("console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests tsc=reliable {quick}{khz}{only}{idle}")
}

/// The rate of this machine's time stamp counter, which a translated guest sees, in kHz.
fn host_khz() -> Option<u64> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let mhz =
        cpus.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse::<f64>().ok())?;
    // Some GHz.
    Some((mhz * 1000.0) as u64)
}

//! Deciding between KVM and TCG by booting a tiny guest, because a `/dev/kvm` that opens proves nothing.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncBufReadExt as _;
use tokio::process::Command;

use crate::qemu_command;
use crate::tiny_guest;

/// Device file of KVM.
pub const KVM_DEVICE: &str = "/dev/kvm";

/// How long one attempt at booting the tiny guest may take; it takes some 50 ms where it works.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// CPU models tried with KVM, in this order. The second leaves out what nested and software hypervisors most often
/// announce but cannot do.
const KVM_CPUS: [&str; 2] = ["host", "host,-arch-capabilities,-pmu,-vmx"];

/// What QEMU writes when KVM cannot go on with a guest.
const KVM_GAVE_UP: &str = "KVM internal error";

/// The CPU model for TCG; see [`Acceleration::tcg`].
const TCG_CPU: &str = "max";

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelKind {
    /// The processor, through the kernel.
    Kvm,
    /// QEMU's translator: right, but many times slower.
    Tcg,
}

impl fmt::Display for AccelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// How VMs are run on this host, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceleration {
    /// KVM or TCG.
    pub kind: AccelKind,
    /// QEMU's `-cpu` argument that goes with it.
    pub cpu: String,
    /// Why, for a person: one line.
    pub reason: String,
    /// How long finding out took.
    pub took: Duration,
}

impl Acceleration {
    /// TCG without a probe, for this reason.
    pub fn tcg(reason: impl Into<String>) -> Self {
        Self { kind: AccelKind::Tcg, cpu: TCG_CPU.to_owned(), reason: reason.into(), took: Duration::ZERO }
    }
}

/// Why an attempt did not boot the tiny guest.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The image could not be written to a temporary file.
    #[error("cannot write the probe's image")]
    Image(#[source] std::io::Error),
    /// QEMU could not be started.
    #[error("cannot start `{program}`")]
    Spawn {
        /// Which program.
        program: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The guest had not ended in time.
    #[error("the tiny guest did not end within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// QEMU ended without the guest having run.
    #[error("QEMU ended with {status}: {message}")]
    Failed {
        /// Its exit status.
        status: String,
        /// The last line of what it said.
        message: String,
    },
}

/// Boots the tiny guest once with this accelerator and CPU model. The guest does nothing but end QEMU with a certain
/// exit code.
///
/// # Errors
/// See [`ProbeError`]. In every case QEMU is gone afterwards.
pub async fn boot_once(program: &Path, kind: AccelKind, cpu: &str, deadline: Duration) -> Result<Duration, ProbeError> {
    let mut image = tempfile::NamedTempFile::new().map_err(ProbeError::Image)?;
    image.write_all(&tiny_guest::exiting_guest()).map_err(ProbeError::Image)?;
    let started = Instant::now();
    let mut command = Command::new(program);
    command
        .args(["-M", "microvm,acpi=on,rtc=on", "-m", "16M", "-display", "none", "-nodefaults", "-no-user-config"])
        .args(["-no-reboot", "-sandbox", qemu_command::SANDBOX, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-accel", &qemu_command::accelerator(kind), "-cpu", cpu, "-kernel"])
        .arg(image.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let not_run = |source| ProbeError::Spawn { program: program.display().to_string(), source };
    let mut child = command.spawn().map_err(not_run)?;
    let ended = tokio::time::timeout(deadline, async {
        let message = last_words(child.stderr.take()).await?;
        if message.contains(KVM_GAVE_UP) {
            child.kill().await?;
        }
        Ok((child.wait().await?, message))
    });
    let (status, message) = ended.await.map_err(|_| ProbeError::Deadline(deadline))?.map_err(not_run)?;
    if status.code() == Some(tiny_guest::EXIT_CODE) {
        return Ok(started.elapsed());
    }
    Err(ProbeError::Failed { status: status.to_string(), message })
}

/// The last line QEMU wrote, at most 300 characters. It ends with QEMU, or as soon as KVM has given up: QEMU would only
/// pause the guest then.
async fn last_words(stderr: Option<tokio::process::ChildStderr>) -> std::io::Result<String> {
    let mut last = "no message".to_owned();
    let Some(stderr) = stderr else { return Ok(last) };
    let mut lines = tokio::io::BufReader::new(stderr).lines();
    while let Some(line) = lines.next_line().await? {
        if !line.trim().is_empty() {
            last = line.trim().chars().take(300).collect();
        }
        if last.contains(KVM_GAVE_UP) {
            break;
        }
    }
    Ok(last)
}

/// Finds out how to run VMs: KVM where the tiny guest boots with it, otherwise TCG with the reason. Never fails: whether
/// QEMU works at all is for [`crate::doctor`] to say. Takes at most two deadlines of 5 s; the caller keeps the answer.
pub async fn probe(program: &Path) -> Acceleration {
    let started = Instant::now();
    let mut acceleration =
        match rustix::fs::access(KVM_DEVICE, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK) {
            Err(error) => Acceleration::tcg(format!("{KVM_DEVICE} cannot be opened: {error}")),
            Ok(()) => try_kvm(program, &KVM_CPUS, DEADLINE).await,
        };
    acceleration.took = started.elapsed();
    acceleration
}

async fn try_kvm(program: &Path, cpus: &[&str], deadline: Duration) -> Acceleration {
    let mut first_failure = None;
    for cpu in cpus {
        match boot_once(program, AccelKind::Kvm, cpu, deadline).await {
            Ok(took) => {
                let reason = format!("a tiny guest booted with KVM and `-cpu {cpu}` in {} ms", took.as_millis());
                return Acceleration { kind: AccelKind::Kvm, cpu: (*cpu).to_owned(), reason, took };
            }
            Err(error) => {
                tracing::info!(cpu, %error, "KVM did not boot the tiny guest");
                first_failure.get_or_insert(error);
            }
        }
    }
    let why = first_failure.map_or_else(|| "no CPU model to try".to_owned(), |error| error.to_string());
    Acceleration::tcg(format!("{KVM_DEVICE} opens, but KVM did not boot a tiny guest: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::QemuConfig;

    #[tokio::test]
    async fn the_tiny_guest_boots_under_tcg() {
        let program = Path::new(QemuConfig::PROGRAM);
        boot_once(program, AccelKind::Tcg, TCG_CPU, Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_cpu_model_is_reported_with_what_qemu_said() {
        let program = Path::new(QemuConfig::PROGRAM);
        let error = boot_once(program, AccelKind::Tcg, "no-such-cpu", Duration::from_secs(60)).await.unwrap_err();
        assert!(error.to_string().contains("no-such-cpu"), "{error}");
    }

    #[tokio::test]
    async fn a_guest_that_does_not_end_runs_into_the_deadline() {
        // `sh` stands for a QEMU that hangs: it reads its standard input, which is empty, so give it something to wait for.
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hangs");
        std::fs::write(&program, "#!/bin/sh\nexec tail -f /dev/null\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let error = boot_once(&program, AccelKind::Tcg, TCG_CPU, Duration::from_millis(1)).await.unwrap_err();
        assert!(matches!(error, ProbeError::Deadline(_)), "{error}");
    }

    #[tokio::test]
    async fn without_a_working_kvm_the_answer_is_tcg_with_a_reason() {
        let program = Path::new("/nonexistent/qemu");
        let acceleration = try_kvm(program, &KVM_CPUS, Duration::from_secs(5)).await;
        assert_eq!((acceleration.kind, acceleration.cpu.as_str()), (AccelKind::Tcg, TCG_CPU));
        assert!(acceleration.reason.contains("/nonexistent/qemu"), "{}", acceleration.reason);
    }
}

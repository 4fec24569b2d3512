//! Checks of this host, as typed findings: what VMs need here, and whether it is there.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;

use crate::cpu_share::{CpuShares, ShareMechanism};
use crate::guest::GuestStore;
use crate::probe::{self, AccelKind, Acceleration};

/// Oldest QEMU whose `microvm` machine has what is used here.
pub const MIN_QEMU: (u32, u32) = (7, 2);

/// How long the tiny guest may take under TCG, also on a busy host.
const TCG_DEADLINE: Duration = Duration::from_secs(30);

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// QEMU is installed and new enough.
    Qemu,
    /// QEMU boots a tiny guest.
    Microvm,
    /// `/dev/kvm` may be used.
    KvmDevice,
    /// KVM boots a tiny guest.
    Acceleration,
    /// There is something to boot.
    GuestBundle,
    /// CPU shares are enforced.
    CpuShares,
}

/// How good or bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Good,
    /// VMs run, with a drawback.
    Drawback,
    /// VMs do not run.
    Broken,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it is.
    pub level: Level,
    /// What was seen: one line.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Finding {
    fn new(check: Check, level: Level, message: impl Into<String>) -> Self {
        Self { check, level, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Looks at everything, in the order of [`Check`]. Takes some 100 ms where all is well, at most a minute.
pub async fn examine(program: &Path, guests: &GuestStore, shares: &CpuShares) -> Vec<Finding> {
    let qemu = qemu(program).await;
    let installed = qemu.level == Level::Good;
    let mut findings = vec![qemu];
    if installed {
        findings.push(microvm(program).await);
    }
    findings.push(kvm_device());
    if installed {
        findings.push(acceleration(&probe::probe(program).await));
    }
    findings.push(guest_bundle(guests));
    findings.push(cpu_shares(shares.mechanism()));
    findings
}

async fn qemu(program: &Path) -> Finding {
    let broken = |message: String| {
        Finding::new(Check::Qemu, Level::Broken, message).hint("install it: `apt-get install qemu-system-x86`")
    };
    let name = program.display();
    let output = match Command::new(program).arg("--version").kill_on_drop(true).output().await {
        Err(error) => return broken(format!("cannot run `{name}`: {error}")),
        Ok(output) => output,
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = said.lines().next().unwrap_or_default();
    match version(first) {
        None => broken(format!("`{name} --version` says nothing known: `{first}`")),
        Some(found) if found < MIN_QEMU => {
            let (major, minor) = MIN_QEMU;
            broken(format!("{first} is too old: {major}.{minor} is needed"))
        }
        Some(_) => Finding::new(Check::Qemu, Level::Good, first),
    }
}

/// Major and minor number out of `QEMU emulator version 10.0.2 (Debian …)`.
fn version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

async fn microvm(program: &Path) -> Finding {
    let cpu = Acceleration::tcg("").cpu;
    match probe::boot_once(program, AccelKind::Tcg, &cpu, TCG_DEADLINE).await {
        Ok(took) => {
            let message = format!("a tiny guest boots under TCG in {} ms", took.as_millis());
            Finding::new(Check::Microvm, Level::Good, message)
        }
        Err(error) => Finding::new(Check::Microvm, Level::Broken, format!("QEMU does not boot a tiny guest: {error}"))
            .hint("the `microvm` machine with `-sandbox on` must work; use the distribution's QEMU"),
    }
}

fn kvm_device() -> Finding {
    use rustix::fs::{Access, access};
    let device = probe::KVM_DEVICE;
    match access(device, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) => Finding::new(Check::KvmDevice, Level::Good, format!("{device} may be opened")),
        Err(rustix::io::Errno::ACCESS) => {
            Finding::new(Check::KvmDevice, Level::Drawback, format!("{device} may not be opened by this user"))
                .hint("add the user to the group `kvm` and log in again")
        }
        Err(error) => Finding::new(Check::KvmDevice, Level::Drawback, format!("{device} cannot be opened: {error}"))
            .hint("turn on hardware virtualisation in the firmware, or nested virtualisation at the provider"),
    }
}

fn acceleration(found: &Acceleration) -> Finding {
    match found.kind {
        AccelKind::Kvm => Finding::new(Check::Acceleration, Level::Good, found.reason.clone()),
        AccelKind::Tcg => {
            Finding::new(Check::Acceleration, Level::Drawback, format!("VMs run under TCG, slowly: {}", found.reason))
        }
    }
}

fn guest_bundle(guests: &GuestStore) -> Finding {
    match guests.default_bundle() {
        Ok(Some(bundle)) => {
            let message = format!("guest bundle {} with kernel {}", bundle.id, bundle.kernel_version);
            Finding::new(Check::GuestBundle, Level::Good, message)
        }
        Ok(None) => Finding::new(Check::GuestBundle, Level::Broken, "no guest bundle to boot VMs from")
            .hint("`holm guest import` makes one"),
        Err(error) => Finding::new(Check::GuestBundle, Level::Broken, error.to_string())
            .hint("`holm guest import` makes a new one"),
    }
}

fn cpu_shares(mechanism: &ShareMechanism) -> Finding {
    let level = match mechanism {
        ShareMechanism::V2 | ShareMechanism::V1 => Level::Good,
        ShareMechanism::None(_) => Level::Drawback,
    };
    Finding::new(Check::CpuShares, level, mechanism.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_versions_are_read() {
        for (line, expected) in [
            ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)", Some((10, 0))),
            ("QEMU emulator version 7.2.19", Some((7, 2))),
            ("QEMU emulator version 6.2", Some((6, 2))),
            ("QEMU emulator version x", None),
            ("", None),
        ] {
            assert_eq!(version(line), expected, "{line}");
        }
    }

    #[tokio::test]
    async fn a_host_without_anything_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let guests = GuestStore::open(dir.path()).unwrap();
        let shares = CpuShares::detect_in(dir.path(), "t");
        let findings = examine(Path::new("/nonexistent/qemu"), &guests, &shares).await;
        let seen: Vec<_> = findings.iter().map(|finding| (finding.check, finding.level)).collect();
        assert!(seen.contains(&(Check::Qemu, Level::Broken)));
        assert!(seen.contains(&(Check::GuestBundle, Level::Broken)));
        assert!(seen.contains(&(Check::CpuShares, Level::Drawback)));
        assert!(findings.iter().filter(|f| f.level == Level::Broken).all(|f| f.hint.is_some()));
    }

    #[tokio::test]
    async fn an_old_qemu_is_refused_and_this_one_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("qemu");
        std::fs::write(&old, "#!/bin/sh\necho QEMU emulator version 5.2.0\n").unwrap();
        std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let finding = qemu(&old).await;
        assert_eq!((finding.level, finding.message.contains("7.2")), (Level::Broken, true), "{finding:?}");

        let program = Path::new(crate::QemuConfig::PROGRAM);
        assert_eq!(qemu(program).await.level, Level::Good);
        assert_eq!(microvm(program).await.level, Level::Good);
    }
}

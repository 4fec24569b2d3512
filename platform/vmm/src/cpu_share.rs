//! Soft CPU shares: a weight per VM that counts only while the processors are busy, by cgroup v2 or v1.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Which mechanism enforces shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareMechanism {
    /// cgroup v2, `cpu.weight`.
    V2,
    /// cgroup v1, `cpu.shares`.
    V1,
    /// Nothing: shares are not enforced, for this reason.
    None(String),
}

impl fmt::Display for ShareMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V2 => f.write_str("cgroup v2 cpu.weight"),
            Self::V1 => f.write_str("cgroup v1 cpu.shares"),
            Self::None(why) => write!(f, "CPU shares are not enforced: {why}"),
        }
    }
}

/// The cgroups of one host tag: `<cgroup root>/holm-<host tag>/<instance>`.
#[derive(Debug, Clone)]
pub struct CpuShares {
    mechanism: ShareMechanism,
    home: PathBuf,
}

impl CpuShares {
    /// A share of 1.0 CPU in thousandths; the weight a process without a cgroup of its own has.
    pub const NORMAL_MILLI: u32 = 1000;

    /// Finds what this host offers and makes the folder for this host tag.
    pub fn detect(host_tag: &str) -> Self {
        Self::detect_in(Path::new("/sys/fs/cgroup"), host_tag)
    }

    pub(crate) fn detect_in(root: &Path, host_tag: &str) -> Self {
        let home_name = format!("holm-{host_tag}");
        let (mechanism, home) = if root.join("cgroup.controllers").exists() {
            (prepare_v2(root, &home_name), root.join(&home_name))
        } else if root.join("cpu/cpu.shares").exists() {
            (prepare_v1(&root.join("cpu"), &home_name), root.join("cpu").join(&home_name))
        } else {
            (ShareMechanism::None("no cgroup CPU controller is mounted".to_owned()), PathBuf::new())
        };
        Self { mechanism, home }
    }

    /// How shares are enforced, or why not.
    pub fn mechanism(&self) -> &ShareMechanism {
        &self.mechanism
    }

    /// Puts a process, with all its threads, under a share in thousandths of a CPU (1 to 1,000,000). Does nothing where
    /// shares are not enforced.
    ///
    /// # Errors
    /// The system's.
    pub fn place(&self, instance: &str, pid: u32, milli_cpus: u32) -> io::Result<()> {
        let (file, value) = match self.mechanism {
            ShareMechanism::None(_) => return Ok(()),
            ShareMechanism::V2 => ("cpu.weight", weight_v2(milli_cpus)),
            ShareMechanism::V1 => ("cpu.shares", shares_v1(milli_cpus)),
        };
        let group = self.group(instance)?;
        // A sweep may have taken the empty folder away since the last instance.
        make_dir(&self.home)?;
        if self.mechanism == ShareMechanism::V2 {
            std::fs::write(self.home.join("cgroup.subtree_control"), "+cpu")?;
        }
        make_dir(&group)?;
        std::fs::write(group.join(file), value.to_string())?;
        std::fs::write(group.join("cgroup.procs"), pid.to_string())
    }

    /// Removes the share of an instance whose process has ended; one that was never placed is fine.
    ///
    /// # Errors
    /// The system's; a share that is still in use is refused.
    pub fn remove(&self, instance: &str) -> io::Result<()> {
        if matches!(self.mechanism, ShareMechanism::None(_)) {
            return Ok(());
        }
        remove_dir(&self.group(instance)?)
    }

    /// Removes every share that no process uses, and the folder itself when nothing is left. Returns how many shares
    /// were removed.
    ///
    /// # Errors
    /// The system's.
    pub fn sweep(&self) -> io::Result<usize> {
        if matches!(self.mechanism, ShareMechanism::None(_)) {
            return Ok(0);
        }
        let mut removed = 0;
        let mut left = 0;
        let entries = match std::fs::read_dir(&self.home) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let used = std::fs::read_to_string(entry.path().join("cgroup.procs"))?;
            if used.trim().is_empty() {
                remove_dir(&entry.path())?;
                removed += 1;
            } else {
                left += 1;
            }
        }
        if left == 0 {
            remove_dir(&self.home)?;
        }
        Ok(removed)
    }

    fn group(&self, instance: &str) -> io::Result<PathBuf> {
        let plain = instance.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if instance.is_empty() || !plain || instance.starts_with('.') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain instance name"));
        }
        // The prefix keeps an instance apart from the control files in the same folder.
        Ok(self.home.join(format!("vm-{instance}")))
    }
}

/// cgroup v2: 100 is normal, 1 to 10000.
fn weight_v2(milli_cpus: u32) -> u32 {
    (milli_cpus / 10).clamp(1, 10_000)
}

/// cgroup v1: 1024 is normal, 2 to 262144.
fn shares_v1(milli_cpus: u32) -> u32 {
    u32::try_from(u64::from(milli_cpus) * 1024 / 1000).unwrap_or(u32::MAX).clamp(2, 262_144)
}

fn prepare_v2(root: &Path, home: &str) -> ShareMechanism {
    let refused = |what: &str, error: io::Error| ShareMechanism::None(format!("cannot {what}: {error}"));
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if !controllers.split_whitespace().any(|controller| controller == "cpu") {
        return ShareMechanism::None("cgroup v2 has no CPU controller here".to_owned());
    }
    if let Err(error) = std::fs::write(root.join("cgroup.subtree_control"), "+cpu") {
        return refused("delegate the CPU controller", error);
    }
    if let Err(error) = make_dir(&root.join(home)) {
        return refused("make a cgroup", error);
    }
    match std::fs::write(root.join(home).join("cgroup.subtree_control"), "+cpu") {
        Err(error) => refused("delegate the CPU controller", error),
        Ok(()) => ShareMechanism::V2,
    }
}

fn prepare_v1(controller: &Path, home: &str) -> ShareMechanism {
    match make_dir(&controller.join(home)) {
        Err(error) => ShareMechanism::None(format!("cannot make a cgroup: {error}")),
        Ok(()) => ShareMechanism::V1,
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stay_in_the_kernels_ranges() {
        for (milli, v2, v1) in [
            (0, 1, 2),
            (1, 1, 2),
            (CpuShares::NORMAL_MILLI, 100, 1024),
            (2000, 200, 2048),
            (1_000_000, 10_000, 262_144),
            (u32::MAX, 10_000, 262_144),
        ] {
            assert_eq!((weight_v2(milli), shares_v1(milli)), (v2, v1), "{milli}");
        }
    }

    #[test]
    fn without_a_controller_shares_are_not_enforced_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let shares = CpuShares::detect_in(dir.path(), "t");
        assert!(matches!(shares.mechanism(), ShareMechanism::None(_)));
        shares.place("web-1", 1, 1000).unwrap();
        shares.remove("web-1").unwrap();
        assert_eq!(shares.sweep().unwrap(), 0);
    }

    #[test]
    fn a_process_is_placed_and_its_share_swept_once_it_has_ended() {
        let tag = format!("test-{}", std::process::id());
        let shares = CpuShares::detect(&tag);
        if matches!(shares.mechanism(), ShareMechanism::None(_)) {
            return;
        }
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        shares.place("web-1", child.id(), 2000).unwrap();
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert!(groups.contains(&format!("/holm-{tag}/vm-web-1")), "{groups}");
        assert!(shares.remove("web-1").is_err(), "a share in use is kept");
        assert_eq!(shares.sweep().unwrap(), 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(shares.sweep().unwrap(), 1);
        assert!(!shares.home.exists());
        for name in ["", "..", "a/b", ".x"] {
            assert!(shares.place(name, 1, 1000).is_err(), "{name}");
        }
    }
}

//! What `holm doctor` looks at beside microVMs and network: disk, clock, permissions and leftovers.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use holm_api::wire::{Finding, FindingLevel};
use holm_vmm::{Acceleration, QemuConfig, QemuVmm, Vmm};
use rustix::fs::StatVfsMountFlags;
use rustix::time::{ClockId, clock_gettime};

use super::images::chain;

/// Free space below which a host is in trouble, in bytes; a twentieth of it is as good as none.
const LITTLE_SPACE: u64 = 1 << 30;
/// Free files below which a host is in trouble.
const FEW_FILES: u64 = 10_000;
/// A difference of clocks that is told, in milliseconds.
const JUMP_MS: i64 = 2_000;

fn finding(subject: &str, level: FindingLevel, text: String, hint: Option<&str>) -> Finding {
    Finding { subject: subject.to_owned(), level, text, hint: hint.map(str::to_owned) }
}

/// Space, files and permissions of the state folder.
pub(super) fn state_folder(dir: &Path) -> Vec<Finding> {
    let subject = "state folder";
    let seen = match rustix::fs::statvfs(dir) {
        Ok(seen) => seen,
        Err(error) => {
            let text = format!("{}: {error}", dir.display());
            return vec![finding(subject, FindingLevel::Fail, text, Some("`holm up` makes it"))];
        }
    };
    let free = seen.f_bavail * seen.f_frsize;
    let read_only = seen.f_flag.contains(StatVfsMountFlags::RDONLY);
    let mut findings = vec![disk(dir, free, (seen.f_files, seen.f_favail), read_only)];
    let mode = std::fs::metadata(dir).map_or(0, |metadata| metadata.mode() & 0o7777);
    let (level, danger, hint) = match mode {
        mode if mode & 0o022 != 0 => (FindingLevel::Fail, "others may change Holm's state", "`chmod go-w` it"),
        mode if mode & 0o007 != 0 => (FindingLevel::Warn, "everybody may read logs and events", "`chmod o-rwx` it"),
        _ => return findings,
    };
    let text = format!("{} has mode {mode:04o}: {danger}", dir.display());
    findings.push(finding("permissions", level, text, Some(hint)));
    findings
}

/// Judges a disk by its free bytes, its files in all and free, and whether it can be written.
fn disk(dir: &Path, free: u64, (files, free_files): (u64, u64), read_only: bool) -> Finding {
    let subject = "state folder";
    let text = format!("{}: {} MiB free", dir.display(), free >> 20);
    let prune = Some("`holm images prune` removes images that no release uses");
    if read_only {
        let hint = "find out why in the kernel's log; a file system with errors is mounted so";
        return finding(subject, FindingLevel::Fail, format!("{text}; it is mounted read-only"), Some(hint));
    }
    // Some file systems count no files: then there is no limit on them either.
    if files > 0 && free_files < FEW_FILES {
        return finding(subject, FindingLevel::Warn, format!("{text}; room for {free_files} more files"), prune);
    }
    let level = match free {
        free if free < LITTLE_SPACE / 20 => FindingLevel::Fail,
        free if free < LITTLE_SPACE => FindingLevel::Warn,
        _ => return finding(subject, FindingLevel::Ok, text, None),
    };
    finding(subject, level, text, prune)
}

/// The wall clock against the clock that nobody sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    offset_ms: i64,
}

impl Clocks {
    /// How they stand now.
    pub(crate) fn now() -> Self {
        let ms = |id| {
            let now = clock_gettime(id);
            now.tv_sec * 1000 + now.tv_nsec / 1_000_000
        };
        Self { offset_ms: ms(ClockId::Realtime) - ms(ClockId::Boottime) }
    }
}

/// Whether the wall clock was set since `then`, and whether it is behind the newest event.
pub(super) fn clock(then: Clocks, newest_event: Option<jiff::Timestamp>, now: jiff::Timestamp) -> Finding {
    let jump = Clocks::now().offset_ms - then.offset_ms;
    judge_clock(jump, newest_event.map_or(0, |newest| newest.as_millisecond() - now.as_millisecond()))
}

fn judge_clock(jump_ms: i64, behind_ms: i64) -> Finding {
    let hint = Some("let chrony or systemd-timesyncd keep the time; tokens expire and waits are counted by it");
    if behind_ms > JUMP_MS {
        let text = format!("is {} s behind the newest event: it was set back", behind_ms / 1000);
        return finding("clock", FindingLevel::Warn, text, hint);
    }
    if jump_ms.abs() > JUMP_MS {
        let text = format!("was set by {} s since Holm started", jump_ms / 1000);
        return finding("clock", FindingLevel::Warn, text, hint);
    }
    finding("clock", FindingLevel::Ok, "runs evenly".to_owned(), None)
}

/// What earlier Holms left: microVMs of no instance, half-made folders, files that cannot be read. `None` where there never
/// was a Holm.
pub(super) fn leftovers(dir: &Path) -> Option<Finding> {
    let subject = "leftovers";
    let tag = std::fs::read_to_string(dir.join("host-id")).ok()?;
    let vmm = QemuVmm::new(QemuConfig::new(Acceleration::tcg("doctor")));
    let mut found = match holm_agent::findings(&dir.join("agent"), tag.trim(), &vmm) {
        Ok(found) => found,
        Err(error) => return Some(finding(subject, FindingLevel::Warn, chain(&error), None)),
    };
    let runs = found.contains(&holm_agent::Finding::AgentRuns);
    found.retain(|one| *one != holm_agent::Finding::AgentRuns);
    let broken = found
        .iter()
        .any(|one| matches!(one, holm_agent::Finding::Damaged { .. } | holm_agent::Finding::DamagedTarget { .. }));
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    if !told.is_empty() {
        let level = if broken { FindingLevel::Fail } else { FindingLevel::Warn };
        let hint =
            "the next `holm up` removes what belongs to nobody; `holm down --keep-instances` keeps the rest running";
        return Some(finding(subject, level, told.join("; "), Some(hint)));
    }
    let machines = if runs { 0 } else { vmm.find_leftovers(tag.trim()).map_or(0, |machines| machines.len()) };
    Some(match machines {
        0 => finding(subject, FindingLevel::Ok, "there are none".to_owned(), None),
        count => {
            let hint = "`holm up` takes them over; `holm down` then stops them";
            finding(subject, FindingLevel::Warn, format!("{count} microVMs run without Holm"), Some(hint))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_judged_by_space_files_and_mount() {
        let level = |free, files, read_only| disk(Path::new("/x"), free, files, read_only).level;
        let many = (1_000_000, 500_000);
        assert_eq!(level(LITTLE_SPACE, many, false), FindingLevel::Ok);
        assert_eq!(level(LITTLE_SPACE - 1, many, false), FindingLevel::Warn);
        assert_eq!(level(1 << 20, many, false), FindingLevel::Fail);
        assert_eq!(level(LITTLE_SPACE, (1_000_000, 5), false), FindingLevel::Warn);
        assert_eq!(level(LITTLE_SPACE, (0, 0), false), FindingLevel::Ok);
        assert_eq!(level(LITTLE_SPACE, many, true), FindingLevel::Fail);
    }

    #[test]
    fn clocks_that_jumped_are_told() {
        assert_eq!(judge_clock(100, -5).level, FindingLevel::Ok);
        assert!(judge_clock(-3_600_000, 0).text.contains("set by -3600 s"));
        assert!(judge_clock(0, 60_000).text.contains("60 s behind"));
    }

    #[test]
    fn folders_that_others_can_use_or_that_are_not_there_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let levels = |dir: &Path| state_folder(dir).iter().map(|f| (f.subject.clone(), f.level)).collect::<Vec<_>>();
        let set =
            |mode| std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        set(0o750);
        assert!(levels(dir.path()).iter().all(|(subject, _)| subject != "permissions"));
        for (mode, level) in [(0o755, FindingLevel::Warn), (0o777, FindingLevel::Fail)] {
            set(mode);
            assert!(levels(dir.path()).contains(&("permissions".to_owned(), level)));
        }
        assert_eq!(levels(&dir.path().join("none")), [("state folder".to_owned(), FindingLevel::Fail)]);
    }
}

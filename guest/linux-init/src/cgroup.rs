//! Two control groups under one cap each: the app's, and one beside it for commands and health checks.
//!
//! They are apart so that the kernel's count of out-of-memory kills in the app's group speaks of the app alone: a
//! command that asks for too much dies by itself and takes nothing with it.

use std::fs;
use std::io;
use std::path::Path;

use holm_guest_control::MemoryFigures;

const ROOT: &str = "/sys/fs/cgroup";
const APP: &str = "/sys/fs/cgroup/app";
const BESIDE: &str = "/sys/fs/cgroup/beside";

/// Path of the file a process writes `0` to in order to join the app's group.
pub(crate) const APP_PROCS: &str = "/sys/fs/cgroup/app/cgroup.procs";

/// The same for the group of what runs beside the app.
pub(crate) const BESIDE_PROCS: &str = "/sys/fs/cgroup/beside/cgroup.procs";

/// Makes both groups with `memory_max` as hard cap of each; PID 1 stays outside.
pub(crate) fn set_up(memory_max: Option<u64>) -> io::Result<()> {
    make(Path::new(ROOT), memory_max)
}

fn make(root: &Path, memory_max: Option<u64>) -> io::Result<()> {
    fs::write(root.join("cgroup.subtree_control"), "+memory +cpu +pids")?;
    for name in ["app", "beside"] {
        let group = root.join(name);
        fs::create_dir_all(&group)?;
        if let Some(max) = memory_max {
            fs::write(group.join("memory.max"), max.to_string())?;
            // Absent in a kernel without swap accounting; there is no swap device either way.
            let _ = fs::write(group.join("memory.swap.max"), "0");
        }
    }
    // A cap that kills one process of an app leaves a broken app: all or nothing.
    fs::write(root.join("app/memory.oom.group"), "1")
}

/// SIGKILL for every process of the app and beside it, at once.
pub(crate) fn kill_all() {
    for group in [APP, BESIDE] {
        let _ = fs::write(format!("{group}/cgroup.kill"), "1");
    }
}

/// Memory figures; zeros where the kernel does not tell.
pub(crate) fn memory() -> MemoryFigures {
    let read = |name: &str| fs::read_to_string(format!("{APP}/{name}")).unwrap_or_default();
    MemoryFigures {
        current: number(&read("memory.current")).unwrap_or(0),
        peak: number(&read("memory.peak")).unwrap_or(0),
        max: number(&read("memory.max")),
        oom_kills: keyed(&read("memory.events"), "oom_kill").unwrap_or(0),
    }
}

/// Processor time in microseconds and number of processes.
pub(crate) fn usage() -> (u64, u64) {
    let read = |name: &str| fs::read_to_string(format!("{APP}/{name}")).unwrap_or_default();
    (keyed(&read("cpu.stat"), "usage_usec").unwrap_or(0), number(&read("pids.current")).unwrap_or(0))
}

/// A file with one number; `max` is none.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        if fields.next()?.trim_end_matches(':') == key { fields.next()?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_read_and_not_taken_from_a_longer_key() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(keyed(events, "oom_kill"), Some(2));
        assert_eq!(keyed(events, "oom"), Some(3));
        assert_eq!(keyed("oom_group_kill 1\n", "oom_kill"), None);
        assert_eq!(keyed("", "oom_kill"), None);
        assert_eq!(keyed("MemTotal:  1024 kB\n", "MemTotal"), Some(1024));
    }

    #[test]
    fn commands_have_the_apps_cap_and_die_alone() {
        let root = tempfile::tempdir().unwrap();
        make(root.path(), Some(4096)).unwrap();
        let read = |file: &str| fs::read_to_string(root.path().join(file)).ok();
        assert_eq!((read("app/memory.max"), read("beside/memory.max")), (Some("4096".into()), Some("4096".into())));
        assert_eq!((read("app/memory.oom.group"), read("beside/memory.oom.group")), (Some("1".into()), None));
    }

    #[test]
    fn no_cap_reads_as_none() {
        assert_eq!((number("max\n"), number("4096\n")), (None, Some(4096)));
    }
}

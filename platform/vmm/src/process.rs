//! Finding a VMM process again: identity by process id and start time, the marker on the command line, the pidfd.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::spec::VmName;
use crate::vmm::VmRecord;

/// A process, told apart from a later one with the same id by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

/// A process that cannot be confused with another: signals and waiting go through a pidfd.
#[derive(Debug)]
pub(crate) struct ProcessHandle {
    pub(crate) identity: ProcessIdentity,
    pidfd: OwnedFd,
}

/// How a process ended, as far as it can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessEnd {
    Code(i32),
    Signal(i32),
    NotOurChild,
}

impl ProcessHandle {
    /// Opens the process with this id: `None` when there is none, or when it has ended and only waits to be reaped.
    pub(crate) fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(raw, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            other => other?,
        };
        // Read after the pidfd is open: if this is still the process meant, the pidfd is, too.
        let Some(start_time) = start_time(pid)? else {
            return Ok(None);
        };
        Ok(Some(Self { identity: ProcessIdentity { pid, start_time }, pidfd }))
    }

    /// A descriptor that becomes readable when the process ends.
    pub(crate) fn watch_fd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Sends SIGKILL; a process that has ended already is fine.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Collects the exit status of a process that has ended. Blocks while it has not.
    pub(crate) fn reap(&self) -> ProcessEnd {
        use std::os::fd::AsFd;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ProcessEnd::Code(code),
                (None, Some(signal)) => ProcessEnd::Signal(signal),
                (None, None) => ProcessEnd::NotOurChild,
            },
            Ok(None) | Err(_) => ProcessEnd::NotOurChild,
        }
    }
}

/// State letter and start time out of `/proc/PID/stat`. The program name before them may hold anything, `)` included.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The start time of a living process; `None` when it does not exist or has ended.
fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (state, start_time) = parse_stat(&String::from_utf8_lossy(&stat))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("cannot read /proc/{pid}/stat")))?;
    Ok((!matches!(state, 'Z' | 'X')).then_some(start_time))
}

/// The VM name in a command line as `/proc/PID/cmdline` gives it: the argument after `-name`.
pub(crate) fn marker_in(cmdline: &[u8]) -> Option<VmName> {
    let mut arguments = cmdline.split(|&b| b == 0);
    arguments.find(|argument| *argument == b"-name")?;
    std::str::from_utf8(arguments.next()?).ok()?.parse().ok()
}

/// The marker of a process, if it has one.
pub(crate) fn marker_of(pid: u32) -> Option<VmName> {
    marker_in(&std::fs::read(format!("/proc/{pid}/cmdline")).ok()?)
}

/// The running VMs with this host tag among the processes of these users.
pub(crate) fn scan(host_tag: &str, uids: &[u32]) -> io::Result<Vec<VmRecord>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(name) = marker_of(pid).filter(|name| name.host_tag() == host_tag) else {
            continue;
        };
        // A process may vanish between any two of these steps; then it is no leftover.
        if !std::fs::metadata(entry.path()).is_ok_and(|meta| uids.contains(&meta.uid())) {
            continue;
        }
        let Ok(Some(start_time)) = start_time(pid) else {
            continue;
        };
        let Some(run_dir) = working_dir(&entry.path()) else {
            continue;
        };
        found.push(VmRecord { name, process: ProcessIdentity { pid, start_time }, run_dir });
    }
    found.sort_by(|a, b| (&a.name, a.process.pid).cmp(&(&b.name, b.process.pid)));
    Ok(found)
}

fn working_dir(proc_dir: &Path) -> Option<PathBuf> {
    std::fs::read_link(proc_dir.join("cwd")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_any_program_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        for program in ["qemu", "a b", "x) S 1 (y", ")"] {
            assert_eq!(parse_stat(&format!("77 ({program}) {rest}")), Some(('S', 4242)), "{program}");
        }
        for broken in ["", "77 (x)", "77 (x) S 1 2", "77 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"] {
            assert_eq!(parse_stat(broken), None, "{broken}");
        }
    }

    #[test]
    fn marker_is_the_argument_after_name() {
        let found = marker_in(b"qemu-system-x86_64\0-name\0holm/t/web-1\0-smp\0").unwrap();
        assert_eq!((found.host_tag(), found.instance()), ("t", "web-1"));
        for other in [&b""[..], b"vi\0holm/t/web-1\0", b"qemu\0-name", b"qemu\0-name\0other\0", b"qemu\0-name\0\xff\0"]
        {
            assert_eq!(marker_in(other), None);
        }
    }

    #[test]
    fn this_process_is_alive_and_an_ended_child_is_not() {
        let own = ProcessHandle::open(std::process::id()).unwrap().unwrap();
        assert!(own.identity.start_time > 0);
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let handle = ProcessHandle::open(child.id()).unwrap().unwrap();
        drop(child.stdin.take());
        assert_eq!(handle.reap(), ProcessEnd::Code(0));
        assert_eq!(handle.reap(), ProcessEnd::NotOurChild);
        assert!(child.wait().is_err(), "it was reaped above");
        assert!(ProcessHandle::open(0).unwrap().is_none());
        assert!(ProcessHandle::open(u32::MAX).unwrap().is_none());
    }
}

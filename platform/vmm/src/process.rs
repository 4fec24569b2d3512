//! Finding a VMM process again by the marker on its command line.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holm_process::Process;

use crate::spec::VmName;
use crate::vmm::VmRecord;

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
        let Ok(Some(process)) = Process::open(pid) else {
            continue;
        };
        let Some(run_dir) = working_dir(&entry.path()) else {
            continue;
        };
        found.push(VmRecord { name, process: process.identity(), run_dir });
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
    fn marker_is_the_argument_after_name() {
        let found = marker_in(b"qemu-system-x86_64\0-name\0holm/t/web-1\0-smp\0").unwrap();
        assert_eq!((found.host_tag(), found.instance()), ("t", "web-1"));
        for other in [&b""[..], b"vi\0holm/t/web-1\0", b"qemu\0-name", b"qemu\0-name\0other\0", b"qemu\0-name\0\xff\0"]
        {
            assert_eq!(marker_in(other), None);
        }
    }
}

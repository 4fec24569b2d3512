//! A control group of the greatest weight for the benchmark and all it starts: what else the machine does then gets some
//! hundredths of a CPU instead of its fair share, while the threads of the benchmark compete with one another as ever.

use std::fs;
use std::path::{Path, PathBuf};

/// Where each version of control groups keeps CPU weights: folder, file of the weight, the greatest, file of the members.
const PLACES: [(&str, &str, &str, &str); 3] = [
    ("/sys/fs/cgroup/cpu", "cpu.shares", "262144", "cgroup.procs"),
    ("/sys/fs/cgroup/cpu,cpuacct", "cpu.shares", "262144", "cgroup.procs"),
    ("/sys/fs/cgroup", "cpu.weight", "10000", "cgroup.procs"),
];

/// The group, left and removed when dropped.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
    outside: PathBuf,
}

impl Group {
    /// Makes the group and enters it; `None` where that is not permitted.
    pub(super) fn enter() -> Option<Self> {
        let own = std::process::id().to_string();
        PLACES.into_iter().find_map(|(root, weight, greatest, members)| {
            let folder = Path::new(root).join(format!("holm-bench-{own}"));
            fs::create_dir(&folder).ok()?;
            // From here on dropped on failure, which removes the folder.
            let group = Self { folder, outside: Path::new(root).join(members) };
            fs::write(group.folder.join(weight), greatest).ok()?;
            fs::write(group.folder.join(members), &own).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What was started has ended by now; should something be left, the empty folder is, too.
        let _ = fs::write(&self.outside, std::process::id().to_string());
        let _ = fs::remove_dir(&self.folder);
    }
}

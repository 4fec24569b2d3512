//! What lies on this host that an agent would clean up or could not use, seen without touching it: for `holm doctor`.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use holm_model::id::InstanceName;
use holm_vmm::{VmError, Vmm};
use serde::{Deserialize, Serialize};

use crate::folder::{Folder, is_half_made};
use crate::host::short_name;
use crate::journal;
use crate::target_file::TargetFile;

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// An agent uses the folder now; what it is about to clean up may be among the other findings.
    AgentRuns,
    /// A microVM with this host's tag whose instance has no folder. The next agent ends it.
    StrayMachine {
        /// The VMM's process.
        pid: u32,
        /// The instance it was started for.
        instance: String,
    },
    /// A folder that was being made or removed when an agent was killed. The next agent removes it.
    HalfMade {
        /// The folder.
        path: PathBuf,
    },
    /// An instance whose files cannot be read.
    Damaged {
        /// The instance.
        instance: InstanceName,
        /// What is wrong.
        why: String,
    },
    /// The newest target cannot be read. No agent starts until it is repaired or removed.
    DamagedTarget {
        /// What is wrong.
        why: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentRuns => write!(f, "an agent is running on this host's state"),
            Self::StrayMachine { pid, instance } => {
                write!(f, "the microVM of `{instance}` (process {pid}) belongs to no instance")
            }
            Self::HalfMade { path } => write!(f, "{} was left half made", path.display()),
            Self::Damaged { instance, why } => write!(f, "the files of `{instance}` cannot be read: {why}"),
            Self::DamagedTarget { why } => write!(f, "the newest target cannot be read: {why}"),
        }
    }
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum FindingsError {
    /// The agent's folder cannot be read.
    #[error("cannot look through {}", path.display())]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The running microVMs cannot be listed.
    #[error("cannot list the running microVMs")]
    Machines(#[source] VmError),
}

/// Looks at an agent's folder and this host's microVMs; changes nothing. A folder that does not exist has no findings.
///
/// # Errors
/// See [`FindingsError`].
pub fn findings(state_dir: &Path, host_tag: &str, vmm: &dyn Vmm) -> Result<Vec<Finding>, FindingsError> {
    let mut found = Vec::new();
    if let Ok(lock) = File::open(state_dir.join("lock"))
        && matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))
    {
        found.push(Finding::AgentRuns);
    }
    if let Err(error) = TargetFile::open(state_dir) {
        found.push(Finding::DamagedTarget { why: error.to_string() });
    }
    let root = state_dir.join("instances");
    let folders = look_through(&root, &mut found).map_err(|source| FindingsError::Folder { path: root, source })?;
    let known: Vec<String> = folders.iter().map(short_name).collect();
    for record in vmm.find_leftovers(host_tag).map_err(FindingsError::Machines)? {
        let instance = record.name.instance().to_owned();
        if !known.contains(&instance) {
            found.push(Finding::StrayMachine { pid: record.process.pid, instance });
        }
    }
    Ok(found)
}

fn look_through(root: &Path, found: &mut Vec<Finding>) -> io::Result<Vec<InstanceName>> {
    if !root.exists() {
        return Ok(Vec::new());
    }
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if is_half_made(&entry.file_name()) {
            found.push(Finding::HalfMade { path: entry.path() });
        }
    }
    let folders = Folder::list(root)?;
    for (instance, folder) in &folders {
        let journal = match std::fs::read(folder.journal()) {
            Ok(bytes) => journal::replay(&bytes).map(drop),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = folder.spec().map(drop).and(journal) {
            found.push(Finding::Damaged { instance: instance.clone(), why: error.to_string() });
        }
    }
    Ok(folders.into_iter().map(|(instance, _)| instance).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use futures_util::future::BoxFuture;
    use holm_vmm::{ProcessIdentity, Vm, VmName, VmRecord, VmSpec};

    use super::*;

    /// A host on which one microVM runs.
    #[derive(Debug)]
    struct OneMachine;

    impl Vmm for OneMachine {
        fn launch<'a>(&'a self, _: &'a VmSpec) -> BoxFuture<'a, Result<Arc<dyn Vm>, VmError>> {
            unreachable!("looking changes nothing")
        }

        fn adopt<'a>(&'a self, _: &'a VmRecord) -> BoxFuture<'a, Result<Option<Arc<dyn Vm>>, VmError>> {
            unreachable!("looking changes nothing")
        }

        fn find_leftovers(&self, tag: &str) -> Result<Vec<VmRecord>, VmError> {
            let process = ProcessIdentity { pid: 7, start_time: 1 };
            Ok(vec![VmRecord { name: VmName::new(tag, "hello.web.1").unwrap(), process, run_dir: "/run".into() }])
        }
    }

    #[test]
    fn strays_and_damage_are_found_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("instances");
        let stray = Finding::StrayMachine { pid: 7, instance: "hello.web.1".into() };
        assert_eq!(findings(dir.path(), "tag", &OneMachine).unwrap(), [stray]);

        let half_made = root.join(".gone-hello.web.2");
        fs::create_dir_all(&half_made).unwrap();
        fs::create_dir_all(root.join("hello.web.1")).unwrap();
        fs::write(root.join("hello.web.1/spec.json"), "{").unwrap();
        fs::write(dir.path().join("target.json"), "[]").unwrap();
        let lock = File::create(dir.path().join("lock")).unwrap();
        lock.lock().unwrap();
        let found = findings(dir.path(), "tag", &OneMachine).unwrap();
        assert_eq!(found[0], Finding::AgentRuns);
        assert!(matches!(&found[1], Finding::DamagedTarget { .. }));
        assert_eq!(found[2], Finding::HalfMade { path: half_made });
        assert!(matches!(&found[3], Finding::Damaged { instance, .. } if instance.number == 1));
        assert_eq!(found.len(), 4);
    }
}

//! The folder of one instance: what it is made from, its journal, its logs and its sockets.
//!
//! A folder appears and vanishes as a whole: it is made under a name that starts with `.new-` and renamed, and renamed to
//! `.gone-…` before it is emptied. [`sweep`] removes what a kill left in between.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use holm_model::id::InstanceName;
use holm_model::target::InstanceSpec;

const SPEC: &str = "spec.json";
const NEW: &str = ".new-";
const GONE: &str = ".gone-";
/// Largest `spec.json` that is read, in bytes.
const MAX_SPEC: u64 = 4 << 20;

/// The folder of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder of `spec` under `root`, or finds it there with the same specification.
    ///
    /// An instance's specification never changes, so one that is there is kept; an unreadable one is written again.
    pub(crate) fn make(root: &Path, spec: &InstanceSpec) -> io::Result<Self> {
        let folder = Self { path: root.join(spec.instance.to_string()) };
        if folder.path.is_dir() {
            if folder.spec().is_err() {
                write_durably(&folder.path, SPEC, &encode(spec))?;
            }
            return Ok(folder);
        }
        let new = root.join(format!("{NEW}{}", spec.instance));
        remove(&new)?;
        fs::create_dir_all(&new)?;
        write_durably(&new, SPEC, &encode(spec))?;
        fs::rename(&new, &folder.path)?;
        sync_dir(root)?;
        Ok(folder)
    }

    /// All instance folders under `root`.
    pub(crate) fn list(root: &Path) -> io::Result<Vec<(InstanceName, Self)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().and_then(|n| n.parse::<InstanceName>().ok()) {
                found.push((name, Self { path: entry.path() }));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// What the instance is made from.
    pub(crate) fn spec(&self) -> io::Result<InstanceSpec> {
        let path = self.path.join(SPEC);
        if fs::metadata(&path)?.len() > MAX_SPEC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "spec.json is larger than 4 MiB"));
        }
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }

    /// The journal's file.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// The folder of the app's logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The folder of the microVM: sockets, console, the VMM's own log.
    pub(crate) fn run(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Removes the microVM's sockets and keeps its logs.
    pub(crate) fn remove_sockets(&self) -> io::Result<()> {
        use std::os::unix::fs::FileTypeExt as _;
        let entries = match fs::read_dir(self.run()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the folder with everything in it.
    pub(crate) fn remove(self) -> io::Result<()> {
        let (Some(root), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let gone = root.join(format!("{GONE}{}", name.to_string_lossy()));
        remove(&gone)?;
        match fs::rename(&self.path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        sync_dir(root)?;
        remove(&gone)
    }
}

/// Removes folders that were being made or removed when the agent was killed.
pub(crate) fn sweep(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if is_half_made(&entry.file_name()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether a folder of this name was being made or removed.
pub(crate) fn is_half_made(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(NEW) || name.starts_with(GONE))
}

fn encode(spec: &InstanceSpec) -> Vec<u8> {
    serde_json::to_vec_pretty(spec).expect("plain data with string keys serialises")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes `dir/name` so that after a power cut it holds either its old or its new content.
pub(crate) fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{NEW}{name}"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, dir.join(name))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

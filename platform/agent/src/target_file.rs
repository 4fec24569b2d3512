//! The newest target this host has accepted, kept on disk: an older one is refused, also after a restart.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holm_model::target::HostTarget;

use crate::folder::write_durably;

const FILE: &str = "target.json";

/// The newest target, in memory and on disk.
#[derive(Debug)]
pub(crate) struct TargetFile {
    dir: PathBuf,
    newest: HostTarget,
}

impl TargetFile {
    /// Reads the newest target from `dir`; the empty one of generation 0 when there is none.
    ///
    /// A file that cannot be read as a target is an error: going on without it could stop what should run.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let newest = match fs::read(dir.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HostTarget::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { dir: dir.to_owned(), newest })
    }

    /// The newest target.
    pub(crate) fn newest(&self) -> &HostTarget {
        &self.newest
    }

    /// Takes `target` when it is newer than the newest; says whether it was. On an error nothing has changed.
    pub(crate) fn accept(&mut self, target: &HostTarget) -> io::Result<bool> {
        if target.generation <= self.newest.generation {
            return Ok(false);
        }
        let json = serde_json::to_vec(target).expect("plain data with string keys serialises");
        write_durably(&self.dir, FILE, &json)?;
        self.newest = target.clone();
        Ok(true)
    }
}

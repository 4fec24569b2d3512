//! Names of an ingress's own: beside the one socket where the ingress is found that serves, each process has another name for
//! its own socket, `STEM-PID.sock`. By it callers find those that were replaced, which have connections yet.

use std::io;
use std::path::{Path, PathBuf};

/// The name of this process, removed when dropped.
#[derive(Debug)]
pub(super) struct Name(PathBuf);

impl Name {
    /// Gives the socket at `fresh`, which is about to become `socket`, its other name.
    pub(super) fn of(fresh: &Path, socket: &Path) -> io::Result<Self> {
        let name = socket.with_file_name(format!("{}{}.sock", stem(socket), std::process::id()));
        // One of an earlier process with this number, which was killed.
        let _ = std::fs::remove_file(&name);
        std::fs::hard_link(fresh, &name)?;
        Ok(Self(name))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn stem(socket: &Path) -> String {
    format!("{}-", socket.file_stem().unwrap_or_default().to_string_lossy())
}

/// The names of every ingress that has or had the socket; those of killed ones too.
pub(super) fn names(socket: &Path) -> Vec<PathBuf> {
    let stem = stem(socket);
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_prefix(&stem).and_then(|rest| rest.strip_suffix(".sock"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let folder = socket.parent().unwrap_or(Path::new("."));
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.filter(is_one).collect()
}

//! Debian packages that are unpacked below `target/`, never installed: so no service of theirs starts by itself.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, output};

/// Downloads `packages` (no dependencies) and unpacks them into `folder`, once: a finished folder is used again.
///
/// # Errors
/// When apt does not know a package, or the network is not there.
pub(crate) fn unpacked(folder: &Path, packages: &[&str]) -> Result<PathBuf> {
    let done = folder.join(".unpacked");
    let wanted = packages.join(" ");
    if fs::read_to_string(&done).is_ok_and(|had| had == wanted) {
        return Ok(folder.to_owned());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    for deb in downloaded(&folder.join(".debs"), packages)? {
        output(command(folder, "dpkg-deb", &["-x"]).arg(&deb).arg(folder))?;
    }
    fs::remove_dir_all(folder.join(".debs"))?;
    fs::write(&done, wanted)?;
    Ok(folder.to_owned())
}

/// Downloads `packages` into `folder` and gives the files, sorted by name.
pub(crate) fn downloaded(folder: &Path, packages: &[&str]) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder)?;
    output(command(folder, "apt-get", &["download", "-q"]).args(packages))
        .with_context(|| format!("cannot download the Debian packages {}", packages.join(", ")))?;
    debs_in(folder)
}

/// The packages that lie in `folder`, sorted by name; none when it is not there.
pub(crate) fn debs_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut debs = Vec::new();
    if !folder.exists() {
        return Ok(debs);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            debs.push(path);
        }
    }
    debs.sort();
    Ok(debs)
}

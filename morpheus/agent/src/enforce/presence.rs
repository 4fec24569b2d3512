//! Whether this kernel has sched_ext, and which scheduler uses it now.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// What `/sys/kernel/sched_ext` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// The kernel has no sched_ext.
    Absent,
    /// It has, and no scheduler is loaded.
    Free,
    /// This one is loaded, or is being loaded or unloaded.
    Occupied(String),
}

/// Reads the folder the kernel shows.
///
/// # Errors
/// Those of the file system, but for the folder not being there.
pub fn read(sysfs: &Path) -> io::Result<Presence> {
    let state = match fs::read_to_string(sysfs.join("state")) {
        Ok(state) => state,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Presence::Absent),
        Err(error) => return Err(error),
    };
    if state.trim() == "disabled" {
        return Ok(Presence::Free);
    }
    // Between the states the scheduler has no name to read, or no longer.
    let name = fs::read_to_string(sysfs.join("root/ops")).unwrap_or_default();
    let name = name.trim();
    Ok(Presence::Occupied(if name.is_empty() { format!("one that is {}", state.trim()) } else { name.to_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let sysfs = folder.path();
        assert_eq!(read(sysfs).unwrap(), Presence::Absent);
        fs::write(sysfs.join("state"), "disabled\n").unwrap();
        assert_eq!(read(sysfs).unwrap(), Presence::Free);
        fs::write(sysfs.join("state"), "enabling\n").unwrap();
        assert_eq!(read(sysfs).unwrap(), Presence::Occupied("one that is enabling".to_owned()));
        fs::write(sysfs.join("state"), "enabled\n").unwrap();
        fs::create_dir(sysfs.join("root")).unwrap();
        fs::write(sysfs.join("root/ops"), "scx_lavd\n").unwrap();
        assert_eq!(read(sysfs).unwrap(), Presence::Occupied("scx_lavd".to_owned()));
    }
}

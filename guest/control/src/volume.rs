//! Volumes as a guest has them: disks with an ext4 file system, mounted before the app starts.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// A disk that the guest mounts as ext4. An empty one of another user's app is given to the app's user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestVolume {
    /// The disk's serial number, by which the guest finds it.
    pub serial: String,
    /// Folder of the root on which it is mounted; made when missing. Absolute, without `..`.
    pub path: String,
}

impl GuestVolume {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let parts = || self.path.split('/').skip(1);
        let plain = self.path.starts_with('/') && !parts().any(|part| matches!(part, "" | "." | ".."));
        if !plain || self.path.contains('\0') {
            return Err(ConfigError::FilePath(self.path.clone()));
        }
        if !(1..=20).contains(&self.serial.len()) || !self.serial.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ConfigError::Range("the serial number of a volume"));
        }
        Ok(())
    }
}

/// What is done with a mounted volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum VolumeAction {
    /// Let the file system fill its disk, which has grown. One that fills it already is fine.
    Grow,
    /// Write everything out and let nobody write until it is thawed, or until the limit is over: then the guest thaws it
    /// by itself, so that a host that is gone leaves nothing frozen. Frozen again, the limit counts anew.
    Freeze {
        /// Milliseconds, at most 60,000.
        limit_ms: u64,
    },
    /// Let writers go on. Refused when the limit was over before: what was read meanwhile may be torn.
    Thaw,
}

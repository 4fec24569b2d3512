//! Volumes: what an app keeps beyond its instances and releases, told apart by numbers that are never used again.

use std::collections::BTreeSet;
use std::fmt;

use holm_manifest::{VolumeName, VolumeSize};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::{Event, Recorded};
use crate::id::{AppKey, ParseIdError};
use crate::state::{DocumentKey, State};
use crate::text::as_text;

/// A volume of an app in one of its environments. Written `hello:data`, or `hello/staging:data` outside `prod`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId {
    /// The app and environment it belongs to; it may be there before and after the app.
    pub app: AppKey,
    /// Its name.
    pub name: VolumeName,
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.app, self.name)
    }
}

impl std::str::FromStr for VolumeId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError::new(text, "a volume such as `hello:data` or `hello/staging:data`");
        let (app, name) = text.split_once(':').ok_or_else(bad)?;
        Ok(Self { app: app.parse().map_err(|_| bad())?, name: VolumeName::new(name).map_err(|_| bad())? })
    }
}

as_text!(VolumeId);

/// The number of a volume: that of the event that made it. A volume that is made again under the same name has another,
/// so what an earlier one left on a host is never taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeNumber(pub u64);

impl fmt::Display for VolumeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where a volume's first content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeOrigin {
    /// It is an empty file system.
    Empty,
    /// A file that the host had ready, whole and on disk, before the volume was recorded.
    Staged {
        /// Under which key.
        key: Uuid,
        /// What it is, for people: `backup 2026-01-31T12:00:00Z of hello:data`.
        what: String,
    },
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its number.
    pub number: VolumeNumber,
    /// Its size; it only grows.
    pub size: VolumeSize,
    /// Where its first content comes from.
    pub origin: VolumeOrigin,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// What its snapshots take of the host's disk at the most, in bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub snapshots: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A volume as an instance has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Which one.
    pub volume: VolumeId,
    /// Its number.
    pub number: VolumeNumber,
    /// The folder of the guest in which it is seen.
    pub path: String,
}

/// What a host should have of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeTarget {
    /// Its size.
    pub size: VolumeSize,
    /// Where its first content comes from.
    pub origin: VolumeOrigin,
}

impl State {
    /// Folds an event about a volume in; `false` when it is about something else. Volumes are there before their app is
    /// and stay when it goes, so the app's documents are not touched.
    pub(crate) fn apply_to_volumes(&mut self, recorded: &Recorded, touched: &mut BTreeSet<DocumentKey>) -> bool {
        let id = match &recorded.event {
            Event::VolumeCreated { volume, size, origin } => {
                let made = Volume {
                    number: VolumeNumber(recorded.seq.0),
                    size: *size,
                    origin: origin.clone(),
                    created_at: recorded.at,
                    created_by: recorded.actor.clone(),
                    snapshots: 0,
                };
                self.volumes.entry(volume.clone()).or_insert(made);
                volume
            }
            Event::VolumeGrown { volume, size } => {
                if let Some(known) = self.volumes.get_mut(volume) {
                    known.size = known.size.max(*size);
                }
                volume
            }
            Event::SnapshotsChanged { volume, bytes } => {
                if let Some(known) = self.volumes.get_mut(volume) {
                    known.snapshots = *bytes;
                }
                volume
            }
            Event::VolumeDeleted { volume } => {
                self.volumes.remove(volume);
                volume
            }
            _ => return false,
        };
        touched.insert(DocumentKey::Volume(id.clone()));
        true
    }

    /// The volumes of `app`, by name.
    pub fn volumes_of<'a>(&'a self, app: &'a AppKey) -> impl Iterator<Item = (&'a VolumeId, &'a Volume)> {
        self.volumes.iter().filter(move |(id, _)| id.app == *app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_named_by_its_app_and_name() {
        for text in ["hello:data", "hello/staging:data"] {
            assert_eq!(text.parse::<VolumeId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "data", ":data", "hello:", "hello:DATA", "hello:a:b", "a/b/c:d"] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
    }
}

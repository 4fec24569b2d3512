//! What a backup is made of: its description, and the name of the chunk at each place.

use holm_manifest::VolumeSize;
use holm_model::volume::{VolumeId, VolumeNumber};
use jiff::Timestamp;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::BackupError;
use super::key::ChunkId;
use crate::SnapshotId;

/// Which backup: the volume, and the moment at which it was as the backup has it. Written `hello:data@MOMENT`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId {
    /// The volume.
    pub volume: VolumeId,
    /// The moment.
    pub moment: SnapshotId,
}

impl std::fmt::Display for BackupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.volume, self.moment.as_str())
    }
}

impl std::str::FromStr for BackupId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('@').and_then(|(volume, moment)| {
            Some(Self { volume: volume.parse().ok()?, moment: SnapshotId::parse(moment)? })
        });
        parsed.ok_or_else(|| format!("`{text}` is not a backup such as `hello:data@20260131T120000.000Z`"))
    }
}

impl TryFrom<String> for BackupId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.to_string()
    }
}

impl BackupId {
    /// The name of its object.
    pub(crate) fn path(&self, root: &Path) -> Path {
        let VolumeId { app, name } = &self.volume;
        let parts = [app.app.as_str(), app.env.as_str(), name.as_str(), self.moment.as_str()];
        parts.into_iter().fold(root.clone().join("backups"), |path, part| path.join(part))
    }

    /// From the last four parts of an object's name.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        let parts: Vec<String> = path.parts().map(|part| part.as_ref().to_owned()).collect();
        let [.., app, env, name, moment] = parts.as_slice() else { return None };
        let volume: VolumeId = format!("{app}/{env}:{name}").parse().ok()?;
        Some(Self { volume, moment: SnapshotId::parse(moment)? })
    }
}

/// A backup's description and chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// What it says about itself.
    pub about: About,
    /// The chunk at each place, in order; `[0; 32]`: zeroes.
    pub chunks: Vec<ChunkId>,
}

/// What a backup says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of this form: 1.
    pub form: u32,
    /// Which backup.
    pub id: BackupId,
    /// The volume's number then.
    pub number: VolumeNumber,
    /// The volume's size then.
    pub size: VolumeSize,
    /// Bytes per chunk.
    pub chunk: u64,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The backup whose chunks it names again, if it follows one.
    #[serde(default)]
    pub follows: Option<BackupId>,
    /// The id of the file system in it ([`crate::file_system_of`]); `None` in backups of older versions.
    #[serde(default)]
    pub file_system: Option<Uuid>,
}

impl About {
    /// Whether a volume with this file system may be what the backup was taken of, as far as both are known.
    #[must_use]
    pub fn may_be_of(&self, file_system: Option<Uuid>) -> bool {
        self.file_system.is_none() || file_system.is_none() || self.file_system == file_system
    }
}

impl Index {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let about = serde_json::to_vec(&self.about).expect("plain data with text keys");
        let length = u32::try_from(about.len()).expect("a description is short");
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(&about);
        self.chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
        bytes
    }

    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let read = || {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (about, chunks) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            let about: About = serde_json::from_slice(about).ok()?;
            let (chunks, rest) = chunks.as_chunks::<32>();
            let fits = about.chunk > 0 && about.size.bytes().div_ceil(about.chunk) == chunks.len() as u64;
            (fits && rest.is_empty() && about.form == 1).then(|| Self { about, chunks: chunks.to_vec() })
        };
        read().ok_or_else(|| BackupError::Damaged { what: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn backups_are_named_by_volume_and_moment() {
        let id: BackupId = "hello/staging:data@20260131T120000.000Z".parse().unwrap();
        let path = id.path(&Path::from("some/where"));
        assert_eq!(path.as_ref(), "some/where/backups/hello/staging/data/20260131T120000.000Z");
        assert_eq!(BackupId::of_path(&path), Some(id));
        for bad in ["", "hello:data", "hello:data@", "hello:data@../../x", "@20260131T120000.000Z"] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Index::decode("x", &bytes);
        }
    }
}

//! The record of a finished image: what it was made from and what it must look like on disk.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::ImageConfig;
use crate::reference::ImageRef;

/// What the store knows about a finished image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Version of this record's shape; 1.
    pub version: u32,
    /// The image manifest's digest, by which the image is known.
    pub digest: Digest,
    /// Where it was first prepared from.
    pub reference: ImageRef,
    /// When it was built, in seconds since 1970.
    pub created: u64,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Digest of the configuration document.
    pub config_digest: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRecord>,
    /// Bytes of the EROFS file.
    pub erofs_bytes: u64,
    /// SHA-256 of the EROFS file.
    pub erofs_sha256: Digest,
}

/// One layer of a finished image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
}

impl ImageRecord {
    /// Every blob the image was made from.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        [self.digest, self.config_digest].into_iter().chain(self.layers.iter().map(|layer| layer.digest))
    }
}

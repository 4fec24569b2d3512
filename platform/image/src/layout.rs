//! OCI image layouts: images in a plain folder (OCI image spec 1.1, `image-layout.md`).

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::manifest::{Descriptor, Index, is_image_type};
use crate::reference::LayoutRef;

/// The annotation of an `index.json` entry that holds its tag.
pub(crate) const TAG_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// Why a folder does not give the image that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// No readable `index.json`.
    #[error("`{folder}` is not an OCI image layout: its index.json cannot be read")]
    Index {
        /// The layout's folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An `index.json` that is not an index.
    #[error("`{folder}` has an index.json that is not an image index")]
    Json {
        /// The layout's folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A blob the layout should have.
    #[error("`{folder}` has no readable blob {digest}")]
    Blob {
        /// The layout's folder.
        folder: PathBuf,
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No image with that tag.
    #[error("`{folder}` has no image tagged `{tag}`; it has: {found}")]
    Tag {
        /// The layout's folder.
        folder: PathBuf,
        /// The tag asked for.
        tag: String,
        /// Tags there are, comma separated.
        found: String,
    },
    /// Several images, or none, and no tag to choose by.
    #[error("`{folder}` has {count} images; name one with a tag: {found}")]
    Ambiguous {
        /// The layout's folder.
        folder: PathBuf,
        /// Images there are.
        count: usize,
        /// Tags there are, comma separated.
        found: String,
    },
}

/// Where a layout keeps a blob.
pub(crate) fn blob_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

/// The descriptor a reference without a digest stands for. Blocking.
pub(crate) fn select(reference: &LayoutRef, limit: u64) -> Result<Descriptor, LayoutError> {
    let folder = reference.folder().to_path_buf();
    let bytes = read_limited(&folder.join("index.json"), limit);
    let bytes = bytes.map_err(|source| LayoutError::Index { folder: folder.clone(), source })?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json { folder: folder.clone(), source })?;
    let images: Vec<_> = index.manifests.iter().filter(|entry| is_image_type(&entry.media_type)).collect();
    let tag = |entry: &Descriptor| entry.annotations.get(TAG_ANNOTATION).cloned();
    let found = || {
        let tags: Vec<_> = images.iter().filter_map(|entry| tag(entry)).take(16).collect();
        if tags.is_empty() { "no tags".to_owned() } else { tags.join(", ") }
    };
    match (reference.tag(), &images[..]) {
        (None, [only]) => Ok((*only).clone()),
        (None, _) => Err(LayoutError::Ambiguous { count: images.len(), found: found(), folder }),
        (Some(wanted), _) => {
            let entry = images.iter().find(|entry| tag(entry).as_deref() == Some(wanted));
            let missing = || LayoutError::Tag { tag: wanted.to_owned(), found: found(), folder };
            entry.map(|entry| (*entry).clone()).ok_or_else(missing)
        }
    }
}

/// A file of at most `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    let count = io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes)?;
    if count as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is over the limit of {limit} bytes")));
    }
    Ok(bytes)
}

//! From a reference to a digest: asks the registry or layout once, and pins the answer.

use std::io::Write;
use std::sync::Arc;

use super::{ImageStore, Inner, StoreError, blocking, io_error};
use crate::digest::Digest;
use crate::layout::{self, LayoutError, read_limited};
use crate::manifest::{Document, Manifest, ManifestError};
use crate::reference::ImageRef;
use crate::registry::{Received, RegistryError};

/// An index may name another index; no more than this many documents are followed.
const DOCUMENTS: usize = 3;

/// A reference pinned to the image for this host's architecture.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resolved {
    /// The reference with the digest in it.
    pub reference: ImageRef,
    /// Digest of the image manifest: what a release is pinned to.
    pub digest: Digest,
    /// Digest of the index it was chosen from, if the reference led to one.
    pub index: Option<Digest>,
}

impl ImageStore {
    /// Finds the digest of the image `reference` stands for now. A reference with a digest that the store has finished
    /// needs no network.
    pub async fn resolve(&self, reference: &ImageRef) -> Result<Resolved, StoreError> {
        if let Some(digest) = reference.digest() {
            let inner = Arc::clone(&self.inner);
            if blocking(move || inner.record(digest)).await?.is_some() {
                return Ok(Resolved { reference: reference.clone(), digest, index: None });
            }
        }
        let found = self.inner.find_manifest(reference).await?;
        Ok(Resolved { reference: reference.pinned(found.digest), digest: found.digest, index: found.index })
    }
}

pub(super) struct Found {
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
    pub(super) index: Option<Digest>,
}

impl Inner {
    /// Follows indexes to the image manifest for this host and keeps it as a blob.
    pub(super) async fn find_manifest(self: &Arc<Self>, reference: &ImageRef) -> Result<Found, StoreError> {
        let mut target = reference.digest();
        let mut index = None;
        let refused = |source| StoreError::Manifest { image: reference.to_string(), source };
        for _ in 0..DOCUMENTS {
            let received = self.document(reference, target).await?;
            match Document::parse(&received.bytes, received.media_type.as_deref()).map_err(refused)? {
                Document::Manifest(manifest) => {
                    manifest.check(&self.limits).map_err(refused)?;
                    let digest = received.digest;
                    self.keep_blob(digest, received.bytes).await?;
                    return Ok(Found { manifest, digest, index });
                }
                Document::Index(document) => {
                    let chosen = document.select().map_err(refused)?;
                    index = index.or(Some(received.digest));
                    target = Some(chosen.digest);
                }
            }
        }
        Err(refused(ManifestError::Nesting))
    }

    /// The document a digest names, or the reference where there is none; its digest checked.
    async fn document(self: &Arc<Self>, reference: &ImageRef, digest: Option<Digest>) -> Result<Received, StoreError> {
        let limit = self.limits.manifest_bytes;
        match reference {
            ImageRef::Registry(registry) => {
                let target = digest.map_or_else(|| registry.target(), |digest| digest.to_string());
                Ok(self.registry.manifest(registry, &target, limit).await?)
            }
            ImageRef::Layout(reference) => {
                let reference = reference.clone();
                blocking(move || {
                    let (expected, media_type) = match digest {
                        Some(digest) => (digest, None),
                        None => {
                            let descriptor = layout::select(&reference, limit)?;
                            (descriptor.digest, Some(descriptor.media_type))
                        }
                    };
                    let folder = reference.folder();
                    let bytes = read_limited(&layout::blob_path(folder, &expected), limit).map_err(|source| {
                        LayoutError::Blob { folder: folder.to_path_buf(), digest: expected, source }
                    })?;
                    let found = Digest::of(&bytes);
                    if found != expected {
                        return Err(RegistryError::WrongDigest { expected, found }.into());
                    }
                    Ok(Received { bytes, digest: found, media_type })
                })
                .await
            }
        }
    }

    async fn keep_blob(self: &Arc<Self>, digest: Digest, bytes: Vec<u8>) -> Result<(), StoreError> {
        let inner = Arc::clone(self);
        blocking(move || {
            let write = || {
                let mut file = tempfile::NamedTempFile::new_in(inner.scratch())?;
                file.write_all(&bytes)?;
                file.as_file().sync_all()?;
                file.persist(inner.blob_path(digest))?;
                Ok(())
            };
            write().map_err(io_error("keep a manifest"))
        })
        .await
    }
}

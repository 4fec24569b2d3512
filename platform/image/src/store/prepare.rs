//! From a digest to a finished image: pulls what is missing, builds once, and publishes by rename.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Claim, ImageRecord, ImageStore, Inner, LayerRecord, Resolved, StoreError, blocking, io_error};
use crate::build::{self, BuildError, Built, Layer};
use crate::digest::Digest;
use crate::erofs::Identity;
use crate::flight::Reporter;
use crate::layout::{self, LayoutError, read_limited};
use crate::manifest::{Config, Descriptor, Document, ImageConfig, Manifest};
use crate::progress::{Phase, Progress};
use crate::reference::ImageRef;
use crate::registry::write_blob;

/// Layers fetched at the same time.
const PARALLEL_PULLS: usize = 3;

/// A finished image, ready to be given to a microVM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PreparedImage {
    /// Digest of the image manifest.
    pub digest: Digest,
    /// The EROFS file. Shared by all instances: open it read-only.
    pub erofs: PathBuf,
    /// Bytes of the EROFS file.
    pub erofs_bytes: u64,
    /// How the image wants to be run.
    pub config: ImageConfig,
}

type Report = Reporter<Progress, Result<PreparedImage, Arc<StoreError>>>;

impl ImageStore {
    /// Makes sure the image is on this host, finished, and what was built: one that was damaged is built again. Calls for the
    /// same image share one build, which goes on even if this future is dropped; `progress` hears how far it is.
    pub async fn prepare(
        &self,
        resolved: &Resolved,
        progress: impl FnMut(Progress) + Send,
    ) -> Result<PreparedImage, Arc<StoreError>> {
        let (inner, digest) = (Arc::clone(&self.inner), resolved.digest);
        let known = blocking(move || inner.known(digest)).await?;
        if let Some(known) = known {
            return Ok(known);
        }
        let inner = Arc::clone(&self.inner);
        let reference = resolved.reference.pinned(digest);
        let work = |report| async move { inner.make(digest, reference, report).await.map_err(Arc::new) };
        let result = self.inner.images.run(digest, progress, work).await;
        result.unwrap_or_else(|| Err(Arc::new(StoreError::Interrupted)))
    }
}

impl Inner {
    pub(super) fn ready(&self, digest: Digest) -> Result<Option<PreparedImage>, StoreError> {
        let record = self.record(digest)?;
        Ok(record.map(|record| PreparedImage {
            digest,
            erofs: self.erofs_path(digest),
            erofs_bytes: record.erofs_bytes,
            config: record.config,
        }))
    }

    async fn make(
        self: Arc<Self>,
        digest: Digest,
        reference: ImageRef,
        report: Arc<Report>,
    ) -> Result<PreparedImage, StoreError> {
        let inner = Arc::clone(&self);
        if let Some(whole) = blocking(move || inner.whole(digest)).await? {
            return Ok(whole);
        }
        report.report(Progress { phase: Phase::Resolving, done: 0, total: 0 });
        let mut claims = vec![self.claim(digest)];
        let refused = |source| StoreError::Manifest { image: reference.to_string(), source };
        let manifest = self.manifest(digest, &reference).await?;
        claims.push(self.claim(manifest.config.digest));
        self.pull(&reference, &manifest.config, &|_| {}).await?;
        let (inner, config) = (Arc::clone(&self), manifest.config.digest);
        let limit = self.limits.config_bytes;
        let bytes = blocking(move || {
            read_limited(&inner.blob_path(config), limit).map_err(io_error("read an image configuration"))
        });
        let config = Config::parse(&bytes.await?, manifest.layers.len()).map_err(refused)?;
        claims.extend(manifest.layers.iter().map(|layer| self.claim(layer.digest)));
        self.pull_layers(&reference, &manifest, &report).await?;
        let layers: Vec<_> = manifest
            .layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(layer, &diff_id)| LayerRecord { digest: layer.digest, bytes: layer.size, diff_id })
            .collect();
        let mut record = ImageRecord {
            version: 1,
            digest,
            reference: reference.clone(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            config: config.image,
            config_digest: manifest.config.digest,
            layers,
            erofs_bytes: 0,
            erofs_sha256: digest,
        };
        let finished = match self.build(&mut record, &report).await {
            // A blob that rotted on disk looks like a hostile layer: fetch it again, once.
            Err(StoreError::Build { source, digest }) => {
                if !self.drop_damaged_blobs(&record).await? {
                    return Err(StoreError::Build { source, digest });
                }
                self.pull_layers(&reference, &manifest, &report).await?;
                self.build(&mut record, &report).await
            }
            other => other,
        };
        drop::<Vec<Claim>>(claims);
        finished
    }

    /// The manifest from the store if it is there, else from its source.
    async fn manifest(self: &Arc<Self>, digest: Digest, reference: &ImageRef) -> Result<Manifest, StoreError> {
        let inner = Arc::clone(self);
        let limit = self.limits.manifest_bytes;
        let bytes = blocking(move || Ok(read_limited(&inner.blob_path(digest), limit).ok())).await?;
        let cached = bytes.filter(|bytes| Digest::of(bytes) == digest);
        if let Some(Ok(Document::Manifest(manifest))) = cached.map(|bytes| Document::parse(&bytes, None)) {
            let refused = |source| StoreError::Manifest { image: reference.to_string(), source };
            manifest.check(&self.limits).map_err(refused)?;
            return Ok(manifest);
        }
        Ok(self.find_manifest(reference).await?.manifest)
    }

    async fn pull_layers(
        self: &Arc<Self>,
        reference: &ImageRef,
        manifest: &Manifest,
        report: &Arc<Report>,
    ) -> Result<(), StoreError> {
        let total = manifest.layers.iter().map(|layer| layer.size).sum();
        let done = AtomicU64::new(0);
        report.report(Progress { phase: Phase::Pulling, done: 0, total });
        let mut pulls = Vec::new();
        for layer in &manifest.layers {
            let done = &done;
            pulls.push(async move {
                // A download that starts over takes back what it had counted.
                let counted = AtomicU64::new(0);
                let count = |bytes: u64| {
                    let gained = bytes.wrapping_sub(counted.swap(bytes, Ordering::Relaxed));
                    let now = done.fetch_add(gained, Ordering::Relaxed).wrapping_add(gained);
                    report.report(Progress { phase: Phase::Pulling, done: now.min(total), total });
                };
                self.pull(reference, layer, &count).await?;
                count(layer.size);
                Ok::<_, StoreError>(())
            });
        }
        stream::iter(pulls).buffer_unordered(PARALLEL_PULLS).try_collect::<()>().await
    }

    /// Makes sure a blob is in the store. Calls for the same blob share one download.
    async fn pull(
        self: &Arc<Self>,
        reference: &ImageRef,
        blob: &Descriptor,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        let (digest, size) = (blob.digest, blob.size);
        let inner = Arc::clone(self);
        let there = blocking(move || Ok(std::fs::metadata(inner.blob_path(digest)).is_ok_and(|f| f.len() == size)));
        if there.await? {
            return Ok(());
        }
        let (inner, reference) = (Arc::clone(self), reference.clone());
        let work = |report: Arc<Reporter<u64, _>>| async move {
            let _claim = inner.claim(digest);
            let progress = move |bytes| report.report(bytes);
            inner.fetch(&reference, digest, size, progress).await.map_err(Arc::new)
        };
        let result = self.blobs.run(digest, progress, work).await;
        result.unwrap_or_else(|| Err(Arc::new(StoreError::Interrupted))).map_err(unshare)
    }

    async fn fetch(
        self: &Arc<Self>,
        reference: &ImageRef,
        digest: Digest,
        size: u64,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        let scratch = self.scratch();
        let new_file = move || {
            let new = || tempfile::NamedTempFile::new_in(&scratch).and_then(|named| Ok((named.reopen()?, named)));
            new().map_err(io_error("make a temporary file"))
        };
        let (file, named) = blocking(new_file).await?;
        match reference {
            ImageRef::Registry(registry) => self.registry.blob(registry, digest, size, file, &progress).await?,
            ImageRef::Layout(layout) => {
                let path = layout::blob_path(layout.folder(), &digest);
                let folder = layout.folder().to_path_buf();
                blocking(move || {
                    let blob =
                        std::fs::File::open(path).map_err(|source| LayoutError::Blob { folder, digest, source })?;
                    Ok(write_blob(blob, digest, size, file, &progress)?)
                })
                .await?;
            }
        }
        let inner = Arc::clone(self);
        blocking(move || publish(named, &inner.blob_path(digest)).map_err(io_error("keep a blob"))).await
    }

    /// Builds and publishes the image `record` describes; fills in what only the build knows.
    async fn build(
        self: &Arc<Self>,
        record: &mut ImageRecord,
        report: &Arc<Report>,
    ) -> Result<PreparedImage, StoreError> {
        let _turn = self.builds.acquire().await.map_err(|_| StoreError::Interrupted)?;
        let (inner, report, mut work) = (Arc::clone(self), Arc::clone(report), record.clone());
        let total = work.layers.iter().map(|layer| layer.bytes).sum();
        report.report(Progress { phase: Phase::Building, done: 0, total });
        let progress = move |done| report.report(Progress { phase: Phase::Building, done, total });
        blocking(move || {
            let (built, image) = inner.build_file(&work, &progress)?;
            work.erofs_bytes = built.size;
            work.erofs_sha256 = built.sha256;
            publish(image, &inner.erofs_path(work.digest)).map_err(io_error("keep an image"))?;
            inner.publish_record(&work).map_err(io_error("keep an image's record"))?;
            inner.remember(work.digest).map_err(io_error("read an image's file"))?;
            inner.ready(work.digest)?.ok_or(StoreError::Unknown(work.digest))
        })
        .await
    }

    fn build_file(
        &self,
        record: &ImageRecord,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(Built, tempfile::NamedTempFile), StoreError> {
        let digest = record.digest;
        let failed = |source| StoreError::Build { digest, source };
        let layers: Vec<_> = record
            .layers
            .iter()
            .map(|layer| Layer { blob: self.blob_path(layer.digest), diff_id: layer.diff_id })
            .collect();
        let scratch = self.scratch();
        let named = tempfile::NamedTempFile::new_in(&scratch);
        let (named, file) = named
            .and_then(|named| named.reopen().map(|file| (named, file)))
            .map_err(|error| failed(BuildError::Write(error)))?;
        let built = build::build(&layers, file, &scratch, &identity(digest), &self.limits, progress).map_err(failed)?;
        Ok((built, named))
    }

    fn publish_record(&self, record: &ImageRecord) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.scratch())?;
        file.write_all(&serde_json::to_vec_pretty(record)?)?;
        file.as_file().sync_all()?;
        publish(file, &self.record_path(record.digest))
    }

    /// Removes layers whose bytes are no longer what their name says; whether there were any.
    async fn drop_damaged_blobs(self: &Arc<Self>, record: &ImageRecord) -> Result<bool, StoreError> {
        let (inner, layers) = (Arc::clone(self), record.layers.clone());
        blocking(move || {
            let mut dropped = false;
            for layer in layers {
                let path = inner.blob_path(layer.digest);
                let found = std::fs::File::open(&path).and_then(Digest::of_reader);
                if found.map_or(true, |(found, _)| found != layer.digest) {
                    super::remove(&path).map_err(io_error("remove a damaged blob"))?;
                    dropped = true;
                }
            }
            Ok(dropped)
        })
        .await
    }
}

/// Gives a synced temporary file its final name, durably. The file becomes readable for all: images hold no secrets of
/// the host.
fn publish(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o444))?;
    file.persist(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(folder)?.sync_all()
}

/// Name and UUID of an image's file system, from its digest alone.
fn identity(digest: Digest) -> Identity {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest.as_bytes()[..16]);
    // RFC 9562 version 8: free-form content.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let mut volume = [0; 16];
    volume[..15].copy_from_slice(format!("holm-{}", &digest.hex()[..10]).as_bytes());
    Identity { uuid, volume }
}

/// The error itself where this is its last owner, else one that points at it.
fn unshare(error: Arc<StoreError>) -> StoreError {
    Arc::try_unwrap(error).unwrap_or_else(StoreError::Shared)
}

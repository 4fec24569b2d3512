//! The image store: one folder that holds verified blobs and finished images, and survives a kill at any moment.
//!
//! ```text
//! blobs/sha256/<hex>     manifests, configurations and layers, complete and checked
//! images/<hex>.erofs     one per image manifest digest
//! images/<hex>.json      its record; written last, so an image without one does not exist
//! tmp/                   work in progress; emptied when the store is opened
//! lock                   held by the one process that uses the store
//! ```

mod prepare;
mod record;
mod resolve;
mod whole;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::Semaphore;

use crate::Limits;
use crate::build::BuildError;
use crate::digest::Digest;
use crate::flight::Flights;
use crate::layout::LayoutError;
use crate::manifest::ManifestError;
use crate::progress::Progress;
use crate::registry::{Registry, RegistryError, RegistryOptions};

pub use prepare::PreparedImage;
pub use record::{ImageRecord, LayerRecord};
pub use resolve::Resolved;

/// Images built at the same time; each uses two threads.
const BUILDS: usize = 2;

/// How a store works.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Limits on every image.
    pub limits: Limits,
    /// How registries are reached.
    pub registry: RegistryOptions,
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's folder cannot be made or used.
    #[error("image store `{folder}` cannot be opened")]
    Open {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("image store `{0}` is in use by another process")]
    InUse(PathBuf),
    /// A file of the store cannot be read or written.
    #[error("image store cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The layout folder did not give it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The manifest or configuration is refused.
    #[error("image `{image}` is refused")]
    Manifest {
        /// The reference or digest.
        image: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A layer is refused or cannot be built.
    #[error("image {digest} cannot be built")]
    Build {
        /// The image.
        digest: Digest,
        /// Why.
        #[source]
        source: BuildError,
    },
    /// No such image in the store.
    #[error("image {0} is not in the store")]
    Unknown(Digest),
    /// The image's file is not what was built.
    #[error("image {digest} is damaged: {reason}; it will be built again when next used")]
    Damaged {
        /// The image.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// Several callers waited for the same download, and it failed.
    #[error(transparent)]
    Shared(Arc<StoreError>),
    /// Work this call shared with others ended without a result.
    #[error("image work ended unexpectedly; try again")]
    Interrupted,
}

impl StoreError {
    /// Whether another try may succeed although nothing was changed: the network or the registry failed, not the image.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_temporary(),
            Self::Shared(error) => error.is_temporary(),
            Self::Interrupted => true,
            _ => false,
        }
    }
}

/// What [`ImageStore::prune`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Images removed.
    pub images: Vec<Digest>,
    /// Bytes freed, blobs included.
    pub bytes: u64,
}

/// Images on this host. Clones share one store; all methods can be called from many tasks at once.
#[derive(Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    limits: Limits,
    registry: Registry,
    builds: Semaphore,
    images: Flights<Digest, Progress, Result<PreparedImage, Arc<StoreError>>>,
    blobs: Flights<Digest, u64, Result<(), Arc<StoreError>>>,
    /// What running work needs, so that a prune leaves it alone.
    claims: Mutex<HashMap<Digest, usize>>,
    known: whole::Known,
    _lock: File,
}

/// Keeps a digest's files from being pruned.
struct Claim {
    inner: Arc<Inner>,
    digest: Digest,
}

impl ImageStore {
    /// Opens the store in `root`, making it if needed, and clears what a killed process left behind.
    pub async fn open(root: impl Into<PathBuf>, options: StoreOptions) -> Result<Self, StoreError> {
        let root = root.into();
        let StoreOptions { limits, registry } = options;
        let registry = Registry::new(registry)?;
        blocking(move || {
            let lock = open_folder(&root)?;
            let builds = Semaphore::new(BUILDS);
            let (images, blobs, claims) = (Flights::default(), Flights::default(), Mutex::default());
            let known = whole::Known::default();
            let inner = Inner { root, limits, registry, builds, images, blobs, claims, known, _lock: lock };
            Ok(Self { inner: Arc::new(inner) })
        })
        .await
    }

    /// Every finished image, ordered by digest.
    pub async fn list(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.records()).await
    }

    /// The record of one finished image.
    pub async fn inspect(&self, digest: Digest) -> Result<ImageRecord, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.record(digest)?.ok_or(StoreError::Unknown(digest))).await
    }

    /// Where the EROFS file of an image is, whether or not it is there.
    pub fn erofs_path(&self, digest: Digest) -> PathBuf {
        self.inner.erofs_path(digest)
    }

    /// Reads the whole image and compares it with what was built. A damaged one is removed, to be built again at its
    /// next use.
    pub async fn verify(&self, digest: Digest) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let record = inner.record(digest)?.ok_or(StoreError::Unknown(digest))?;
            let Err(reason) = inner.compare(&record) else { return Ok(()) };
            inner.remove_image(digest).map_err(io_error("remove a damaged image"))?;
            Err(StoreError::Damaged { digest, reason })
        })
        .await
    }

    /// Removes every image not in `keep`, and every blob no remaining image or running work needs.
    pub async fn prune(&self, keep: HashSet<Digest>) -> Result<Pruned, StoreError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.prune(&keep)).await
    }
}

impl Inner {
    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn erofs_path(&self, digest: Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.erofs", digest.hex()))
    }

    fn record_path(&self, digest: Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", digest.hex()))
    }

    fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A finished image's record; `None` where there is none or its file is missing or has another size.
    fn record(&self, digest: Digest) -> Result<Option<ImageRecord>, StoreError> {
        let bytes = match std::fs::read(self.record_path(digest)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StoreError::Io { what: "read a record", source });
            }
        };
        let record = serde_json::from_slice::<ImageRecord>(&bytes).ok().filter(|record| record.digest == digest);
        let whole = |record: &ImageRecord| {
            std::fs::metadata(self.erofs_path(digest)).is_ok_and(|file| file.len() == record.erofs_bytes)
        };
        Ok(record.filter(whole))
    }

    fn records(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let mut records = BTreeMap::new();
        for name in names(&self.root.join("images"))? {
            let digest = name.strip_suffix(".json").and_then(|hex| Digest::from_hex(hex).ok());
            if let Some(record) = digest.map(|digest| self.record(digest)).transpose()?.flatten() {
                records.insert(record.digest, record);
            }
        }
        Ok(records.into_values().collect())
    }

    /// The record goes first: without it the image does not exist.
    fn remove_image(&self, digest: Digest) -> io::Result<u64> {
        self.known.forget(digest);
        let mut freed = 0;
        for path in [self.record_path(digest), self.erofs_path(digest)] {
            freed += remove(&path)?;
        }
        Ok(freed)
    }

    fn prune(&self, keep: &HashSet<Digest>) -> Result<Pruned, StoreError> {
        // Claims are taken under the same lock, so nothing can start to need what is removed here.
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pruned = Pruned::default();
        let mut needed: HashSet<Digest> = claims.keys().copied().collect();
        for record in self.records()? {
            if keep.contains(&record.digest) || claims.contains_key(&record.digest) {
                needed.extend(record.blobs());
                continue;
            }
            pruned.bytes += self.remove_image(record.digest).map_err(io_error("remove an image"))?;
            pruned.images.push(record.digest);
        }
        for name in names(&self.root.join("blobs/sha256"))? {
            if Digest::from_hex(&name).is_ok_and(|digest| !needed.contains(&digest)) {
                let path = self.root.join("blobs/sha256").join(name);
                pruned.bytes += remove(&path).map_err(io_error("remove a blob"))?;
            }
        }
        drop(claims);
        Ok(pruned)
    }

    fn claim(self: &Arc<Self>, digest: Digest) -> Claim {
        *self.claims.lock().unwrap_or_else(PoisonError::into_inner).entry(digest).or_default() += 1;
        Claim { inner: Arc::clone(self), digest }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.inner.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = claims.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                claims.remove(&self.digest);
            }
        }
    }
}

/// Makes the folders, takes the lock and removes leftovers.
fn open_folder(root: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Open { folder: root.to_path_buf(), source };
    for folder in ["blobs/sha256", "images", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).map_err(failed)?;
    }
    let lock = File::create(root.join("lock")).map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse(root.to_path_buf())),
        Err(error) => return Err(failed(error.into())),
    }
    std::fs::remove_dir_all(root.join("tmp")).map_err(failed)?;
    std::fs::create_dir(root.join("tmp")).map_err(failed)?;
    let images = root.join("images");
    for name in names(&images)? {
        let image = name.strip_suffix(".erofs");
        if image.is_some_and(|hex| !images.join(format!("{hex}.json")).exists()) {
            remove(&images.join(&name)).map_err(failed)?;
        }
    }
    Ok(lock)
}

fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    };
    list().map_err(io_error("list its files"))
}

/// Removes a file that may be gone already; the bytes it took.
fn remove(path: &Path) -> io::Result<u64> {
    let size = std::fs::symlink_metadata(path).map_or(0, |file| file.len());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        other => other.map(|()| size),
    }
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { what, source }
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StoreError::Interrupted))
}

//! A folder of an object store that holds backups: what is there, what is read, what is removed.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use holm_model::volume::VolumeId;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::key::{BackupKey, ChunkId};
use super::{BackupError, BackupId, Index};

/// Largest index that is read, in bytes: enough for 1 TiB in chunks of 128 KiB.
const MAX_INDEX: usize = 300 << 20;

/// A backup that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Which.
    pub id: BackupId,
    /// When its last object was written.
    pub written_at: Timestamp,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The backups.
    pub backups: Vec<BackupId>,
    /// How many chunks that no backup names.
    pub chunks: u64,
    /// Their size in the store, in bytes.
    pub bytes: u64,
}

/// A folder of an object store, with its key.
#[derive(Debug)]
pub struct Vault {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) root: Path,
    pub(crate) key: BackupKey,
    /// The folder on this host, when it is one: what is written there is on disk when it is acknowledged.
    local: Option<PathBuf>,
}

pub(crate) fn refused(what: &'static str) -> impl FnOnce(object_store::Error) -> BackupError {
    move |source| BackupError::Store { what, source: Box::new(source) }
}

impl Vault {
    /// The store at `address`: an absolute folder of this host, or `s3://BUCKET/FOLDER`, whose credentials and endpoint come
    /// from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT`, `AWS_REGION`, `AWS_ALLOW_HTTP`).
    /// Connects when it is used.
    ///
    /// # Errors
    /// [`BackupError::Address`].
    pub fn open(address: &str, key: BackupKey) -> Result<Self, BackupError> {
        Self::open_with(address, key, std::env::vars())
    }

    /// The same with these settings instead of the environment's.
    ///
    /// # Errors
    /// [`BackupError::Address`].
    pub fn open_with(
        address: &str,
        key: BackupKey,
        settings: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, BackupError> {
        let wrong = |why: String| BackupError::Address { address: address.to_owned(), why };
        if address.starts_with('/') {
            let folder = PathBuf::from(address);
            std::fs::create_dir_all(&folder).map_err(|error| wrong(error.to_string()))?;
            let store = object_store::local::LocalFileSystem::new_with_prefix(&folder);
            let store = store.map_err(|error| wrong(error.to_string()))?;
            return Ok(Self { store: Arc::new(store), root: Path::default(), key, local: Some(folder) });
        }
        if !address.starts_with("s3://") {
            return Err(wrong("write an absolute folder, or s3://BUCKET/FOLDER".to_owned()));
        }
        // What the store's HTTP client takes; one that is already installed stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = url::Url::parse(address).map_err(|error| wrong(error.to_string()))?;
        let names = |(name, value): (String, String)| name.starts_with("AWS_").then(|| (name.to_lowercase(), value));
        let opened = object_store::parse_url_opts(&url, settings.into_iter().filter_map(names));
        let (store, root) = opened.map_err(|error| wrong(error.to_string()))?;
        Ok(Self { store: Arc::from(store), root, key, local: None })
    }

    /// A vault in a store that is there already.
    #[must_use]
    pub fn in_store(store: Arc<dyn ObjectStore>, key: BackupKey) -> Self {
        Self { store, root: Path::default(), key, local: None }
    }

    pub(crate) fn chunk_path(&self, id: &ChunkId) -> Path {
        let name = hex::encode(id);
        self.root.clone().join("chunks").join(&name[..2]).join(name.as_str())
    }

    /// Returns when everything that was written to a local folder is on disk. Other stores acknowledge only what is.
    pub(crate) async fn settle(&self) -> Result<(), BackupError> {
        let Some(folder) = self.local.clone() else { return Ok(()) };
        let synced =
            tokio::task::spawn_blocking(move || rustix::fs::syncfs(std::fs::File::open(folder)?).map_err(Into::into));
        let synced = synced.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        synced.map_err(|source| BackupError::File { what: "sync", source })
    }

    /// The backups, those of each volume oldest first; of one volume when it is named.
    ///
    /// # Errors
    /// [`BackupError::Store`].
    pub async fn list(&self, volume: Option<&VolumeId>) -> Result<Vec<Listed>, BackupError> {
        let folder = self.root.clone().join("backups");
        let objects: Vec<_> = self.store.list(Some(&folder)).try_collect().await.map_err(refused("list backups"))?;
        let mut listed: Vec<Listed> = objects
            .iter()
            .filter_map(|object| {
                let written = Timestamp::from_second(object.last_modified.timestamp()).ok()?;
                Some(Listed { id: BackupId::of_path(&object.location)?, written_at: written })
            })
            .filter(|listed| volume.is_none_or(|volume| listed.id.volume == *volume))
            .collect();
        listed.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listed)
    }

    /// The newest backup of a volume.
    ///
    /// # Errors
    /// [`BackupError::Store`].
    pub async fn newest(&self, volume: &VolumeId) -> Result<Option<BackupId>, BackupError> {
        Ok(self.list(Some(volume)).await?.pop().map(|listed| listed.id))
    }

    pub(crate) async fn get(&self, path: &Path, what: &'static str) -> Result<Option<Vec<u8>>, BackupError> {
        let got = match self.store.get(path).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(refused(what))?,
        };
        Ok(Some(got.bytes().await.map_err(refused(what))?.to_vec()))
    }

    /// What a backup is made of.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn index(&self, id: &BackupId) -> Result<Index, BackupError> {
        let sealed = self.get(&id.path(&self.root), "read a backup").await?;
        let sealed = sealed.ok_or_else(|| BackupError::NoBackup(id.to_string()))?;
        let name = id.to_string();
        let bytes = self.key.open(&name, sealed, MAX_INDEX)?;
        Index::decode(&name, &bytes).and_then(|index| match index.about.id == *id {
            true => Ok(index),
            false => Err(BackupError::Damaged { what: name }),
        })
    }

    /// Removes all but the newest `keep` backups of `volume`, and then every chunk that no backup of any volume names and
    /// that is older than `grace`. When a backup cannot be read, no chunk is removed.
    ///
    /// # Errors
    /// [`BackupError`]. What was removed before stays removed.
    pub async fn prune(&self, volume: Option<&VolumeId>, keep: usize, grace: Duration) -> Result<Pruned, BackupError> {
        let mut by_volume: BTreeMap<VolumeId, Vec<BackupId>> = BTreeMap::new();
        for listed in self.list(volume).await? {
            by_volume.entry(listed.id.volume.clone()).or_default().push(listed.id);
        }
        let mut pruned = Pruned::default();
        for ids in by_volume.into_values() {
            self.remove_all_but(&ids, keep, &mut pruned).await?;
        }
        self.sweep(grace, &mut pruned).await?;
        Ok(pruned)
    }

    /// The same for the backups of `volume` that were taken of this file system: others, and those that cannot be read, are
    /// neither counted nor removed. A volume that was made anew does not push out the backups of the one before.
    ///
    /// # Errors
    /// [`BackupError`]. What was removed before stays removed.
    pub async fn prune_own(
        &self,
        volume: &VolumeId,
        file_system: Option<Uuid>,
        keep: usize,
        grace: Duration,
    ) -> Result<Pruned, BackupError> {
        let mut own = Vec::new();
        for listed in self.list(Some(volume)).await? {
            match self.index(&listed.id).await {
                Ok(index) if index.about.may_be_of(file_system) => own.push(listed.id),
                Ok(_) => {}
                // The sweep below says that it cannot be read.
                Err(BackupError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut pruned = Pruned::default();
        self.remove_all_but(&own, keep, &mut pruned).await?;
        self.sweep(grace, &mut pruned).await?;
        Ok(pruned)
    }

    /// Removes all but the newest of `ids`, which are of one volume and in order.
    async fn remove_all_but(&self, ids: &[BackupId], keep: usize, pruned: &mut Pruned) -> Result<(), BackupError> {
        for id in &ids[..ids.len().saturating_sub(keep.max(1))] {
            self.store.delete(&id.path(&self.root)).await.map_err(refused("remove a backup"))?;
            pruned.backups.push(id.clone());
        }
        Ok(())
    }

    /// Removes every chunk that no backup names and that is older than `grace`.
    async fn sweep(&self, grace: Duration, pruned: &mut Pruned) -> Result<(), BackupError> {
        let mut named: HashSet<ChunkId> = HashSet::new();
        for listed in self.list(None).await? {
            named.extend(self.index(&listed.id).await?.chunks);
        }
        let before = Timestamp::now() - grace;
        let folder = self.root.clone().join("chunks");
        let mut objects = self.store.list(Some(&folder));
        let mut doomed = Vec::new();
        while let Some(object) = objects.next().await {
            let object = object.map_err(refused("list chunks"))?;
            let name = object.location.filename().and_then(|name| hex::decode(name).ok());
            let id: Option<ChunkId> = name.and_then(|name| name.try_into().ok());
            let old = object.last_modified.timestamp() <= before.as_second();
            if id.is_some_and(|id| !named.contains(&id)) && old {
                doomed.push(object);
            }
        }
        drop(objects);
        for object in doomed {
            self.store.delete(&object.location).await.map_err(refused("remove a chunk"))?;
            pruned.chunks += 1;
            pruned.bytes += object.size;
        }
        Ok(())
    }
}

//! The work on backups: made chunk by chunk, verified, restored; never faster than it may.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use holm_manifest::VolumeSize;
use holm_model::volume::VolumeNumber;
use jiff::Timestamp;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::index::About;
use super::key::{ChunkId, HOLE};
use super::vault::refused;
use super::{BackupError, BackupId, Index, Vault};
use crate::ChangedClusters;
use crate::copy::data_of;

/// Bytes per chunk; also the clusters in which QEMU is asked for changes.
pub const CHUNK: u32 = 128 << 10;

/// Chunks that are under way at a time.
const AT_ONCE: usize = 4;

/// How many bytes per second may be moved.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    spent: Mutex<(Instant, u64)>,
}

impl Rate {
    /// So many bytes per second; 0: no limit.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, spent: Mutex::new((Instant::now(), 0)) }
    }

    /// Waits until `bytes` may be moved.
    async fn wait(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let until = {
            let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
            spent.1 += bytes as u64;
            let micros = u128::from(spent.1) * 1_000_000 / u128::from(self.bytes_per_second);
            spent.0 + std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        };
        tokio::time::sleep_until(until).await;
    }
}

/// Where the bytes of a new backup come from. Nobody may write to it meanwhile.
#[derive(Debug)]
pub enum Source {
    /// A whole copy of the volume.
    Whole(PathBuf),
    /// What changed since the backup that is followed.
    Changes(ChangedClusters),
}

/// A backup that is to be made.
#[derive(Debug)]
pub struct NewBackup {
    /// Which.
    pub id: BackupId,
    /// The volume's number.
    pub number: VolumeNumber,
    /// Its size.
    pub size: VolumeSize,
    /// When the source was as it is.
    pub taken_at: Timestamp,
    /// The id of its file system, where it is known.
    pub file_system: Option<Uuid>,
    /// The backup whose chunks are known to be in the store; needed for [`Source::Changes`].
    pub follows: Option<Index>,
    /// The bytes.
    pub source: Source,
}

/// A backup that was made, and what it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Which.
    pub id: BackupId,
    /// Bytes of the volume.
    pub size: u64,
    /// Bytes read of the volume.
    pub read: u64,
    /// Bytes sent to the store.
    pub sent: u64,
    /// Chunks sent.
    pub chunks: u64,
    /// Whether only what QEMU found changed was read.
    pub only_changes: bool,
}

/// A backup that was read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Which.
    pub id: BackupId,
    /// Its chunks that are not zeroes, each counted once.
    pub chunks: u64,
    /// Bytes read from the store.
    pub read: u64,
}

/// What reads one chunk of a source.
enum Reader {
    Whole(File),
    Changes(ChangedClusters),
}

impl Reader {
    fn read(&self, place: u64, length: usize) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Changes(changes) => changes.read(place),
            Self::Whole(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, place * u64::from(CHUNK))?;
                Ok(bytes)
            }
        }
    }
}

impl Vault {
    /// Makes a backup. It is there, whole and durable, when this returns, and not there before.
    ///
    /// # Errors
    /// [`BackupError`]. Chunks that were sent may stay until the next [`Vault::prune`].
    pub async fn make(&self, new: NewBackup, rate: &Rate) -> Result<Made, BackupError> {
        let NewBackup { id, number, size, taken_at, file_system, follows, source } = new;
        let places = size.bytes().div_ceil(u64::from(CHUNK));
        let read_failed = |source| BackupError::File { what: "read", source };
        let follows = follows.filter(|index| index.about.chunk == u64::from(CHUNK));
        let old = follows.as_ref().map(|index| index.chunks.clone()).unwrap_or_default();
        let mut chunks = vec![HOLE; usize::try_from(places).map_err(|_| BackupError::Misfit("it is too large"))?];
        let only_changes = matches!(source, Source::Changes(_));
        let (reader, wanted): (Reader, Vec<u64>) = match source {
            Source::Whole(path) => {
                let mut wanted: Vec<u64> = Vec::new();
                for (at, length) in data_of(&path).map_err(read_failed)? {
                    let (first, last) = (at / u64::from(CHUNK), (at + length - 1) / u64::from(CHUNK));
                    wanted.extend(first..=last.min(places.saturating_sub(1)));
                }
                wanted.dedup();
                (Reader::Whole(File::open(path).map_err(read_failed)?), wanted)
            }
            Source::Changes(changes) => {
                if follows.is_none() {
                    return Err(BackupError::Misfit("there is none to follow"));
                }
                if changes.cluster() != u64::from(CHUNK) || changes.size() != size.bytes() {
                    return Err(BackupError::Misfit("its clusters or its size are others"));
                }
                let kept = old.len().min(chunks.len());
                chunks[..kept].copy_from_slice(&old[..kept]);
                let wanted = changes.numbers().collect();
                (Reader::Changes(changes), wanted)
            }
        };
        let known = Mutex::new(old.iter().copied().collect::<HashSet<ChunkId>>());
        let reader = Arc::new(reader);
        let work = stream::iter(wanted).map(|place| {
            let (reader, known) = (Arc::clone(&reader), &known);
            async move {
                let left = size.bytes() - place * u64::from(CHUNK);
                let length = usize::try_from(left.min(u64::from(CHUNK))).expect("at most a chunk");
                let reading = tokio::task::spawn_blocking(move || reader.read(place, length)).await;
                let bytes = reading.map_err(|error| read_failed(std::io::Error::other(error)))?.map_err(read_failed)?;
                let name = self.key.name(&bytes);
                let new = name != HOLE && known.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
                let sent = if new { self.send_chunk(&name, &bytes, rate).await? } else { 0 };
                Ok::<_, BackupError>((place, name, bytes.len() as u64, sent))
            }
        });
        let mut made = Made { id: id.clone(), size: size.bytes(), read: 0, sent: 0, chunks: 0, only_changes };
        let mut work = std::pin::pin!(work.buffer_unordered(AT_ONCE));
        while let Some((place, name, read, sent)) = work.try_next().await? {
            chunks[usize::try_from(place).expect("one of the places")] = name;
            made.read += read;
            made.sent += sent;
            made.chunks += u64::from(sent > 0);
        }
        let about = About {
            form: 1,
            id: id.clone(),
            number,
            size,
            chunk: u64::from(CHUNK),
            taken_at,
            follows: follows.map(|index| index.about.id),
            file_system,
        };
        let sealed = self.key.seal(&id.to_string(), &Index { about, chunks }.encode())?;
        made.sent += sealed.len() as u64;
        self.settle().await?;
        let path = id.path(&self.root);
        self.store.put(&path, PutPayload::from(sealed)).await.map_err(refused("write a backup"))?;
        self.settle().await?;
        Ok(made)
    }

    async fn send_chunk(&self, name: &ChunkId, bytes: &[u8], rate: &Rate) -> Result<u64, BackupError> {
        let sealed = self.key.seal(&hex::encode(name), bytes)?;
        rate.wait(sealed.len()).await;
        let length = sealed.len() as u64;
        let path = self.chunk_path(name);
        self.store.put(&path, PutPayload::from(sealed)).await.map_err(refused("write a chunk"))?;
        Ok(length)
    }

    async fn chunk(&self, name: &ChunkId, rate: &Rate) -> Result<(Vec<u8>, u64), BackupError> {
        let text = hex::encode(name);
        let sealed = self.get(&self.chunk_path(name), "read a chunk").await?;
        let sealed = sealed.ok_or_else(|| BackupError::MissingChunk(text.clone()))?;
        let read = sealed.len() as u64;
        rate.wait(sealed.len()).await;
        let damaged = || BackupError::Damaged { what: format!("chunk {text}") };
        let bytes = self.key.open(&text, sealed, CHUNK as usize).map_err(|_| damaged())?;
        if self.key.name(&bytes) != *name {
            return Err(damaged());
        }
        Ok((bytes, read))
    }

    /// Reads a backup back, every chunk of it, and checks each.
    ///
    /// # Errors
    /// [`BackupError`]: the first thing that is wrong.
    pub async fn verify(&self, id: &BackupId, rate: &Rate) -> Result<Verified, BackupError> {
        let index = self.index(id).await?;
        let names: HashSet<ChunkId> = index.chunks.into_iter().filter(|name| *name != HOLE).collect();
        let chunks = names.len() as u64;
        let reads = stream::iter(names).map(|name| async move { Ok(self.chunk(&name, rate).await?.1) });
        let read = reads.buffer_unordered(AT_ONCE).try_fold(0, |sum, read| async move { Ok(sum + read) }).await?;
        Ok(Verified { id: id.clone(), chunks, read })
    }

    /// Writes the volume of a backup into the file `to`, which is made. Each chunk is checked before it is written.
    ///
    /// # Errors
    /// [`BackupError`]. The file is worthless then.
    pub async fn restore(&self, id: &BackupId, to: &Path, rate: &Rate) -> Result<About, BackupError> {
        let index = self.index(id).await?;
        let failed = |source| BackupError::File { what: "write", source };
        let file = File::create(to).map_err(failed)?;
        file.set_len(index.about.size.bytes()).map_err(failed)?;
        let file = Arc::new(file);
        let places = (0_u64..).zip(index.chunks).filter(|(_, name)| *name != HOLE);
        let writes = stream::iter(places).map(|(place, name)| {
            let file = Arc::clone(&file);
            async move {
                let (bytes, _) = self.chunk(&name, rate).await?;
                let at = place * u64::from(CHUNK);
                let writing = tokio::task::spawn_blocking(move || file.write_all_at(&bytes, at)).await;
                writing.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
            }
        });
        writes.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(index.about)
    }
}

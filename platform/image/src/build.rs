//! Builds one image: layers are decompressed ahead on a second thread, applied in order, and laid out as EROFS.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::Limits;
use crate::digest::{Digest, Hasher};
use crate::erofs::{Content, DataWriter, Identity, finish};
use crate::tar::{EntryKind, TarError, TarReader};
use crate::tree::{EntryError, Place, Tree};

/// Bytes per piece of decompressed data handed between the threads.
const CHUNK: usize = 1 << 20;
/// Pieces decompressed ahead; across layers, so the next one starts while the last is applied.
const AHEAD: usize = 16;
/// zstd windows above 128 MiB are refused, as zstd's own tool does.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// One layer to apply.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// The compressed blob.
    pub(crate) blob: PathBuf,
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
}

/// Why an image cannot be built. Layers count from 0, lowest first.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A layer's blob cannot be opened.
    #[error("layer {layer} cannot be opened")]
    Open {
        /// Which layer.
        layer: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer is not a valid archive, or is compressed wrongly.
    #[error("layer {layer} is damaged")]
    Archive {
        /// Which layer.
        layer: usize,
        /// Why.
        #[source]
        source: TarError,
    },
    /// An entry breaks a rule.
    #[error("layer {layer} has the entry `{path}`, which is refused")]
    Entry {
        /// Which layer.
        layer: usize,
        /// The entry's path, with bytes that are not ASCII escaped.
        path: String,
        /// Which rule.
        #[source]
        reason: EntryError,
    },
    /// Decompressed layers over [`Limits::unpacked_bytes`].
    #[error("layer {layer} takes the image over the limit of {limit} unpacked bytes")]
    Bomb {
        /// Which layer.
        layer: usize,
        /// The limit.
        limit: u64,
    },
    /// The layer is not the one the configuration names.
    #[error("layer {layer} unpacks to {found}, but the image's configuration says {expected}")]
    DiffId {
        /// Which layer.
        layer: usize,
        /// As the configuration says.
        expected: Digest,
        /// As unpacked.
        found: Digest,
    },
    /// The host's file system failed.
    #[error("image file cannot be written")]
    Write(#[source] io::Error),
}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Built {
    pub(crate) size: u64,
    pub(crate) sha256: Digest,
}

/// Applies `layers` in order and writes their EROFS image to the empty file `image`, synced. `scratch` is the folder for
/// a nameless temporary file. `progress` hears how many compressed bytes are read.
pub(crate) fn build(
    layers: &[Layer],
    image: File,
    scratch: &Path,
    identity: &Identity,
    limits: &Limits,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Built, BuildError> {
    let tails = tempfile::tempfile_in(scratch).map_err(BuildError::Write)?;
    let mut tree = Tree::new(limits);
    let mut data = DataWriter::new(image, tails);
    std::thread::scope(|scope| {
        let (full, pieces) = sync_channel(AHEAD);
        let (empty, recycled) = sync_channel(AHEAD + 2);
        scope.spawn(move || decompress_all(layers, &full, &recycled, limits.unpacked_bytes, progress));
        for (index, layer) in layers.iter().enumerate() {
            let pieces = Pieces {
                pieces: &pieces,
                recycle: &empty,
                current: Vec::new(),
                used: 0,
                hasher: Hasher::default(),
                ended: false,
            };
            apply(index, layer, pieces, &mut tree, &mut data, limits)?;
        }
        Ok::<_, BuildError>(())
    })?;
    seal(&tree, data, identity).map_err(BuildError::Write)
}

/// Completes the image, then syncs and hashes it at the same time.
fn seal(tree: &Tree, data: DataWriter, identity: &Identity) -> io::Result<Built> {
    let image = finish(tree, data, identity)?;
    let mut reader = image.try_clone()?;
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| image.sync_all());
        io::Seek::rewind(&mut reader)?;
        let (sha256, size) = Digest::of_reader(reader)?;
        sync.join().expect("syncing does not panic")?;
        Ok(Built { size, sha256 })
    })
}

fn apply(
    layer: usize,
    wanted: &Layer,
    pieces: Pieces<'_>,
    tree: &mut Tree,
    data: &mut DataWriter,
    limits: &Limits,
) -> Result<(), BuildError> {
    tree.begin_layer();
    let failed = |source| archive_error(layer, source);
    let mut archive = TarReader::new(pieces, limits.header_bytes);
    while let Some(entry) = archive.next().map_err(failed)? {
        let refused = |path: &[u8], reason| BuildError::Entry { layer, path: path.escape_ascii().to_string(), reason };
        let place = tree.place(&entry).map_err(|reason| refused(&entry.path, reason))?;
        let mut content = Content::default();
        if entry.kind == EntryKind::File && matches!(place, Place::Name(..)) {
            let stored = data.store(&mut archive, entry.size, entry.segments.as_deref(), &entry.xattrs);
            content = stored.map_err(|error| store_error(layer, error))?;
        }
        let path = entry.path.clone();
        tree.insert(place, entry, content).map_err(|reason| refused(&path, reason))?;
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|error| store_error(layer, error))?;
    let found = rest.hasher.digest();
    if found == wanted.diff_id { Ok(()) } else { Err(BuildError::DiffId { layer, expected: wanted.diff_id, found }) }
}

/// An error that came through the decompressed stream carries its own kind inside.
fn store_error(layer: usize, error: io::Error) -> BuildError {
    match error.downcast::<StreamError>() {
        Ok(StreamError::Open(source)) => BuildError::Open { layer, source },
        Ok(StreamError::Bomb(limit)) => BuildError::Bomb { layer, limit },
        Ok(StreamError::Decode(source)) => BuildError::Archive { layer, source: TarError::Read(source) },
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            BuildError::Archive { layer, source: TarError::Truncated }
        }
        Err(error) => BuildError::Write(error),
    }
}

fn archive_error(layer: usize, source: TarError) -> BuildError {
    match source {
        TarError::Read(error) => store_error(layer, error),
        other => BuildError::Archive { layer, source: other },
    }
}

/// Why the decompressing thread stopped.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("blob cannot be opened")]
    Open(#[source] io::Error),
    #[error("over the limit of {0} bytes")]
    Bomb(u64),
    #[error("blob cannot be decompressed")]
    Decode(#[source] io::Error),
}

enum Piece {
    Bytes(Vec<u8>),
    LayerEnd,
    Failed(StreamError),
}

/// Sends every layer's bytes; ends early when nobody listens any more.
fn decompress_all(
    layers: &[Layer],
    out: &SyncSender<Piece>,
    recycled: &Receiver<Vec<u8>>,
    limit: u64,
    progress: &(dyn Fn(u64) + Sync),
) {
    let (mut compressed, mut unpacked) = (0, 0);
    for layer in layers {
        let sent = decompress(layer, out, recycled, limit, &mut unpacked, &mut |bytes| {
            compressed += bytes;
            progress(compressed);
        });
        let last = match sent {
            Ok(true) => Piece::LayerEnd,
            Ok(false) => return,
            Err(error) => Piece::Failed(error),
        };
        let failed = matches!(last, Piece::Failed(_));
        if out.send(last).is_err() || failed {
            return;
        }
    }
}

/// `Ok(false)` when nobody listens.
fn decompress(
    layer: &Layer,
    out: &SyncSender<Piece>,
    recycled: &Receiver<Vec<u8>>,
    limit: u64,
    unpacked: &mut u64,
    progress: &mut dyn FnMut(u64),
) -> Result<bool, StreamError> {
    let file = File::open(&layer.blob).map_err(StreamError::Open)?;
    let counted = Counted { inner: file, progress };
    let mut reader = decoder(io::BufReader::with_capacity(256 << 10, counted)).map_err(StreamError::Decode)?;
    loop {
        let mut bytes = recycled.try_recv().unwrap_or_default();
        bytes.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match reader.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StreamError::Decode(error)),
            }
        }
        *unpacked += filled as u64;
        if *unpacked > limit {
            return Err(StreamError::Bomb(limit));
        }
        let ended = filled < CHUNK;
        bytes.truncate(filled);
        if out.send(Piece::Bytes(bytes)).is_err() {
            return Ok(false);
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Picks the decoder by the first bytes, as other OCI tools do: media types of old images are not reliable.
fn decoder<'a>(mut blob: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = blob.fill_buf()?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        // A frame, or a skippable one in front of it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        _ => Box::new(blob),
    })
}

/// Reports what is read through it.
struct Counted<'a> {
    inner: File,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        (self.progress)(count as u64);
        Ok(count)
    }
}

/// One layer's decompressed bytes, hashed as they arrive.
struct Pieces<'a> {
    pieces: &'a Receiver<Piece>,
    recycle: &'a SyncSender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
    hasher: Hasher,
    ended: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.used == self.current.len() {
            if self.ended {
                return Ok(0);
            }
            match self.pieces.recv() {
                Ok(Piece::Bytes(bytes)) => {
                    self.hasher.update(&bytes);
                    // A full channel only means that the piece is freed instead of used again.
                    let _ = self.recycle.try_send(std::mem::replace(&mut self.current, bytes));
                    self.used = 0;
                }
                Ok(Piece::LayerEnd) => self.ended = true,
                Ok(Piece::Failed(error)) => return Err(io::Error::other(error)),
                Err(_) => return Err(io::Error::other("the decompressing thread ended early")),
            }
        }
        let count = buffer.len().min(self.current.len() - self.used);
        buffer[..count].copy_from_slice(&self.current[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

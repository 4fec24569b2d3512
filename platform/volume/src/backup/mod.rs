//! Backups: a volume at one moment as a list of sealed chunks in an object store.
//!
//! ```text
//! chunks/ab/abcd…                      a chunk: compressed, sealed, named by a keyed hash of its bytes
//! backups/APP/ENV/VOLUME/MOMENT        a backup: its description and the names of its chunks, sealed
//! ```
//! A backup is there when its last object is: the chunks come first, and a store shows an object whole or not at all. Chunks
//! lie at fixed places: a disk is rewritten in place, so what did not change need not be looked at, which boundaries by
//! content would need. The next backup names the chunks of the last one again, and only what changed is read and sent.
//!
//! One Holm writes to a folder of a store at a time: [`Vault::prune`] removes what no backup names.

mod index;
mod key;
mod vault;
mod work;

pub use index::{About, BackupId, Index};
pub use key::BackupKey;
pub use vault::{Listed, Pruned, Vault};
pub use work::{CHUNK, Made, NewBackup, Rate, Source, Verified};

/// Why a backup could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The address of the store is not one.
    #[error("`{address}` is not a place for backups: {why}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key cannot be used.
    #[error("cannot use the key for backups in {}: {why}", path.display())]
    Key {
        /// Its file.
        path: std::path::PathBuf,
        /// Why.
        why: String,
    },
    /// The store refused, or could not be reached.
    #[error("cannot {what} in the store of backups")]
    Store {
        /// What was tried.
        what: &'static str,
        /// What the store said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// There is no such backup.
    #[error("there is no backup `{0}`")]
    NoBackup(String),
    /// A chunk that a backup names is not there.
    #[error("the backup is not whole: chunk {0} is missing")]
    MissingChunk(String),
    /// An object is not what it was when it was written, or was sealed with another key.
    #[error("{what} cannot be opened: it is damaged, or the key is another one")]
    Damaged {
        /// Which object.
        what: String,
    },
    /// A file on this host could not be read or written.
    #[error("cannot {what} a file of the volume")]
    File {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The copy of changes does not fit the backup it follows.
    #[error("the copy of what changed does not fit the last backup: {0}")]
    Misfit(&'static str),
}

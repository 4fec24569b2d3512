//! Entry points for fuzzers and property tests: each takes arbitrary bytes, must return, and must not panic. The answer
//! tells whether the bytes were accepted.

use crate::Limits;
use crate::build::{Layer, build};
use crate::digest::Digest;
use crate::erofs::{Identity, Reader};
use crate::manifest::{Config, Document};

/// Walks an EROFS image and reads everything in it.
pub fn read_erofs(bytes: &[u8]) -> bool {
    let Ok(reader) = Reader::open(bytes) else {
        return false;
    };
    let mut whole = true;
    let walked = reader.walk(|_, inode| {
        whole &= reader.xattrs(inode).is_ok();
        whole &= reader.read_all(inode, 1 << 20).is_ok();
        whole &= reader.read_link(inode).is_ok() || inode.size() > 4095;
    });
    walked.is_ok() && whole
}

/// Puts the superblock's checksum right, so that changes in it are looked at. `false`: the bytes are too few for one.
pub fn seal_erofs(bytes: &mut [u8]) -> bool {
    crate::erofs::seal(bytes)
}

/// Builds an image whose only layer is `bytes`, compressed or not.
pub fn apply_layer(bytes: &[u8]) -> bool {
    let limits = Limits { unpacked_bytes: 1 << 20, entries: 1000, metadata_bytes: 1 << 20, ..Limits::default() };
    let attempt = || -> std::io::Result<bool> {
        let folder = tempfile::tempdir()?;
        let blob = folder.path().join("blob");
        std::fs::write(&blob, bytes)?;
        let path = folder.path().join("image");
        let image = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let layer = Layer { blob, diff_id: Digest::of(bytes) };
        let identity = Identity { uuid: [0; 16], volume: [0; 16] };
        Ok(build(&[layer], image, folder.path(), &identity, &limits, &|_| {}).is_ok())
    };
    attempt().unwrap_or(false)
}

/// Decodes manifests, indexes and configurations.
pub fn parse_documents(bytes: &[u8]) -> bool {
    let manifest = match Document::parse(bytes, None) {
        Ok(Document::Manifest(manifest)) => manifest.check(&Limits::default()).is_ok(),
        Ok(Document::Index(index)) => index.select().is_ok(),
        Err(_) => false,
    };
    manifest || Config::parse(bytes, 1).is_ok()
}

//! The key of backups: 32 secret bytes, from which each object gets a key of its own.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::BackupError;

/// Beginning of every sealed object; the last character is the version of the form.
const MAGIC: &[u8; 4] = b"HBK1";

/// The name of a chunk: a keyed hash of its bytes, so that a store learns nothing from it. All zero: a chunk of zeroes, which
/// is not stored.
pub(crate) type ChunkId = [u8; 32];

/// The name of a chunk of zeroes.
pub(crate) const HOLE: ChunkId = [0; 32];

/// The key of a store of backups. Without it nothing in the store can be read.
pub struct BackupKey {
    naming: hmac::Key,
    sealing: hmac::Key,
    random: SystemRandom,
}

impl std::fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackupKey(…)")
    }
}

impl BackupKey {
    /// The key of these secret bytes.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let master = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |use_for: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&master, use_for).as_ref());
        Self { naming: derived(b"holm names"), sealing: derived(b"holm seals"), random: SystemRandom::new() }
    }

    /// Reads the key in `path`, 64 hexadecimal digits; makes one that only this user can read when there is none.
    ///
    /// # Errors
    /// [`BackupError::Key`].
    pub fn load_or_make(path: &Path) -> Result<Self, BackupError> {
        let wrong = |why: String| BackupError::Key { path: path.to_owned(), why };
        match fs::read_to_string(path) {
            Ok(text) => {
                let mut secret = [0; 32];
                hex::decode_to_slice(text.trim(), &mut secret)
                    .map_err(|_| wrong("it does not have 64 hexadecimal digits".to_owned()))?;
                Ok(Self::new(&secret))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                SystemRandom::new().fill(&mut secret).map_err(|_| wrong("no random bytes can be had".to_owned()))?;
                write_secret(path, &hex::encode(secret)).map_err(|error| wrong(error.to_string()))?;
                Ok(Self::new(&secret))
            }
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    pub(crate) fn name(&self, chunk: &[u8]) -> ChunkId {
        if chunk.iter().all(|byte| *byte == 0) {
            return HOLE;
        }
        let mut id = HOLE;
        id.copy_from_slice(hmac::sign(&self.naming, chunk).as_ref());
        id
    }

    fn object_key(&self, name: &str) -> LessSafeKey {
        let secret = hmac::sign(&self.sealing, name.as_bytes());
        let key =
            UnboundKey::new(&CHACHA20_POLY1305, secret.as_ref()).expect("a hash of 32 bytes is a key of 32 bytes");
        LessSafeKey::new(key)
    }

    /// Compresses and seals the bytes of the object called `name`: they open under no other name.
    pub(crate) fn seal(&self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, BackupError> {
        let failed = |_| BackupError::Damaged { what: name.to_owned() };
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(failed)?;
        let packed = zstd::bulk::compress(bytes, 3).map_err(|source| BackupError::File { what: "compress", source })?;
        let mut sealed = [MAGIC.as_slice(), &nonce].concat();
        let head = sealed.len();
        sealed.extend_from_slice(&packed);
        let key = self.object_key(name);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(name), &mut sealed[head..]).map_err(failed)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens the object called `name`, which holds at most `most` bytes.
    pub(crate) fn open(&self, name: &str, mut sealed: Vec<u8>, most: usize) -> Result<Vec<u8>, BackupError> {
        let damaged = || BackupError::Damaged { what: name.to_owned() };
        let head = MAGIC.len() + NONCE_LEN;
        if sealed.len() < head || !sealed.starts_with(MAGIC) {
            return Err(damaged());
        }
        let nonce = Nonce::try_assume_unique_for_key(&sealed[MAGIC.len()..head]).map_err(|_| damaged())?;
        let key = self.object_key(name);
        let packed = key.open_in_place(nonce, Aad::from(name), &mut sealed[head..]).map_err(|_| damaged())?;
        zstd::bulk::decompress(packed, most).map_err(|_| damaged())
    }
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let made = BackupKey::load_or_make(&path).unwrap();
        let again = BackupKey::load_or_make(&path).unwrap();
        assert_eq!(made.name(b"x"), again.name(b"x"));
        assert_ne!(made.name(b"x"), BackupKey::new(&[1; 32]).name(b"x"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(matches!(BackupKey::load_or_make(&path), Err(BackupError::Key { .. })));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_as_it_was_and_nothing_else_does(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in any::<prop::sample::Index>(), flip in 1u8..
        ) {
            let key = BackupKey::new(&[7; 32]);
            let sealed = key.seal("a", &bytes).unwrap();
            prop_assert_eq!(key.open("a", sealed.clone(), 2000).unwrap(), bytes);
            prop_assert!(key.open("b", sealed.clone(), 2000).is_err());
            prop_assert!(BackupKey::new(&[8; 32]).open("a", sealed.clone(), 2000).is_err());
            let mut broken = sealed.clone();
            broken[at.index(sealed.len())] ^= flip;
            prop_assert!(key.open("a", broken, 2000).is_err());
            prop_assert!(key.open("a", sealed[..at.index(sealed.len())].to_vec(), 2000).is_err());
        }
    }
}

//! Where sets of secrets lie on the host: files sealed with age for a key that only the host has.
//!
//! ```text
//! secrets/            0700
//!   key.txt           0600, an age identity; made once, never leaves the host
//!   sets/ID.age       0600, one whole set each, written once and never changed
//! ```
//! Each sealed file names the app it belongs to, so that a file that was moved to another app's place is refused.
//! `age -d -i key.txt sets/ID.age` opens one by hand.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use holm_model::id::{AppKey, SecretSetId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::value::{MAX_SET, Secrets};

/// Largest sealed file that is read: base64 and JSON around the values, and age's header.
const MAX_FILE: u64 = 2 * MAX_SET as u64 + (64 << 10);

/// A vault that cannot be used, or a set that cannot be kept or opened. Never shows a value.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A file or folder.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("{} has mode {mode:04o}: others may read it; check who did, rotate the secrets and `chmod 600` it",
        path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key is none.
    #[error("{} is not an age identity", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A set that cannot be opened.
    #[error("the sealed secrets {set} cannot be opened: {why}")]
    Sealed {
        /// The set.
        set: SecretSetId,
        /// Why not, without content.
        why: &'static str,
    },
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Content {
    app: AppKey,
    secrets: Secrets,
}

/// The vault of one host. Made with its key when it is first opened.
pub struct Vault {
    sets: PathBuf,
    key: Identity,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("sets", &self.sets).finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens the vault in `dir`, and makes it with a new key when there is none.
    ///
    /// # Errors
    /// [`VaultError`], also when others may read the key. Nothing is overwritten.
    pub fn open(dir: &Path) -> Result<Self, VaultError> {
        let sets = dir.join("sets");
        for folder in [dir, &sets] {
            match DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(failed("make the folder", folder)(error));
                }
                _ => {}
            }
        }
        let path = dir.join("key.txt");
        let key = match File::open(&path) {
            Ok(file) => read_key(file, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(dir, &path)?,
            Err(error) => return Err(failed("open", &path)(error)),
        };
        Ok(Self { sets, key })
    }

    /// The public half of the key, as `age1…`.
    #[must_use]
    pub fn recipient(&self) -> String {
        self.key.to_public().to_string()
    }

    /// Whether a set lies here.
    #[must_use]
    pub fn has(&self, set: &SecretSetId) -> bool {
        self.path(set).exists()
    }

    /// Seals `secrets` of `app` as `set`. When this returns, they are on disk.
    ///
    /// # Errors
    /// [`VaultError`]; nothing was kept.
    pub fn seal(&self, app: &AppKey, set: &SecretSetId, secrets: &Secrets) -> Result<(), VaultError> {
        let content = Content { app: app.clone(), secrets: secrets.clone() };
        let plain = Zeroizing::new(serde_json::to_vec(&content).expect("names and texts have a JSON form"));
        let why = "it cannot be encrypted";
        let sealed =
            age::encrypt(&self.key.to_public(), &plain).map_err(|_| VaultError::Sealed { set: set.clone(), why })?;
        let path = self.path(set);
        write_durably(&self.sets, &path, &sealed).map_err(failed("write", &path))
    }

    /// Opens `set`, which must be of `app`.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn unseal(&self, app: &AppKey, set: &SecretSetId) -> Result<Secrets, VaultError> {
        let path = self.path(set);
        let sealed = |why| VaultError::Sealed { set: set.clone(), why };
        let length = fs::metadata(&path).map_err(failed("read", &path))?.len();
        if length > MAX_FILE {
            return Err(sealed("it is larger than any set"));
        }
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let plain = age::decrypt(&self.key, &bytes).map_err(|_| sealed("it is damaged, or sealed for another key"))?;
        let plain = Zeroizing::new(plain);
        let content: Content = serde_json::from_slice(&plain).map_err(|_| sealed("its content is not understood"))?;
        if content.app != *app {
            return Err(sealed("it belongs to another app"));
        }
        Ok(content.secrets)
    }

    /// Removes one set.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn remove(&self, set: &SecretSetId) -> Result<(), VaultError> {
        let path = self.path(set);
        fs::remove_file(&path).map_err(failed("remove", &path))
    }

    /// Removes every set but `keep`, and what was left of cut writes. Says how many went.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn keep_only(&self, keep: &BTreeSet<SecretSetId>) -> Result<usize, VaultError> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.sets).map_err(failed("read", &self.sets))? {
            let path = entry.map_err(failed("read", &self.sets))?.path();
            let stem = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".age"));
            let set = stem.and_then(|stem| SecretSetId::from_str(stem).ok());
            if set.is_some_and(|set| keep.contains(&set)) {
                continue;
            }
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            removed += 1;
        }
        Ok(removed)
    }

    fn path(&self, set: &SecretSetId) -> PathBuf {
        self.sets.join(format!("{set}.age"))
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    let path = path.to_owned();
    move |source| VaultError::File { action, path, source }
}

fn read_key(file: File, path: &Path) -> Result<Identity, VaultError> {
    let mode = file.metadata().map_err(failed("look at", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(VaultError::KeyExposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(io::read_to_string(file).map_err(failed("read", path))?);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    line.and_then(|line| line.parse().ok()).ok_or_else(|| VaultError::NoKey { path: path.to_owned() })
}

fn make_key(dir: &Path, path: &Path) -> Result<Identity, VaultError> {
    let key = Identity::generate();
    let text = key.to_string();
    let text = Zeroizing::new(format!("# public key: {}\n{}\n", key.to_public(), text.expose_secret()));
    write_durably(dir, path, text.as_bytes()).map_err(failed("write", path))?;
    Ok(key)
}

/// Writes a file of mode 0600 so that it is there whole or not at all, also after a power cut.
fn write_durably(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.mode(0o600);
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .make_in(dir, |path| options.clone().write(true).create_new(true).open(path))?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::value::SecretValue;

    fn set(n: u8) -> SecretSetId {
        format!("00000000-0000-7000-8000-0000000000{n:02x}").parse().unwrap()
    }

    fn app(name: &str) -> AppKey {
        name.parse().unwrap()
    }

    fn password(value: &str) -> Secrets {
        Secrets([("PASSWORD".parse().unwrap(), SecretValue::new(value))].into())
    }

    #[test]
    fn a_set_comes_back_from_another_process_and_lies_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("secrets");
        Vault::open(&dir).unwrap().seal(&app("hello"), &set(1), &password("hunter2")).unwrap();
        let vault = Vault::open(&dir).unwrap();
        assert_eq!(vault.unseal(&app("hello"), &set(1)).unwrap(), password("hunter2"));
        let path = vault.path(&set(1));
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"age-encryption.org/v1"));
        for secret in [&b"hunter2"[..], b"aHVudGVyMg"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        }
        for path in [path, dir.join("key.txt")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_was_moved_damaged_or_sealed_elsewhere_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(&dir.path().join("one")).unwrap();
        vault.seal(&app("hello"), &set(1), &password("hunter2")).unwrap();
        let refused = |vault: &Vault, of: &str| vault.unseal(&app(of), &set(1)).unwrap_err().to_string();
        assert!(refused(&vault, "other").contains("another app"));
        let other = Vault::open(&dir.path().join("two")).unwrap();
        fs::copy(vault.path(&set(1)), other.path(&set(1))).unwrap();
        assert!(refused(&other, "hello").contains("another key"));
        let mut bytes = fs::read(vault.path(&set(1))).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(vault.path(&set(1)), bytes).unwrap();
        assert!(refused(&vault, "hello").contains("damaged"));
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_none_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        Vault::open(dir.path()).unwrap();
        let key = dir.path().join("key.txt");
        let before = fs::read(&key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Vault::open(dir.path()), Err(VaultError::KeyExposed { mode: 0o640, .. })));
        assert_eq!(fs::read(&key).unwrap(), before);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, "rubbish").unwrap();
        assert!(matches!(Vault::open(dir.path()), Err(VaultError::NoKey { .. })));
    }

    #[test]
    fn sets_that_nobody_needs_go_with_what_cut_writes_left() {
        let dir = tempfile::tempdir().unwrap();
        let vault = Vault::open(dir.path()).unwrap();
        for n in 1..=3 {
            vault.seal(&app("hello"), &set(n), &password("x")).unwrap();
        }
        fs::write(dir.path().join("sets/.new-abc"), "half").unwrap();
        assert_eq!(vault.keep_only(&[set(2)].into()).unwrap(), 3);
        assert!(vault.has(&set(2)) && !vault.has(&set(1)) && !vault.has(&set(3)));
        vault.remove(&set(2)).unwrap();
        assert!(!vault.has(&set(2)) && vault.remove(&set(2)).is_err());
    }
}

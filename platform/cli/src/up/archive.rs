//! Holm's own state in one file: written beside a running Holm, and made a state folder again from it.
//!
//! The file is a plain tar archive. What can be fetched again is not in it (images, guests), nor what belongs to the
//! machine alone (journals and logs of instances).
//!
//! | in it | what it is |
//! | --- | --- |
//! | `holm.db` | the event log and the state, as they were at one moment |
//! | `host-id` | the installation's id: its addresses are made from it |
//! | `secrets/sets/ID.age` | the sealed secrets that the state needs |
//! | `secrets/key.txt` | the key that opens them; left out when asked for |
//! | `backup.key` | the key of backups of volumes, where there is one; left out together with the other |
//! | `remote.crt`, `remote.key` | certificate of the interface from afar, where there is one |

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use holm_model::id::SecretSetId;
use holm_model::state::State;
use serde::Serialize;
use tar::{Archive, Builder, EntryType, Header};

const DATABASE: &str = "holm.db";
const HOST_ID: &str = "host-id";
const KEY: &str = "secrets/key.txt";
const BACKUP_KEY: &str = "backup.key";
const SETS: &str = "secrets/sets";
const CERTIFICATE: [&str; 2] = ["remote.crt", "remote.key"];

/// Largest of the small files, in bytes; the database may be larger.
const MAX_SMALL: u64 = 2 << 20;

/// What is in an archive.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Contents {
    /// The archive.
    pub(crate) file: PathBuf,
    /// The newest event.
    pub(crate) seq: u64,
    /// Apps, each environment counted.
    pub(crate) apps: usize,
    /// Sealed sets of secrets.
    pub(crate) secret_sets: usize,
    /// Whether the key that opens them is in it.
    pub(crate) key: bool,
}

/// Writes the state in `folder` to the new file `file`, with the key of its secrets or without. A running Holm goes on.
pub(crate) fn export(folder: &Path, file: &Path, key: bool) -> Result<Contents> {
    ensure!(folder.join(DATABASE).exists(), "there is no Holm in {}", folder.display());
    let draft = tempfile::Builder::new().prefix(".export-").tempdir_in(folder);
    let draft = draft.with_context(|| format!("cannot write in {}", folder.display()))?;
    // Before and after: a set is sealed before the log names it, and removed only after the log needs it no more.
    let mut sets = sealed(folder)?;
    holm_control::copy_database(folder, &draft.path().join(DATABASE)).context("cannot copy the database")?;
    sets.extend(sealed(folder)?);
    let state = holm_control::load_state(draft.path()).context("the copy of the database cannot be read")?;
    let needed = needed(&state);
    sets.retain(|name, _| needed.contains(name));
    if let Some(missing) = needed.iter().find(|name| !sets.contains_key(*name)) {
        bail!("the sealed secrets {missing} are not there");
    }

    let mut options = File::options();
    let to = options.write(true).create_new(true).mode(0o600).open(file);
    let to = to.with_context(|| format!("cannot make {}", file.display()))?;
    let written = (|| {
        let mut archive = Builder::new(io::BufWriter::new(to));
        let mut database = File::open(draft.path().join(DATABASE))?;
        let length = database.metadata()?.len();
        archive.append_data(&mut header(length), DATABASE, &mut database)?;
        let with_key = key.then_some([KEY, BACKUP_KEY]).into_iter().flatten();
        let mut has_key = false;
        for name in [HOST_ID].into_iter().chain(CERTIFICATE).chain(with_key) {
            let bytes = match fs::read(folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => zeroize::Zeroizing::new(read?),
            };
            archive.append_data(&mut header(bytes.len() as u64), name, bytes.as_slice())?;
            has_key |= name == KEY;
        }
        for (name, bytes) in &sets {
            let path = format!("{SETS}/{name}.age");
            archive.append_data(&mut header(bytes.len() as u64), path, bytes.as_slice())?;
        }
        let mut to = archive.into_inner()?;
        to.flush()?;
        to.get_ref().sync_all()?;
        Ok::<_, io::Error>(has_key)
    })();
    if written.is_err() {
        // Half an archive is worse than none. It is ours: it was made above.
        let _ = fs::remove_file(file);
    }
    let key = written.with_context(|| format!("cannot write {}", file.display()))?;
    Ok(contents(file, &state, key))
}

/// Makes the state in `folder`, where there must be none, from `file`.
pub(crate) fn import(folder: &Path, file: &Path) -> Result<Contents> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    for taken in [DATABASE, HOST_ID, BACKUP_KEY, "secrets", "agent"] {
        ensure!(
            !folder.join(taken).exists(),
            "{} holds the state of a Holm already: name another folder, or move that away",
            folder.display()
        );
    }
    let draft = tempfile::Builder::new().prefix(".import-").tempdir_in(folder);
    let draft = draft.with_context(|| format!("cannot write in {}", folder.display()))?;
    unpack(file, draft.path()).with_context(|| format!("{} is not the state of a Holm", file.display()))?;
    let state = holm_control::load_state(draft.path()).context("its database cannot be read")?;
    let sets = sealed(draft.path())?;
    if let Some(missing) = needed(&state).into_iter().find(|name| !sets.contains_key(name)) {
        bail!("the sealed secrets {missing} are not in it");
    }
    let key = draft.path().join(KEY).exists();
    // The database last: without it there is no Holm in the folder yet.
    for name in CERTIFICATE.into_iter().chain([BACKUP_KEY, "secrets", HOST_ID, DATABASE]) {
        match fs::rename(draft.path().join(name), folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.with_context(|| format!("cannot write {name} in {}", folder.display()))?,
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).context("cannot sync the folder")?;
    Ok(contents(file, &state, key))
}

fn contents(file: &Path, state: &State, key: bool) -> Contents {
    let (apps, secret_sets) = (state.apps.len(), needed(state).len());
    Contents { file: file.to_owned(), seq: state.seq.0, apps, secret_sets, key }
}

fn needed(state: &State) -> Vec<String> {
    state.secret_sets().into_iter().map(ToString::to_string).collect()
}

fn header(length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(length);
    header.set_mode(0o600);
    header.set_entry_type(EntryType::Regular);
    header
}

/// The sealed sets in `folder` by their ids.
fn sealed(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut sets = BTreeMap::new();
    let folder = folder.join(SETS);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sets),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        let Some(id) = set_id(&path) else { continue };
        match fs::read(&path) {
            // Removed since it was listed: nothing needs it any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            bytes => drop(sets.insert(id, bytes.with_context(|| format!("cannot read {}", path.display()))?)),
        }
    }
    Ok(sets)
}

fn set_id(path: &Path) -> Option<String> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".age")?;
    Some(stem.parse::<SecretSetId>().ok()?.to_string())
}

/// Writes the files of an archive into `folder`; refuses everything that an export does not write.
fn unpack(file: &Path, folder: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder.join(SETS))?;
    let mut archive = Archive::new(File::open(file)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name = path.to_str().unwrap_or_default();
        let small = [HOST_ID, KEY, BACKUP_KEY].contains(&name) || CERTIFICATE.contains(&name);
        let set = path.parent() == Some(Path::new(SETS)) && set_id(&path).is_some();
        ensure!(
            small || set || name == DATABASE,
            "`{}` does not belong into it",
            path.display().to_string().escape_debug()
        );
        ensure!(entry.header().entry_type() == EntryType::Regular, "`{name}` is not a file");
        let most = if name == DATABASE { u64::MAX } else { MAX_SMALL };
        ensure!(entry.size() <= most, "`{name}` is too large");
        let mode = if name == DATABASE || name == CERTIFICATE[0] { 0o640 } else { 0o600 };
        // Refuses a name that comes twice.
        let mut to = File::options().write(true).create_new(true).mode(mode).open(folder.join(&path))?;
        let length = io::copy(&mut entry.by_ref().take(most), &mut to)?;
        ensure!(length == entry.size(), "`{name}` is cut off");
        to.sync_all()?;
    }
    for name in [DATABASE, HOST_ID] {
        ensure!(folder.join(name).exists(), "`{name}` is missing");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use holm_secrets::{SecretValue, Secrets, Vault};

    use super::*;

    const ID: &str = "01990000-0000-7000-8000-00000000000a";

    /// A folder as a Holm without apps leaves it.
    fn site() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        holm_control::load_state(folder.path()).unwrap();
        fs::write(folder.path().join(HOST_ID), ID).unwrap();
        fs::write(folder.path().join(BACKUP_KEY), "00").unwrap();
        let vault = Vault::open(&folder.path().join("secrets")).unwrap();
        let set = ID.parse().unwrap();
        vault
            .seal(&"hello".parse().unwrap(), &set, &Secrets([("A".parse().unwrap(), SecretValue::new("1"))].into()))
            .unwrap();
        folder
    }

    fn archive(files: &[(&str, EntryType, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = Builder::new(file.reopen().unwrap());
        for (name, kind, bytes) in files {
            let mut header = header(bytes.len() as u64);
            header.set_entry_type(*kind);
            // As hostile archives have it: `append_data` would refuse some of these names.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            archive.append(&header, *bytes).unwrap();
        }
        archive.finish().unwrap();
        file
    }

    #[test]
    fn what_was_exported_is_imported_and_only_into_an_empty_folder() {
        use std::os::unix::fs::PermissionsExt as _;
        let (site, out, other) = (site(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = out.path().join("state.tar");
        let exported = export(site.path(), &file, true).unwrap();
        assert_eq!((exported.apps, exported.secret_sets, exported.key), (0, 0, true));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(export(site.path(), &file, true).is_err(), "an archive was overwritten");
        assert_eq!(import(other.path(), &file).unwrap(), exported);
        assert_eq!(fs::read(other.path().join(HOST_ID)).unwrap(), ID.as_bytes());
        assert_eq!(fs::read(other.path().join(BACKUP_KEY)).unwrap(), b"00");
        assert_eq!(fs::read(other.path().join(KEY)).unwrap(), fs::read(site.path().join(KEY)).unwrap());
        assert_eq!(fs::metadata(other.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        let again = import(other.path(), &file).unwrap_err().to_string();
        assert!(again.contains("already"), "{again}");
        let left = fs::read_dir(other.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
        assert!(!export(site.path(), &out.path().join("without"), false).unwrap().key);
        assert!(export(out.path(), &out.path().join("none"), true).unwrap_err().to_string().contains("no Holm"));
    }

    #[test]
    fn hostile_archives_write_nothing() {
        let set = format!("{SETS}/{ID}.age");
        let long = vec![0; MAX_SMALL as usize + 1];
        let all: [&[(&str, EntryType, &[u8])]; 9] = [
            &[],
            &[("../escaped", EntryType::Regular, b"x")],
            &[("/tmp/escaped", EntryType::Regular, b"x")],
            &[("secrets/sets/../../escaped", EntryType::Regular, b"x")],
            &[("secrets/sets/other", EntryType::Regular, b"x")],
            &[(HOST_ID, EntryType::Symlink, b"")],
            &[(HOST_ID, EntryType::Regular, b"1"), (HOST_ID, EntryType::Regular, b"2")],
            &[(&set, EntryType::Regular, &long)],
            &[(DATABASE, EntryType::Regular, b"rubbish"), (HOST_ID, EntryType::Regular, b"1")],
        ];
        for files in all {
            let (file, folder) = (archive(files), tempfile::tempdir().unwrap());
            let state = folder.path().join("state");
            assert!(import(&state, file.path()).is_err(), "{:?}", files.iter().map(|f| f.0).collect::<Vec<_>>());
            assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        let folder = tempfile::tempdir().unwrap();
        let rubbish = folder.path().join("rubbish");
        fs::write(&rubbish, [0xff; 5000]).unwrap();
        assert!(import(&folder.path().join("state"), &rubbish).is_err());
    }
}

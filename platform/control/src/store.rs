//! The database file: the only module, with those below it, that speaks SQL. Events are added, never changed, and removed only by compaction.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use holm_model::event::Recorded;
use holm_model::id::Seq;
use holm_model::state::{LoadError, State};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};

use crate::codec::{self, DecodeError};

mod compact;
mod lock;
mod reader;

pub(crate) use lock::FolderLock;
pub(crate) use reader::Reader;
pub use reader::{EventQuery, Verified};

/// The layout of the database that this version writes, and the vocabulary of its events and documents: whatever an older
/// Holm would not understand, or would lose, gets a new number, so that it refuses the database.
///
/// | schema | since |
/// | --- | --- |
/// | 1 | the first |
/// | 2 | the log keeps a bounded number of events |
/// | 3 | events and documents of secrets and tokens |
/// | 4 | events of what snapshots take |
const SCHEMA_VERSION: i64 = 4;

/// How long a request's key is remembered.
const KEYS_KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(30 * 24);

const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        seq        INTEGER PRIMARY KEY,
        stream     TEXT    NOT NULL,
        version    INTEGER NOT NULL,
        type       TEXT    NOT NULL,
        schema     INTEGER NOT NULL,
        actor      TEXT    NOT NULL,
        request_id TEXT,
        cause      INTEGER,
        at         TEXT    NOT NULL,
        body       TEXT    NOT NULL,
        UNIQUE (stream, version)
    ) STRICT;
    CREATE TRIGGER events_never_change BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
    CREATE TABLE requests (
        key       TEXT    PRIMARY KEY,
        actor     TEXT    NOT NULL,
        body_hash TEXT    NOT NULL,
        first_seq INTEGER NOT NULL,
        last_seq  INTEGER NOT NULL,
        response  TEXT    NOT NULL,
        at        TEXT    NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE documents (
        key  TEXT    PRIMARY KEY,
        body TEXT    NOT NULL,
        seq  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// A state folder that cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another Holm process has the folder.
    #[error("the state folder {} is in use by process {pid}: stop it first, or use another folder", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The other process, as it named itself; `?` when it has not yet.
        pid: String,
    },
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no database of Holm's.
    #[error("{} is not a database of Holm: move it away, or use another state folder", path.display())]
    NotHolm {
        /// The file.
        path: PathBuf,
    },
    /// The database is damaged. Nothing has been overwritten.
    #[error("the database {} is damaged ({what}): nothing was changed in it; restore a copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A newer version of Holm wrote the database.
    #[error("the database {} has schema {found}, and this version of Holm knows up to {known}: use a newer Holm",
        path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known.
        known: i64,
    },
    /// A row of the log cannot be read.
    #[error("event {seq} cannot be read")]
    Event {
        /// Its place in the log.
        seq: u64,
        /// Why not.
        source: DecodeError,
    },
    /// A stored document cannot be read.
    #[error(transparent)]
    Document(#[from] LoadError),
    /// The database refused an operation.
    #[error("cannot {action}")]
    Sql {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: rusqlite::Error,
    },
    /// An earlier write failed in a way that leaves open what is on disk; the folder has to be opened again.
    #[error("the state cannot be written since an earlier write failed: start Holm again")]
    Broken,
}

/// A request that was answered before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRequest {
    pub(crate) actor: String,
    pub(crate) body_hash: String,
    pub(crate) response: String,
}

/// The database, opened for writing.
#[derive(Debug)]
pub(crate) struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the database of the folder `dir`, and makes it when there is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("holm.db");
        if !path.try_exists().map_err(|source| StoreError::File { action: "look for", path: path.clone(), source })? {
            create(dir, &path)?;
        }
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(|source| explain(&path, "open the database", source))?;
        let store = Self { connection, path };
        let found = store.check()?;
        store.configure()?;
        store.bring_up_to_date(found)?;
        Ok(store)
    }

    /// Refuses everything that is not a sound database of this version, before anything is written.
    fn check(&self) -> Result<i64, StoreError> {
        let known = SCHEMA_VERSION;
        let found = "SELECT value FROM meta WHERE key = 'schema'";
        let found = self.connection.query_row(found, [], |row| row.get::<_, i64>(0)).map_err(|source| match source
            .sqlite_error_code()
        {
            Some(ErrorCode::DatabaseCorrupt) | None => self.failed("read the schema", source),
            Some(ErrorCode::NotADatabase | ErrorCode::Unknown) => StoreError::NotHolm { path: self.path.clone() },
            Some(_) => self.failed("read the schema", source),
        })?;
        if found > known {
            return Err(StoreError::Newer { path: self.path.clone(), found, known });
        }
        let sound = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match sound.map_err(|source| self.failed("check the database", source))?.as_str() {
            "ok" => Ok(found),
            what => Err(StoreError::Damaged { path: self.path.clone(), what: what.replace('\n', " ") }),
        }
    }

    /// Brings a database of an older schema to this one, in one transaction.
    fn bring_up_to_date(&self, found: i64) -> Result<(), StoreError> {
        if found == SCHEMA_VERSION {
            return Ok(());
        }
        let bounded = format!("DROP TRIGGER IF EXISTS events_never_go; {}", compact::SCHEMA);
        let steps = format!(
            "BEGIN IMMEDIATE; {} UPDATE meta SET value = {SCHEMA_VERSION} WHERE key = 'schema'; COMMIT",
            if found < 2 { &bounded } else { "" }
        );
        self.run("bring the database to this version's schema", &steps)
    }

    fn configure(&self) -> Result<(), StoreError> {
        let settings = || {
            self.connection.busy_timeout(Duration::from_secs(5))?;
            self.connection.pragma_update(None, "synchronous", "FULL")?;
            self.connection.pragma_update(None, "foreign_keys", true)?;
            self.connection.set_prepared_statement_cache_capacity(32);
            Ok(())
        };
        settings().map_err(|source| self.failed("set up the database", source))
    }

    fn failed(&self, action: &'static str, source: rusqlite::Error) -> StoreError {
        explain(&self.path, action, source)
    }

    fn run(&self, action: &'static str, sql: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(sql).map_err(|source| self.failed(action, source))
    }

    /// The stored state. No event is replayed.
    pub(crate) fn load(&self) -> Result<State, StoreError> {
        let mut state = State::default();
        let read = |source| self.failed("read the documents", source);
        let mut documents = self.connection.prepare("SELECT key, body FROM documents").map_err(read)?;
        let mut rows = documents.query([]).map_err(read)?;
        while let Some(row) = rows.next().map_err(read)? {
            let text = |i| row.get_ref(i).and_then(|v| Ok(v.as_str()?)).map_err(read);
            state.load(text(0)?, text(1)?)?;
        }
        let applied = "SELECT value FROM meta WHERE key = 'applied'";
        let applied: u64 = self.connection.query_row(applied, [], |row| row.get(0)).map_err(read)?;
        let last = self.last_seq()?;
        if Seq(applied) != last {
            let what = format!("the documents are of event {applied}, and the log ends with event {last}");
            return Err(StoreError::Damaged { path: self.path.clone(), what });
        }
        state.seq = last;
        Ok(state)
    }

    pub(crate) fn last_seq(&self) -> Result<Seq, StoreError> {
        let last = self.connection.query_row(
            "SELECT max((SELECT coalesce(max(seq), 0) FROM events), (SELECT value FROM meta WHERE key = 'base'))",
            [],
            |row| row.get(0),
        );
        last.map(Seq).map_err(|source| self.failed("read the log", source))
    }

    /// When the newest event was recorded.
    pub(crate) fn last_at(&self) -> Result<Option<Timestamp>, StoreError> {
        let last = "SELECT at FROM events ORDER BY seq DESC LIMIT 1";
        let last = self.connection.query_row(last, [], |row| row.get::<_, String>(0)).optional();
        Ok(last.map_err(|source| self.failed("read the log", source))?.and_then(|at| at.parse().ok()))
    }

    /// Takes the database's only write lock.
    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        self.run("begin a transaction", "BEGIN IMMEDIATE")
    }

    /// Ends the transaction. When this returns, what it wrote is on disk.
    pub(crate) fn commit(&self) -> Result<(), StoreError> {
        self.run("commit a transaction", "COMMIT")
    }

    /// Ends the transaction, if there still is one, without a trace.
    pub(crate) fn roll_back(&self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.run("roll back a transaction", "ROLLBACK")
    }

    /// Begins a part of the transaction that can be undone alone.
    pub(crate) fn begin_part(&self) -> Result<(), StoreError> {
        self.run("begin a savepoint", "SAVEPOINT part")
    }

    pub(crate) fn keep_part(&self) -> Result<(), StoreError> {
        self.run("release a savepoint", "RELEASE part")
    }

    /// Undoes the part. Fails when the whole transaction is gone.
    pub(crate) fn undo_part(&self) -> Result<(), StoreError> {
        self.run("roll back a savepoint", "ROLLBACK TO part; RELEASE part")
    }

    /// Adds `events` to the log.
    pub(crate) fn append(&self, events: &[Recorded], request: Option<&str>) -> Result<(), StoreError> {
        let failed = |source| self.failed("append to the log", source);
        let insert = "INSERT INTO events (seq, stream, version, type, schema, actor, request_id, cause, at, body)
             VALUES (?1, ?2, 1 + coalesce((SELECT max(version) FROM events WHERE stream = ?2),
                                          (SELECT version FROM streams WHERE stream = ?2), 0),
                     ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let mut insert = self.connection.prepare_cached(insert).map_err(failed)?;
        for recorded in events {
            let encoded = codec::encode(&recorded.event);
            insert
                .execute(params![
                    recorded.seq.0,
                    recorded.event.stream(),
                    encoded.kind,
                    encoded.schema,
                    recorded.actor,
                    request,
                    recorded.cause.map(|seq| seq.0),
                    recorded.at.to_string(),
                    encoded.body,
                ])
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Stores documents, or removes those without a body, as of the event `seq`.
    pub(crate) fn put_documents(&self, seq: Seq, documents: &[(String, Option<String>)]) -> Result<(), StoreError> {
        let failed = |source| self.failed("store a document", source);
        for (key, body) in documents {
            let done = match body {
                Some(body) => {
                    let put = "INSERT INTO documents (key, body, seq) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET body = ?2, seq = ?3";
                    self.connection.prepare_cached(put).and_then(|mut put| put.execute(params![key, body, seq.0]))
                }
                None => {
                    let drop = "DELETE FROM documents WHERE key = ?1";
                    self.connection.prepare_cached(drop).and_then(|mut drop| drop.execute([key]))
                }
            };
            done.map_err(failed)?;
        }
        Ok(())
    }

    /// Notes that the documents include every event up to `seq`.
    pub(crate) fn set_applied(&self, seq: Seq) -> Result<(), StoreError> {
        let set = self.connection.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'applied'");
        let set = set.and_then(|mut set| set.execute([seq.0]));
        set.map(drop).map_err(|source| self.failed("store the applied event", source))
    }

    /// The request with this key, if it was answered before.
    pub(crate) fn request(&self, key: &str) -> Result<Option<StoredRequest>, StoreError> {
        let find = self.connection.prepare_cached("SELECT actor, body_hash, response FROM requests WHERE key = ?1");
        let stored =
            |row: &Row<'_>| Ok(StoredRequest { actor: row.get(0)?, body_hash: row.get(1)?, response: row.get(2)? });
        let found = find.and_then(|mut find| find.query_row([key], stored).optional());
        found.map_err(|source| self.failed("look up a request", source))
    }

    /// Remembers how a request was answered; `seqs`: its first and last event.
    pub(crate) fn put_request(
        &self,
        key: &str,
        request: &StoredRequest,
        seqs: (Seq, Seq),
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let put = "INSERT INTO requests (key, actor, body_hash, first_seq, last_seq, response, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let put = self.connection.prepare_cached(put).and_then(|mut put| {
            let StoredRequest { actor, body_hash, response } = request;
            put.execute(params![key, actor, body_hash, seqs.0.0, seqs.1.0, response, at.to_string()])
        });
        put.map(drop).map_err(|source| self.failed("store a request", source))
    }

    /// Forgets the keys of requests that nobody will repeat any more.
    pub(crate) fn forget_old_requests(&self, now: Timestamp) -> Result<(), StoreError> {
        let Ok(oldest) = now.checked_sub(KEYS_KEPT) else { return Ok(()) };
        let forget = self.connection.execute("DELETE FROM requests WHERE at < ?1", [oldest.to_string()]);
        forget.map(drop).map_err(|source| self.failed("forget old requests", source))
    }

    /// Closes the database in good order: the write-ahead log is folded in.
    pub(crate) fn close(self) {
        if let Err((_, source)) = self.connection.close() {
            tracing::warn!(error = %source, "the database did not close in good order; it is sound all the same");
        }
    }
}

/// Makes an empty database under another name first, so that a crash leaves no half-made one behind.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let draft = dir.join("holm.db.new");
    let on_file = |action| {
        let path = draft.clone();
        move |source| StoreError::File { action, path, source }
    };
    for old in ["holm.db.new", "holm.db.new-wal", "holm.db.new-shm"] {
        match fs::remove_file(dir.join(old)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(on_file("remove")(error)),
            _ => {}
        }
    }
    let fill = || {
        let connection = Connection::open(&draft)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch("BEGIN")?;
        connection.execute_batch(SCHEMA)?;
        connection.execute_batch(compact::SCHEMA)?;
        connection.execute("INSERT INTO meta (key, value) VALUES ('schema', ?1), ('applied', 0)", [SCHEMA_VERSION])?;
        connection.execute_batch("COMMIT")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.close().map_err(|(_, error)| error)
    };
    fill().map_err(|source| explain(&draft, "make the database", source))?;
    File::open(&draft).and_then(|file| file.sync_all()).map_err(on_file("sync"))?;
    fs::rename(&draft, path).map_err(on_file("rename"))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(on_file("sync the folder of"))
}

/// Tells damage from other failures.
fn explain(path: &Path, action: &'static str, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Damaged { path: path.to_owned(), what: source.to_string() },
        Some(ErrorCode::NotADatabase) => StoreError::NotHolm { path: path.to_owned() },
        _ => StoreError::Sql { action, source },
    }
}

//! Compaction: the oldest events give way to the documents they led to, so that the log does not grow without end.
//!
//! The base is the state as of one event, kept beside the log. A replay begins there. Events up to the base may be
//! removed, later ones never; versions of streams go on from where they were. A crash leaves the base and the log as they
//! were before or as they are after.

use std::collections::BTreeMap;

use holm_model::id::Seq;
use holm_model::state::{DocumentKey, State};
use rusqlite::{Connection, params};

use super::reader::recorded;
use super::{Store, StoreError, explain};

/// What schema 2 added to schema 1.
pub(super) const SCHEMA: &str = "
    CREATE TABLE base (
        key  TEXT    PRIMARY KEY,
        body TEXT    NOT NULL,
        seq  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE streams (stream TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta (key, value) VALUES ('base', 0);
    CREATE TRIGGER events_go_when_the_base_has_them BEFORE DELETE ON events
        WHEN OLD.seq > (SELECT value FROM meta WHERE key = 'base')
        BEGIN SELECT RAISE(ABORT, 'events are never removed before the base has them'); END;
";

/// The state as of the base, and for each of its documents the event that touched it last.
pub(super) struct Base {
    pub(super) state: State,
    pub(super) touched: BTreeMap<String, Seq>,
}

/// Reads the base.
pub(super) fn base(connection: &Connection, path: &std::path::Path) -> Result<Base, StoreError> {
    let failed = |source| explain(path, "read the base of the log", source);
    let mut base = Base { state: State::default(), touched: BTreeMap::new() };
    let mut rows = connection.prepare("SELECT key, body, seq FROM base").map_err(failed)?;
    let mut rows = rows.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let key: String = row.get(0).map_err(failed)?;
        let body: String = row.get(1).map_err(failed)?;
        base.state.load(&key, &body)?;
        base.touched.insert(key, Seq(row.get(2).map_err(failed)?));
    }
    let seq = "SELECT value FROM meta WHERE key = 'base'";
    base.state.seq = Seq(connection.query_row(seq, [], |row| row.get(0)).map_err(failed)?);
    Ok(base)
}

impl Store {
    /// The newest event that the base has.
    pub(crate) fn base_seq(&self) -> Result<Seq, StoreError> {
        let seq = self.connection.query_row("SELECT value FROM meta WHERE key = 'base'", [], |row| row.get(0));
        seq.map(Seq).map_err(|source| self.failed("read the base of the log", source))
    }

    /// Moves the base on to `to` and removes the events up to there, in one transaction.
    pub(crate) fn compact(&self, to: Seq) -> Result<(), StoreError> {
        let failed = |source| self.failed("compact the log", source);
        self.begin()?;
        let Base { mut state, .. } = base(&self.connection, &self.path)?;
        let from = state.seq;
        let mut touched: BTreeMap<DocumentKey, Seq> = BTreeMap::new();
        let some =
            "SELECT seq, type, schema, actor, cause, at, body FROM events WHERE seq > ?1 AND seq <= ?2 ORDER BY seq";
        let mut some = self.connection.prepare_cached(some).map_err(failed)?;
        let mut rows = some.query([from.0, to.0]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let event = recorded(row, &self.path)?;
            touched.extend(state.apply(&event).into_iter().map(|key| (key, event.seq)));
        }
        drop(rows);
        for (key, seq) in touched {
            let text = key.to_text();
            let done = match state.document(&key) {
                Some(body) => self
                    .connection
                    .prepare_cached("INSERT OR REPLACE INTO base (key, body, seq) VALUES (?1, ?2, ?3)")
                    .and_then(|mut put| put.execute(params![text, body, seq.0])),
                None => self
                    .connection
                    .prepare_cached("DELETE FROM base WHERE key = ?1")
                    .and_then(|mut drop| drop.execute([text])),
            };
            done.map_err(failed)?;
        }
        let versions = "INSERT OR REPLACE INTO streams (stream, version)
             SELECT stream, max(version) FROM events WHERE seq <= ?1 GROUP BY stream";
        self.connection.execute(versions, [to.0]).map_err(failed)?;
        self.connection.execute("UPDATE meta SET value = ?1 WHERE key = 'base'", [to.0]).map_err(failed)?;
        self.connection.execute("DELETE FROM events WHERE seq <= ?1", [to.0]).map_err(failed)?;
        self.commit()
    }
}

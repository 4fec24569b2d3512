//! Reading beside the writer: events, copies, and the replay that says whether the documents are what the log says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holm_model::event::Recorded;
use holm_model::id::{AppKey, InstanceName, Seq};
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Row, params};

use super::compact::{self, Base};
use super::{StoreError, explain};
use crate::codec;

/// Which events are asked for. All conditions hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Only events after this one.
    pub after: Seq,
    /// Only events recorded at this time or later.
    pub since: Option<Timestamp>,
    /// Only events about this app.
    pub app: Option<AppKey>,
    /// Only events about this instance.
    pub instance: Option<InstanceName>,
    /// At most this many: 1 to 10,000.
    pub limit: u32,
    /// When there are more than `limit`: the newest instead of the oldest. The order is oldest first either way.
    pub newest: bool,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self { after: Seq(0), since: None, app: None, instance: None, limit: 1000, newest: false }
    }
}

/// What replaying the whole log has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The newest event.
    pub seq: Seq,
    /// How many documents there are.
    pub documents: usize,
    /// The documents that differ from what the events say; empty in a sound folder.
    pub differing: Vec<String>,
}

/// The database, opened for reading beside the writer.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("holm.db");
        let connect = || {
            let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            Ok(connection)
        };
        let connection = connect().map_err(|source| explain(&path, "open the database", source))?;
        Ok(Self { connection, path })
    }

    /// Copies the database as it is now to the new file `to`, whatever the writer does meanwhile.
    pub(crate) fn copy_to(&self, to: &Path) -> Result<(), StoreError> {
        let copy = || {
            self.connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
            // The copy does not inherit it.
            let made = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            made.pragma_update(None, "journal_mode", "WAL")?;
            made.close().map_err(|(_, error)| error)
        };
        copy().map_err(|source| explain(&self.path, "copy the database", source))
    }

    /// The events that `query` asks for, oldest first.
    pub(crate) fn events(&self, query: &EventQuery) -> Result<Vec<Recorded>, StoreError> {
        let failed = |source| explain(&self.path, "read the log", source);
        let app = query.app.as_ref().or(query.instance.as_ref().map(|name| &name.app));
        let stream = app.map(|app| format!("app/{app}"));
        let instance = query.instance.as_ref().map(ToString::to_string);
        let order = if query.newest { "DESC" } else { "ASC" };
        let select = format!(
            "SELECT seq, type, schema, actor, cause, at, body FROM events
             WHERE seq > ?1 AND (?2 IS NULL OR stream = ?2) AND (?5 IS NULL OR at >= ?5)
               AND (?3 IS NULL OR json_extract(body, '$.instance') = ?3)
             ORDER BY seq {order} LIMIT ?4"
        );
        let mut select = self.connection.prepare_cached(&select).map_err(failed)?;
        let limit = query.limit.clamp(1, 10_000);
        // The text of a time sorts by its whole seconds; the fraction is compared below.
        let since = query.since.map(|since| since.to_string().chars().take(19).collect::<String>());
        let mut rows = select
            .query(params![query.after.0.min(i64::MAX as u64), stream, instance, limit, since])
            .map_err(failed)?;
        let mut events = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let event = recorded(row, &self.path)?;
            if query.since.is_none_or(|since| event.at >= since) {
                events.push(event);
            }
        }
        if query.newest {
            events.reverse();
        }
        Ok(events)
    }

    /// Replays the log from its base and compares what it gives with the stored documents, byte for byte.
    pub(crate) fn verify(&self) -> Result<Verified, StoreError> {
        let failed = |source| explain(&self.path, "read the database", source);
        // One read transaction: the writer goes on beside it.
        let snapshot = self.connection.unchecked_transaction().map_err(failed)?;
        let Base { mut state, touched: mut newest } = compact::base(&snapshot, &self.path)?;
        let all = "SELECT seq, type, schema, actor, cause, at, body FROM events ORDER BY seq";
        let mut all = snapshot.prepare(all).map_err(failed)?;
        let mut rows = all.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let recorded = recorded(row, &self.path)?;
            if recorded.seq != state.seq.next() {
                let what = format!("event {} follows event {}", recorded.seq, state.seq);
                return Err(StoreError::Damaged { path: self.path.clone(), what });
            }
            let seq = recorded.seq;
            newest.extend(state.apply(&recorded).into_iter().map(|key| (key.to_text(), seq)));
        }
        let replayed: BTreeMap<String, (String, u64)> = state
            .documents()
            .into_iter()
            .filter_map(|(key, body)| newest.get(&key).map(|seq| (key, (body, seq.0))))
            .collect();
        let mut stored = snapshot.prepare("SELECT key, body, seq FROM documents").map_err(failed)?;
        let stored = stored.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).map_err(failed)?;
        let stored: BTreeMap<String, (String, u64)> = stored.collect::<Result<_, _>>().map_err(failed)?;
        let keys: std::collections::BTreeSet<&String> = replayed.keys().chain(stored.keys()).collect();
        let differing = keys.into_iter().filter(|key| replayed.get(*key) != stored.get(*key)).cloned().collect();
        Ok(Verified { seq: state.seq, documents: stored.len(), differing })
    }
}

/// Reads a row of the log: `seq, type, schema, actor, cause, at, body`.
pub(super) fn recorded(row: &Row<'_>, path: &Path) -> Result<Recorded, StoreError> {
    let failed = |source| explain(path, "read the log", source);
    let seq: u64 = row.get(0).map_err(failed)?;
    let read = || {
        let kind: String = row.get(1)?;
        let schema: u32 = row.get(2)?;
        let actor: String = row.get(3)?;
        let cause: Option<u64> = row.get(4)?;
        let at: String = row.get(5)?;
        let body: String = row.get(6)?;
        Ok((kind, schema, actor, cause, at, body))
    };
    let (kind, schema, actor, cause, at, body) = read().map_err(failed)?;
    let event = codec::decode(&kind, schema, &body).map_err(|source| StoreError::Event { seq, source })?;
    let at = at
        .parse()
        .map_err(|_| StoreError::Damaged { path: path.to_owned(), what: format!("event {seq} has the time `{at}`") })?;
    Ok(Recorded { seq: Seq(seq), at, actor, cause: cause.map(Seq), event })
}

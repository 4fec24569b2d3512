//! The state folder: what is refused, and that nothing in it is overwritten.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;

use holm_control::{Command, Control, EventQuery, Images, Options, StoreError};
use rusqlite::Connection;

use crate::fixture::{House, KEEP_EVENTS, Shelf, app, deploy, tcp};

async fn open(dir: &Path) -> Result<Control, StoreError> {
    Control::open(dir, Arc::new(Shelf::default()) as Arc<dyn Images>, Options::default()).await
}

async fn refused(dir: &Path) -> StoreError {
    let before = fs::read(dir.join("holm.db")).unwrap();
    let error = open(dir).await.err().expect("the folder is refused");
    assert_eq!(fs::read(dir.join("holm.db")).unwrap(), before, "nothing was overwritten");
    error
}

/// A closed folder with some events.
async fn folder() -> tempfile::TempDir {
    let house = House::new().await;
    for name in ["hello", "other", "third"] {
        house.ask(deploy(name)).await.unwrap();
    }
    house.until("instances", |state| state.instances.len() == 3).await;
    let House { dir, control, .. } = house;
    control.close().await;
    dir
}

#[tokio::test]
async fn what_is_no_database_of_holm_is_refused() {
    let other = || {
        let dir = tempfile::tempdir().unwrap();
        Connection::open(dir.path().join("holm.db")).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
        dir
    };
    let text = tempfile::tempdir().unwrap();
    fs::write(text.path().join("holm.db"), "this is no database, and long enough to be looked at ".repeat(100))
        .unwrap();
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("holm.db"), "").unwrap();
    for dir in [other(), text, empty] {
        let error = refused(dir.path()).await;
        assert!(matches!(error, StoreError::NotHolm { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = folder().await;
    let database = Connection::open(dir.path().join("holm.db")).unwrap();
    database.execute("UPDATE meta SET value = value + 1 WHERE key = 'schema'", []).unwrap();
    database.close().unwrap();
    let error = refused(dir.path()).await;
    assert!(matches!(error, StoreError::Newer { found, known, .. } if found == known + 1), "{error:?}");
}

#[tokio::test]
async fn a_damaged_page_is_found_at_the_start() {
    let dir = folder().await;
    let path = dir.path().join("holm.db");
    let pages = fs::metadata(&path).unwrap().len() / 4096;
    for page in 1..pages {
        let sound = fs::read(&path).unwrap();
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xa5; 4096]).unwrap();
        let error = refused(dir.path()).await;
        assert!(matches!(error, StoreError::Damaged { .. }), "page {page}: {error:?}");
        fs::write(&path, sound).unwrap();
    }
    assert!(pages > 3);
    open(dir.path()).await.unwrap().close().await;
}

#[tokio::test]
async fn documents_that_lag_behind_the_log_are_found_at_the_start() {
    let dir = folder().await;
    let database = Connection::open(dir.path().join("holm.db")).unwrap();
    database.execute("UPDATE meta SET value = value - 1 WHERE key = 'applied'", []).unwrap();
    database.close().unwrap();
    let error = refused(dir.path()).await;
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn an_edited_document_is_found_by_verify() {
    let dir = folder().await;
    let database = Connection::open(dir.path().join("holm.db")).unwrap();
    let edit =
        "UPDATE documents SET body = replace(body, '\"stopped\":false', '\"stopped\":true') WHERE key = 'app hello'";
    assert_eq!(database.execute(edit, []).unwrap(), 1);
    database.close().unwrap();
    let control = open(dir.path()).await.unwrap();
    assert!(control.state().apps[&app("hello")].stopped);
    assert!(control.verify().await.unwrap().differing.contains(&"app hello".to_owned()));
}

#[tokio::test]
async fn the_database_itself_refuses_to_change_an_event() {
    let dir = folder().await;
    let database = Connection::open(dir.path().join("holm.db")).unwrap();
    for change in ["UPDATE events SET actor = 'x'", "DELETE FROM events WHERE seq = 1"] {
        let error = database.execute(change, []).unwrap_err();
        assert!(error.to_string().starts_with("events are never"), "{error}");
    }
}

#[tokio::test]
async fn databases_of_older_schemas_are_brought_to_this_one() {
    let second = "UPDATE meta SET value = 2 WHERE key = 'schema'";
    let first = "DROP TABLE base; DROP TABLE streams; DROP TRIGGER events_go_when_the_base_has_them;
         DELETE FROM meta WHERE key = 'base'; UPDATE meta SET value = 1 WHERE key = 'schema';
         CREATE TRIGGER events_never_go BEFORE DELETE ON events
             BEGIN SELECT RAISE(ABORT, 'events are never removed'); END";
    for back in [second, first] {
        let dir = folder().await;
        let database = Connection::open(dir.path().join("holm.db")).unwrap();
        database.execute_batch(back).unwrap();
        database.close().unwrap();
        let control = open(dir.path()).await.unwrap();
        assert!(control.verify().await.unwrap().differing.is_empty());
        control.close().await;
        open(dir.path()).await.unwrap().close().await;
        let database = Connection::open(dir.path().join("holm.db")).unwrap();
        let schema: i64 = database.query_row("SELECT value FROM meta WHERE key = 'schema'", [], |r| r.get(0)).unwrap();
        assert_eq!(schema, 4);
    }
}

#[tokio::test]
async fn the_log_stays_bounded_and_what_it_led_to_stays() {
    let house = House::new().await;
    house.ask(deploy("hello")).await.unwrap();
    house.ask(deploy("gone")).await.unwrap();
    house.until("both to have instances", |state| state.instances.len() == 2).await;
    house.ask(Command::Destroy { app: app("gone"), volumes: false }).await.unwrap();
    for i in 0..300_u16 {
        let command = match i % 2 {
            0 => Command::RouteAdd { app: app("hello"), route: tcp(80 + i / 100) },
            _ => Command::RouteRemove { app: app("hello"), on: tcp(80 + i / 100).on },
        };
        assert!(house.ask(command).await.unwrap().changed);
    }
    let all = EventQuery { limit: 10_000, ..EventQuery::default() };
    let events = house.control.events(all).await.unwrap();
    // One step of compaction is an eighth of what is kept; the newest may come on top before the step is taken.
    assert!((KEEP_EVENTS..=KEEP_EVENTS + 10).contains(&(events.len() as u64)), "{} events are kept", events.len());
    let state = house.control.state();
    assert_eq!(events.last().unwrap().seq, state.seq);
    assert_eq!(house.control.verify().await.unwrap().differing, [""; 0]);
    let house = house.reopen().await;
    assert_eq!(*house.control.state(), *state);
    assert_eq!(house.control.verify().await.unwrap().differing, [""; 0]);
}

#[test]
fn only_the_store_speaks_sql_and_it_never_changes_an_event() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let store = sources.join("store");
    for file in fs::read_dir(&sources).unwrap().chain(fs::read_dir(&store).unwrap()) {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let compacts = path.file_name().unwrap() == "compact.rs";
        assert_eq!(words.matches("DELETE FROM events").count(), usize::from(compacts), "{}", path.display());
        for change in ["UPDATE events", "REPLACE INTO events"] {
            assert!(!words.contains(change), "{} has `{change}`", path.display());
        }
        if path != sources.join("store.rs") && !path.starts_with(&store) {
            for sql in ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "PRAGMA "] {
                assert!(!words.contains(sql), "{} speaks SQL", path.display());
            }
        }
    }
}

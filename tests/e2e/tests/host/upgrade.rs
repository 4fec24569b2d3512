//! Another Holm on the same state: one that is newer takes over what runs, one that is older refuses to begin.

use anyhow::{Context, Result, ensure};
use holm_e2e::{Batch, wait_for};
use rusqlite::Connection;
use rustix::process::{Signal, kill_process};
use xtask::client;
use xtask::load::Load;
use xtask::site::{Ran, free_port};

use super::{deploy_hello, healthy, holm_pid, qemu_of};

/// The schema of the last Holm without secrets. It has the tables of this one.
const OLDER: i64 = 2;

/// Ends Holm as a service manager does, and waits until it is gone.
pub(crate) fn end_service(batch: &Batch) -> Result<()> {
    kill_process(holm_pid(batch)?, Signal::TERM)?;
    wait_for("Holm's end", || Ok(holm_pid(batch).is_err().then_some(())))
}

/// Tries to start Holm.
pub(crate) fn try_up(batch: &Batch) -> Result<Ran> {
    let words: Vec<&str> = batch.up.iter().map(String::as_str).collect();
    batch.site.run(&words)
}

/// Marks the database as written by a Holm of the schema `schema`, and says which it had.
fn mark(batch: &Batch, schema: i64) -> Result<i64> {
    let database = Connection::open(batch.site.state().join("holm.db"))?;
    let before = database.query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| row.get(0))?;
    database.execute("UPDATE meta SET value = ?1 WHERE key = 'schema'", [schema])?;
    Ok(before)
}

pub(crate) fn newer_holm_takes_over_and_an_older_one_refuses(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "elder", "still the same", port)?;
    let name = healthy(batch, "elder")?.pop().context("no healthy instance")?;
    let (vm, answer) = (qemu_of(batch, &name)?, client::get(port, "/")?);
    let second = try_up(batch)?;
    ensure!(second.status == 1 && second.stderr.contains("a Holm runs there already"), "{second:?}");

    let same = |when: &str| -> Result<()> {
        wait_for("the instance to be taken over", || Ok(healthy(batch, "elder")?.contains(&name).then_some(())))?;
        ensure!(qemu_of(batch, &name)? == vm, "another microVM was started {when}");
        wait_for("the route", || Ok((client::get(port, "/").ok().as_ref() == Some(&answer)).then_some(())))
    };
    // Under load, and no client notices.
    let (load, old) = (Load::start(port, 10), batch.site.ingresses()?);
    end_service(batch)?;
    let current = mark(batch, OLDER)?;
    let newer = batch.path().join("newer");
    std::fs::create_dir(&newer)?;
    let newer = newer.join("holm");
    std::fs::copy(&batch.site.programs().holm, &newer)?;
    let words: Vec<&str> = batch.up.iter().map(String::as_str).collect();
    let status = batch.site.holm_of(&newer, &words).status()?;
    ensure!(status.success(), "the newer Holm did not start: {status}");
    same("by a newer Holm")?;
    wait_for("the newer ingress alone", || {
        let now = batch.site.ingresses()?;
        Ok((now.len() == 1 && now != old).then_some(()))
    })?;
    load.end()?.check().context("while a newer Holm took over")?;
    end_service(batch)?;
    ensure!(mark(batch, current + 1)? == current, "the database was not brought up to date");
    let refused = try_up(batch)?;
    ensure!(refused.status == 1 && refused.stderr.contains("use a newer Holm"), "{refused:?}");
    ensure!(qemu_of(batch, &name)? == vm, "the refused Holm ended a microVM");
    mark(batch, current)?;
    batch.up()?;
    same("after the older Holm")?;
    batch.site.ok(&["restart", "elder"])?;
    batch.site.ok(&["destroy", "elder", "--yes"]).map(drop)
}

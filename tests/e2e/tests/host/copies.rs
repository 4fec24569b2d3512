//! Holm's own state: exported beside a running Holm, and gone on from in another folder.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use holm_e2e::{Batch, wait_for};
use xtask::client;
use xtask::site::free_port;

use super::deploy_hello;
use super::secrets::with_input;

/// A Holm of its own: whoever goes on from a copy is the same host, and would take what runs there for its own.
pub(crate) fn exported_state_goes_on_in_another_folder(_: &Batch) -> Result<()> {
    let first = batch()?;
    let exported = export(&first);
    let log = first.log();
    let done = exported.with_context(|| format!("the first Holm's log:\n{log}")).and_then(|exported| {
        let other = batch()?;
        let done = goes_on(&other, &exported);
        let log = other.log();
        other.site.clear();
        done.with_context(|| format!("Holm's log:\n{log}"))
    });
    first.site.clear();
    done
}

/// A Holm that is not up yet.
fn batch() -> Result<Batch> {
    let sni = free_port()?.to_string();
    Batch::new(&["--network", "user", "--accel", "tcg", "--sni-port", &sni, "--memory", "1GiB"])
}

/// What was exported, and what is to be found again.
struct Exported {
    file: String,
    port: u16,
    token: String,
}

/// Exports a state beside its running Holm, which goes down then.
fn export(batch: &Batch) -> Result<Exported> {
    let port = free_port()?;
    batch.begin()?;
    let set = with_input(batch, &["secrets", "set", "PASSWORD", "--app", "moved"], "correct horse")?;
    ensure!(set.status == 0, "{set:?}");
    deploy_hello(batch, "moved", "moved", port)?;
    let token = batch.site.json(&["tokens", "create", "mover", "--app", "moved"])?;
    let file = batch.path().join("state.tar").to_string_lossy().into_owned();
    batch.site.ok(&["state", "export", &file])?;
    let again = batch.site.run(&["state", "export", &file])?;
    ensure!(again.status == 1 && again.stderr.contains("cannot make"), "a copy was overwritten: {again:?}");
    batch.site.ok(&["down"])?;
    Ok(Exported { file, port, token: token["id"].as_str().context("no id")?.to_owned() })
}

fn goes_on(other: &Batch, Exported { file, port, token }: &Exported) -> Result<()> {
    other.site.ok(&["state", "import", file])?;
    let again = other.site.run(&["state", "import", file])?;
    ensure!(again.status == 1 && again.stderr.contains("already"), "imported over a state: {again:?}");
    other.begin()?;
    // Everything but the state is new: the image is fetched again, the instance boots again.
    wait_for("the app to serve", || Ok(client::get(*port, "/").ok().filter(|answer| answer.starts_with("moved"))))?;
    let diff = with_input(other, &["secrets", "diff", "-", "--app", "moved"], "PASSWORD='correct horse'\n")?;
    ensure!(diff.status == 0 && diff.stdout.contains("same"), "{diff:?}");
    ensure!(other.site.ok(&["tokens", "list"])?.contains(token), "the token is gone");
    for (name, mode) in [("holm.db", 0o640), ("secrets/key.txt", 0o600), ("host-id", 0o600)] {
        let found = std::fs::metadata(other.site.state().join(name))?.permissions().mode() & 0o777;
        ensure!(found == mode, "{name} has mode {found:o}");
    }
    other.site.ok(&["restart", "moved"])?;
    other.site.ok(&["down"]).map(drop)
}

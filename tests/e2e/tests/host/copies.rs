//! Holm's own state: exported beside a running Holm, and gone on from in another folder.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use holm_e2e::{Batch, wait_for};
use xtask::client;
use xtask::guest::kernel_packages;
use xtask::site::free_port;
use xtask::workspace::cache;

use super::deploy_hello;
use super::secrets::with_input;

pub(crate) fn exported_state_goes_on_in_another_folder(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    let set = with_input(batch, &["secrets", "set", "PASSWORD", "--app", "moved"], "correct horse")?;
    ensure!(set.status == 0, "{set:?}");
    deploy_hello(batch, "moved", "moved", port)?;
    let token = batch.site.json(&["tokens", "create", "mover", "--app", "moved"])?;
    let file = batch.path().join("state.tar").to_string_lossy().into_owned();
    batch.site.ok(&["state", "export", &file])?;
    let again = batch.site.run(&["state", "export", &file])?;
    ensure!(again.status == 1 && again.stderr.contains("cannot make"), "a copy was overwritten: {again:?}");
    batch.site.ok(&["destroy", "moved", "--yes"])?;
    wait_for("the app to be gone", || Ok((!batch.site.ok(&["status"])?.contains("moved")).then_some(())))?;

    let sni = free_port()?.to_string();
    let other = Batch::new(&["--network", "user", "--accel", "tcg", "--sni-port", &sni, "--memory", "1GiB"])?;
    let done = goes_on(&other, &file, port, token["id"].as_str().context("no id")?);
    let log = other.log();
    other.site.clear();
    done.with_context(|| format!("Holm's log:\n{log}"))
}

fn goes_on(other: &Batch, file: &str, port: u16, token: &str) -> Result<()> {
    other.site.ok(&["state", "import", file])?;
    let again = other.site.run(&["state", "import", file])?;
    ensure!(again.status == 1 && again.stderr.contains("already"), "imported over a state: {again:?}");
    let packages = kernel_packages(&cache())?;
    let packages: Vec<_> = packages.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let words = ["guest", "import"].into_iter().chain(packages.iter().map(String::as_str));
    other.site.ok(&words.collect::<Vec<_>>())?;
    other.up()?;
    // Everything but the state is new: the image is fetched again, the instance boots again.
    wait_for("the app to serve", || Ok(client::get(port, "/").ok().filter(|answer| answer.starts_with("moved"))))?;
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

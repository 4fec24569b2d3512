//! `cargo deny`: licences, sources and duplicates of dependencies, by the rules in `deny.toml`.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::command::{command, nice, output};
use crate::workspace::{cache, cargo};

/// The version whose rules `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// Runs the checks that need no network: advisories would need a database that is fetched each time.
pub(crate) fn check(root: &Path) -> Result<bool> {
    let program = installed(root)?;
    let mut deny =
        command(root, program, &["--offline", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    Ok(deny.status()?.success())
}

/// Builds cargo-deny once and keeps it with the cache. Who comes while it is built waits.
pub(crate) fn installed(root: &Path) -> Result<PathBuf> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let at = cache().join(format!("cargo-deny-{VERSION}"));
    let program = at.join("bin/cargo-deny");
    if !program.exists() {
        println!("building cargo-deny {VERSION}, once");
        let mut install = nice(root, cargo(), &["install", "cargo-deny", "--quiet", "--locked", "--debug"]);
        install.args(["--version", VERSION, "--no-track", "--root"]).arg(&at);
        install.arg("--target-dir").arg(cache().join("cargo-deny-build"));
        output(&mut install)?;
        std::fs::remove_dir_all(cache().join("cargo-deny-build"))?;
    }
    Ok(program)
}

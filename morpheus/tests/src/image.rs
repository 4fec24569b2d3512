//! What the guest boots from: an initial ramdisk with PID 1, the agent, and the libraries the agent is linked to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{output, target, workspace};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the programs and packs them; gives the ramdisk.
///
/// # Errors
/// When something does not build, or `ldd`, `strip` or `cpio` fails.
pub fn built() -> Result<PathBuf> {
    let agent = agent()?;
    let guest = guest()?;
    let folder = target().join("morpheus-guest");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    let root = folder.join("root");
    for place in ["dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(place))?;
    }
    stripped(&guest, &root.join("init"))?;
    stripped(&agent, &root.join("morpheusd"))?;
    for library in libraries(&agent)? {
        let place = root.join(library.strip_prefix("/")?);
        fs::create_dir_all(place.parent().context("a library outside of a folder")?)?;
        fs::copy(&library, &place).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    let ramdisk = folder.join("ramdisk");
    pack(&root, &ramdisk)?;
    Ok(ramdisk)
}

/// Keeps what the guest said beside its ramdisk.
///
/// # Errors
/// Those of the file system.
pub fn keep(console: &str) -> Result<PathBuf> {
    let place = target().join("morpheus-guest/console");
    fs::write(&place, console)?;
    Ok(place)
}

/// The agent, as anybody builds it.
fn agent() -> Result<PathBuf> {
    output(cargo().args(["build", "--quiet", "--package", "morpheus-agent", "--bin", "morpheusd"]))?;
    Ok(target().join("debug/morpheusd"))
}

/// PID 1, static. It has a target folder of its own, since its flags would make cargo build everything else again; with
/// the target named, build scripts and macros stay dynamic, as they must.
fn guest() -> Result<PathBuf> {
    let folder = target().join("static");
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "morpheus-e2e", "--bin", "morpheus-guest", "--target", TARGET]);
    build.arg("--target-dir").arg(&folder).env("RUSTFLAGS", "-C target-feature=+crt-static");
    output(&mut build)?;
    Ok(folder.join(TARGET).join("debug/morpheus-guest"))
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Copies a program without what debuggers need: the ramdisk is unpacked by translated code.
fn stripped(program: &Path, place: &Path) -> Result<()> {
    output(Command::new("strip").arg("-o").arg(place).arg(program)).map(drop)
}

/// Absolute paths of the libraries a program is linked to, the dynamic linker included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = output(Command::new("ldd").arg(program))?;
    let paths = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let paths: Vec<PathBuf> = paths.map(PathBuf::from).collect();
    ensure!(!paths.is_empty(), "{} is linked to no library: {listed}", program.display());
    Ok(paths)
}

/// Packs a folder as the kernel wants it.
fn pack(root: &Path, ramdisk: &Path) -> Result<()> {
    let script = "find . -print0 | LC_ALL=C sort -z | cpio --null --create --format=newc --owner=0:0 --quiet";
    let file = fs::File::create(ramdisk)?;
    let mut packing = Command::new("sh");
    packing.args(["-c", script]).current_dir(root).stdin(Stdio::null()).stdout(file).stderr(Stdio::piped());
    let done = packing.spawn().and_then(std::process::Child::wait_with_output).context("cannot start sh")?;
    ensure!(done.status.success(), "cannot pack the ramdisk: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

//! Builds the programs that the demo and the tests run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, output};
use crate::workspace::{cargo, target, workspace};

/// Programs built from this workspace.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The `holm` command.
    pub holm: PathBuf,
    /// PID 1 of guests, static.
    pub init: PathBuf,
    /// The example app, static.
    pub hello: PathBuf,
}

/// What everything is built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// How programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run: for measuring.
    Release,
}

impl Profile {
    const fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// Builds `holm` with `profile`; what runs inside guests is always built small and static.
///
/// # Errors
/// When something does not build; the message ends with the compiler's last lines.
pub fn programs(profile: Profile) -> Result<Programs> {
    let root = workspace();
    let mut build = command(&root, cargo(), &["build", "--package", "holm"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    build_quietly(&mut build)?;
    let (init, hello) = static_programs(&root)?;
    Ok(Programs { holm: target().join(profile.folder()).join("holm"), init, hello })
}

/// Builds the example `name` of `package` for measuring and gives the program.
///
/// # Errors
/// When it does not build.
pub(crate) fn release_example(package: &str, name: &str, feature: Option<&str>) -> Result<PathBuf> {
    let mut build = command(&workspace(), cargo(), &["build", "--release", "--package", package, "--example", name]);
    build.args(feature.iter().flat_map(|feature| ["--features", *feature]));
    build_quietly(&mut build)?;
    Ok(target().join(Profile::Release.folder()).join("examples").join(name))
}

/// Static programs have a target folder of their own: their flags would make cargo build everything else again.
fn static_programs(root: &Path) -> Result<(PathBuf, PathBuf)> {
    let folder = target().join("static");
    let mut build =
        command(root, cargo(), &["build", "--release", "--package", "holm-linux-init", "--package", "hello"]);
    // With the target named, build scripts and macros stay dynamic, as they must.
    build.args(["--target", TARGET, "--target-dir"]).arg(&folder).env("RUSTFLAGS", "-C target-feature=+crt-static");
    build_quietly(&mut build)?;
    let built = folder.join(TARGET).join("release");
    Ok((built.join("holm-linux-init"), built.join("hello")))
}

fn build_quietly(build: &mut std::process::Command) -> Result<()> {
    output(build.arg("--quiet")).map(drop).context("the build failed")
}

/// Builds Holm for use and puts `holm`, the guest's PID 1, the systemd unit, the manual pages and an image of the example app
/// into `target/dist`.
///
/// # Errors
/// When something does not build or cannot be copied.
pub fn dist() -> Result<PathBuf> {
    let programs = programs(Profile::Release)?;
    let folder = target().join("dist");
    std::fs::create_dir_all(&folder)?;
    for program in [&programs.holm, &programs.init] {
        let name = program.file_name().context("a program without a name")?;
        std::fs::copy(program, folder.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    std::fs::copy(workspace().join("platform/cli/holm.service"), folder.join("holm.service"))?;
    let mut manual = std::process::Command::new(folder.join("holm"));
    let made = manual.args(["--quiet", "docs", "--man"]).arg(folder.join("man")).status()?;
    anyhow::ensure!(made.success(), "the manual pages could not be written");
    let example = folder.join("hello");
    if example.exists() {
        std::fs::remove_dir_all(&example).with_context(|| format!("cannot clear {}", example.display()))?;
    }
    crate::images::hello(&example, &programs.hello)?;
    println!("{}/holm is ready; its guests start with holm-linux-init beside it", folder.display());
    Ok(folder)
}

//! What the end-to-end tests share: one installation for a batch of tests, and waiting for conditions.
//!
//! Each test program starts Holm once, runs its tests one after the other as a user would type them, and ends Holm. The
//! tests use apps of their own names, so that one that fails does not take the others with it.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "test programs talk to whoever runs them")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use xtask::build::{Profile, programs};
use xtask::guest::kernel_packages;
use xtask::site::{Ran, Site};
use xtask::workspace::{cache, target};

use namespace::World;

pub mod namespace;

/// Longest wait for anything: a microVM boots in some seconds, on a busy machine in some tens.
const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `condition` gives a value.
///
/// # Errors
/// When it gives none for two minutes; `what` says what was waited for.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        std::thread::park_timeout(LOOK);
    }
}

/// What a batch of tests works on.
#[derive(Debug)]
pub struct Batch {
    /// The installation.
    pub site: Site,
    /// A folder for the tests' own files, thrown away at the end.
    pub folder: tempfile::TempDir,
    /// How Holm is started.
    pub up: Vec<String>,
    /// What stands in the environment of `holm up`, and of no other command.
    pub environment: Vec<(&'static str, String)>,
    /// The network namespaces Holm runs in, when it does not run in the machine's own.
    pub world: Option<World>,
}

impl Batch {
    /// Builds what is needed and makes an installation; Holm is not started yet.
    ///
    /// # Errors
    /// When something does not build.
    pub fn new(up: &[&str]) -> Result<Self> {
        let programs = programs(Profile::Dev)?;
        std::fs::create_dir_all(target())?;
        let folder = tempfile::Builder::new().prefix("e2e-").tempdir_in(target())?;
        let site = Site::new(programs, &folder.path().join("state"))?;
        let up = ["up", "--detach"].iter().chain(up).map(|word| (*word).to_owned()).collect();
        Ok(Self { site, folder, up, environment: Vec::new(), world: None })
    }

    /// Puts the installation on the host of `world`.
    #[must_use]
    pub fn in_world(mut self, world: World) -> Self {
        self.site = self.site.in_namespace(world.host.name());
        self.world = Some(world);
        self
    }

    /// The network namespaces Holm runs in.
    ///
    /// # Errors
    /// When it runs in the machine's own.
    pub fn world(&self) -> Result<&World> {
        self.world.as_ref().context("this installation has no network namespace")
    }

    /// Starts Holm in the background.
    ///
    /// # Errors
    /// When it does not start.
    pub fn up(&self) -> Result<()> {
        let words: Vec<&str> = self.up.iter().map(String::as_str).collect();
        let mut up = self.site.holm(&words);
        up.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ran::of(&mut up)?.ok(&words).map(drop)
    }

    /// Starts Holm for the first time and gives it a guest to boot.
    ///
    /// # Errors
    /// When Holm does not start, or the guest's packages cannot be had.
    pub fn begin(&self) -> Result<()> {
        self.up()?;
        let packages = kernel_packages(&cache())?;
        let mut import = vec!["guest".to_owned(), "import".to_owned()];
        import.extend(packages.iter().map(|p| p.to_string_lossy().into_owned()));
        let import: Vec<&str> = import.iter().map(String::as_str).collect();
        self.site.ok(&import).context("cannot import the guest").map(drop)
    }

    /// The folder for the tests' own files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The log of the background process, for whoever reads a failed test.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.site.state().join("holm.log")).unwrap_or_default()
    }
}

/// One test of a batch.
pub type Test = (&'static str, fn(&Batch) -> Result<()>);

/// Runs `tests` one after the other on `batch` and ends with what a test program ends with. `end` runs last and counts
/// as a test of its own.
#[must_use]
pub fn run(batch: Result<Batch>, begin: fn(&Batch) -> Result<()>, tests: &[Test], end: Test) -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let batch = match batch {
        Ok(batch) => Arc::new(batch),
        Err(error) => {
            return conclude(&arguments, vec![Trial::test("prepare", move || Err(Failed::from(format!("{error:#}"))))]);
        }
    };
    let begun = if arguments.list { Ok(()) } else { begin(&batch) };
    if let Err(error) = begun {
        let log = batch.log();
        batch.site.clear();
        let error = error.context(format!("Holm's log:\n{log}"));
        return conclude(&arguments, vec![Trial::test("start Holm", move || Err(Failed::from(format!("{error:#}"))))]);
    }
    let trials = tests.iter().chain([&end]).map(|(name, test)| {
        let (batch, test) = (Arc::clone(&batch), *test);
        Trial::test(*name, move || failed(test(&batch)))
    });
    let code = conclude(&arguments, trials.collect());
    if code != ExitCode::SUCCESS {
        println!("Holm's log:\n{}", batch.log());
    }
    batch.site.clear();
    code
}

/// Ends a test program that cannot run here, saying why: its tests count as ignored, but in CI as root nothing may be
/// missing, and they fail.
#[must_use]
pub fn skip(why: &str, tests: &[Test], end: Test) -> ExitCode {
    let arguments = Arguments::from_args();
    let must_run = std::env::var("CI").is_ok_and(|ci| ci == "true") && rustix::process::geteuid().is_root();
    println!("skipped: {why}");
    let trials = tests.iter().chain([&end]).map(|(name, _)| {
        let why = why.to_owned();
        Trial::test(*name, move || Err(Failed::from(format!("cannot run here: {why}")))).with_ignored_flag(!must_run)
    });
    conclude(&arguments, trials.collect())
}

fn conclude(arguments: &Arguments, trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(arguments, trials).exit_code()
}

fn failed(result: Result<()>) -> Result<(), Failed> {
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

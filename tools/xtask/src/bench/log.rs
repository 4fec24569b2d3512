//! The event log: `holm_control`'s example `measure`, run as a release build; and `holm up` on the long log that it leaves,
//! killed and started again.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holm_process::Process;
use serde_json::Value;

use super::report::Measured;
use super::samples::Samples;
use crate::build::{self, Profile, programs};
use crate::command::command;
use crate::site::{Site, free_port};
use crate::workspace::target;

/// Starts that are measured: of the control plane alone, and of the whole of Holm.
const STARTS: usize = 7;

/// How long a process goes on appending before it is killed.
const APPENDING: Duration = Duration::from_millis(300);

/// Longest wait for a killed process to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A state folder, and whoever works on it; ended and removed when dropped.
struct Folder(Site, PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        self.0.clear();
        if let Err(error) = fs::remove_dir_all(&self.1) {
            println!("cannot remove {}: {error}", self.1.display());
        }
    }
}

/// Measures.
pub(super) fn measure() -> Result<Vec<Measured>> {
    println!("log: appends one at a time and many at once, and the start with 50 apps and 100,000 events");
    let program = build::release_example("holm-control", "measure", None)?;
    let programs = programs(Profile::Release)?;
    let root = target().join("bench-log");
    if root.exists() {
        Site::leftover(programs.clone(), &root.join("state")).clear();
        fs::remove_dir_all(&root).with_context(|| format!("cannot clear {}", root.display()))?;
    }
    let folder = Folder(Site::new(programs, &root.join("state"))?, root);
    let filled = told_and_killed(&program, "fill", folder.0.state())?;
    println!("  appended: {filled}");

    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for _ in 0..STARTS {
        let opened = told_and_killed(&program, "open", folder.0.state())?;
        for (name, value) in opened.as_object().context("not a document")? {
            let value = value.as_f64().with_context(|| format!("{name} is not a number in {opened}"))?;
            samples.entry(name.clone()).or_default().0.push(value);
        }
    }
    for _ in 0..STARTS {
        samples.entry("up_ms".to_owned()).or_default().0.push(up(&folder.0)?);
    }

    let figure = |name: &'static str, field: &str, how: String| -> Result<Measured> {
        let value = filled[field].as_f64().with_context(|| format!("no {field} in {filled}"))?;
        Ok(Measured { name, value, how, samples: BTreeMap::new() })
    };
    let median = |name: &str| samples.get(name).map_or(f64::NAN, Samples::median);
    let (least, most) = samples.get("up_ms").map_or((f64::NAN, f64::NAN), Samples::range);
    let how = format!(
        "`holm up` after SIGKILL to its first answer, median of {STARTS} ({least:.0} to {most:.0}); of it opening the log {:.0} ms; \
         {:.0} events and {:.0} documents, {:.0} MiB and {:.1} MiB of write-ahead log; replaying it all takes {:.0} ms",
        median("open_ms"),
        median("events"),
        median("documents"),
        median("mib"),
        median("wal_mib"),
        median("verify_ms"),
    );
    let p99 = filled["append_p99_ms"].as_f64().unwrap_or(f64::NAN);
    Ok(vec![
        figure("append-p50", "append_p50_ms", format!("1,000 commands one after the other; p99 {p99:.1} ms"))?,
        figure("append-group", "append_per_s", "100,000 by 50 at once, each waiting for its own".to_owned())?,
        Measured { name: "recovery", value: median("up_ms"), how, samples },
    ])
}

/// Runs `program` until it has told its figures, lets it append for a moment, and kills it.
fn told_and_killed(program: &Path, verb: &str, folder: &Path) -> Result<Value> {
    let mut child = command(folder, program, &[OsStr::new(verb), folder.as_os_str()]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line);
    std::thread::park_timeout(APPENDING);
    let _ = child.kill();
    let status = child.wait()?;
    read?;
    serde_json::from_str(&line).with_context(|| format!("`measure {verb}` ended with {status} and told `{line}`"))
}

/// Starts `holm up` and kills it again; gives the time until it answered, in ms.
fn up(site: &Site) -> Result<f64> {
    let sni = free_port()?.to_string();
    let begun = Instant::now();
    site.ok(&["up", "--detach", "--network", "user", "--accel", "tcg", "--sni-port", &sni])?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    let status = site.json(&["status"])?;
    let apps = status["apps"].as_array().map_or(0, Vec::len);
    ensure!(apps == 50, "{apps} apps are known, not 50: {status}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = site.processes()?;
        if left.is_empty() {
            return Ok(took);
        }
        ensure!(Instant::now() < deadline, "killed, and still there: {left:?}");
        for (pid, _) in left {
            if let Some(process) = Process::open(pid)? {
                process.kill()?;
            }
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

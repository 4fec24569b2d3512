//! `cargo xtask bench morpheus`: what Morpheus costs whom, with a real `morpheusd observe` on this machine's kernel.
//!
//! The programs that are measured are the crates' own examples, in release builds; this one starts them and reads what
//! they print.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::machine;
use super::reach::Reaches;
use super::report::{Measured, Report};
use super::samples::Samples;
use crate::command::{command, output};
use crate::morpheus::python;
use crate::workspace::{cargo, target, workspace};

/// How long `morpheusd` may take to listen.
const START: Duration = Duration::from_secs(30);

/// What the benchmark can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// What to measure; everything when none is named
    figures: Vec<Figure>,
    /// Fewer rounds: to see that it works, not to cite
    #[arg(long)]
    quick: bool,
    /// Where the raw samples go [default: target/bench-morpheus.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// The checkpoint in Rust
    Checkpoint,
    /// The checkpoint in Python
    Python,
    /// A context switch of threads that are no workers
    Switch,
}

/// A running `morpheusd observe`, ended when dropped.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start() -> Result<Self> {
        let socket = target().join(format!("bench-morpheus-{}.sock", std::process::id()));
        let mut morpheusd = command(&workspace(), target().join("release/morpheusd"), &["observe", "--socket"]);
        let child = morpheusd.arg(&socket).stderr(Stdio::null()).spawn().context("cannot start morpheusd")?;
        let mut agent = Self { child, socket };
        let deadline = Instant::now() + START;
        while !agent.socket.exists() {
            if let Some(status) = agent.child.try_wait()? {
                bail!("morpheusd ended with {status}; `morpheusd check` tells what this kernel can do (run as root)");
            }
            if Instant::now() > deadline {
                bail!("morpheusd did not listen within {START:?}");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Measures, prints the table, and writes the raw samples.
///
/// # Errors
/// When something cannot be measured; what was started is ended first. A figure that is not reached is no error.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace();
    let reaches = Reaches::read(&root.join("bench/morpheus.toml"))?;
    let machine = machine::look();
    let wanted = |figure| options.figures.is_empty() || options.figures.contains(&figure);
    let mut measured = Vec::new();
    if wanted(Figure::Checkpoint) {
        measured.push(checkpoint(&root)?);
    }
    if wanted(Figure::Python) || wanted(Figure::Switch) {
        build(&root, &["--package", "morpheus-agent", "--bin", "morpheusd"])?;
    }
    if wanted(Figure::Python) {
        measured.push(python_checkpoint(&root, options.quick)?);
    }
    if wanted(Figure::Switch) {
        measured.push(switch_cost(&root, options.quick)?);
    }
    let report = Report::new("morpheus.bench/1", &reaches, machine, measured)?;
    println!("\n{}", report.table());
    let file = options.json.clone().unwrap_or_else(|| target().join("bench-morpheus.json"));
    let text = serde_json::to_string_pretty(&report.document())?;
    fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    println!("raw samples: {}", file.display());
    Ok(())
}

fn build(root: &Path, what: &[&str]) -> Result<()> {
    output(command(root, cargo(), &["build", "--quiet", "--release"]).args(what)).map(drop)
}

fn checkpoint(root: &Path) -> Result<Measured> {
    build(root, &["--package", "morpheus", "--example", "checkpoint"])?;
    let text = output(&mut command(root, target().join("release/examples/checkpoint"), &[""; 0]))?;
    let row = |name: &str| row(&text, name).with_context(|| format!("the example does not tell of `{name}`"));
    let (empty, attached, written) = (row("empty loop")?, row("attached")?, row("attached, line written at 10 kHz")?);
    Ok(Measured {
        name: "checkpoint",
        value: attached.1,
        how: format!(
            "median of 10001 loops of 20000, the loop's own {} ns included; best {} ns; with a remote writer at 10 kHz {} ns",
            empty.1, attached.0, written.1
        ),
        samples: BTreeMap::from([
            ("attached_best_median_ns".to_owned(), Samples(vec![attached.0, attached.1])),
            ("empty_best_median_ns".to_owned(), Samples(vec![empty.0, empty.1])),
            ("written_best_median_ns".to_owned(), Samples(vec![written.0, written.1])),
        ]),
    })
}

/// Best and median of the line that begins with exactly this name.
fn row(text: &str, name: &str) -> Option<(f64, f64)> {
    text.lines().find_map(|line| {
        let (best, median) = line.strip_prefix(name)?.trim().split_once(' ')?;
        Some((best.parse().ok()?, median.trim().parse().ok()?))
    })
}

fn python_checkpoint(root: &Path, quick: bool) -> Result<Measured> {
    let environment = python::installed()?;
    let agent = Agent::start()?;
    let mut script = command(root, environment.join("bin/python"), &["morpheus/python/bench/checkpoint.py"]);
    let text = output(script.arg(&agent.socket).arg(if quick { "50" } else { "1000" }))?;
    let samples: BTreeMap<String, Samples> = serde_json::from_str(&text)?;
    let arm = |name: &str| samples.get(name).with_context(|| format!("there is no arm `{name}`"));
    let empty = arm("empty")?;
    let net = |name: &str| Ok::<_, anyhow::Error>(arm(name)?.with(empty, |arm, empty| arm - empty));
    let checkpoint = net("checkpoint")?;
    Ok(Measured {
        name: "python_checkpoint",
        value: checkpoint.median(),
        how: format!(
            "median of {} loops of 10000, less an empty loop ({:.1} ns) of the same round; best loop {:.1} ns; noise (empty \
             against empty) {:.1} ns; hint_pending() {:.1} ns, memoryview compared in line {:.1} ns",
            empty.0.len(),
            empty.median(),
            arm("checkpoint")?.range().0 - empty.range().0,
            net("empty_again")?.median(),
            net("hint_pending")?.median(),
            net("memoryview_inlined")?.median(),
        ),
        samples: samples.into_iter().map(|(name, samples)| (name + "_ns", samples)).collect(),
    })
}

fn switch_cost(root: &Path, quick: bool) -> Result<Measured> {
    build(root, &["--package", "morpheus-agent", "--example", "switch_cost"])?;
    let agent = Agent::start()?;
    let mut example = command(root, target().join("release/examples/switch_cost"), &[""; 0]);
    let text = output(example.arg(&agent.socket).arg(if quick { "10" } else { "200" }))?;
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).map(str::trim);
    let (noise, attached) = line("A/A").zip(line("attached")).context("the example does not tell both arms")?;
    let value = difference(attached).context("the example's line has no difference")?;
    let noise_value = difference(noise).context("the example's line has no difference")?;
    Ok(Measured {
        name: "switch_cost",
        value,
        how: format!("pipe ping-pong on one CPU, CPU time, pairs; {attached}; noise: {noise}"),
        samples: BTreeMap::from([("median_difference_ns".to_owned(), Samples(vec![noise_value, value]))]),
    })
}

/// The second number of `attached 512.3 ns/switch, +41.0 ns (…`.
fn difference(line: &str) -> Option<f64> {
    line.split_once("ns/switch,")?.1.trim().split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_examples_print_is_read() {
        let text = "empty loop                           0.30   0.31\n\
                    attached                             0.62   0.71\n\
                    attached, line written at 10 kHz     0.65   0.75\n";
        assert_eq!(row(text, "attached"), Some((0.62, 0.71)));
        assert_eq!(row(text, "attached, line written at 10 kHz"), Some((0.65, 0.75)));
        assert_eq!(row(text, "no worker"), None);
        let line = "attached    512.3 ns/switch,  +41.0 ns (quartiles -1.0 … +80.2), higher in 70 of 100";
        assert_eq!(difference(line), Some(41.0));
        assert_eq!(difference("A/A 512.3 ns/switch,   -3.5 ns (quartiles"), Some(-3.5));
        assert_eq!(difference("attached"), None);
    }
}

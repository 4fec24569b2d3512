//! `cargo xtask bench morpheus`: what Morpheus costs whom and what it is worth to whom, with a real `morpheusd observe` on this
//! machine's kernel.
//!
//! | module | concept |
//! | --- | --- |
//! | `own` | what it costs: checkpoints, threads that are no workers |
//! | `worth` | what it is worth: a neighbour, a server, an event loop; and an idle machine |
//! | `agent` | the programs that run meanwhile |
//! | `load` | requests to a server |
//! | `pairs` | arms that are measured in turn |
//! | `group` | a control group that keeps others from disturbing much |
//!
//! The programs that are measured are the crates' own examples, in release builds; this one starts them and reads what
//! they print.

mod agent;
mod group;
mod load;
mod own;
mod pairs;
mod worth;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::machine;
use super::reach::Reaches;
use super::report::{Measured, Report};
use crate::command::{command, output};
use crate::workspace::{cargo, target, workspace};
use group::Group;
use worth::Crowd;

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
    /// The checkpoint in Rust, its time and instructions
    Checkpoint,
    /// The checkpoint in Python
    Python,
    /// A wake-up and a context switch of threads that are no workers
    Switch,
    /// What hackbench does, of threads that are no workers
    Hackbench,
    /// How late a neighbour on the worker's CPU wakes
    Neighbour,
    /// The axum server, its one CPU also wanted by another process
    Axum,
    /// The axum server with two workers on its one CPU
    AxumWorkers,
    /// The asyncio server beside another process
    Asyncio,
    /// Hints on a machine with a busy worker on each CPU
    Idle,
}

impl Figure {
    fn measure(self, root: &Path, quick: bool) -> Result<Vec<Measured>> {
        match self {
            Self::Checkpoint => own::checkpoint(root),
            Self::Python => own::python_checkpoint(root, quick).map(one),
            Self::Switch => own::switch_cost(root, quick).map(one),
            Self::Hackbench => own::hackbench(root, quick).map(one),
            Self::Neighbour => worth::neighbour(root, quick),
            Self::Axum => worth::axum(root, Crowd::Process, quick),
            Self::AxumWorkers => worth::axum(root, Crowd::Workers, quick),
            Self::Asyncio => worth::asyncio(root, quick),
            Self::Idle => worth::idle(root, quick).map(one),
        }
    }
}

fn one(measured: Measured) -> Vec<Measured> {
    vec![measured]
}

/// Measures, prints the table, and writes the raw samples.
///
/// # Errors
/// When something cannot be measured; what was started is ended first. A figure that is not reached is no error.
pub fn run(options: &Options) -> Result<()> {
    let root = workspace();
    let reaches = Reaches::read(&root.join("bench/morpheus.toml"))?;
    let machine = machine::look();
    build(&root, &["--package", "morpheus-agent", "--bin", "morpheusd"])?;
    let group = Group::enter();
    let mut measured = Vec::new();
    for figure in Figure::value_variants() {
        if options.figures.is_empty() || options.figures.contains(figure) {
            measured
                .extend(figure.measure(&root, options.quick).with_context(|| format!("cannot measure {figure:?}"))?);
        }
    }
    let report = Report::new("morpheus.bench/1", &reaches, machine, measured)?;
    println!("\n{}", report.table());
    println!(
        "{}",
        if group.is_some() {
            "in a control group of the greatest weight"
        } else {
            "without a control group of its own"
        }
    );
    let file = options.json.clone().unwrap_or_else(|| target().join("bench-morpheus.json"));
    let text = serde_json::to_string_pretty(&report.document())?;
    fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    println!("raw samples: {}", file.display());
    Ok(())
}

/// Builds with these arguments, in release.
fn build(root: &Path, what: &[&str]) -> Result<()> {
    output(command(root, cargo(), &["build", "--quiet", "--release"]).args(what)).map(drop)
}

/// A program of a release build.
fn release(name: &str) -> PathBuf {
    target().join("release").join(name)
}

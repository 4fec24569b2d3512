//! `cargo xtask bench platform` and `bench morpheus`: measure the figures Holm should reach, and say which it reaches on
//! this machine.
//!
//! | module | concept |
//! | --- | --- |
//! | `reach` | what each figure should reach, from `bench/*.toml` |
//! | `samples` | medians and the like |
//! | `report` | the table, and the document with the raw samples |
//! | `machine` | what was measured on |
//! | `installation` | a running Holm, ended with everything of it |
//! | `deploy` | our own share of deploy-to-first-byte |
//! | `rollout` | a new release of an app under load, and connections that failed |
//! | `log` | appends to the event log, and the start with a long one |
//! | `backup` | what a backup reads and sends when little has changed |
//! | `ingress` | the ingress beside HAProxy |
//! | `image` | image builds beside umoci and mkfs.erofs |
//! | `morpheus` | what Morpheus costs; the rest is the platform's |
//! | `kernel` | `cargo xtask bench kernel`: the kernel's paths in guest instructions, its boot and size |
//! | `crowd` | `holm status` and the host's memory with 20 instances |
//!
//! What is measured runs in release builds; this program only starts it and looks on.

mod backup;
mod crowd;
mod deploy;
mod image;
mod ingress;
pub(crate) mod installation;
pub mod kernel;
mod log;
mod machine;
pub mod morpheus;
mod reach;
mod report;
mod rollout;
mod samples;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::workspace::workspace;
use reach::Reaches;
use report::{Measured, Report};

/// What the benchmark can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// What to measure; everything when none is named
    figures: Vec<Figure>,
    /// Write the figures with their raw samples to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Figure {
    /// Our own share of deploy-to-first-byte
    Deploy,
    /// A new release under load, beyond the guest's boot and the app's readiness
    Rollout,
    /// Appends to the event log, and the start of the control plane with a long one
    Log,
    /// Latency, throughput and connections of the ingress, beside HAProxy
    Ingress,
    /// Image builds, beside umoci and mkfs.erofs
    Image,
    /// The time of `holm status` with 20 instances
    Status,
    /// The memory of the host process with 20 instances
    Memory,
    /// What a backup of a volume reads and sends when 1 % has changed
    Backup,
}

/// Measures, prints the table, and writes the document.
///
/// # Errors
/// When something cannot be measured; what was started is ended first. A figure that is not reached is no error.
pub fn platform(options: &Options) -> Result<()> {
    let reaches = Reaches::read(&workspace().join("bench/platform.toml"))?;
    let machine = machine::look();
    let wanted = |figure| options.figures.is_empty() || options.figures.contains(&figure);
    let mut measured: Vec<Measured> = Vec::new();
    if wanted(Figure::Deploy) {
        measured.extend(deploy::measure().context("cannot measure deployments")?);
    }
    if wanted(Figure::Rollout) {
        measured.extend(rollout::measure().context("cannot measure rollouts")?);
    }
    if wanted(Figure::Log) {
        measured.extend(log::measure().context("cannot measure the event log")?);
    }
    if wanted(Figure::Ingress) {
        measured.extend(ingress::measure().context("cannot measure the ingress")?);
    }
    if wanted(Figure::Image) {
        measured.extend(image::measure().context("cannot measure image builds")?);
    }
    if wanted(Figure::Status) || wanted(Figure::Memory) {
        let what = crowd::What { status: wanted(Figure::Status), memory: wanted(Figure::Memory) };
        measured.extend(crowd::measure(what).context("cannot measure a host with 20 instances")?);
    }
    if wanted(Figure::Backup) {
        measured.extend(backup::measure().context("cannot measure backups")?);
    }
    let report = Report::new("holm.bench-platform/1", &reaches, machine, measured)?;
    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report.document())?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

//! `cargo xtask`: the demo, the test runner, the benchmarks.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{bench, build, demo, kernel, test};

/// Tools for developing Holm
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show the main job from end to end on a throwaway installation
    Demo(demo::Options),
    /// Build Holm for use, into target/dist
    Dist,
    /// Measure, and say what is reached of what should be
    #[command(subcommand)]
    Bench(Bench),
    /// The Holm kernel: build it, run it, test it
    #[command(subcommand)]
    Kernel(kernel::Task),
    /// Run every test, or the named stages
    Test {
        /// Stages: format, lints, dependencies, docs, tests, kernel, end-to-end
        stages: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The platform: deployments, ingress, image builds, `holm status`, memory
    Platform(bench::Options),
    /// The kernel: guest instructions of its paths, boot, size
    Kernel(bench::kernel::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options)?,
        Task::Dist => build::dist()?,
        Task::Bench(Bench::Platform(options)) => bench::platform(&options)?,
        Task::Bench(Bench::Kernel(options)) => return bench::kernel::run(&options),
        Task::Kernel(task) => return kernel::run(&task),
        Task::Test { stages } => test::run(&stages)?,
    }
    Ok(ExitCode::SUCCESS)
}

//! `cargo xtask`: the demo, the tests short and long, the benchmarks, the builds of what `cargo build` does not make.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{bench, build, demo, fuzz, kernel, morpheus, soak, test};

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
    /// Try for long what must never fail
    #[command(subcommand)]
    Soak(soak::Task),
    /// Look for bytes that upset a parser
    Fuzz(fuzz::Options),
    /// The Holm kernel: build it, run it, test it
    #[command(subcommand)]
    Kernel(kernel::Task),
    /// Test the parts of Morpheus that cargo does not test
    #[command(subcommand)]
    Morpheus(Morpheus),
    /// Run every test, or the named stages
    Test {
        /// Stages: format, lints, docs, tests, kernel, figures, python, end-to-end, fuzz, dependencies
        stages: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The platform: deployments, ingress, image builds, `holm status`, memory
    Platform(bench::Options),
    /// The kernel: guest instructions of its paths, boot, size
    Kernel(bench::kernel::Options),
    /// Morpheus: checkpoints, and what observing costs others (as root)
    Morpheus(bench::morpheus::Options),
}

#[derive(Debug, Subcommand)]
enum Morpheus {
    /// Build the Python wheel, install it below target/, run its tests
    Python,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options)?,
        Task::Dist => drop(build::dist()?),
        Task::Fuzz(options) => fuzz::run(&options)?,
        Task::Bench(Bench::Platform(options)) => bench::platform(&options)?,
        Task::Bench(Bench::Morpheus(options)) => bench::morpheus::run(&options)?,
        Task::Bench(Bench::Kernel(options)) => return bench::kernel::run(&options),
        Task::Soak(task) => soak::run(&task)?,
        Task::Kernel(task) => return kernel::run(&task),
        Task::Morpheus(Morpheus::Python) => {
            let outcome = morpheus::python::test()?;
            anyhow::ensure!(outcome.failed == 0, "{} of the wheel's tests failed", outcome.failed);
        }
        Task::Test { stages } => test::run(&stages)?,
    }
    Ok(ExitCode::SUCCESS)
}

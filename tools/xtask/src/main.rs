//! `cargo xtask`: the demo, the test runner, the benchmarks.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use xtask::{bench, build, demo, test};

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
    /// Run every test, or the named stages
    Test {
        /// Stages: format, lints, dependencies, docs, tests, end-to-end
        stages: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The platform: deployments, ingress, image builds, `holm status`, memory
    Platform(bench::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Dist => build::dist(),
        Task::Bench(Bench::Platform(options)) => bench::platform(&options),
        Task::Test { stages } => test::run(&stages),
    }
}

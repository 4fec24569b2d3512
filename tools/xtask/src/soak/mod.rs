//! `cargo xtask soak`: what `./test` does in short, for as long as one likes.
//!
//! | module | concept |
//! | --- | --- |
//! | `rollouts` | deployments under load: no connection may fail |
//! | `databases` | Redis and PostgreSQL keep on their volumes what they acknowledged |
//! | `crash` | kills at random moments: nothing acknowledged is lost, nothing is left, everything converges |
//! | `guide` | the operator guide, word by word, on a fresh Debian |
//! | `machine` | that Debian: a container with systemd and a network of its own |

pub mod crash;
pub mod databases;
pub mod guide;
mod machine;
pub mod rollouts;

use clap::Subcommand;

/// What can be soaked.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Deploy again and again while clients ask; no connection may fail
    Rollouts(rollouts::Options),
    /// Kill Holm and its microVMs at random moments; and the crash tests with many seeds
    Crash(crash::Options),
    /// Restart, roll out, kill, copy, back up and restore databases; nothing they acknowledged may be missing
    Databases(databases::Options),
    /// Follow the operator guide on a fresh Debian in a container, every command of it (as root)
    Guide(guide::Options),
}

/// Runs it.
///
/// # Errors
/// When something failed that must not.
pub fn run(task: &Task) -> anyhow::Result<()> {
    match task {
        Task::Rollouts(options) => rollouts::run(options),
        Task::Crash(options) => crash::run(options),
        Task::Databases(options) => databases::run(options),
        Task::Guide(options) => guide::run(options),
    }
}

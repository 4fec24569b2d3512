//! Runs what the planner placed on this host: one task per instance, from target to Healthy to gone.
//!
//! Owns the instances' folders, journals and logs, and drives images, microVMs, networks and guests to what the newest
//! target says. May not touch: the state log, the plan, or the ingress, which it only asks whether connections are open.
//!
//! ```text
//! targets ─▶ executor ─▶ one life per instance ─▶ World: images, network, microVM, guest ─▶ reports
//!            (agent)     prepare boot serve stop   (world: the traits, host: the real one)
//! ```
//!
//! Targets are levels: the newest whole one counts, an older generation is refused, also after a restart. The agent may be
//! killed at any moment. What it did is in each instance's journal, written before and after whatever must not happen
//! twice; what runs is found by its marker. The next agent takes over microVMs that run, ends those that nobody can take
//! over, and never has two for one instance.
//!
//! | module | concept |
//! | --- | --- |
//! | `agent` | the executor and its handle |
//! | `life` | the life of one instance, a file per stage |
//! | `journal`, `folder`, `target_file` | what survives a kill |
//! | `log` | the app's output on disk, read back as lines |
//! | `board` | what is shown: the report, the ways to guests and logs |
//! | `guest_config` | what a guest is told to run |
//! | `world`, `host` | what the agent asks of the outside, and the real outside |
//! | `volume` | volumes of running instances: grown, and copied at one moment |
//! | `findings` | what lies around, for `holm doctor` |

#![forbid(unsafe_code)]

mod agent;
mod board;
mod config;
mod exec;
mod findings;
mod folder;
mod guest_config;
mod host;
mod journal;
mod life;
mod log;
mod target_file;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod volume;
mod world;

pub use agent::{Agent, AgentError, AgentHandle};
pub use config::{AgentConfig, Connections, Limits, LogLimits, NoConnections};
pub use exec::{ExecInput, ExecOutput, ExecSession};
pub use findings::{Finding, FindingsError, findings};
pub use host::NetworkMode;
pub use log::{LogLine, LogLines, LogQuery, LogStream};
pub use volume::{Copied, VolumeCopy};

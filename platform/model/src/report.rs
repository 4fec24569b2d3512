//! What a host says about its instances.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{InstanceName, Seq};

/// Everything one host sees at one moment. Level-triggered: a lost report is made good by the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// The run of the host's agent; a later one has a higher number.
    #[serde(default)]
    pub run: u64,
    /// Counts up within a run: a report with a lower number is older.
    #[serde(default)]
    pub number: u64,
    /// The generation of the newest target the host has seen.
    pub generation: Seq,
    /// Every instance the host has anything of: a running microVM, or only a folder that is kept.
    pub instances: BTreeMap<InstanceName, Observation>,
}

/// What a host sees of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// How far the instance is.
    pub phase: Phase,
    /// What is going on, for people: `pulling 34 of 80 MiB`, or why the health check fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Where the host reaches each port of the guest that a route uses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "crate::endpoints::deserialize")]
    pub endpoints: BTreeMap<u16, SocketAddr>,
    /// How the instance ended; set exactly when `phase` is [`Phase::Ended`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

/// How far an instance is in its life. The order is the order of a life without faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Decided by the planner; the host has not said anything yet.
    Placed,
    /// The host gets the image and makes what the microVM needs.
    Preparing,
    /// The microVM's kernel boots.
    Booting,
    /// The app's process runs, and has not been found healthy yet.
    Starting,
    /// The app can serve.
    Healthy,
    /// The app could serve and now fails its health check.
    Unhealthy,
    /// The instance lets its connections end, then its process.
    Stopping,
    /// The microVM is gone.
    Ended,
}

impl Phase {
    /// The phase as one lower-case word, as in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Preparing => "preparing",
            Self::Booting => "booting",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The kind of end.
    pub cause: EndCause,
    /// When the host saw it.
    pub at: Timestamp,
    /// The last lines the app wrote: at most 20, each at most 500 bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_log: Vec<String>,
}

/// Why a microVM is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// Holm asked it to stop, and it did.
    Stopped,
    /// Holm asked it to stop, and it had to be killed after its grace.
    StoppedByForce,
    /// The main process exited by itself.
    Exited {
        /// Its exit status: 0 to 255.
        code: i32,
    },
    /// The main process was ended by a signal that Holm did not send.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// The app went over its memory cap and was killed inside the guest.
    OutOfMemory {
        /// The cap in bytes.
        limit: u64,
    },
    /// The instance never ran: no image, no such command, no room.
    CouldNotStart {
        /// What failed, for people.
        why: String,
    },
    /// The guest did not answer and was killed.
    Hung {
        /// What it did not answer, for people.
        why: String,
    },
    /// The microVM ended without a word: it crashed, was killed from outside, or its host went down.
    Lost {
        /// What is known, for people.
        why: String,
    },
}

impl fmt::Display for EndCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => write!(f, "stopped"),
            Self::StoppedByForce => write!(f, "killed after its grace"),
            Self::Exited { code } => write!(f, "exited with status {code}"),
            Self::Signaled { signal } => write!(f, "ended by signal {signal}"),
            Self::OutOfMemory { limit } => write!(f, "went over its memory cap of {} MiB", limit >> 20),
            Self::CouldNotStart { why } => write!(f, "could not start: {why}"),
            Self::Hung { why } => write!(f, "hung: {why}"),
            Self::Lost { why } => write!(f, "lost: {why}"),
        }
    }
}

impl EndCause {
    /// Whether Holm itself asked for this end.
    #[must_use]
    pub const fn was_asked_for(&self) -> bool {
        matches!(self, Self::Stopped | Self::StoppedByForce)
    }
}

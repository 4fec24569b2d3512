//! What a guest reports about its app: phase, health, exit, and the events that change them.

use alloc::string::String;

use serde::{Deserialize, Serialize};

/// Where a guest stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Up, waiting for its configuration.
    Booted,
    /// Configured, app not started.
    Configured,
    /// The app runs.
    Running,
    /// Asked to stop; the app may still run.
    Stopping,
    /// The app has ended or could not be started; see [`Status::exit`].
    Exited,
}

/// A guest's whole state at one moment; sent with every `HelloAck`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where the guest stands.
    pub phase: Phase,
    /// Process id of the app inside the guest while it runs.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Unix time in nanoseconds at which the app was started.
    #[serde(default)]
    pub started_at_ns: Option<u64>,
    /// Last health verdict. Absent without a health check or before the first verdict.
    #[serde(default)]
    pub health: Option<Health>,
    /// How the app ended.
    #[serde(default)]
    pub exit: Option<ExitReport>,
    /// Sequence number of the newest event.
    #[serde(default)]
    pub last_event: u64,
    /// Sequence number the next log record will get.
    #[serde(default)]
    pub next_log: u64,
}

impl Status {
    /// The state of a guest that has just booted.
    pub fn booted() -> Self {
        Self {
            phase: Phase::Booted,
            pid: None,
            started_at_ns: None,
            health: None,
            exit: None,
            last_event: 0,
            next_log: 0,
        }
    }

    /// Brings the state up to date with `event`.
    pub fn apply(&mut self, event: &Event) {
        self.last_event = event.seq;
        match &event.what {
            What::Booted => self.phase = Phase::Booted,
            What::Configured => self.phase = Phase::Configured,
            What::Started { pid } => {
                self.phase = Phase::Running;
                self.pid = Some(*pid);
                self.started_at_ns = Some(event.at_unix_ns);
            }
            What::Health(health) => self.health = Some(health.clone()),
            What::Stopping => {
                if self.phase != Phase::Exited {
                    self.phase = Phase::Stopping;
                }
            }
            What::Exited(report) => {
                self.phase = Phase::Exited;
                self.pid = None;
                self.exit = Some(report.clone());
            }
            What::PoweringOff | What::Unknown => {}
        }
    }
}

/// A change of a guest's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 since boot.
    pub seq: u64,
    /// Unix time in nanoseconds by the guest's clock.
    pub at_unix_ns: u64,
    /// Nanoseconds since the guest's boot.
    pub since_boot_ns: u64,
    /// What happened.
    pub what: What,
}

/// What happened in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum What {
    /// PID 1 serves the control channel.
    Booted,
    /// The configuration was taken.
    Configured,
    /// The app runs.
    Started {
        /// Its process id inside the guest.
        pid: u32,
    },
    /// The health verdict changed.
    Health(Health),
    /// The guest was asked to stop.
    Stopping,
    /// The app has ended or could not be started.
    Exited(ExitReport),
    /// Last message before the guest powers off.
    PoweringOff,
    /// Something a newer guest reports.
    #[serde(other)]
    Unknown,
}

/// A health verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the app answers as its check demands.
    pub healthy: bool,
    /// What the last try saw, for a person.
    pub detail: String,
    /// Unix time in nanoseconds since which the verdict stands.
    pub since_unix_ns: u64,
}

/// How an app ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Exit code or signal. 127 when the program was not found, 126 when it could not be run.
    pub status: ExitStatus,
    /// The kernel killed a process of the app because it was above its memory cap.
    pub oom: bool,
    /// Why the app could not be started at all, for a person.
    #[serde(default)]
    pub start_error: Option<String>,
    /// Memory of the app at its end.
    pub memory: MemoryFigures,
    /// Unix time in nanoseconds.
    pub at_unix_ns: u64,
}

impl core::fmt::Display for ExitReport {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if let Some(why) = &self.start_error {
            return write!(f, "could not start: {why}");
        }
        if self.oom {
            write!(f, "killed: out of memory")?;
            if let Some(max) = self.memory.max {
                write!(f, " (cap {} MiB, peak {} MiB)", max >> 20, self.memory.peak >> 20)?;
            }
            return Ok(());
        }
        write!(f, "{}", self.status)
    }
}

/// An exit code or the signal that ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// The process returned this code, 0..=255.
    Code(i32),
    /// The process was ended by this signal number.
    Signal(i32),
}

impl ExitStatus {
    /// The code a shell would show: the exit code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl core::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => match crate::signal_name(*signal) {
                Some(name) => write!(f, "ended by {name}"),
                None => write!(f, "ended by signal {signal}"),
            },
        }
    }
}

/// Memory of the app's control group, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFigures {
    /// In use now.
    pub current: u64,
    /// Most ever in use.
    pub peak: u64,
    /// The cap; absent when there is none.
    #[serde(default)]
    pub max: Option<u64>,
    /// Processes killed because of the cap.
    pub oom_kills: u64,
}

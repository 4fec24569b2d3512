//! The JSON messages of both directions.
//!
//! Unknown fields are ignored and unknown message types read as `Unknown`, so that either side may be newer. A
//! request carries an `id` the reply repeats; ids are the host's, unique within a session.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Config, Event, ExitStatus, MemoryFigures, Status, VolumeAction};

/// Abilities a guest may have; names are stable.
pub struct Features;

impl Features {
    /// Runs commands beside the app.
    pub const EXEC: &'static str = "exec";
    /// Runs commands on a terminal.
    pub const EXEC_TTY: &'static str = "exec-tty";
    /// Keeps and sends logs.
    pub const LOGS: &'static str = "logs";
    /// Runs health checks.
    pub const HEALTH: &'static str = "health";
    /// Answers `Metrics`.
    pub const METRICS: &'static str = "metrics";
    /// Sets its clock on `SetTime` and `Hello`.
    pub const SET_TIME: &'static str = "set-time";
    /// Answers for the names of the app's own instances.
    pub const NAMES: &'static str = "names";
    /// Writes the configuration's files.
    pub const FILES: &'static str = "files";
    /// Mounts, grows and freezes volumes.
    pub const VOLUMES: &'static str = "volumes";
    /// Delivers the configuration's secrets.
    pub const SECRETS: &'static str = "secrets";
}

/// From the host to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// Opens the session whose number stands in this frame. Repeated until `HelloAck` comes.
    Hello {
        /// Newest protocol the host speaks.
        protocol: u32,
        /// Oldest protocol the host speaks.
        oldest: u32,
        /// The host's software, for the guest's console.
        agent: String,
        /// The host's wall clock, Unix nanoseconds.
        unix_ns: u64,
    },
    /// Sets what to run. Same again: acknowledged; different: refused.
    Configure {
        /// Request id.
        id: u32,
        /// What to run.
        config: Box<Config>,
    },
    /// Starts the configured app. Acknowledged when it already ran.
    Start {
        /// Request id.
        id: u32,
    },
    /// Sends a signal to the app's main process.
    Signal {
        /// Request id.
        id: u32,
        /// Signal number.
        signal: i32,
    },
    /// Stop signal, grace, SIGKILL for the rest, sync, power off. Replied to at once.
    Stop {
        /// Request id.
        id: u32,
        /// Milliseconds of grace; absent: the configured ones.
        #[serde(default)]
        grace_ms: Option<u64>,
    },
    /// Asks for figures.
    Metrics {
        /// Request id.
        id: u32,
    },
    /// Sets the guest's wall clock.
    SetTime {
        /// Request id.
        id: u32,
        /// Unix nanoseconds.
        unix_ns: u64,
    },
    /// Does something with a mounted volume.
    Volume {
        /// Request id.
        id: u32,
        /// The serial number of its disk.
        serial: String,
        /// What.
        action: VolumeAction,
    },
    /// Sets the addresses of the app's own instances by process type, in place of those told before.
    Names {
        /// Request id.
        id: u32,
        /// Addresses by process type.
        names: BTreeMap<String, Vec<IpAddr>>,
    },
    /// Sends records from `seq` on, now and as they come, within `window`. Replaces an earlier subscription.
    LogsFrom {
        /// Number of the subscription, counted up by the host; stands as stream in its frames.
        subscription: u32,
        /// First record wanted.
        seq: u64,
        /// Bytes (by [`crate::frame_cost`]) that may be under way.
        window: u32,
    },
    /// Returns credit for log records taken.
    LogsAck {
        /// Subscription; another than the present one is ignored.
        subscription: u32,
        /// Bytes by [`crate::frame_cost`].
        credit: u32,
    },
    /// Ends the log subscription.
    LogsEnd,
    /// Runs a command beside the app.
    Exec {
        /// Request id.
        id: u32,
        /// Stream number of its bytes: not 0, unused so far in this session.
        stream: u32,
        /// What to run.
        request: ExecRequest,
        /// Output bytes (by [`crate::frame_cost`]) that may be under way, stdout and stderr together.
        window: u32,
    },
    /// No more standard input. On a terminal: end-of-file is typed.
    ExecEof {
        /// Exec stream.
        stream: u32,
    },
    /// The terminal's new size.
    ExecResize {
        /// Exec stream.
        stream: u32,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// A signal for the exec'd command's process group.
    ExecSignal {
        /// Exec stream.
        stream: u32,
        /// Signal number.
        signal: i32,
    },
    /// Returns credit for output taken.
    ExecCredit {
        /// Exec stream.
        stream: u32,
        /// Bytes by [`crate::frame_cost`].
        credit: u32,
    },
    /// Nobody listens to this command any more: as when the session ends, see [`ExecRequest::terminal`].
    ExecDetach {
        /// Exec stream.
        stream: u32,
    },
    /// Something a newer host says.
    #[serde(other)]
    Unknown,
}

/// From the guest to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The session stands.
    HelloAck(HelloAck),
    /// The two sides share no protocol.
    HelloRefused {
        /// Newest protocol the guest speaks.
        protocol: u32,
        /// Oldest protocol the guest speaks.
        oldest: u32,
    },
    /// The answer to the request with this id.
    Reply {
        /// Request id.
        id: u32,
        /// How it went.
        outcome: Outcome,
    },
    /// The guest's state changed.
    Event(Event),
    /// Records were lost before they could be sent: the ring was full.
    LogsDropped {
        /// Subscription this concerns.
        subscription: u32,
        /// How many.
        count: u64,
        /// Number of the next record.
        next: u64,
    },
    /// Credit for standard input taken.
    ExecCredit {
        /// Exec stream.
        stream: u32,
        /// Bytes by [`crate::frame_cost`].
        credit: u32,
    },
    /// An exec'd command ended; all its output was sent before.
    ExecExit {
        /// Exec stream.
        stream: u32,
        /// How it ended.
        status: ExitStatus,
    },
    /// Something a newer guest says.
    #[serde(other)]
    Unknown,
}

/// The guest's side of the greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAck {
    /// Protocol of this session: the newest both speak.
    pub protocol: u32,
    /// Changes with every boot of the guest.
    pub boot_id: String,
    /// What the guest can do, see [`Features`].
    #[serde(default)]
    pub features: BTreeSet<String>,
    /// The guest's software and version.
    #[serde(default)]
    pub agent: String,
    /// The guest's kernel release.
    #[serde(default)]
    pub kernel: String,
    /// What took how long since the kernel started.
    #[serde(default)]
    pub boot: Vec<BootMark>,
    /// The guest's whole state.
    pub status: Status,
}

/// A step of the boot and when it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMark {
    /// Step, such as `modules`.
    pub step: String,
    /// Microseconds since the kernel started counting.
    pub since_boot_us: u64,
}

/// How a request went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ok(ReplyValue),
    /// Not done.
    Error(ErrorBody),
}

/// What a reply carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReplyValue {
    /// Nothing but success.
    Done,
    /// The command's process id inside the guest.
    Started {
        /// Process id.
        pid: u32,
    },
    /// Figures.
    Metrics(Metrics),
    /// Something a newer guest says.
    #[serde(other)]
    Unknown,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what failed and why.
    pub message: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is wrong.
    Invalid,
    /// Not possible in the guest's present state, such as a different configuration.
    Refused,
    /// The program does not exist (a shell's 127).
    CommandNotFound,
    /// The program cannot be run (a shell's 126).
    CannotExecute,
    /// The guest does not know how.
    Unsupported,
    /// The guest tried and failed.
    #[serde(other)]
    Failed,
}

/// A command to run beside the app, in its root and its memory cap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables added to, or replacing, the app's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// As in [`Config::user`]; absent: the app's user.
    #[serde(default)]
    pub user: Option<String>,
    /// Absent: the app's working directory.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Run on a terminal of this size. Such a command is hung up when the session ends; one without a terminal
    /// gets end-of-file on its input, its output is dropped, and it runs on.
    #[serde(default)]
    pub terminal: Option<Terminal>,
}

/// A terminal's kind and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
    /// Value of `TERM`; `""` is `xterm`.
    #[serde(default)]
    pub term: String,
}

/// Figures of a guest and its app.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// The app's memory.
    pub memory: MemoryFigures,
    /// Processor time of the app, microseconds.
    pub cpu_usec: u64,
    /// Processes of the app.
    pub processes: u64,
    /// Load averages over 1, 5 and 15 minutes, in hundredths.
    pub load_hundredths: [u32; 3],
    /// Memory of the whole guest, bytes.
    pub guest_memory_total: u64,
    /// Memory a new program could still use, bytes.
    pub guest_memory_available: u64,
    /// Nanoseconds since the guest's boot.
    pub uptime_ns: u64,
    /// Log records that left the ring.
    pub logs_dropped: u64,
}

impl HostMessage {
    /// Reads a message; `None` when it is not one this version can read.
    pub fn decode(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("string keys and plain data always serialise")
    }
}

impl GuestMessage {
    /// Reads a message; `None` when it is not one this version can read.
    pub fn decode(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// The JSON text.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("string keys and plain data always serialise")
    }
}

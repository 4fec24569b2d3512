//! The host↔guest protocol: frames and messages on one byte pipe between a host agent and a microVM's PID 1.
//!
//! It owns the wire format, the log ring a guest keeps, and (feature `host`) the client an agent uses. It does
//! not start virtual machines and does not run anything in a guest.
//!
//! # The pipe
//! A virtio-serial port named [`PORT_NAME`]. Bytes may vanish at any place when the host end closes: QEMU drops
//! what it holds. Nothing else is assumed of it, so any ordered byte pipe will do.
//!
//! # Sessions
//! The host opens a *session*: a random number that stands in every frame. It says [`HostMessage::Hello`] until
//! the guest answers [`GuestMessage::HelloAck`], which carries the guest's whole state. A new `Hello` with
//! another number ends the older session; frames of any other session are dropped by both sides. A host that
//! was killed therefore comes back, reads the state, and asks for the logs from the last sequence number it kept.
//!
//! # Bounds
//! | what | bound | when it is full |
//! | --- | --- | --- |
//! | one frame's payload | 64 KiB | sender splits |
//! | one JSON message | 1 MiB | refused as invalid by the sender |
//! | log ring in the guest | set by the guest, 1 MiB | the oldest records go, and the loss is counted and told |
//! | logs under way | [`LOG_WINDOW`] | guest waits; records stay in the ring |
//! | each exec stream under way | [`EXEC_WINDOW`] per direction | the sender waits: the command blocks on its pipe |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod config;
mod frame;
mod log;
mod message;
pub mod secrets;
mod signal;
mod state;
mod volume;

#[cfg(feature = "host")]
pub mod host;

pub use config::{Config, ConfigError, GuestFile, HealthCheck, Ipv4Address, Ipv6Address, Network, Probe, RootOptions};
pub use frame::{
    Decoder, DecoderStats, Frame, FrameError, Kind, MAX_MESSAGE, MAX_PAYLOAD, MessageAssembler, decode_arbitrary,
    encode_frame, encode_message,
};
pub use log::{LogRecord, LogRing, LogStream, ReadLog};
pub use message::{
    BootMark, ErrorBody, ErrorCode, ExecRequest, Features, GuestMessage, HelloAck, HostMessage, Metrics, Outcome,
    ReplyValue, Terminal,
};
pub use signal::{parse_signal, signal_name};
pub use state::{Event, ExitReport, ExitStatus, Health, MemoryFigures, Phase, Status, What};
pub use volume::{GuestVolume, VolumeAction};

/// Name of the virtio-serial port that carries the protocol.
pub const PORT_NAME: &str = "holm.control";

/// Serial number of the virtio block device that holds the root file system.
pub const ROOT_SERIAL: &str = "rootfs";

/// Newest message protocol this crate speaks.
pub const PROTOCOL: u32 = 1;

/// Oldest message protocol this crate speaks.
pub const PROTOCOL_OLDEST: u32 = 1;

/// Bytes of log records (by [`frame_cost`]) a guest may send beyond what the host acknowledged.
pub const LOG_WINDOW: u32 = 256 * 1024;

/// Bytes (by [`frame_cost`]) each direction of an exec stream may hold unacknowledged.
pub const EXEC_WINDOW: u32 = 128 * 1024;

/// What a frame with `payload` bytes takes from a credit window: its length, and at least 256 bytes.
///
/// The floor bounds the number of frames under way, not only their bytes.
pub fn frame_cost(payload: usize) -> u32 {
    u32::try_from(payload).unwrap_or(u32::MAX).max(256)
}

//! The client of a host agent: one [`GuestConnection`] per microVM over any byte pipe, usually a Unix socket.
//!
//! Two tasks serve a connection: one reads and hands out, and never waits for a consumer; one writes. Every queue
//! between them and the callers is bounded, most of them by the protocol's credit windows. When the pipe ends, all
//! calls answer [`HostError::Closed`]; connect again and the guest tells its whole state.

mod connection;
mod dispatch;
mod exec;
mod logs;

pub use connection::{ConnectOptions, GuestConnection};
pub use exec::{ExecControl, ExecOutput, ExecSession, ExecStdin, OutputChunk};
pub use logs::{LogItem, LogReader};

use crate::{ErrorBody, FrameError};

/// Why a call to a guest did not work.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The pipe to the guest has ended: the guest is off, or QEMU is gone.
    #[error("the connection to the guest is closed")]
    Closed,
    /// The guest did not answer the greeting in time.
    #[error("the guest did not greet within {0:?}")]
    NoGreeting(core::time::Duration),
    /// The guest did not answer a request in time.
    #[error("the guest did not answer `{request}` within {after:?}")]
    NoAnswer {
        /// Name of the request.
        request: &'static str,
        /// How long it was waited for.
        after: core::time::Duration,
    },
    /// Host and guest share no protocol version.
    #[error(
        "the guest speaks protocol {oldest}..={newest}, this host {own_oldest}..={own_newest}; import a newer guest"
    )]
    Protocol {
        /// Oldest the guest speaks.
        oldest: u32,
        /// Newest the guest speaks.
        newest: u32,
        /// Oldest the host speaks.
        own_oldest: u32,
        /// Newest the host speaks.
        own_newest: u32,
    },
    /// The guest lacks the ability asked for.
    #[error("this guest ({agent}) cannot do `{feature}`; import a newer guest and restart the instance")]
    Unsupported {
        /// Name of the ability, see [`crate::Features`].
        feature: &'static str,
        /// The guest's software.
        agent: alloc::string::String,
    },
    /// The guest answered with an error.
    #[error("{}", .0.message)]
    Guest(ErrorBody),
    /// The message is too long to send.
    #[error(transparent)]
    TooLong(#[from] FrameError),
}

//! Why a thread is not, or not yet, served by an agent.

use std::fmt;
use std::io;
use std::path::PathBuf;

use morpheus_abi::LayoutError;
use morpheus_abi::protocol::{DecodeError, Refusal, SOCKET_VARIABLE};

/// Why [`Worker::try_register`](crate::Worker::try_register) found nobody to register with.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotAvailable {
    /// The socket's variable is set to nothing: Morpheus is switched off.
    Off,
    /// No agent answers there; the path is tried again at most every few seconds.
    NoAgent {
        /// The socket's path.
        path: PathBuf,
        /// What connecting said; `None` when it is not yet time to try again.
        source: Option<io::Error>,
    },
    /// The conversation with the agent broke off.
    Conversation(io::Error),
    /// The agent sent what is no message.
    Message(DecodeError),
    /// The agent sent a message that is no answer to the request.
    OutOfOrder,
    /// The agent refuses.
    Refused(Refusal),
    /// Who listens at the socket is neither root nor this process's user.
    Untrusted {
        /// The listener's user.
        uid: u32,
    },
    /// The pages are not of this ABI.
    Pages(LayoutError),
    /// The pages could not be mapped, or are of a kind that may be cut short.
    Mapping(io::Error),
    /// This thread is a worker already.
    AlreadyRegistered,
}

impl fmt::Display for NotAvailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => write!(f, "Morpheus is switched off ({SOCKET_VARIABLE} is empty)"),
            Self::NoAgent { path, .. } => write!(f, "no Morpheus agent at {}", path.display()),
            Self::Conversation(_) => f.write_str("the conversation with the Morpheus agent broke off"),
            Self::Message(_) => f.write_str("the Morpheus agent sent something unreadable"),
            Self::OutOfOrder => f.write_str("the Morpheus agent sent no answer to the request"),
            Self::Refused(refusal) => write!(f, "the Morpheus agent refuses: {refusal}"),
            Self::Untrusted { uid } => write!(f, "the Morpheus agent runs as user {uid}, neither root nor this one"),
            Self::Pages(_) => f.write_str("the Morpheus agent's pages do not fit"),
            Self::Mapping(_) => f.write_str("the Morpheus agent's pages cannot be mapped"),
            Self::AlreadyRegistered => f.write_str("this thread is a worker already"),
        }
    }
}

impl std::error::Error for NotAvailable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoAgent { source, .. } => source.as_ref().map(|source| source as _),
            Self::Conversation(source) | Self::Mapping(source) => Some(source),
            Self::Message(source) => Some(source),
            Self::Pages(source) => Some(source),
            Self::Off | Self::OutOfOrder | Self::Refused(_) | Self::Untrusted { .. } | Self::AlreadyRegistered => None,
        }
    }
}

//! The requests and answers, as JSON.

mod command;
mod host;
mod logs;
mod state;

pub use command::{Accepted, Command, SentManifest, Submission, VolumeChange};
pub use host::{
    Finding, FindingLevel, GuestImport, GuestSummary, ImageDetail, ImageProgress, ImageStep, ImageSummary,
    LayerSummary, LiveInstance, PruneReport, ServerVersion, Shutdown,
};
pub use logs::{LogLine, LogQuery, LogStream};
pub use state::{EventQuery, StateDocuments};

//! Lines of the apps' output.

use holm_manifest::ProcessName;
use holm_model::id::{AppKey, InstanceName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which lines of the apps' output are wanted. Lines of several instances come in the order of their times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// Of this app and environment.
    pub app: AppKey,
    /// Only of this process type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessName>,
    /// Only of this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// Only lines of this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only the newest so many lines of the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
    /// Whether new lines follow as they are written, also of instances that start later.
    #[serde(default)]
    pub follow: bool,
}

/// One line of an app's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the guest read it.
    pub at: Timestamp,
    /// The instance that wrote it.
    pub instance: InstanceName,
    /// Where it was written to.
    pub stream: LogStream,
    /// The line without its line break; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// The app's standard output.
    Stdout,
    /// The app's standard error.
    Stderr,
    /// Holm itself, about the instance: lost lines, the guest kernel's last words.
    Holm,
}

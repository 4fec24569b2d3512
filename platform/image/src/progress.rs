//! Progress of one image on its way into the store.

/// What is being done to an image right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Fetching manifest and configuration.
    Resolving,
    /// Fetching layers.
    Pulling,
    /// Unpacking layers into the file system image.
    Building,
}

/// How far a phase is. Bytes are those of the compressed layers in both `Pulling` and `Building`; both are 0 while
/// `Resolving`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

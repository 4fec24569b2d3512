//! Where images come from, as the deploy worker sees it.

use futures_util::future::BoxFuture;
use holm_model::id::Digest;
use serde::Serialize;
use tokio::sync::watch;

/// Finds images by name and brings them onto the host.
pub trait Images: Send + Sync + 'static {
    /// Resolves `reference` to a digest and fetches the image, saying how far it is. Dropping the future cancels it.
    fn fetch<'a>(
        &'a self,
        reference: &'a str,
        progress: ProgressSink,
    ) -> BoxFuture<'a, Result<FetchedImage, FetchError>>;
}

/// An image that is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedImage {
    /// Its digest.
    pub digest: Digest,
    /// Its name with the digest, from which any host can fetch it.
    pub reference: String,
}

/// An image that could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    /// Whether another try may succeed: the network failed, not the image.
    pub retryable: bool,
    /// What failed and why, in one line.
    pub message: String,
}

/// How far a deployment's image is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FetchProgress {
    /// What is going on, for people.
    pub step: String,
    /// Bytes done of this step.
    pub done: u64,
    /// Bytes of this step, when they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// Takes progress from an [`Images`]. Only the newest is kept; nothing is stored.
#[derive(Debug, Clone)]
pub struct ProgressSink(watch::Sender<FetchProgress>);

impl ProgressSink {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(FetchProgress::default()))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<FetchProgress> {
        self.0.subscribe()
    }

    /// Says how far it is.
    pub fn report(&self, progress: FetchProgress) {
        self.0.send_replace(progress);
    }
}

//! The host's image store, as the control plane's deploy worker and the API see it.

use futures_util::future::BoxFuture;
use holm_control::{FetchError, FetchProgress, FetchedImage, Images, ProgressSink};
use holm_image::{ImageRef, ImageStore, Phase, Progress, StoreError};

/// The store behind the trait of the control plane.
#[derive(Clone)]
pub(crate) struct HostImages(pub(crate) ImageStore);

impl Images for HostImages {
    fn fetch<'a>(
        &'a self,
        reference: &'a str,
        progress: ProgressSink,
    ) -> BoxFuture<'a, Result<FetchedImage, FetchError>> {
        Box::pin(async move {
            let reference: ImageRef =
                reference.parse().map_err(|error| FetchError { retryable: false, message: chain(&error) })?;
            progress.report(FetchProgress { step: "resolving".to_owned(), done: 0, total: None });
            let resolved = self.0.resolve(&reference).await.map_err(|error| failed(&error))?;
            let prepared = self.0.prepare(&resolved, |now| progress.report(to_fetch_progress(now)));
            let prepared = prepared.await.map_err(|error| failed(&error))?;
            let digest = prepared.digest.to_string();
            let digest = digest.parse().map_err(|error| FetchError { retryable: false, message: chain(&error) })?;
            Ok(FetchedImage { digest, reference: resolved.reference.pinned(prepared.digest).to_string() })
        })
    }
}

fn to_fetch_progress(progress: Progress) -> FetchProgress {
    let step = match progress.phase {
        Phase::Resolving => "resolving",
        Phase::Pulling => "pulling",
        Phase::Building => "building",
    };
    FetchProgress { step: step.to_owned(), done: progress.done, total: (progress.total > 0).then_some(progress.total) }
}

fn failed(error: &StoreError) -> FetchError {
    FetchError { retryable: error.is_temporary(), message: chain(error) }
}

/// An error with its causes on one line, none of them twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let this = error.to_string();
        if !text.contains(&this) {
            text = format!("{text}: {this}");
        }
        cause = error.source();
    }
    text
}

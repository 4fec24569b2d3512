//! Morpheus as a layer of tower: every response is made by a cooperative future.

use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::{Cooperative, cooperative};

/// Wraps the futures of a service in [`cooperative`].
#[derive(Debug, Clone, Copy, Default)]
pub struct CooperativeLayer {
    _private: (),
}

impl CooperativeLayer {
    /// The layer; it has no settings.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for CooperativeLayer {
    type Service = CooperativeService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CooperativeService { inner }
    }
}

/// A service whose futures are [`Cooperative`].
#[derive(Debug, Clone)]
pub struct CooperativeService<S> {
    inner: S,
}

impl<S: Service<R>, R> Service<R> for CooperativeService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Cooperative<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        cooperative(self.inner.call(request))
    }
}

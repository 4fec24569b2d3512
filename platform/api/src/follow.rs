//! Streams that follow what happens: a deployment until it ends, the events as they come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use holm_model::event::Recorded;
use holm_model::id::{AppKey, DeploymentNumber, Seq};
use tokio::sync::watch;

use crate::backend::Backend;
use crate::problem::Problem;
use crate::view::{DeploymentUpdate, Progress};
use crate::wire::EventQuery;

/// How often the progress of an image is looked at, while there is one.
const LOOK: Duration = Duration::from_millis(200);
/// Events that are read at once.
const PAGE: u32 = 500;
/// Most events of the past that `newest` may ask for.
const MAX_NEWEST: u32 = 10_000;

/// The deployment, whole, now and each time something about it changes, until it has ended. That it has succeeded is told
/// when the ingress goes by it: who asks the app then reaches it.
pub(crate) fn deployment<B: Backend>(
    backend: Arc<B>,
    app: AppKey,
    number: DeploymentNumber,
) -> impl Stream<Item = Result<DeploymentUpdate, Problem>> {
    let watched = Watched { changes: backend.changes(), backend, last: None, over: false };
    stream::unfold(watched, move |mut watched| {
        let app = app.clone();
        async move { watched.next(&app, number).await.map(|update| (update, watched)) }
    })
}

struct Watched<B> {
    backend: Arc<B>,
    changes: watch::Receiver<Seq>,
    last: Option<DeploymentUpdate>,
    over: bool,
}

impl<B: Backend> Watched<B> {
    async fn next(&mut self, app: &AppKey, number: DeploymentNumber) -> Option<Result<DeploymentUpdate, Problem>> {
        loop {
            if self.over {
                return None;
            }
            self.changes.borrow_and_update();
            let image = self.backend.image_progress(app, number);
            let state = self.backend.state();
            let Some(mut update) = DeploymentUpdate::of(&state, app, number, image) else {
                self.over = true;
                return Some(Err(match self.last {
                    None => Problem::not_found(format!("there is no deployment {number} of `{app}`")),
                    Some(_) => Problem::refused(format!("`{app}` was destroyed while deployment {number} went on")),
                }));
            };
            self.over = !update.deployment.status.is_active();
            if update.deployment.status == Progress::Succeeded {
                update.closed = self.backend.routed(app, state.seq).await;
            }
            if self.last.as_ref() != Some(&update) {
                self.last = Some(update.clone());
                return Some(Ok(update));
            }
            // Only an image's progress changes without an event.
            let gone = if update.deployment.status == Progress::Preparing {
                matches!(tokio::time::timeout(LOOK, self.changes.changed()).await, Ok(Err(_)))
            } else {
                self.changes.changed().await.is_err()
            };
            if gone {
                self.over = true;
                return Some(Err(Problem::unavailable("holm is going down")));
            }
        }
    }
}

/// The events that fit, oldest first; with `follow`, then those that come.
pub(crate) fn events<B: Backend>(
    backend: Arc<B>,
    query: EventQuery,
    follow: bool,
) -> impl Stream<Item = Result<Recorded, Problem>> {
    let reader = EventReader { changes: backend.changes(), backend, query, follow, page: VecDeque::new(), over: false };
    stream::unfold(reader, |mut reader| async move { reader.next().await.map(|event| (event, reader)) })
}

struct EventReader<B> {
    backend: Arc<B>,
    changes: watch::Receiver<Seq>,
    query: EventQuery,
    follow: bool,
    page: VecDeque<Recorded>,
    /// Whether nothing is left to be read after `page`.
    over: bool,
}

impl<B: Backend> EventReader<B> {
    async fn next(&mut self) -> Option<Result<Recorded, Problem>> {
        loop {
            if let Some(event) = self.page.pop_front() {
                self.query.after = Some(event.seq);
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            self.changes.borrow_and_update();
            let newest = self.query.newest.take();
            let limit = newest.map_or(PAGE, |newest| newest.min(MAX_NEWEST));
            let query = EventQuery { newest: newest.map(|n| n.min(MAX_NEWEST)), ..self.query.clone() };
            match self.backend.events(query, limit).await {
                Ok(page) => self.page = page.into(),
                Err(problem) => {
                    self.over = true;
                    return Some(Err(problem));
                }
            }
            let whole = newest.is_some() || self.page.len() < limit as usize;
            if whole && !self.follow {
                self.over = true;
            } else if self.page.is_empty() && self.changes.changed().await.is_err() {
                self.over = true;
                return Some(Err(Problem::unavailable("holm is going down")));
            }
        }
    }
}

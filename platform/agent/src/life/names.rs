//! Beside all stages with a guest: the guest is told where the other instances of its app are, whenever that changes.

use std::sync::Arc;

use holm_model::id::InstanceName;

use super::Shared;
use crate::world::Guest;

/// Tells until the connection ends. What is told is the whole, so nothing is lost when changes come fast.
pub(super) async fn keep_told(shared: Arc<Shared>, instance: InstanceName, guest: Arc<dyn Guest>) {
    let mut reports = shared.board.reports();
    let mut told = None;
    loop {
        reports.mark_unchanged();
        let names = shared.board.names_of(&instance.app);
        if told.as_ref() != Some(&names) {
            if let Err(failure) = guest.names(&names).await {
                tracing::debug!(%instance, %failure, "the guest was not told the names of its app");
                return;
            }
            told = Some(names);
        }
        if reports.changed().await.is_err() {
            return;
        }
    }
}

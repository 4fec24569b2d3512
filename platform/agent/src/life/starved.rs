//! A microVM that is paused since a volume found the host's disk full: told, waited for, and let go on when there is room.
//!
//! What found no room waits in the VMM and is written when it goes on, so nothing is lost. While it is paused nobody in it can
//! answer: no time that it was given passes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use holm_model::id::InstanceName;
use tokio::time::{Instant, sleep};

use super::{RETRY, Shared};
use crate::world::Machine;

/// What is told of a paused instance.
pub(crate) const PAUSED: &str = "paused since the host's disk is full; it goes on by itself when there is room";

/// Free bytes with which it goes on: with fewer it would be paused again at once.
const ROOM: u64 = 16 << 20;

/// Lets a machine go on whenever it was paused and there is room. Never returns: whoever spawns it ends it.
pub(super) async fn keep_going(shared: Arc<Shared>, instance: InstanceName, machine: Arc<dyn Machine>) {
    let mut starved = machine.starved();
    loop {
        if starved.wait_for(|starved| *starved).await.is_err() {
            return std::future::pending().await;
        }
        tracing::error!(%instance, "{PAUSED}");
        while *starved.borrow_and_update() {
            if shared.world.free_disk() >= ROOM
                && let Err(failure) = machine.resume().await
            {
                tracing::warn!(%instance, %failure, "a paused instance does not go on");
            }
            tokio::select! {
                changed = starved.changed() => if changed.is_err() { return std::future::pending().await },
                () = sleep(RETRY) => {}
            }
        }
        tracing::info!(%instance, "the disk has room again: it goes on");
    }
}

/// Waits for `work` at most `limit`, not counting the time in which the machine is paused; `told` hears when that begins and
/// ends.
pub(super) async fn awake<T>(
    machine: &dyn Machine,
    limit: Duration,
    work: impl Future<Output = T>,
    mut told: impl FnMut(bool),
) -> Option<T> {
    let (mut starved, mut work, mut left) = (machine.starved(), pin!(work), limit);
    let mut was = false;
    loop {
        let paused = *starved.borrow_and_update();
        if paused != was {
            told(paused);
            was = paused;
        }
        let since = Instant::now();
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            Ok(()) = starved.changed() => if !paused { left = left.saturating_sub(since.elapsed()) },
            () = sleep(left), if !paused => return None,
        }
    }
}

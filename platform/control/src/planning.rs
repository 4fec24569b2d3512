//! Runs the planner after every change, records what it decides, and publishes what follows for the host.

use std::sync::Arc;
use std::time::Duration;

use holm_model::state::State;
use holm_planner::{host_target, plan};

use crate::control::Shared;

/// Most plans in a row without waiting. The planner settles in a handful; more means that it contradicts itself.
const MOST_ROUNDS: u32 = 100;

/// How long to rest after such a fault, or when the state cannot be written.
const REST: Duration = Duration::from_secs(1);

/// Never returns: whoever spawns it cancels it.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.changes.subscribe();
    let mut rounds = 0;
    loop {
        changes.mark_unchanged();
        let state = shared.state.load_full();
        publish_target(&shared, &state);
        let plan = plan(&state, shared.clock.now());
        if plan.decisions.is_empty() {
            rounds = 0;
            let woken = async {
                match plan.wake_at {
                    Some(at) => shared.clock.until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = woken => {}
            }
            continue;
        }
        rounds += 1;
        if rounds > MOST_ROUNDS {
            tracing::error!(seq = %state.seq, decisions = ?plan.decisions, "the planner does not settle");
            tokio::time::sleep(REST).await;
        }
        let (parent, decisions) = (plan.parent, plan.decisions);
        let recorded = shared.record("planner", Some(parent), move |state, _| {
            // Something came in between: this plan is void, and the next one is made from the newer state.
            if state.seq == parent { decisions } else { Vec::new() }
        });
        if let Err(error) = recorded.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the planner's decisions were not recorded");
            tokio::time::sleep(REST).await;
        }
    }
}

fn publish_target(shared: &Shared, state: &State) {
    let target = host_target(state);
    shared.targets.send_if_modified(|newest| {
        let changed = newest.instances != target.instances || newest.volumes != target.volumes;
        if changed {
            *newest = Arc::new(target);
        }
        changed
    });
}

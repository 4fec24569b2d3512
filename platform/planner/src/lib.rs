//! The planner: a pure function from the state to what should be decided next.
//!
//! It reads [`State`], never a clock, a file or a network; the same state and time give the same [`Plan`]. Whoever runs
//! it records the decisions only if the state has not moved on since ([`Plan::parent`]), and asks again until there is
//! nothing left to decide. Executors never see a plan: they see the [`HostTarget`](holm_model::target::HostTarget) that
//! [`host_target`] derives from the decided state, and the ingress sees [`routing`].

#![forbid(unsafe_code)]

mod backoff;
mod rollout;
mod routing;
mod target;

use holm_model::event::Event;
use holm_model::id::Seq;
use holm_model::state::State;
use jiff::Timestamp;

pub use routing::{Backend, BackendHealth, RoutingEntry, routing};
pub use target::host_target;

/// Ended instances of a process type that are remembered, with their logs, for `explain` and for the back-off.
pub const REMEMBERED: usize = 8;

/// What to decide next.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The state the plan was made from. A plan whose parent is not the newest state is void.
    pub parent: Seq,
    /// The decisions, in order.
    pub decisions: Vec<Event>,
    /// When to ask again although nothing has happened: a back-off ends then.
    pub wake_at: Option<Timestamp>,
}

/// Decides what should happen next in `state` at the time `now`.
///
/// Calling it again after its decisions were folded in reaches an empty plan in a bounded number of rounds.
#[must_use]
pub fn plan(state: &State, now: Timestamp) -> Plan {
    let mut plan = Plan { parent: state.seq, decisions: Vec::new(), wake_at: None };
    let mut next_instance = state.site.last_instance + 1;
    for key in state.apps.keys() {
        let decided = rollout::plan_app(state, key, now, &mut next_instance);
        plan.decisions.extend(decided.decisions);
        plan.wake_at = [plan.wake_at, decided.wake_at].into_iter().flatten().min();
    }
    plan
}

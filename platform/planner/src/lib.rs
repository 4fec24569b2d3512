//! The planner: a pure function from the state to what should be decided next.
//!
//! It reads [`State`], never a clock, a file or a network; the same state and time give the same [`Plan`]. Whoever runs
//! it records the decisions only if the state has not moved on since ([`Plan::parent`]), and asks again until there is
//! nothing left to decide. Executors never see a plan: they see the [`HostTarget`](holm_model::target::HostTarget) that
//! [`host_target`] derives from the decided state, and the ingress sees [`routing`].
//!
//! | module | concept |
//! | --- | --- |
//! | `rollout` | one app, one safe step on |
//! | `release` | the release command before a rollout |
//! | `room` | the host's memory: the one answer to "does it fit" |
//! | `disk` | the host's disk: the same |
//! | `backoff`, `crash` | waits after deaths, and who dies again and again |
//! | `shape` | what an instance is made of |
//! | `target`, `routing` | what follows for the host and for the ingress |

#![forbid(unsafe_code)]

mod backoff;
mod crash;
mod disk;
mod release;
mod rollout;
mod room;
mod routing;
mod shape;
mod target;
mod volumes;

use holm_manifest::ProcessName;
use holm_model::event::Event;
use holm_model::id::{AppKey, InstanceName, Seq};
use holm_model::state::State;
use jiff::Timestamp;

pub use crash::{CrashLoop, crash_loops};
pub use disk::{Disk, fits_disk, fits_volume};
pub use rollout::{Standing, standing};
pub use room::{Room, Shortage, fits};
pub use routing::{Backend, BackendHealth, RoutingEntry, routing};
pub use target::host_target;
pub use volumes::{gives_way, users_of_volume};

/// Ended instances of a process type that are remembered, with their logs, for `explain` and for the back-off.
pub const REMEMBERED: usize = 8;

/// What to decide next.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The state the plan was made from. A plan whose parent is not the newest state is void.
    pub parent: Seq,
    /// The decisions, in order.
    pub decisions: Vec<Event>,
    /// When to ask again although nothing has happened: a back-off ends then, or a time is over.
    pub wake_at: Option<Timestamp>,
    /// Instances that are wanted and have no room.
    pub waiting: Vec<Waiting>,
}

/// An instance that is wanted and not placed, since the host has no memory for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The app and environment.
    pub app: AppKey,
    /// The process type.
    pub process: ProcessName,
    /// What is needed and what is free.
    pub shortage: Shortage,
}

/// What one round of planning hands out over all apps.
pub(crate) struct Budget<'a> {
    next_instance: u64,
    room: Room<'a>,
}

impl Budget<'_> {
    /// The name of one more instance.
    fn name(&mut self, app: &AppKey, process: &ProcessName) -> InstanceName {
        let number = self.next_instance;
        self.next_instance += 1;
        InstanceName { app: app.clone(), process: process.clone(), number }
    }
}

/// Decides what should happen next in `state` at the time `now`.
///
/// Calling it again after its decisions were folded in reaches an empty plan in a bounded number of rounds.
#[must_use]
pub fn plan(state: &State, now: Timestamp) -> Plan {
    let mut plan = Plan { parent: state.seq, decisions: Vec::new(), wake_at: None, waiting: Vec::new() };
    let mut budget = Budget { next_instance: state.site.last_instance + 1, room: Room::of(state) };
    for key in state.apps.keys() {
        let decided = rollout::plan_app(state, key, now, &mut budget);
        plan.decisions.extend(decided.decisions);
        plan.waiting.extend(decided.waiting);
        plan.wake_at = [plan.wake_at, decided.wake_at].into_iter().flatten().min();
    }
    plan
}

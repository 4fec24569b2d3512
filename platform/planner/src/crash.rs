//! Which process types die again and again, told to people.

use holm_manifest::ProcessName;
use holm_model::id::{AppKey, InstanceName};
use holm_model::report::End;
use holm_model::state::{Instance, State};
use jiff::Timestamp;

use crate::backoff::{Death, STABLE, deaths_in_a_row, not_before};
use crate::rollout::{is_death, is_fresh};

/// Deaths in a row that make a crash loop.
const LOOP: usize = 2;

/// A process type whose instances die one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct CrashLoop {
    /// The app and environment.
    pub app: AppKey,
    /// The process type.
    pub process: ProcessName,
    /// How many died in a row; at least this many when it is [`REMEMBERED`](crate::REMEMBERED).
    pub deaths: usize,
    /// The newest of the dead.
    pub newest: InstanceName,
    /// How that one ended.
    pub end: End,
    /// When the next one may be placed, while that is in the future.
    pub next_try: Option<Timestamp>,
}

/// Every crash loop at the time `now`, in the order of apps and process types. It is over when an instance has been
/// healthy for a minute.
#[must_use]
pub fn crash_loops(state: &State, now: Timestamp) -> Vec<CrashLoop> {
    let apps = state.apps.keys().filter(|app| state.wanted_release(app).is_some());
    apps.flat_map(|app| {
        let manifest = state.wanted_release(app).and_then(|number| state.release(app, number)).map(|r| &r.manifest);
        let processes = manifest.into_iter().flat_map(|manifest| manifest.processes.keys());
        processes.filter_map(move |process| crash_loop(state, app, process, now))
    })
    .collect()
}

fn crash_loop(state: &State, app: &AppKey, process: &ProcessName, now: Timestamp) -> Option<CrashLoop> {
    let fresh = state.instances_of(app).filter(|(name, i)| name.process == *process && is_fresh(state, app, i));
    let fresh: Vec<(&InstanceName, &Instance)> = fresh.collect();
    let dead: Vec<_> = fresh.iter().filter(|(name, i)| is_death(state, name, i)).collect();
    let deaths: Vec<Death> = dead.iter().filter_map(|(_, i)| Death::of(i)).collect();
    let in_a_row = deaths_in_a_row(&deaths);
    let (newest, end) = dead.iter().filter_map(|(name, i)| Some((name, i.end.as_ref()?))).max_by_key(|(_, e)| e.at)?;
    let stable = |i: &Instance| i.is_live() && i.healthy_at.is_some_and(|since| now.duration_since(since) >= STABLE);
    let over = fresh.iter().any(|(_, i)| stable(i) && i.placed_at >= end.at);
    (in_a_row >= LOOP && !over).then(|| CrashLoop {
        app: app.clone(),
        process: process.clone(),
        deaths: in_a_row,
        newest: (*newest).clone(),
        end: end.clone(),
        next_try: not_before(&deaths).filter(|at| *at > now),
    })
}

//! What a host's report means in a state: pure, and only what has changed.

use holm_model::event::Event;
use holm_model::report::{End, EndCause, HostReport, Observation, Phase};
use holm_model::state::{Instance, State};
use jiff::Timestamp;

/// Says which events `report` leads to in `state`, when it arrives at `now`.
///
/// A detail that changes alone is worth no event unless the instance is unhealthy: the newest report is kept in memory.
/// Instances that the state does not know, or knows to have ended, are left alone: the target tells the host to go on
/// without them.
#[must_use]
pub fn observe(state: &State, report: &HostReport, now: Timestamp) -> Vec<Event> {
    let open = state.instances.iter().filter(|(_, instance)| instance.end.is_none());
    open.filter_map(|(name, instance)| match report.instances.get(name) {
        Some(seen) => seen_event(name, instance, seen, now),
        None => {
            let cause = missing(instance, report)?;
            Some(Event::InstanceEnded { instance: name.clone(), end: End { cause, at: now, last_log: Vec::new() } })
        }
    })
    .collect()
}

fn seen_event(
    name: &holm_model::id::InstanceName,
    instance: &Instance,
    seen: &Observation,
    now: Timestamp,
) -> Option<Event> {
    if seen.phase == Phase::Ended || seen.end.is_some() {
        let unsaid = || {
            let cause = EndCause::Lost { why: "the host did not say how it ended".to_owned() };
            End { cause, at: now, last_log: Vec::new() }
        };
        let end = seen.end.clone().unwrap_or_else(unsaid);
        return Some(Event::InstanceEnded { instance: name.clone(), end });
    }
    let news = instance.phase != seen.phase
        || instance.endpoints != seen.endpoints
        || (seen.phase == Phase::Unhealthy && instance.detail != seen.detail);
    news.then(|| Event::InstanceObserved {
        instance: name.clone(),
        phase: seen.phase,
        detail: seen.detail.clone(),
        endpoints: seen.endpoints.clone(),
    })
}

/// How an instance ended that the host does not have, if it ended: a host that has not heard of the newest decision
/// about it, or has not got to it yet, says nothing by its silence.
fn missing(instance: &Instance, report: &HostReport) -> Option<EndCause> {
    if report.generation < instance.decided {
        return None;
    }
    match (instance.phase, &instance.retired) {
        (Phase::Placed, None) => None,
        (Phase::Placed, Some(_)) => Some(EndCause::Stopped),
        (phase, _) => Some(EndCause::Lost { why: format!("it was {phase}, and its host no longer has it") }),
    }
}

//! `holm explain`: why an instance is where it is, why it waits, why it ended.

use holm_api::Problem;
use holm_api::view::InstanceView;
use holm_api::wire::{EventQuery, LiveInstance};
use holm_model::event::{Event, Recorded};
use holm_model::id::InstanceName;
use holm_model::report::{EndCause, Phase};
use jiff::Timestamp;
use serde::Serialize;

use super::{Context, explain_app};
use crate::args::Explain;
use crate::describe;
use crate::exit::Failure;
use crate::output::harmless;
use crate::table::{ago, clock, size};
use crate::target::parse_app;

#[derive(Serialize)]
struct Explanation {
    instance: InstanceName,
    /// The one line that matters.
    summary: String,
    /// What the state says; `null` when the instance is remembered by its events only.
    now: Option<InstanceView>,
    /// What the host sees beyond that.
    live: Option<LiveInstance>,
    /// Everything that happened to it, oldest first.
    events: Vec<Recorded>,
}

pub(crate) async fn run(explain: &Explain, context: &Context<'_>) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    let Ok(name) = explain.name.parse::<InstanceName>() else {
        return explain_app::run(&parse_app(&explain.name, None)?, context).await;
    };
    let name = &name;
    let state = client.state(Some(&name.app)).await?;
    let now = state.instances.get(name).map(|instance| InstanceView::of(name, instance));
    let query = EventQuery { instance: Some(name.clone()), ..EventQuery::default() };
    let (mut stream, mut events) = (client.events(&query, false).await?, Vec::new());
    while let Some(event) = stream.next().await? {
        events.push(event);
    }
    if now.is_none() && events.is_empty() {
        return Err(Problem::not_found(format!("there never was an instance `{name}`"))
            .hint(format!("`holm ps {} --all` lists the instances", name.app))
            .into());
    }
    let live = match &now {
        Some(instance) if instance.phase != Phase::Ended => client.live(name).await?,
        _ => None,
    };
    let summary = summary(name, now.as_ref(), live.as_ref(), &events, out.now);
    let explanation = Explanation { instance: name.clone(), summary, now, live, events };
    out.show("explain", &explanation, |explanation| render(explanation, out.now))
}

/// The answer in one line.
fn summary(
    name: &InstanceName,
    view: Option<&InstanceView>,
    live: Option<&LiveInstance>,
    events: &[Recorded],
    now: Timestamp,
) -> String {
    let ended = events.iter().rev().find_map(|recorded| match &recorded.event {
        Event::InstanceEnded { end, .. } => Some(end),
        _ => None,
    });
    let Some(view) = view else {
        let cause = ended.map_or_else(|| "nothing was seen of its end".to_owned(), |end| end.cause.to_string());
        return harmless(&format!("{name} is gone: {cause}"));
    };
    let since = ago(view.since, now);
    let text = match (&view.end, view.phase) {
        (Some(end), _) => match &view.retired {
            Some(why) if end.cause.was_asked_for() => format!("{name} ended {since}, as it should: {why}"),
            _ => format!("{name} ended {since} by itself: {}", end.cause),
        },
        (None, Phase::Healthy) => match &view.retired {
            None => format!("{name} is healthy, since {since}"),
            Some(why) => format!("{name} is healthy and is to go: {why}"),
        },
        (None, Phase::Unhealthy) => {
            let why = view.detail.as_deref().or(live.and_then(|live| live.health.as_deref()));
            format!("{name} fails its health check, since {since}: {}", why.unwrap_or("no reason is known"))
        }
        (None, phase) => {
            let waits = live.and_then(|live| live.waits_for.as_deref()).or(view.detail.as_deref());
            let waits = waits.map(|what| format!(", waiting for: {what}")).unwrap_or_default();
            format!("{name} is {phase}, since {since}{waits}")
        }
    };
    harmless(&text)
}

fn render(explanation: &Explanation, now: Timestamp) -> String {
    let mut text = format!("{}\n", explanation.summary);
    let mut fact = |name: &str, value: String| text.push_str(&format!("  {name:<10}  {}\n", harmless(&value)));
    if let Some(view) = &explanation.now {
        fact("release", view.release.to_string());
        fact("placed", format!("{}: {}", ago(view.placed_at, now), view.why));
        if let Some(why) = &view.retired {
            fact("to go", why.clone());
        }
        for (port, at) in &view.endpoints {
            fact("endpoint", format!("port {port} at {at}"));
        }
    }
    if let Some(live) = &explanation.live {
        if let Some(pid) = live.pid {
            fact("process", pid.to_string());
        }
        if let Some(address) = live.address {
            fact("address", address.to_string());
        }
        if let Some(bytes) = live.memory_used {
            fact("memory", format!("{} used inside", size(bytes)));
        }
        if let Some(bytes) = live.host_memory {
            fact("on host", size(bytes));
        }
        if let Some(health) = &live.health {
            fact("health", health.clone());
        }
    }
    let end = explanation.now.as_ref().and_then(|view| view.end.as_ref());
    let end = end.or_else(|| {
        explanation.events.iter().rev().find_map(|recorded| match &recorded.event {
            Event::InstanceEnded { end, .. } => Some(end),
            _ => None,
        })
    });
    if let Some(end) = end {
        fact("ended", format!("{}: {}", clock(end.at), end.cause));
        if let Some(advice) = advice(&end.cause) {
            fact("advice", advice.to_owned());
        }
        if !end.last_log.is_empty() {
            text.push_str("\nthe last lines it wrote:\n");
            for line in &end.last_log {
                text.push_str(&format!("  | {}\n", harmless(line)));
            }
        }
    }
    text.push_str("\nwhat happened:\n");
    for recorded in &explanation.events {
        text.push_str(&format!("  {}  {}\n", clock(recorded.at), describe::event(&recorded.event)));
    }
    text
}

/// What helps against an end of this kind.
const fn advice(cause: &EndCause) -> Option<&'static str> {
    match cause {
        EndCause::OutOfMemory { .. } => Some("raise `memory` of its process type in the manifest"),
        EndCause::StoppedByForce => Some("raise `grace` in the process type's stop table, or end on its stop signal"),
        EndCause::Hung { .. } | EndCause::Lost { .. } => Some("`holm doctor` looks for what is wrong with the host"),
        EndCause::Exited { .. } | EndCause::Signaled { .. } => Some("`holm logs` with its name shows all it wrote"),
        EndCause::Stopped | EndCause::CouldNotStart { .. } => None,
    }
}

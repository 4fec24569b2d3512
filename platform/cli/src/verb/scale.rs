//! `holm scale`: sets counts, and waits until as many instances are healthy.

use std::collections::BTreeSet;

use holm_api::Problem;
use holm_api::view::waiting;
use holm_api::wire::{Command, EventQuery};
use holm_manifest::ProcessName;
use holm_model::event::Event;
use holm_model::id::{AppKey, Seq};
use holm_planner::standing;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{Context, interrupted, stopped_by_user};
use crate::args::Scale;
use crate::exit::{Exit, Failure};
use crate::output::harmless;

#[derive(Serialize)]
struct Scaled<'a> {
    app: &'a AppKey,
    changed: bool,
    /// Whether the instances were waited for and are as was asked.
    settled: bool,
}

pub(crate) async fn run(scale: &Scale, context: &Context<'_>) -> Result<(), Failure> {
    let app = scale.app.resolve(None)?;
    let (mut changed, mut since) = (false, None);
    for (process, instances) in &scale.counts {
        let command = Command::Scale { app: app.clone(), process: process.clone(), instances: *instances };
        let accepted = context.client.submit(&command, Uuid::now_v7()).await?;
        changed |= accepted.changed;
        since = since.or(accepted.changed.then_some(accepted.seq));
    }
    let settled = !scale.no_wait;
    if let (Some(since), true) = (since, settled) {
        let processes = scale.counts.iter().map(|(process, _)| process.clone()).collect();
        tokio::select! {
            reached = until_settled(context, &app, &processes, since) => reached?,
            () = interrupted() => {
                context.out.say(&format!("the instances go on without this command; see `holm ps {app}`"));
                return Err(stopped_by_user());
            }
        }
    }
    let words = scale.counts.iter().map(|(process, count)| match count {
        Some(count) => format!("`{process}` to {count}"),
        None => format!("`{process}` to the manifest's count"),
    });
    let words = words.collect::<Vec<_>>().join(", ");
    context.out.show("scale", &Scaled { app: &app, changed, settled }, |answer| match (answer.changed, settled) {
        (false, _) => format!("{app} is so already: nothing to do\n"),
        (true, true) => format!("{app}: scaled {words}\n"),
        (true, false) => format!("{app}: scaled {words}; `holm ps {app}` shows the instances\n"),
    })
}

/// Follows the app's events until its process types are as they should be; an instance that ends by itself meanwhile is
/// a failure at once, although Holm goes on trying.
async fn until_settled(
    context: &Context<'_>,
    app: &AppKey,
    processes: &BTreeSet<ProcessName>,
    since: Seq,
) -> Result<(), Failure> {
    let query = EventQuery { app: Some(app.clone()), after: Some(since), ..EventQuery::default() };
    let mut events = context.client.events(&query, true).await?;
    let mut told = BTreeSet::new();
    loop {
        let state = context.client.state(None).await?;
        if processes.iter().all(|process| standing(&state, app, process).is_settled()) {
            return Ok(());
        }
        for (process, room) in waiting(&state, app, Timestamp::now()) {
            if told.insert(process.clone()) {
                context.out.say(&format!("another instance of `{process}` waits: {room}"));
            }
        }
        let Some(recorded) = events.next().await? else {
            return Err(Problem::unavailable("holm is going down").into());
        };
        match &recorded.event {
            Event::InstanceObserved { instance, phase, .. } if processes.contains(&instance.process) => {
                context.out.say(&format!("{instance}: {phase}"));
            }
            Event::InstanceEnded { instance, end } if processes.contains(&instance.process) => {
                let known = state.instances.get(instance);
                let wanted = known.is_some_and(|known| known.retired.is_none() && known.decided > since);
                let standing = standing(&state, app, &instance.process);
                if wanted && !end.cause.was_asked_for() && !standing.is_settled() && standing.done == 0 {
                    let what = format!("`{app}` has {} of {} healthy", standing.healthy, standing.wanted);
                    let why = harmless(&format!("{instance} {}", end.cause));
                    let problem = Problem::failed(what)
                        .because(why)
                        .hint(format!("Holm goes on trying; `holm explain {instance}` has its last lines"));
                    return Err(Failure::new(Exit::Failed, problem));
                }
                context.out.say(&format!("{instance}: ended"));
            }
            _ => {}
        }
    }
}

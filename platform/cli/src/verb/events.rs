//! `holm events`: what happened, who caused it and when.

use holm_api::wire::EventQuery;
use holm_model::event::Recorded;
use holm_model::id::Seq;

use super::{Context, interrupted, stopped_by_user};
use crate::args::Events;
use crate::describe;
use crate::exit::Failure;
use crate::table::clock;
use crate::target::{parse_app, parse_since};

/// Events of the past that are shown where nothing narrows them down.
const NEWEST: u32 = 100;

pub(crate) async fn run(events: &Events, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let narrowed = events.since.is_some() || events.after.is_some();
    let query = EventQuery {
        after: events.after.map(Seq),
        since: events.since.as_deref().map(|since| parse_since(since, out.now)).transpose()?,
        app: events.app.as_deref().map(|app| parse_app(app, events.env.as_ref())).transpose()?,
        instance: None,
        newest: events.newest.or((!narrowed).then_some(NEWEST)),
    };
    let mut stream = context.client.events(&query, events.follow).await?;
    loop {
        let event = tokio::select! {
            event = stream.next() => event?,
            () = interrupted(), if events.follow => return Err(stopped_by_user()),
        };
        let Some(event) = event else { return Ok(()) };
        out.item("event", &event, line)?;
    }
}

/// One event on a line: number, time, who, what, and the event that led to it.
pub(crate) fn line(recorded: &Recorded) -> String {
    let cause = recorded.cause.map(|cause| format!(" (after {cause})")).unwrap_or_default();
    let (seq, at, actor) = (recorded.seq, clock(recorded.at), &recorded.actor);
    format!("{seq:>6}  {at}  {actor:<12}  {}{cause}\n", describe::event(&recorded.event))
}

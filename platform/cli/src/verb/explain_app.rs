//! `holm explain APP`: what every process type of an app waits for, and why.

use holm_api::view::{AppView, ProcessView};
use holm_model::id::AppKey;
use jiff::Timestamp;
use serde::Serialize;

use super::Context;
use super::route::no_app;
use super::status::crash_line;
use crate::exit::Failure;
use crate::output::harmless;

#[derive(Serialize)]
struct Explanation {
    app: AppKey,
    /// One line for each process type that is not as it should be; empty when all are.
    waits: Vec<Wait>,
}

#[derive(Serialize)]
struct Wait {
    process: holm_manifest::ProcessName,
    why: String,
}

pub(crate) async fn run(app: &AppKey, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let state = context.client.state(None).await?;
    let view = AppView::of(&state, app, out.now).ok_or_else(|| no_app(app))?;
    let explanation = Explanation { app: app.clone(), waits: waits(&view, out.now) };
    out.show("explain-app", &explanation, |explanation| {
        if explanation.waits.is_empty() {
            return format!("{app} is as it should be; `holm explain INSTANCE` tells of one instance\n");
        }
        let line = |wait: &Wait| format!("  {}: {}\n", wait.process, harmless(&wait.why));
        format!("{app}:\n{}", explanation.waits.iter().map(line).collect::<String>())
    })
}

fn waits(view: &AppView, now: Timestamp) -> Vec<Wait> {
    let reason = |process: &ProcessView| {
        if let Some(room) = &process.waiting {
            return Some(format!("another instance waits: {room}; stop something, or see `holm up --memory`"));
        }
        if let Some(crash) = &process.crash_loop {
            return Some(format!("{}; `holm explain {}` has its last lines", crash_line(crash, now), crash.newest));
        }
        let missing = process.wanted.saturating_sub(process.healthy + process.done);
        (missing > 0).then(|| match process.running.saturating_sub(process.healthy) {
            0 => format!("{missing} of {} wanted are about to be placed", process.wanted),
            starting => {
                format!("{missing} of {} wanted are not healthy, {starting} run; `holm ps` lists them", process.wanted)
            }
        })
    };
    let of = |process: &ProcessView| Some(Wait { process: process.process.clone(), why: reason(process)? });
    view.processes.iter().filter_map(of).collect()
}

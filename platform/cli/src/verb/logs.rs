//! `holm logs`: what apps wrote.

use holm_api::wire::{LogLine, LogQuery, LogStream};

use super::{Context, interrupted, stopped_by_user};
use crate::args::Logs;
use crate::exit::Failure;
use crate::output::harmless;
use crate::target::{AppOrInstance, parse_app_or_instance, parse_since};

pub(crate) async fn run(logs: &Logs, context: &Context<'_>) -> Result<(), Failure> {
    let out = context.out;
    let (app, instance) = match &logs.name {
        Some(name) => match parse_app_or_instance(name, logs.args.env.as_ref())? {
            AppOrInstance::App(_) => (logs.args.resolve(Some(name))?, None),
            AppOrInstance::Instance(instance) => (instance.app.clone(), Some(instance)),
        },
        None => (logs.args.resolve(None)?, None),
    };
    let query = LogQuery {
        app,
        process: logs.process.clone(),
        instance,
        since: logs.since.as_deref().map(|since| parse_since(since, out.now)).transpose()?,
        newest: logs.newest,
        follow: logs.follow,
    };
    let mut lines = context.client.logs(&query).await?;
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            () = interrupted(), if logs.follow => return Err(stopped_by_user()),
        };
        let Some(line) = line else { return Ok(()) };
        out.item("log", &line, render)?;
    }
}

fn render(line: &LogLine) -> String {
    let mark = match line.stream {
        LogStream::Stdout => "|",
        LogStream::Stderr => "!",
        LogStream::Holm => "*",
    };
    let at = line.at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    format!("{at} {} {mark} {}\n", line.instance, harmless(&line.text))
}

//! `holm stop`, `start` and `destroy`: wishes that are recorded at once and carried out by the server.

use holm_api::wire::Command;
use holm_model::id::AppKey;
use serde::Serialize;
use uuid::Uuid;

use super::Context;
use crate::args::{Destroy, NamedApp};
use crate::exit::Failure;
use crate::target::parse_app;

#[derive(Serialize)]
struct Changed<'a> {
    app: &'a AppKey,
    changed: bool,
}

/// Sends commands one after the other and shows one answer for all.
pub(crate) async fn send(
    context: &Context<'_>,
    verb: &str,
    app: &AppKey,
    commands: Vec<Command>,
    done: &str,
) -> Result<(), Failure> {
    let mut changed = false;
    for command in commands {
        changed |= context.client.submit(&command, Uuid::now_v7()).await?.changed;
    }
    context.out.show(verb, &Changed { app, changed }, |answer| match answer.changed {
        true => format!("{app}: {done}\n"),
        false => format!("{app} is so already: nothing to do\n"),
    })
}

pub(crate) async fn stop(app: &NamedApp, context: &Context<'_>) -> Result<(), Failure> {
    let app = app.resolve()?;
    let done = format!("its instances stop; `holm start {app}` starts it again");
    send(context, "stop", &app, vec![Command::Stop { app: app.clone() }], &done).await
}

pub(crate) async fn start(app: &NamedApp, context: &Context<'_>) -> Result<(), Failure> {
    let app = app.resolve()?;
    let done = format!("its instances start; `holm ps {app}` shows them");
    send(context, "start", &app, vec![Command::Start { app: app.clone() }], &done).await
}

pub(crate) async fn destroy(destroy: &Destroy, context: &Context<'_>) -> Result<(), Failure> {
    let app = parse_app(&destroy.name, destroy.env.as_ref())?;
    if !destroy.yes {
        return Err(Failure::usage(format!("`{app}` would be removed with its releases, routes and instances"))
            .hint(format!("if that is meant: `holm destroy {app} --yes`")));
    }
    let done = match destroy.volumes {
        true => "destroyed; its instances stop, and its volumes go with them",
        false => "destroyed; its instances stop, and volumes it has stay (`holm volumes list`)",
    };
    let command = Command::Destroy { app: app.clone(), volumes: destroy.volumes };
    send(context, "destroy", &app, vec![command], done).await
}

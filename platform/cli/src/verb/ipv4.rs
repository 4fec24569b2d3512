//! `holm ipv4 allocate`, `list` and `release`.

use holm_api::wire::Command;
use holm_model::id::AppKey;
use serde::Serialize;

use super::{Context, change};
use crate::args::Ipv4;
use crate::exit::Failure;

#[derive(Serialize)]
struct Apps {
    apps: Vec<AppKey>,
}

pub(crate) async fn run(verb: &Ipv4, context: &Context<'_>) -> Result<(), Failure> {
    let (name, app, allocated, done) = match verb {
        Ipv4::List => {
            let state = context.client.state(None).await?;
            let with = state.apps.iter().filter(|(_, doc)| doc.ipv4 && !doc.destroyed);
            let apps = Apps { apps: with.map(|(app, _)| app.clone()).collect() };
            return context
                .out
                .show("ipv4-list", &apps, |answer| answer.apps.iter().map(|app| format!("{app}\n")).collect());
        }
        Ipv4::Allocate(app) => ("ipv4-allocate", app, true, "its routes are reached over IPv4 too"),
        Ipv4::Release(app) => ("ipv4-release", app, false, "its routes are reached over IPv6 only"),
    };
    let app = app.resolve()?;
    change::send(context, name, &app, vec![Command::Ipv4 { app: app.clone(), allocated }], done).await
}

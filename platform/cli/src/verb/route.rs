//! `holm route add`, `list` and `remove`.

use holm_api::Problem;
use holm_api::view::{self, RouteView};
use holm_api::wire::Command;
use holm_manifest::{RouteMatch, check_route};
use holm_model::id::AppKey;
use serde::Serialize;

use super::{Context, change};
use crate::args::{Route, RouteOn};
use crate::exit::Failure;
use crate::table::table;

#[derive(Serialize)]
struct Routes {
    app: AppKey,
    routes: Vec<RouteView>,
}

pub(crate) async fn run(verb: &Route, context: &Context<'_>) -> Result<(), Failure> {
    match verb {
        Route::List(app) => {
            let app = app.resolve()?;
            let state = context.client.state(Some(&app)).await?;
            if !state.apps.contains_key(&app) {
                return Err(no_app(&app).into());
            }
            let routes = Routes { routes: view::routes(&state, &app), app };
            context.out.show("route-list", &routes, |routes| routes_table(&routes.routes))
        }
        Route::Add(add) => {
            let app = add.app.resolve(None)?;
            let route = holm_manifest::Route {
                on: on(&add.on),
                process: add.process.clone(),
                port: add.port,
                proxy_protocol: add.proxy_protocol,
            };
            check_route(&route).map_err(Failure::usage)?;
            let done = format!("{} leads to port {} of `{}`", route.on, route.port, route.process);
            change::send(context, "route-add", &app, vec![Command::AddRoute { app: app.clone(), route }], &done).await
        }
        Route::Remove(remove) => {
            let app = remove.app.resolve(None)?;
            let on = on(&remove.on);
            let done = format!("{on} leads nowhere any more");
            change::send(context, "route-remove", &app, vec![Command::RemoveRoute { app: app.clone(), on }], &done)
                .await
        }
    }
}

/// Clap makes sure that one of the two is given.
fn on(on: &RouteOn) -> RouteMatch {
    match (on.listen, &on.sni) {
        (Some(port), _) => RouteMatch::TcpPort(port),
        (None, sni) => RouteMatch::Sni(sni.clone().unwrap_or_default()),
    }
}

pub(crate) fn no_app(app: &AppKey) -> Problem {
    Problem::not_found(format!("there is no app `{app}`")).hint("`holm status` lists the apps")
}

pub(crate) fn routes_table(routes: &[RouteView]) -> String {
    let rows: Vec<Vec<String>> = routes
        .iter()
        .map(|RouteView { route, added }| {
            let from = if *added { "added" } else { "manifest" };
            vec![route.on.to_string(), route.process.to_string(), route.port.to_string(), from.to_owned()]
        })
        .collect();
    table(&["ROUTE", "PROCESS", "PORT", "FROM"], &rows)
}

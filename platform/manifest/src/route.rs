//! Routes as a manifest has them: read, checked, and none taken twice.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::diagnostic::Sink;
use crate::model::{Route, RouteMatch};
use crate::parse::{MAX_TEXT, Processes, read_process_name, required};
use crate::section::{Field, Section};
use crate::unit::host_name_problem;

const MAX_ROUTES: usize = 200;
const ROUTES_FORM: &str = "routes, each written [[route]]";

/// Says why `route` cannot be one, if it cannot: for routes that come from elsewhere than a manifest.
///
/// # Errors
/// The reason, in one line.
pub fn check_route(route: &Route) -> Result<(), String> {
    if route.port == 0 || matches!(route.on, RouteMatch::TcpPort(0)) {
        return Err("a port is a whole number from 1 to 65535".to_owned());
    }
    match &route.on {
        RouteMatch::Sni(name) => host_name_problem(name).map_or(Ok(()), |why| Err(format!("`{name}`: {why}"))),
        RouteMatch::TcpPort(_) => Ok(()),
    }
}

pub(crate) fn read_routes(field: &Field<'_>, processes: &Processes, sink: &mut Sink<'_>) -> Option<Vec<Route>> {
    let tables = field.tables(ROUTES_FORM, sink)?;
    if tables.len() > MAX_ROUTES {
        field.wrong(format_args!("{} routes", tables.len()), &format!("at most {MAX_ROUTES}"), sink);
        return None;
    }
    let mut places: BTreeMap<RouteMatch, Range<usize>> = BTreeMap::new();
    let mut routes = Vec::new();
    for (table, span) in tables {
        let known = ["process", "port", "listen", "sni", "proxy_protocol"];
        let section = Section::strict(table, span, "[[route]]".to_owned(), &known, sink);
        let Some((route, place)) = read_route(&section, processes, sink) else { continue };
        match places.get(&route.on) {
            Some(earlier) => {
                sink.report(&place, format!("{} is taken by two routes", what_is_matched(&route.on)))
                    .label("again here")
                    .also(earlier, "first here");
            }
            None => {
                places.insert(route.on.clone(), place);
                routes.push(route);
            }
        }
    }
    Some(routes)
}

fn what_is_matched(on: &RouteMatch) -> String {
    match on {
        RouteMatch::TcpPort(port) => format!("port {port} of the host"),
        RouteMatch::Sni(name) => format!("the TLS host name `{name}`"),
    }
}

fn read_route(section: &Section<'_>, processes: &Processes, sink: &mut Sink<'_>) -> Option<(Route, Range<usize>)> {
    let process = required(section, "process", "the process type that serves, such as `process = \"web\"`", sink)
        .and_then(|field| read_process_name(&field, processes, sink));
    let port = required(section, "port", "the port inside the guest, such as `port = 8080`", sink)
        .and_then(|field| field.port(sink));
    let proxy_protocol = section.get("proxy_protocol").map_or(Some(false), |field| field.switch(sink));
    let (on, place) = match (section.get("listen"), section.get("sni")) {
        (Some(listen), None) => (RouteMatch::TcpPort(listen.port(sink)?), listen.span),
        (None, Some(sni)) => {
            let name = sni.text("a host name such as \"hello.example\"", MAX_TEXT, sink)?;
            if let Some(why) = host_name_problem(name) {
                sni.wrong(why, "a host name such as \"hello.example\"", sink);
                return None;
            }
            (RouteMatch::Sni(name.to_owned()), sni.span)
        }
        (Some(listen), Some(sni)) => {
            sink.report(&sni.key, "a route has both `listen` and `sni`")
                .also(&listen.key, "the other one is here")
                .expected("one of them: make two routes to have both");
            return None;
        }
        (None, None) => {
            sink.report(&section.span, "a route does not say what it listens for")
                .expected("`listen = PORT` (a port of the host) or `sni = \"HOST\"` (a TLS host name)");
            return None;
        }
    };
    Some((Route { on, process: process?, port: port?, proxy_protocol: proxy_protocol? }, place))
}

//! How an instance is judged and asked to end: `[process.NAME.health]` and `[process.NAME.stop]`.

use crate::diagnostic::{Sink, nearest};
use crate::model::{HealthCheck, HealthProbe, StopPolicy};
use crate::parse::{MAX_TEXT, read_duration};
use crate::section::{Field, Section};
use crate::unit::SIGNALS;

pub(crate) fn read_health(process: &Section<'_>, field: &Field<'_>, sink: &mut Sink<'_>) -> Option<HealthCheck> {
    let name = process.name.replace(']', ".health]");
    let table = field.table("a health check, written as its own table", sink)?;
    let known = ["http", "tcp", "exec", "interval", "timeout", "startup", "failures"];
    let section = Section::strict(table, field.span.clone(), name, &known, sink);
    let probe = read_probe(&section, sink);
    let interval_ms = read_duration(&section, "interval", 2000, 100..=3_600_000, sink);
    let timeout_ms = read_duration(&section, "timeout", 2000, 100..=600_000, sink);
    let startup_ms = read_duration(&section, "startup", 60_000, 1000..=3_600_000, sink);
    let failures = section.get("failures").map_or(Some(3), |field| field.number(1..=100, sink));
    Some(HealthCheck {
        probe: probe?,
        interval_ms: interval_ms?,
        timeout_ms: timeout_ms?,
        startup_ms: startup_ms?,
        failures: failures?,
    })
}

fn read_probe(section: &Section<'_>, sink: &mut Sink<'_>) -> Option<HealthProbe> {
    const EXPECTED: &str = "exactly one of: http, tcp, exec";
    let given: Vec<_> = ["http", "tcp", "exec"].into_iter().filter_map(|w| Some((w, section.get(w)?))).collect();
    let (kind, field) = match given.as_slice() {
        [] => {
            sink.report(&section.span, format!("{} does not say what is tried", section.name)).expected(EXPECTED);
            return None;
        }
        [one] => one,
        [(first, first_field), (second, second_field), ..] => {
            sink.report(&second_field.key, format!("{} has both `{first}` and `{second}`", section.name))
                .also(&first_field.key, "the other one is here")
                .expected(EXPECTED);
            return None;
        }
    };
    if *kind == "exec" {
        return Some(HealthProbe::Exec { command: field.command(sink)? });
    }
    let (known, form): (&[&str], _) = if *kind == "http" {
        (&["port", "path"], "{ port = 8080, path = \"/healthz\" }")
    } else {
        (&["port"], "{ port = 8080 }")
    };
    let table = field.table(form, sink)?;
    let inner = Section::strict(table, field.span.clone(), field.name.clone(), known, sink);
    let port = match inner.get("port") {
        Some(port) => port.port(sink),
        None => {
            sink.report(&field.span, format!("`port` is missing from {}", field.name)).expected(form);
            None
        }
    };
    if *kind == "tcp" {
        return Some(HealthProbe::Tcp { port: port? });
    }
    let path = match inner.get("path") {
        None => "/",
        Some(field) => {
            const EXPECTED: &str = "a path such as \"/healthz\"";
            let path = field.text(EXPECTED, MAX_TEXT, sink)?;
            if !path.starts_with('/') || path.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#') {
                field.wrong("this is not a path", EXPECTED, sink);
                return None;
            }
            path
        }
    };
    Some(HealthProbe::Http { port: port?, path: path.to_owned() })
}

pub(crate) fn read_stop(process: &Section<'_>, field: &Field<'_>, sink: &mut Sink<'_>) -> Option<StopPolicy> {
    let name = process.name.replace(']', ".stop]");
    let table = field.table("how an instance is asked to end, written as its own table", sink)?;
    let section = Section::strict(table, field.span.clone(), name, &["signal", "grace", "drain"], sink);
    let defaults = StopPolicy::default();
    let grace_ms = read_duration(&section, "grace", defaults.grace_ms, 0..=3_600_000, sink);
    let drain_ms = read_duration(&section, "drain", defaults.drain_ms, 0..=3_600_000, sink);
    let signal = match section.get("signal") {
        None => None,
        Some(field) => {
            let text = field.text("a signal such as \"SIGTERM\"", MAX_TEXT, sink)?;
            if !SIGNALS.contains(&text) {
                let upper = text.to_ascii_uppercase();
                let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
                let near = nearest(&full, SIGNALS).map(|near| format!("did you mean \"{near}\"?"));
                sink.report(&field.span, format!("{}: this is not a signal Holm sends", field.name))
                    .label(near.unwrap_or_default())
                    .expected(format!("one of: {}", SIGNALS.join(", ")));
                return None;
            }
            Some(text.to_owned())
        }
    };
    Some(StopPolicy { signal, grace_ms: grace_ms?, drain_ms: drain_ms? })
}

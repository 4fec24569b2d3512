//! From the text of a `holm.toml` to a checked [`Manifest`], or to everything that is wrong with it.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use toml_edit::Document;

use crate::diagnostic::{ManifestError, Sink, nearest};
use crate::health::{read_health, read_stop};
use crate::ingress::IngressLimits;
use crate::model::{Environment, Manifest, Memory, Process, StopPolicy};
use crate::name::{AppName, EnvName, NameError, ProcessName};
use crate::rollout::{read_deploy, read_release, read_restart};
use crate::route::read_routes;
use crate::secret::read_secrets;
use crate::section::{Field, Section};
use crate::unit::{DURATION_FORM, MEMORY_FORM};
use crate::unit::{format_duration_ms, memory_suggestion, parse_duration_ms, parse_memory_mib};
use crate::volume::{check_use, read_mounts, read_volumes};

/// The schema this version reads and writes.
pub(crate) const SCHEMA: u32 = 1;
/// Largest file, in bytes.
pub const MAX_FILE: usize = 256 << 10;
const MAX_PROCESSES: usize = 50;
const MAX_CONFIG: usize = 1000;
const MAX_ENVIRONMENTS: usize = 20;
const MAX_VALUE: usize = 32 << 10;
const MAX_CONFIG_NAME: usize = 128;
pub(crate) const MAX_TEXT: usize = 1024;

const NAME_FORM: &str = "a name: lower-case letters, digits and inner hyphens, starting with a letter, at most 40";

impl Manifest {
    /// Reads and checks a manifest. `file` is the name that errors show.
    ///
    /// # Errors
    /// [`ManifestError`] lists everything that is wrong, with places: at most 20 things, the rest is counted.
    pub fn parse(text: &str, file: &str) -> Result<Self, ManifestError> {
        let mut sink = Sink::new(text);
        let manifest = read_document(text, &mut sink);
        match (sink.finish(file), manifest) {
            (Some(error), _) => Err(error),
            (None, Some(manifest)) => Ok(manifest),
            (None, None) => {
                let mut sink = Sink::new(text);
                drop(sink.report(&(0..0), "this is not a manifest"));
                Err(sink.finish(file).expect("a problem was reported in the line above"))
            }
        }
    }

    /// Like [`Manifest::parse`], for bytes that may not even be text.
    ///
    /// # Errors
    /// As [`Manifest::parse`]; also when the bytes are not UTF-8.
    pub fn from_bytes(bytes: &[u8], file: &str) -> Result<Self, ManifestError> {
        let bytes = &bytes[..bytes.len().min(MAX_FILE + 1)];
        let text = String::from_utf8_lossy(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text, file),
            Err(_) if bytes.len() > MAX_FILE => Self::parse(&text, file),
            Err(error) => {
                let mut sink = Sink::new(&text);
                let at = error.valid_up_to();
                drop(sink.report(&(at..at + 1), "the file is not UTF-8 text"));
                Err(sink.finish(file).expect("a problem was reported in the line above"))
            }
        }
    }
}

fn read_document(text: &str, sink: &mut Sink<'_>) -> Option<Manifest> {
    if text.len() > MAX_FILE {
        sink.report(&(0..1), format!("the file has {} bytes or more", text.len()))
            .expected(format!("at most {MAX_FILE} bytes"));
        return None;
    }
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            let mut lines = error.message().lines();
            let message = format!("this is not TOML: {}", lines.next().unwrap_or("it cannot be read"));
            let expected = lines.next().and_then(|line| line.strip_prefix("expected ")).map(str::to_owned);
            let report = sink.report(&span, message);
            if let Some(expected) = expected {
                drop(report.expected(expected));
            }
            return None;
        }
    };
    let known = [
        "schema",
        "app",
        "image",
        "process",
        "volume",
        "deploy",
        "release",
        "route",
        "ingress",
        "config",
        "secrets",
        "environment",
    ];
    let top = Section::strict(document.as_table(), 0..1, "the manifest".to_owned(), &known, sink);
    read_manifest(&top, sink)
}

fn read_manifest(top: &Section<'_>, sink: &mut Sink<'_>) -> Option<Manifest> {
    match top.get("schema") {
        None => drop(sink.report(&top.span, "`schema` is missing").expected("`schema = 1` at the top of the file")),
        Some(field) => {
            if field.number(1..=u32::MAX, sink).is_some_and(|number| number != SCHEMA) {
                field.wrong("this version of Holm does not know this schema", "schema = 1", sink);
            }
        }
    }
    let app = match top.get("app") {
        Some(field) => {
            field.text(NAME_FORM, MAX_TEXT, sink).and_then(|text| named(AppName::new(text), &field.span, sink))
        }
        None => {
            drop(sink.report(&top.span, "`app` is missing").expected("the app's name, such as `app = \"hello\"`"));
            None
        }
    };
    let image = top.get("image").and_then(|field| read_image(&field, sink));
    let processes = read_processes(top, sink);
    let routes = top.get("route").and_then(|field| read_routes(&field, &processes, sink)).unwrap_or_default();
    let ingress = top.get("ingress").map(|field| IngressLimits::read(&field, sink)).unwrap_or_default();
    let config = top.get("config").map(|field| read_config(&field, "[config]", sink)).unwrap_or_default();
    let secrets = top.get("secrets").map(|field| read_secrets(&field, sink)).unwrap_or_default();
    let environments = read_environments(top, &processes, sink);
    let strategy = read_deploy(top, sink);
    let release = read_release(top, processes.keys(), sink);
    let volumes = read_volumes(top, sink);
    let sound = || processes.iter().filter_map(|(name, process)| Some((name, process.as_ref()?)));
    if let Err(why) = check_use(sound(), |name| volumes.contains_key(name)) {
        drop(sink.report(&top.span, why));
    }
    let volumes = volumes.into_iter().filter_map(|(name, volume)| Some((name, volume?))).collect();
    let processes: BTreeMap<_, _> =
        processes.into_iter().filter_map(|(name, process)| Some((name, process?))).collect();
    for (env, environment) in &environments {
        for (name, count) in &environment.instances {
            if *count > 1 && processes.get(name).is_some_and(|process: &Process| !process.mounts.is_empty()) {
                let why =
                    format!("`{env}` asks for {count} instances of `{name}`, which mounts a volume; 1 is the most");
                drop(sink.report(&top.span, why));
            }
        }
    }
    Some(Manifest {
        app: app?,
        image,
        processes,
        strategy,
        release,
        routes,
        ingress,
        volumes,
        config,
        secrets,
        environments,
    })
}

fn named<T>(name: Result<T, NameError>, span: &Range<usize>, sink: &mut Sink<'_>) -> Option<T> {
    name.map_err(|error| drop(sink.report(span, error.to_string()).expected(NAME_FORM))).ok()
}

fn read_image(field: &Field<'_>, sink: &mut Sink<'_>) -> Option<String> {
    const EXPECTED: &str = "an image such as \"registry.example/hello:1\" or \"oci:./folder\"";
    let image = field.text(EXPECTED, MAX_TEXT, sink)?;
    if image.is_empty() || image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        field.wrong("this is not the name of an image", EXPECTED, sink);
        return None;
    }
    Some(image.to_owned())
}

/// The process types by name; `None` for one that is wrong, so that routes to it are not called unknown.
pub(crate) type Processes = BTreeMap<ProcessName, Option<Process>>;

fn read_processes(top: &Section<'_>, sink: &mut Sink<'_>) -> Processes {
    const EXPECTED: &str = "process types, each written [process.NAME]";
    let mut processes = Processes::new();
    let Some(field) = top.get("process") else {
        drop(
            sink.report(&top.span, "the manifest has no process type").expected("at least one, such as [process.web]"),
        );
        return processes;
    };
    let Some(table) = field.table(EXPECTED, sink) else { return processes };
    let section = Section::open(table, field.key.clone(), "[process]".to_owned());
    let fields = section.fields();
    if fields.is_empty() {
        drop(
            sink.report(&field.key, "the manifest has no process type").expected("at least one, such as [process.web]"),
        );
    }
    if fields.len() > MAX_PROCESSES {
        field.wrong(format_args!("{} process types", fields.len()), &format!("at most {MAX_PROCESSES}"), sink);
    }
    for (word, field) in fields.into_iter().take(MAX_PROCESSES) {
        let name = named(ProcessName::new(word), &field.key, sink);
        let process = field.table(EXPECTED, sink).and_then(|table| {
            let known = ["command", "cpu", "memory", "instances", "mounts", "health", "stop", "restart"];
            let heading = format!("[process.{}]", name.as_ref().map_or("…", ProcessName::as_str));
            read_process(&Section::strict(table, field.span.clone(), heading, &known, sink), sink)
        });
        if let Some(name) = name {
            processes.insert(name, process);
        }
    }
    processes
}

fn read_process(section: &Section<'_>, sink: &mut Sink<'_>) -> Option<Process> {
    let command = section.get("command").map(|field| field.command(sink));
    let cpu_millis = section.get("cpu").map_or(Some(Process::DEFAULT_CPU_MILLIS), |field| read_cpu(&field, sink));
    let memory = section.get("memory").map_or(Some(Memory::from_mib(256)), |field| read_memory(&field, sink));
    let instances =
        section.get("instances").map_or(Some(Process::DEFAULT_INSTANCES), |field| field.number(0..=100, sink));
    let mounts = section.get("mounts").map_or_else(|| Some(BTreeMap::new()), |field| read_mounts(&field, sink));
    let health = section.get("health").map(|field| read_health(section, &field, sink));
    let stop = section.get("stop").map_or_else(|| Some(StopPolicy::default()), |f| read_stop(section, &f, sink));
    let restart = read_restart(section, sink);
    let command = command.map_or(Some(None), |given| given.map(Some))?;
    let health = health.map_or(Some(None), |given| given.map(Some))?;
    let (cpu_millis, memory, instances) = (cpu_millis?, memory?, instances?);
    let (stop, restart, mounts) = (stop?, restart?, mounts?);
    Some(Process { command, cpu_millis, memory, instances, health, stop, restart, mounts })
}

pub(crate) fn read_cpu(field: &Field<'_>, sink: &mut Sink<'_>) -> Option<u32> {
    const EXPECTED: &str = "a number of processors from 0.05 to 64";
    let cpu = field.decimal(EXPECTED, sink)?;
    if !(0.05..=64.0).contains(&cpu) {
        field.wrong(format_args!("{cpu} is out of range"), EXPECTED, sink);
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0.05 to 64")]
    Some((cpu * 1000.0).round() as u32)
}

pub(crate) fn read_memory(field: &Field<'_>, sink: &mut Sink<'_>) -> Option<Memory> {
    const LIMITS: RangeInclusive<u64> = 16..=1 << 20;
    let text = field.text(MEMORY_FORM, MAX_TEXT, sink)?;
    let Some(mib) = parse_memory_mib(text) else {
        let report = sink.report(&field.span, format!("{}: this is not an amount of memory", field.name));
        let label = memory_suggestion(text).map(|text| format!("did you mean \"{text}\"?")).unwrap_or_default();
        drop(report.label(label).expected(MEMORY_FORM));
        return None;
    };
    if !LIMITS.contains(&mib) {
        field.wrong(format_args!("{text} is out of range"), "16MiB to 1024GiB", sink);
        return None;
    }
    Some(Memory::from_mib(mib))
}

pub(crate) fn read_duration(
    section: &Section<'_>,
    word: &str,
    default_ms: u64,
    range_ms: RangeInclusive<u64>,
    sink: &mut Sink<'_>,
) -> Option<u64> {
    let Some(field) = section.get(word) else { return Some(default_ms) };
    let text = field.text(DURATION_FORM, MAX_TEXT, sink)?;
    let Some(ms) = parse_duration_ms(text) else {
        field.wrong("this is not a duration", DURATION_FORM, sink);
        return None;
    };
    if !range_ms.contains(&ms) {
        let range = [range_ms.start(), range_ms.end()].map(|ms| format_duration_ms(*ms));
        field.wrong(format_args!("{text} is out of range"), &format!("{} to {}", range[0], range[1]), sink);
        return None;
    }
    Some(ms)
}

pub(crate) fn required<'d>(
    section: &Section<'d>,
    word: &str,
    expected: &str,
    sink: &mut Sink<'_>,
) -> Option<Field<'d>> {
    let field = section.get(word);
    if field.is_none() {
        sink.report(&section.span, format!("`{word}` is missing from {}", section.name)).expected(expected);
    }
    field
}

pub(crate) fn read_process_name(field: &Field<'_>, processes: &Processes, sink: &mut Sink<'_>) -> Option<ProcessName> {
    let name = named(ProcessName::new(field.text(NAME_FORM, MAX_TEXT, sink)?), &field.span, sink)?;
    if processes.contains_key(&name) {
        return Some(name);
    }
    unknown_process(&name, &field.span, processes, sink);
    None
}

fn unknown_process(name: &ProcessName, span: &Range<usize>, processes: &Processes, sink: &mut Sink<'_>) {
    let names: Vec<&str> = processes.keys().map(ProcessName::as_str).collect();
    let near = nearest(name.as_str(), names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
    let report = sink.report(span, format!("there is no process type `{name}`")).label(near.unwrap_or_default());
    if !names.is_empty() {
        drop(report.expected(format!("one of: {}", names.join(", "))));
    }
}

fn read_config(field: &Field<'_>, heading: &str, sink: &mut Sink<'_>) -> BTreeMap<String, String> {
    let mut config = BTreeMap::new();
    let Some(table) = field.table("names and texts, such as GREETING = \"hi\"", sink) else { return config };
    let entries = Section::open(table, field.span.clone(), heading.to_owned()).fields();
    if entries.len() > MAX_CONFIG {
        field.wrong(format_args!("{} entries", entries.len()), &format!("at most {MAX_CONFIG}"), sink);
        return config;
    }
    for (word, entry) in entries {
        let good = !word.is_empty()
            && word.len() <= MAX_CONFIG_NAME
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !word.as_bytes()[0].is_ascii_digit();
        if !good {
            sink.report(&entry.key, format!("this cannot be a name in {heading}"))
                .expected(format!("letters, digits and `_`, not starting with a digit, at most {MAX_CONFIG_NAME}"));
            continue;
        }
        if let Some(value) = entry.text("a text in quotes", MAX_VALUE, sink) {
            config.insert(word.to_owned(), value.to_owned());
        }
    }
    config
}

fn read_environments(top: &Section<'_>, processes: &Processes, sink: &mut Sink<'_>) -> BTreeMap<EnvName, Environment> {
    const EXPECTED: &str = "environments, each written [environment.NAME]";
    let mut environments = BTreeMap::new();
    let Some(field) = top.get("environment") else { return environments };
    let Some(table) = field.table(EXPECTED, sink) else { return environments };
    let fields = Section::open(table, field.key.clone(), "[environment]".to_owned()).fields();
    if fields.len() > MAX_ENVIRONMENTS {
        field.wrong(format_args!("{} environments", fields.len()), &format!("at most {MAX_ENVIRONMENTS}"), sink);
        return environments;
    }
    for (word, field) in fields {
        let name = named(EnvName::new(word), &field.key, sink);
        let Some(table) = field.table(EXPECTED, sink) else { continue };
        let heading = format!("[environment.{}]", name.as_ref().map_or("…", EnvName::as_str));
        let known = ["config", "route", "instances"];
        let section = Section::strict(table, field.span.clone(), heading.clone(), &known, sink);
        let config_heading = heading.replace(']', ".config]");
        let config = section.get("config").map(|f| read_config(&f, &config_heading, sink)).unwrap_or_default();
        let routes = section.get("route").and_then(|f| read_routes(&f, processes, sink));
        let instances = section.get("instances").map(|f| read_instances(&f, processes, sink)).unwrap_or_default();
        if let Some(name) = name {
            environments.insert(name, Environment { config, routes, instances });
        }
    }
    environments
}

fn read_instances(field: &Field<'_>, processes: &Processes, sink: &mut Sink<'_>) -> BTreeMap<ProcessName, u32> {
    let mut counts = BTreeMap::new();
    let Some(table) = field.table("process types and counts, such as { web = 2 }", sink) else { return counts };
    for (word, entry) in Section::open(table, field.span.clone(), field.name.clone()).fields() {
        let Some(name) = named(ProcessName::new(word), &entry.key, sink) else { continue };
        if !processes.contains_key(&name) {
            unknown_process(&name, &entry.key, processes, sink);
            continue;
        }
        if let Some(count) = entry.number(0..=100, sink) {
            counts.insert(name, count);
        }
    }
    counts
}

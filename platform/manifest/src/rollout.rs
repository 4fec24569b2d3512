//! How a new release comes in, and what becomes of an instance that ends: `[deploy]`, `[release]` and `restart`.

use serde::{Deserialize, Serialize};
use toml_edit::{Array, Item, Table, value};

use crate::diagnostic::{Sink, nearest};
use crate::model::{Manifest, Memory};
use crate::name::ProcessName;
use crate::parse::{read_cpu, read_duration, read_memory, required};
use crate::section::{Field, Section};
use crate::unit::{format_duration_ms, format_memory};

/// How a new release takes the place of the one that serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// One instance after the other, with one more than wanted at the most.
    #[default]
    Rolling,
    /// Every new instance beside the old ones; connections go over at once when all are healthy. Takes twice the memory.
    BlueGreen,
}

/// What happens when an instance ends by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Another one takes its place, after a wait that grows.
    #[default]
    Always,
    /// The same, unless it exited with status 0: then its work is done.
    OnFailure,
    /// It is not replaced before the next deployment or restart.
    Never,
}

/// A command that runs once, in a microVM of its own, before the first instance of a new release: a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseCommand {
    /// Replaces the image's `Cmd`, as a process type's command does.
    pub command: Vec<String>,
    /// Soft share of the host's processors, in thousandths of one: 50 to 64,000.
    pub cpu_millis: u32,
    /// Hard cap of its memory.
    pub memory: Memory,
    /// Longest time it may take, its boot included, in milliseconds: 1,000 to 86,400,000.
    pub timeout_ms: u64,
}

impl ReleaseCommand {
    /// The process type under which its instances are named: `hello.release.7`.
    pub const PROCESS: &str = "release";

    /// [`Self::PROCESS`] as a name.
    #[must_use]
    pub fn process_name() -> ProcessName {
        ProcessName::new(Self::PROCESS).expect("the word keeps the rules of names")
    }
}

const STRATEGIES: [(&str, Strategy); 2] = [("rolling", Strategy::Rolling), ("blue-green", Strategy::BlueGreen)];

const POLICIES: [(&str, RestartPolicy); 3] =
    [("always", RestartPolicy::Always), ("on-failure", RestartPolicy::OnFailure), ("never", RestartPolicy::Never)];

fn word<T: Copy, const N: usize>(field: &Field<'_>, words: [(&str, T); N], sink: &mut Sink<'_>) -> Option<T> {
    let expected = format!("one of: {}", words.map(|(word, _)| format!("\"{word}\"")).join(", "));
    let text = field.text(&expected, 100, sink)?;
    let found = words.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let near = nearest(text, words.iter().map(|(word, _)| *word)).map(|near| format!("did you mean \"{near}\"?"));
        sink.report(&field.span, format!("{}: this word is not known here", field.name))
            .label(near.unwrap_or_default())
            .expected(expected);
    }
    found.map(|(_, value)| *value)
}

pub(crate) fn read_restart(process: &Section<'_>, sink: &mut Sink<'_>) -> Option<RestartPolicy> {
    process.get("restart").map_or(Some(RestartPolicy::default()), |field| word(&field, POLICIES, sink))
}

pub(crate) fn read_deploy(top: &Section<'_>, sink: &mut Sink<'_>) -> Strategy {
    let read = |sink: &mut Sink<'_>| {
        let field = top.get("deploy")?;
        let table = field.table("how releases come in, written as [deploy]", sink)?;
        let section = Section::strict(table, field.span.clone(), "[deploy]".to_owned(), &["strategy"], sink);
        word(&section.get("strategy")?, STRATEGIES, sink)
    };
    read(sink).unwrap_or_default()
}

/// The release command; a process type of the same name is refused, since instances of both could not be told apart.
pub(crate) fn read_release<'n>(
    top: &Section<'_>,
    mut processes: impl Iterator<Item = &'n ProcessName>,
    sink: &mut Sink<'_>,
) -> Option<ReleaseCommand> {
    let field = top.get("release")?;
    let table = field.table("a command that runs before a rollout, written as [release]", sink)?;
    if processes.any(|name| name.as_str() == ReleaseCommand::PROCESS) {
        sink.report(&field.key, "there is a process type `release` beside [release]")
            .expected("another name for the process type: instances of both would have the same names");
    }
    let known = ["command", "cpu", "memory", "timeout"];
    let section = Section::strict(table, field.span.clone(), "[release]".to_owned(), &known, sink);
    let command = required(&section, "command", "what runs before a rollout, such as `command = [\"migrate\"]`", sink)
        .and_then(|field| field.command(sink));
    let cpu_millis = section.get("cpu").map_or(Some(1000), |field| read_cpu(&field, sink));
    let memory = section.get("memory").map_or(Some(Memory::from_mib(256)), |field| read_memory(&field, sink));
    let timeout_ms = read_duration(&section, "timeout", 600_000, 1000..=86_400_000, sink);
    Some(ReleaseCommand { command: command?, cpu_millis: cpu_millis?, memory: memory?, timeout_ms: timeout_ms? })
}

/// `[deploy]` and `[release]`, where they say something.
pub(crate) fn items(manifest: &Manifest) -> impl Iterator<Item = (&'static str, Item)> {
    let deploy = (manifest.strategy != Strategy::default()).then(|| {
        let mut table = Table::new();
        table["strategy"] = value(name_of(STRATEGIES, manifest.strategy));
        ("deploy", Item::Table(table))
    });
    let release = manifest.release.as_ref().map(|release| {
        let mut table = Table::new();
        table["command"] = value(Array::from_iter(&release.command));
        table["cpu"] = value(f64::from(release.cpu_millis) / 1000.0);
        table["memory"] = value(format_memory(release.memory));
        table["timeout"] = value(format_duration_ms(release.timeout_ms));
        ("release", Item::Table(table))
    });
    deploy.into_iter().chain(release)
}

/// `restart`, where it says something.
pub(crate) fn restart_item(policy: RestartPolicy) -> Option<Item> {
    (policy != RestartPolicy::default()).then(|| value(name_of(POLICIES, policy)))
}

fn name_of<T: Copy + PartialEq, const N: usize>(words: [(&'static str, T); N], wanted: T) -> &'static str {
    words.into_iter().find(|(_, value)| *value == wanted).map(|(word, _)| word).expect("every value has its word")
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

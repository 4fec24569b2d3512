//! Volumes in a manifest: what an app keeps beyond the life of its instances, and where its process types see it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use toml_edit::{InlineTable, Table, value};

use crate::diagnostic::Sink;
use crate::model::Process;
use crate::name::{ProcessName, VolumeName};
use crate::section::{Field, Section};
use crate::unit::{MEMORY_FORM, memory_suggestion, parse_memory_mib};
use crate::unit::{format_duration_ms, parse_duration_ms};

/// Most volumes of an app.
const MAX_VOLUMES: usize = 16;
/// Longest mount point, in bytes.
const MAX_PATH: usize = 255;
/// Shortest and longest time between two backups, in milliseconds: a minute, 30 days.
const EVERY_MS: RangeInclusive<u64> = 60_000..=2_592_000_000;

/// A volume an app asks for. It is made with the first release that names it, and outlives every release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its size at least: a smaller volume grows to it, a larger one stays as it is.
    pub size: VolumeSize,
    /// How often it is backed up. `None`: only when somebody asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupPolicy>,
}

/// How often a volume is backed up, and how many of its backups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupPolicy {
    /// Time between two backups, in milliseconds: a minute to 30 days.
    pub every_ms: u64,
    /// The newest so many are kept: 1 to 1,000.
    pub keep: u32,
}

/// The size of a volume in bytes; a whole number of MiB, 16 MiB to 1 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct VolumeSize(u64);

/// A size that no volume can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a volume has a whole number of MiB, from 16MiB to 1024GiB")]
pub struct BadVolumeSize;

impl VolumeSize {
    const MIB: RangeInclusive<u64> = 16..=1 << 20;

    /// A size of `mib` MiB.
    ///
    /// # Errors
    /// [`BadVolumeSize`] outside 16 MiB to 1 TiB.
    pub const fn from_mib(mib: u64) -> Result<Self, BadVolumeSize> {
        if mib >= *Self::MIB.start() && mib <= *Self::MIB.end() { Ok(Self(mib << 20)) } else { Err(BadVolumeSize) }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for VolumeSize {
    type Error = BadVolumeSize;
    fn try_from(bytes: u64) -> Result<Self, BadVolumeSize> {
        if bytes.is_multiple_of(1 << 20) { Self::from_mib(bytes >> 20) } else { Err(BadVolumeSize) }
    }
}

impl From<VolumeSize> for u64 {
    fn from(size: VolumeSize) -> Self {
        size.0
    }
}

impl std::str::FromStr for VolumeSize {
    type Err = BadVolumeSize;
    /// Reads `512MiB` or `2GiB`.
    fn from_str(text: &str) -> Result<Self, BadVolumeSize> {
        parse_memory_mib(text).ok_or(BadVolumeSize).and_then(Self::from_mib)
    }
}

impl fmt::Display for VolumeSize {
    /// Writes what [`str::parse`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 >> 20;
        if mib.is_multiple_of(1024) { write!(f, "{}GiB", mib / 1024) } else { write!(f, "{mib}MiB") }
    }
}

/// Says why `path` cannot be a mount point, if it cannot.
pub(crate) fn mount_point_problem(path: &str) -> Option<&'static str> {
    let parts = || path.split('/').skip(1);
    if !path.starts_with('/') {
        Some("a mount point starts with `/`")
    } else if path.len() > MAX_PATH {
        Some("a mount point has at most 255 bytes")
    } else if path.chars().any(char::is_control) {
        Some("a mount point has no control characters")
    } else if parts().any(|part| matches!(part, "" | "." | "..")) {
        Some("a mount point is a plain path: no `//`, `.`, `..` and no `/` at its end")
    } else if matches!(parts().next(), Some("proc" | "sys" | "dev")) {
        Some("this folder belongs to the system")
    } else {
        None
    }
}

/// Reads `[volume.NAME]`. A volume that is wrong is left out, and its name is known all the same.
pub(crate) fn read_volumes(top: &Section<'_>, sink: &mut Sink<'_>) -> BTreeMap<VolumeName, Option<Volume>> {
    const EXPECTED: &str = "volumes, each written [volume.NAME]";
    let mut volumes = BTreeMap::new();
    let Some(field) = top.get("volume") else { return volumes };
    let Some(table) = field.table(EXPECTED, sink) else { return volumes };
    let fields = Section::open(table, field.key.clone(), "[volume]".to_owned()).fields();
    if fields.len() > MAX_VOLUMES {
        field.wrong(format_args!("{} volumes", fields.len()), &format!("at most {MAX_VOLUMES}"), sink);
    }
    for (word, field) in fields.into_iter().take(MAX_VOLUMES) {
        let name = match VolumeName::new(word) {
            Ok(name) => name,
            Err(error) => {
                drop(sink.report(&field.key, error.to_string()));
                continue;
            }
        };
        let volume = field.table(EXPECTED, sink).and_then(|table| {
            let heading = format!("[volume.{name}]");
            read_volume(&Section::strict(table, field.span.clone(), heading, &["size", "backup", "keep"], sink), sink)
        });
        volumes.insert(name, volume);
    }
    volumes
}

fn read_volume(section: &Section<'_>, sink: &mut Sink<'_>) -> Option<Volume> {
    const KEEP: u32 = 7;
    let Some(field) = section.get("size") else {
        sink.report(&section.span, format!("`size` is missing from {}", section.name)).expected(MEMORY_FORM);
        return None;
    };
    let size = read_size(&field, sink);
    let keep = section.get("keep").map(|field| field.number(1..=1000, sink));
    let backup = match (section.get("backup"), &keep) {
        (None, Some(_)) => {
            sink.report(&section.span, format!("{} has `keep` and no `backup`", section.name))
                .expected("`backup = \"6h\"`: how often it is backed up");
            return None;
        }
        (None, None) => None,
        (Some(field), _) => {
            let expected = "a duration from \"1m\" to \"720h\"";
            let every_ms =
                field.text(expected, 64, sink).and_then(parse_duration_ms).filter(|ms| EVERY_MS.contains(ms));
            if every_ms.is_none() {
                field.wrong("this is not how often a volume is backed up", expected, sink);
            }
            Some(BackupPolicy { every_ms: every_ms?, keep: keep.unwrap_or(Some(KEEP))? })
        }
    };
    Some(Volume { size: size?, backup })
}

fn read_size(field: &Field<'_>, sink: &mut Sink<'_>) -> Option<VolumeSize> {
    let text = field.text(MEMORY_FORM, 64, sink)?;
    match text.parse() {
        Ok(size) => Some(size),
        Err(error) => {
            let label = memory_suggestion(text).filter(|near| near != text);
            let label = label.map(|text| format!("did you mean \"{text}\"?")).unwrap_or_default();
            drop(sink.report(&field.span, format!("{}: {error}", field.name)).label(label).expected(MEMORY_FORM));
            None
        }
    }
}

/// Reads `mounts = { data = "/var/lib/data" }` of a process type.
pub(crate) fn read_mounts(field: &Field<'_>, sink: &mut Sink<'_>) -> Option<BTreeMap<VolumeName, String>> {
    const EXPECTED: &str = "volumes with their mount points, such as `mounts = { data = \"/var/lib/data\" }`";
    let table = field.table(EXPECTED, sink)?;
    let mut mounts = BTreeMap::new();
    for (word, field) in Section::open(table, field.key.clone(), field.name.clone()).fields() {
        let name = match VolumeName::new(word) {
            Ok(name) => name,
            Err(error) => {
                drop(sink.report(&field.key, error.to_string()));
                return None;
            }
        };
        let path = field.text("a path such as \"/var/lib/data\"", MAX_PATH, sink)?;
        if let Some(why) = mount_point_problem(path) {
            field.wrong(why, "a path such as \"/var/lib/data\"", sink);
            return None;
        }
        let below = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        if mounts.values().any(|other: &String| below(other, path) || below(path, other)) {
            field.wrong("another volume is mounted there, above or below", "folders apart from each other", sink);
            return None;
        }
        mounts.insert(name, path.to_owned());
    }
    Some(mounts)
}

/// Says what cannot be in how `processes` use the volumes `known`: a volume has one writer.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn check_use<'p>(
    processes: impl Iterator<Item = (&'p ProcessName, &'p Process)>,
    known: impl Fn(&VolumeName) -> bool,
) -> Result<(), String> {
    let mut users: BTreeMap<&VolumeName, &ProcessName> = BTreeMap::new();
    for (name, process) in processes {
        for volume in process.mounts.keys() {
            if !known(volume) {
                return Err(format!("[process.{name}] mounts the volume `{volume}`, which is not there"));
            }
            if let Some(other) = users.insert(volume, name) {
                return Err(format!("`{other}` and `{name}` both mount `{volume}`, and a volume has one writer"));
            }
        }
        if !process.mounts.is_empty() && process.instances > 1 {
            return Err(format!(
                "`{name}` mounts a volume and asks for {} instances; 1 is the most",
                process.instances
            ));
        }
    }
    Ok(())
}

/// The volume as a table of the file.
pub(crate) fn volume_table(volume: &Volume) -> Table {
    let mut table = Table::new();
    table["size"] = value(volume.size.to_string());
    if let Some(backup) = &volume.backup {
        table["backup"] = value(format_duration_ms(backup.every_ms));
        table["keep"] = value(i64::from(backup.keep));
    }
    table
}

/// The mount points as an inline table of the file.
pub(crate) fn mounts_table(mounts: &BTreeMap<VolumeName, String>) -> InlineTable {
    mounts.iter().map(|(name, path)| (name.as_str(), path.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Manifest;

    const APP: &str = "schema = 1\napp = \"a\"\n";

    fn read(text: &str) -> Result<Manifest, String> {
        Manifest::parse(&format!("{APP}{text}"), "holm.toml").map_err(|error| error.to_string())
    }

    #[test]
    fn a_volume_is_read_with_its_mount_point_and_schedule() {
        let text = "[process.db]\nmounts = { data = \"/var/lib/db\" }\n[volume.data]\nsize = \"2GiB\"\nbackup = \"6h\"\nkeep = 3\n";
        let manifest = read(text).unwrap();
        let (name, volume) = manifest.volumes.first_key_value().unwrap();
        assert_eq!((name.as_str(), volume.size.bytes()), ("data", 2 << 30));
        assert_eq!(volume.backup, Some(BackupPolicy { every_ms: 21_600_000, keep: 3 }));
        let process = manifest.processes.values().next().unwrap();
        assert_eq!(process.mounts.values().collect::<Vec<_>>(), ["/var/lib/db"]);
        assert_eq!(Manifest::parse(&manifest.to_toml(), "holm.toml").unwrap(), manifest);
    }

    #[test]
    fn what_a_volume_cannot_be_is_refused() {
        let one = "[volume.data]\nsize = \"1GiB\"\n";
        let table = [
            ("[process.a]\n[volume.data]\n".to_owned(), "`size` is missing"),
            ("[process.a]\n[volume.data]\nsize = \"1MiB\"\n".to_owned(), "16MiB"),
            ("[process.a]\n[volume.data]\nsize = \"1G\"\n".to_owned(), "did you mean \"1GiB\"?"),
            ("[process.a]\n[volume.data]\nsize = \"1GiB\"\nkeep = 3\n".to_owned(), "no `backup`"),
            ("[process.a]\n[volume.data]\nsize = \"1GiB\"\nbackup = \"1s\"\n".to_owned(), "how often"),
            ("[process.a]\nmounts = { data = \"/d\" }\n".to_owned(), "not there"),
            (format!("[process.a]\nmounts = {{ data = \"d\" }}\n{one}"), "starts with `/`"),
            (format!("[process.a]\nmounts = {{ data = \"/a/../b\" }}\n{one}"), "plain path"),
            (format!("[process.a]\nmounts = {{ data = \"/\" }}\n{one}"), "plain path"),
            (format!("[process.a]\nmounts = {{ data = \"/proc/x\" }}\n{one}"), "belongs to the system"),
            (
                format!(
                    "[process.a]\nmounts = {{ data = \"/d\", more = \"/d/e\" }}\n{one}[volume.more]\nsize = \"1GiB\"\n"
                ),
                "above or below",
            ),
            (
                format!("[process.a]\nmounts = {{ data = \"/d\" }}\n[process.b]\nmounts = {{ data = \"/d\" }}\n{one}"),
                "one writer",
            ),
            (format!("[process.a]\ninstances = 2\nmounts = {{ data = \"/d\" }}\n{one}"), "1 is the most"),
            (
                format!("[process.a]\nmounts = {{ data = \"/d\" }}\n[environment.x]\ninstances = {{ a = 2 }}\n{one}"),
                "1 is the most",
            ),
        ];
        for (text, expected) in table {
            let error = read(&text).expect_err(&text);
            assert!(error.contains(expected), "{text}\n{error}");
        }
    }
}

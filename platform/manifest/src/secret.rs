//! The section `[secrets]`: how secrets are delivered, one line for each that needs more than the defaults.

use std::collections::BTreeMap;

use toml_edit::{InlineTable, Item, Table, Value, value};

use crate::diagnostic::Sink;
use crate::model::SecretUse;
use crate::name::SecretName;
use crate::section::{Field, Section};

const FORM: &str = "how it is delivered, such as `{ env = true, mode = \"0440\", owner = \"www-data\" }`, or `{}`";
const MODE_FORM: &str = "permissions in octal digits, such as \"0400\" or \"0444\"";
const MAX_NAMED: usize = 200;
const MAX_OWNER: usize = 128;

pub(crate) fn read_secrets(field: &Field<'_>, sink: &mut Sink<'_>) -> BTreeMap<SecretName, SecretUse> {
    let mut secrets = BTreeMap::new();
    let Some(table) = field.table("secrets, each written NAME = { … }", sink) else { return secrets };
    let fields = Section::open(table, field.key.clone(), "[secrets]".to_owned()).fields();
    if fields.len() > MAX_NAMED {
        field.wrong(format_args!("{} secrets", fields.len()), &format!("at most {MAX_NAMED}"), sink);
        return secrets;
    }
    for (word, entry) in fields {
        let name = match SecretName::new(word) {
            Ok(name) => name,
            Err(error) => {
                drop(sink.report(&entry.key, error.to_string()));
                continue;
            }
        };
        if let Some(how) = read_use(&name, &entry, sink) {
            secrets.insert(name, how);
        }
    }
    secrets
}

fn read_use(name: &SecretName, entry: &Field<'_>, sink: &mut Sink<'_>) -> Option<SecretUse> {
    if entry.is_text() {
        // Somebody put a value here; it must not be shown again.
        let report = sink.hidden(&entry.key, format!("`{name}` in [secrets] is a text"));
        drop(report.expected(format!("{FORM}; the value itself is set with `holm secrets set {name}`")));
        return None;
    }
    let table = entry.table(FORM, sink)?;
    let known = ["required", "env", "mode", "owner"];
    let section = Section::strict(table, entry.span.clone(), format!("[secrets.{name}]"), &known, sink);
    let required = section.get("required").map_or(Some(true), |field| field.truth(sink))?;
    let env = section.get("env").map_or(Some(false), |field| field.truth(sink))?;
    if env && !name.is_variable() {
        drop(sink.report(&entry.key, format!("`{name}` cannot be the name of an environment variable")));
        return None;
    }
    let mode = section.get("mode").map_or(Some(SecretUse::default().mode), |field| read_mode(&field, sink))?;
    let owner = match section.get("owner") {
        Some(field) => Some(read_owner(&field, sink)?),
        None => None,
    };
    Some(SecretUse { required, env, mode, owner })
}

fn read_mode(field: &Field<'_>, sink: &mut Sink<'_>) -> Option<u32> {
    let text = field.text(MODE_FORM, 16, sink)?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777) {
        Some(mode) => Some(mode),
        None => {
            field.wrong("these are not permissions", MODE_FORM, sink);
            None
        }
    }
}

fn read_owner(field: &Field<'_>, sink: &mut Sink<'_>) -> Option<String> {
    const EXPECTED: &str = "a user of the image, such as \"www-data\", \"1000\" or \"1000:1000\"";
    let text = field.text(EXPECTED, MAX_OWNER, sink)?;
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        field.wrong("this is not a user", EXPECTED, sink);
        return None;
    }
    Some(text.to_owned())
}

pub(crate) fn secrets_table(secrets: &BTreeMap<SecretName, SecretUse>) -> Table {
    let entry = |(name, how): (&SecretName, &SecretUse)| {
        let mut table = InlineTable::new();
        if !how.required {
            table.insert("required", Value::from(false));
        }
        if how.env {
            table.insert("env", Value::from(true));
        }
        if how.mode != SecretUse::default().mode {
            table.insert("mode", Value::from(format!("{:04o}", how.mode)));
        }
        if let Some(owner) = &how.owner {
            table.insert("owner", Value::from(owner));
        }
        (name.as_str().to_owned(), value(table))
    };
    secrets.iter().map(entry).collect::<Vec<(String, Item)>>().into_iter().collect()
}

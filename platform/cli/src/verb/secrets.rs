//! `holm secrets`: set, remove, list, import, compare, rotate and render. Values come from files and standard input, never from
//! the command line, and are never shown.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use holm_api::Problem;
use holm_api::secrets::{SecretDifference, SecretsChange, SecretsComparison};
use holm_guest_control::secrets::{ALL_FILE, render_secrets};
use holm_model::id::AppKey;
use holm_model::state::App;
use holm_secrets::{MAX_IMPORT, MAX_VALUE, SecretName, SecretValue, Secrets, generate, parse_import};
use serde::Serialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::route::no_app;
use super::{Context, follow};
use crate::args;
use crate::exit::{Exit, Failure};
use crate::table::table;

/// Where a file is expected, this is standard input.
const STDIN: &str = "-";

pub(crate) async fn run(verb: &args::Secrets, context: &Context<'_>) -> Result<(), Failure> {
    match verb {
        args::Secrets::Set(set) => {
            let app = set.app.resolve(None)?;
            let name = set.name.name()?;
            let value = read_value(&name, set.file.as_deref())?;
            let set_to = Secrets([(name, value)].into());
            change(context, "secrets-set", SecretsChange { set: set_to, ..empty(&app) }, &set.rollout).await
        }
        args::Secrets::Rotate(rotate) => {
            let app = rotate.app.resolve(None)?;
            let name = rotate.name.name()?;
            let value = match rotate.generate {
                Some(length) => generate(length.into())?,
                None => read_value(&name, rotate.file.as_deref())?,
            };
            let set = Secrets([(name, value)].into());
            let wanted = SecretsChange { set, rotate: true, ..empty(&app) };
            change(context, "secrets-rotate", wanted, &rotate.rollout).await
        }
        args::Secrets::Unset(unset) => {
            let app = unset.app.resolve(None)?;
            let names = unset.names.iter().cloned().collect();
            change(context, "secrets-unset", SecretsChange { unset: names, ..empty(&app) }, &unset.rollout).await
        }
        args::Secrets::Import(import) => {
            let app = import.app.resolve(None)?;
            let set = read_import(&import.file)?;
            let wanted = SecretsChange { set, replace: import.replace, ..empty(&app) };
            change(context, "secrets-import", wanted, &import.rollout).await
        }
        args::Secrets::List(app) => list(&app.resolve()?, context).await,
        args::Secrets::Diff(diff) => self::diff(diff, context).await,
        args::Secrets::Render(render) => self::render(render, context),
    }
}

fn empty(app: &AppKey) -> SecretsChange {
    SecretsChange {
        app: app.clone(),
        set: Secrets::default(),
        unset: Default::default(),
        replace: false,
        rotate: false,
        restart: true,
    }
}

async fn change(
    context: &Context<'_>,
    verb: &str,
    mut change: SecretsChange,
    rollout: &args::Rollout,
) -> Result<(), Failure> {
    change.restart = !rollout.stage;
    change.check().map_err(Failure::usage)?;
    let accepted = context.client.change_secrets(&change, Uuid::now_v7()).await?;
    let app = &change.app;
    if accepted.deployment.is_some() {
        return follow::follow(context, verb, app, &accepted, rollout.detach).await;
    }
    #[derive(Serialize)]
    struct Staged<'a> {
        app: &'a AppKey,
        changed: bool,
        deployment: Option<()>,
    }
    let staged = Staged { app, changed: accepted.changed, deployment: None };
    context.out.show(verb, &staged, |staged| match staged.changed {
        true => format!("{app}: kept; instances that a deployment or `holm restart {app}` places get it\n"),
        false => format!("{app} has these secrets already: nothing to do\n"),
    })
}

/// A value from a file, byte for byte, or from standard input without its last line break.
fn read_value(name: &SecretName, file: Option<&Path>) -> Result<SecretValue, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let limit = MAX_VALUE as u64 + 2;
    match file.filter(|file| file.as_os_str() != STDIN) {
        Some(file) => {
            let read = fs::File::open(file).and_then(|open| open.take(limit).read_to_end(&mut bytes));
            read.map_err(|error| cannot_read(file, &error))?;
        }
        None => {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                return Err(Failure::usage(format!("the value of `{name}` is read from standard input or a file"))
                    .hint(format!("pipe it, `… | holm secrets set {name}`, or name a file with `--file FILE`")));
            }
            stdin.lock().take(limit).read_to_end(&mut bytes)?;
            if bytes.ends_with(b"\n") {
                bytes.pop();
                if bytes.ends_with(b"\r") {
                    bytes.pop();
                }
            }
            // A variable that is not set, a program that failed: hardly ever is nothing meant.
            if bytes.is_empty() {
                return Err(Failure::usage(format!("nothing came on standard input for `{name}`"))
                    .hint("`--file FILE` with an empty file sets an empty value, if that is meant"));
            }
        }
    }
    if bytes.len() > MAX_VALUE {
        return Err(Failure::usage(format!("the value of `{name}` has more than {MAX_VALUE} bytes")));
    }
    Ok(SecretValue::new(bytes.as_slice()))
}

fn cannot_read(file: &Path, error: &io::Error) -> Failure {
    let problem = Problem::bad_request(format!("cannot read `{}`", file.display())).because(error);
    Failure::new(Exit::Usage, problem)
}

fn read_import(file: &Path) -> Result<Secrets, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    let limit = MAX_IMPORT as u64 + 1;
    let read = if file.as_os_str() == STDIN {
        io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        fs::File::open(file).and_then(|open| open.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| cannot_read(file, &error))?;
    parse_import(&bytes).map_err(|error| {
        let problem = Problem::bad_request(format!("cannot import `{}`", file.display())).because(error);
        Failure::new(Exit::Usage, problem)
    })
}

/// One secret as it is shown.
#[derive(Serialize)]
struct Shown {
    name: SecretName,
    /// The version in which it was last set.
    version: u64,
    /// Whether that version is in service.
    serving: bool,
}

#[derive(Serialize)]
struct Listed {
    app: AppKey,
    /// The newest version.
    newest: Option<u64>,
    /// The version in service.
    serving: Option<u64>,
    secrets: Vec<Shown>,
}

fn listed(app: &AppKey, doc: &App) -> Listed {
    let number = |version: &Option<holm_model::secrets::SecretsVersion>| version.as_ref().map(|v| v.number);
    let (newest, serving) = (number(&doc.secrets.newest), number(&doc.secrets.serving));
    let shown = |(name, version): (&SecretName, &u64)| Shown {
        name: name.clone(),
        version: *version,
        serving: serving.is_some_and(|serving| *version <= serving),
    };
    Listed { app: app.clone(), newest, serving, secrets: doc.secrets.names.iter().map(shown).collect() }
}

async fn list(app: &AppKey, context: &Context<'_>) -> Result<(), Failure> {
    let state = context.client.state(Some(app)).await?;
    let doc = state.apps.get(app).ok_or_else(|| no_app(app))?;
    context.out.show("secrets-list", &listed(app, doc), |listed| {
        let row = |secret: &Shown| {
            let state = if secret.serving { "serving" } else { "staged" };
            vec![secret.name.to_string(), format!("v{}", secret.version), state.to_owned()]
        };
        table(&["SECRET", "SET IN", "STATE"], &listed.secrets.iter().map(row).collect::<Vec<_>>())
    })
}

#[derive(Serialize)]
struct Differences {
    app: AppKey,
    secrets: BTreeMap<SecretName, SecretDifference>,
}

async fn diff(diff: &args::SecretsDiff, context: &Context<'_>) -> Result<(), Failure> {
    let app = diff.app.resolve(None)?;
    let comparison = SecretsComparison { app: app.clone(), secrets: read_import(&diff.file)? };
    let secrets = context.client.compare_secrets(&comparison).await?;
    context.out.show("secrets-diff", &Differences { app, secrets }, |differences| {
        let word = |difference: &SecretDifference| match difference {
            SecretDifference::Same => "same",
            SecretDifference::Changed => "changed",
            SecretDifference::Added => "not set yet",
            SecretDifference::Missing => "set, and not in the file",
        };
        let rows = differences.secrets.iter().map(|(name, d)| vec![name.to_string(), word(d).to_owned()]);
        table(&["SECRET", "DIFFERENCE"], &rows.collect::<Vec<_>>())
    })
}

/// Writes the files that a guest would have; without a folder the one file with all goes to standard output.
fn render(render: &args::SecretsRender, context: &Context<'_>) -> Result<(), Failure> {
    let secrets = read_import(&render.file)?;
    secrets.check().map_err(|error| Failure::usage(error.to_string()))?;
    let all = secrets.0.iter().map(|(name, value)| (name.as_str(), value.expose()));
    let all = Zeroizing::new(render_secrets(0, all));
    let Some(folder) = &render.out else { return context.out.bytes(&all, false) };
    fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
    let files = secrets.0.iter().map(|(name, value)| (name.as_str(), value.expose()));
    for (name, bytes) in files.chain([(ALL_FILE, all.as_slice())]) {
        let written = write_private(&folder.join(name), bytes);
        written.map_err(|error| Problem::failed(format!("cannot write `{name}`")).because(error))?;
    }
    context.out.say(&format!("{} secrets are in {}", secrets.0.len(), folder.display()));
    Ok(())
}

/// A file that only its owner can read, also when it was there before.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::File::options().write(true).create_new(true).mode(0o400).open(path)?.write_all(bytes)
}

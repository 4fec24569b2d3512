//! Which app, which Holm, since when: what arguments mean together with the folder the user is in.

use std::path::{Path, PathBuf};

use holm_api::Problem;
use holm_manifest::{AppName, EnvName, MAX_FILE, Manifest, parse_duration_ms};
use holm_model::id::{AppKey, InstanceName};
use jiff::{SignedDuration, Timestamp};

use crate::args::{AppArgs, NamedApp};
use crate::exit::{Exit, Failure};

/// The manifest that is looked for where none is named.
const MANIFEST: &str = "holm.toml";

/// The state folder: the one that was named, else the user's own.
pub(crate) fn state_folder(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/holm"));
    }
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    base.map(|base| base.join("holm")).ok_or_else(|| {
        Failure::usage("there is no home folder to look for Holm's state in").hint("name it with `--state DIR`")
    })
}

/// Reads a manifest and gives it with its text.
pub(crate) fn read_manifest(file: &Path) -> Result<(Manifest, String), Failure> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file).and_then(|open| {
        use std::io::Read as _;
        open.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)
    });
    read.map_err(|error| {
        let hint = "write one with `holm init`, or name it with `-f FILE`";
        let problem = Problem::bad_request(format!("cannot read `{}`", file.display())).because(error).hint(hint);
        Failure::new(Exit::Usage, problem)
    })?;
    let manifest = Manifest::from_bytes(&bytes, &file.display().to_string())?;
    Ok((manifest, String::from_utf8_lossy(&bytes).into_owned()))
}

/// An app named `APP` or `APP/ENV`, with the environment that was named apart.
pub(crate) fn parse_app(name: &str, env: Option<&EnvName>) -> Result<AppKey, Failure> {
    let key: AppKey = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    match env {
        Some(env) if name.contains('/') && *env != key.env => {
            Err(Failure::usage(format!("`{name}` and `--env {env}` name two environments")))
        }
        Some(env) => Ok(AppKey { env: env.clone(), ..key }),
        None => Ok(key),
    }
}

impl AppArgs {
    /// The app that is meant, or the one of the manifest in this folder.
    pub(crate) fn resolve(&self, name: Option<&str>) -> Result<AppKey, Failure> {
        match (name, &self.app) {
            (Some(name), Some(app)) if name != app => {
                Err(Failure::usage(format!("`{name}` and `--app {app}` name two apps")))
            }
            (Some(name), _) => parse_app(name, self.env.as_ref()),
            (None, Some(app)) => parse_app(app, self.env.as_ref()),
            (None, None) => {
                let app = app_of_this_folder()?;
                Ok(AppKey { app, env: self.env.clone().unwrap_or_default() })
            }
        }
    }
}

impl NamedApp {
    /// The app that is meant, or the one of the manifest in this folder.
    pub(crate) fn resolve(&self) -> Result<AppKey, Failure> {
        self.args.resolve(self.name.as_deref())
    }

    /// The app that is named; `None` when none is: then all are meant.
    pub(crate) fn resolve_if_named(&self) -> Result<Option<AppKey>, Failure> {
        if self.name.is_none() && self.args.app.is_none() && self.args.env.is_none() {
            return Ok(None);
        }
        self.resolve().map(Some)
    }
}

fn app_of_this_folder() -> Result<AppName, Failure> {
    if !Path::new(MANIFEST).exists() {
        let hint = "name one, such as `hello` or `hello/staging`, or go to a folder with a holm.toml";
        return Err(Failure::usage("no app is named, and there is no holm.toml here").hint(hint));
    }
    Ok(read_manifest(Path::new(MANIFEST))?.0.app)
}

/// An app, or one instance of it.
pub(crate) enum AppOrInstance {
    App(AppKey),
    Instance(InstanceName),
}

/// `hello`, `hello/staging` or `hello.web.7`.
pub(crate) fn parse_app_or_instance(name: &str, env: Option<&EnvName>) -> Result<AppOrInstance, Failure> {
    if name.contains('.') {
        let instance: InstanceName = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
        return Ok(AppOrInstance::Instance(instance));
    }
    parse_app(name, env).map(AppOrInstance::App)
}

/// A time, or how long before `now`.
pub(crate) fn parse_since(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let wrong = || {
        Failure::usage(format!("`{text}` is neither a time nor a duration"))
            .hint("write a time such as `2026-01-31T12:00:00Z`, or how long ago, such as `10m` or `1h30m`")
    };
    if let Some(ms) = parse_duration_ms(text) {
        let before = i64::try_from(ms).map(SignedDuration::from_millis).map_err(|_| wrong())?;
        return now.checked_sub(before).map_err(|_| wrong());
    }
    text.parse().map_err(|_| wrong())
}

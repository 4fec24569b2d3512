//! Why a command was refused: typed, with a stable code, and told in three parts.

use std::fmt::Display;

use holm_manifest::{ProcessName, RouteMatch, SecretName};
use holm_model::id::{AppKey, ReleaseNumber};
use holm_model::volume::VolumeId;
use holm_planner::Shortage;

use crate::volumes::VolumeTrouble;

/// A command that cannot be carried out. It has changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", self.what(), self.why())]
pub enum Refusal {
    /// There is no such app.
    UnknownApp {
        /// The app that was asked for.
        app: AppKey,
        /// The apps there are.
        known: Vec<AppKey>,
    },
    /// The app is being destroyed.
    BeingDestroyed {
        /// The app.
        app: AppKey,
    },
    /// The app is stopped, and the command would start instances.
    Stopped {
        /// The app.
        app: AppKey,
    },
    /// Another deployment of the app is under way.
    DeploymentUnderWay {
        /// The app.
        app: AppKey,
    },
    /// The app has no release that could run.
    NothingDeployed {
        /// The app.
        app: AppKey,
    },
    /// The manifest is of another app.
    OtherAppsManifest {
        /// The app that was asked for.
        app: AppKey,
        /// The app the manifest names.
        manifest: String,
    },
    /// The manifest contradicts itself.
    BadManifest {
        /// The app.
        app: AppKey,
        /// What is wrong.
        why: String,
    },
    /// Neither the command nor the manifest names an image.
    NoImage {
        /// The app.
        app: AppKey,
    },
    /// The app has no such process type.
    UnknownProcess {
        /// The app.
        app: AppKey,
        /// The process type that was asked for.
        process: ProcessName,
        /// The process types there are.
        known: Vec<ProcessName>,
    },
    /// More instances than Holm runs of one process type.
    TooManyInstances {
        /// The app.
        app: AppKey,
        /// How many were asked for.
        asked: u32,
        /// How many there may be.
        limit: u32,
    },
    /// The host has not enough memory for it beside the other apps.
    NoRoom {
        /// The app.
        app: AppKey,
        /// What is needed and what is free.
        shortage: Shortage,
    },
    /// The host's disk has not enough for it beside what was promised already.
    NoDisk {
        /// The app or volume.
        what: String,
        /// What it takes more, and what is free.
        shortage: Shortage,
    },
    /// The app has no such release.
    UnknownRelease {
        /// The app.
        app: AppKey,
        /// The release that was asked for.
        release: ReleaseNumber,
        /// The releases there are.
        known: Vec<ReleaseNumber>,
    },
    /// The release to go back to serves already.
    AlreadyCurrent {
        /// The app.
        app: AppKey,
        /// The release.
        release: ReleaseNumber,
    },
    /// No earlier release was ever healthy.
    NothingToRollBackTo {
        /// The app.
        app: AppKey,
    },
    /// What a route matches cannot be matched.
    BadRoute {
        /// What it matches.
        on: RouteMatch,
        /// What is wrong.
        why: String,
    },
    /// Another route matches the same.
    RouteTaken {
        /// What it matches.
        on: RouteMatch,
        /// The app that wants it.
        app: AppKey,
        /// The app that has it.
        owner: AppKey,
    },
    /// Holm itself listens on the port.
    PortReserved {
        /// The port.
        port: u16,
    },
    /// The app has no such route.
    UnknownRoute {
        /// The app.
        app: AppKey,
        /// What it matches.
        on: RouteMatch,
    },
    /// The route comes from the manifest and can only be removed there.
    RouteOfManifest {
        /// The app.
        app: AppKey,
        /// What it matches.
        on: RouteMatch,
    },
    /// The state has something against a command about a volume.
    Volume {
        /// The volume.
        volume: Box<VolumeId>,
        /// What.
        trouble: Box<VolumeTrouble>,
    },
    /// The manifest asks for secrets that are not set.
    SecretsMissing {
        /// The app.
        app: AppKey,
        /// The secrets.
        missing: Vec<SecretName>,
    },
    /// The app has no such secrets.
    UnknownSecrets {
        /// The app.
        app: AppKey,
        /// The secrets that were asked for.
        unknown: Vec<SecretName>,
    },
    /// What runs needs the secrets.
    SecretsNeeded {
        /// The app.
        app: AppKey,
        /// The secrets.
        needed: Vec<SecretName>,
    },
    /// More secrets than an app may have.
    TooManySecrets {
        /// The app.
        app: AppKey,
        /// How many there may be.
        limit: usize,
    },
    /// The app has moved on since the request was made.
    VersionConflict {
        /// The app.
        app: AppKey,
        /// The version the request was made from.
        expected: u64,
        /// The app's version.
        actual: u64,
    },
    /// The request's key belongs to another request.
    KeyReused {
        /// The key.
        key: String,
    },
    /// The request's key is empty or too long.
    BadKey {
        /// Its length in bytes.
        length: usize,
    },
}

impl Refusal {
    /// What was refused for, as one stable word for machines.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownApp { .. } => "unknown_app",
            Self::BeingDestroyed { .. } => "being_destroyed",
            Self::Stopped { .. } => "stopped",
            Self::DeploymentUnderWay { .. } => "deployment_under_way",
            Self::NothingDeployed { .. } => "nothing_deployed",
            Self::OtherAppsManifest { .. } => "other_apps_manifest",
            Self::BadManifest { .. } => "bad_manifest",
            Self::NoImage { .. } => "no_image",
            Self::UnknownProcess { .. } => "unknown_process",
            Self::TooManyInstances { .. } => "too_many_instances",
            Self::NoRoom { .. } => "no_room",
            Self::NoDisk { .. } => "no_disk",
            Self::UnknownRelease { .. } => "unknown_release",
            Self::AlreadyCurrent { .. } => "already_current",
            Self::NothingToRollBackTo { .. } => "nothing_to_roll_back_to",
            Self::BadRoute { .. } => "bad_route",
            Self::RouteTaken { .. } => "route_taken",
            Self::PortReserved { .. } => "port_reserved",
            Self::UnknownRoute { .. } => "unknown_route",
            Self::RouteOfManifest { .. } => "route_of_manifest",
            Self::Volume { trouble, .. } => trouble.code(),
            Self::SecretsMissing { .. } => "secrets_missing",
            Self::UnknownSecrets { .. } => "unknown_secrets",
            Self::SecretsNeeded { .. } => "secrets_needed",
            Self::TooManySecrets { .. } => "too_many_secrets",
            Self::VersionConflict { .. } => "version_conflict",
            Self::KeyReused { .. } => "key_reused",
            Self::BadKey { .. } => "bad_key",
        }
    }

    /// What was refused, in one line.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::UnknownApp { app, .. } => format!("there is no app `{app}`"),
            Self::BeingDestroyed { app }
            | Self::Stopped { app }
            | Self::DeploymentUnderWay { app }
            | Self::NothingDeployed { app }
            | Self::VersionConflict { app, .. } => format!("cannot change `{app}` now"),
            Self::OtherAppsManifest { app, .. } | Self::BadManifest { app, .. } | Self::NoImage { app } => {
                format!("cannot deploy `{app}`")
            }
            Self::UnknownProcess { app, process, .. } => format!("`{app}` has no process type `{process}`"),
            Self::TooManyInstances { app, asked, .. } => format!("cannot scale `{app}` to {asked} instances"),
            Self::NoRoom { app, .. } => format!("there is no room for `{app}`"),
            Self::NoDisk { what, .. } => format!("there is no room on the disk for `{what}`"),
            Self::UnknownRelease { app, release, .. } => format!("`{app}` has no release {release}"),
            Self::AlreadyCurrent { app, release } => format!("cannot roll `{app}` back to {release}"),
            Self::NothingToRollBackTo { app } => format!("cannot roll `{app}` back"),
            Self::BadRoute { on, .. } | Self::RouteTaken { on, .. } => format!("cannot route `{on}`"),
            Self::PortReserved { port } => format!("cannot route `tcp:{port}`"),
            Self::UnknownRoute { app, on } => format!("`{app}` has no route `{on}`"),
            Self::RouteOfManifest { on, .. } => format!("cannot remove the route `{on}`"),
            Self::Volume { volume, trouble } => trouble.what(volume),
            Self::SecretsMissing { app, .. } => format!("cannot deploy `{app}`"),
            Self::UnknownSecrets { app, unknown } => format!("`{app}` has no secret {}", list(unknown)),
            Self::SecretsNeeded { app, .. } | Self::TooManySecrets { app, .. } => {
                format!("cannot change the secrets of `{app}`")
            }
            Self::KeyReused { .. } | Self::BadKey { .. } => "cannot accept the request".to_owned(),
        }
    }

    /// Why it was refused, in one line.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::UnknownApp { known, .. } if known.is_empty() => "no app has been deployed yet".to_owned(),
            Self::UnknownApp { known, .. } => format!("the apps are {}", list(known)),
            Self::BeingDestroyed { .. } => "it is being destroyed".to_owned(),
            Self::Stopped { .. } => "it is stopped".to_owned(),
            Self::DeploymentUnderWay { .. } => "a deployment is under way".to_owned(),
            Self::NothingDeployed { .. } => "it has no release that could run".to_owned(),
            Self::OtherAppsManifest { manifest, .. } => format!("the manifest is of the app `{manifest}`"),
            Self::BadManifest { why, .. } | Self::BadRoute { why, .. } => why.clone(),
            Self::NoImage { .. } => "neither the command nor the manifest names an image".to_owned(),
            Self::UnknownProcess { known, .. } => format!("its process types are {}", list(known)),
            Self::TooManyInstances { limit: 1, .. } => "it has a volume, and a volume has one writer".to_owned(),
            Self::TooManyInstances { limit, .. } => format!("a process type has at most {limit}"),
            Self::NoRoom { shortage, .. } => {
                let [needs, free, cap] = [shortage.needs.div_ceil(1 << 20), shortage.free >> 20, shortage.cap >> 20];
                format!("it needs {needs} MiB of memory at once, and {free} of the host's {cap} MiB are free for it")
            }
            Self::NoDisk { shortage, .. } => {
                let [needs, free, cap] = [shortage.needs.div_ceil(1 << 20), shortage.free >> 20, shortage.cap >> 20];
                format!("it needs {needs} MiB of disk more, and {free} of the host's {cap} MiB are not promised yet")
            }
            Self::UnknownRelease { known, .. } if known.is_empty() => "it has none yet".to_owned(),
            Self::UnknownRelease { known, .. } => format!("its releases are {}", list(known)),
            Self::AlreadyCurrent { release, .. } => format!("{release} serves already"),
            Self::NothingToRollBackTo { .. } => "no earlier release was ever healthy".to_owned(),
            Self::RouteTaken { app, owner, .. } if app == owner => format!("`{owner}` has it already"),
            Self::RouteTaken { owner, .. } => format!("it belongs to `{owner}`"),
            Self::PortReserved { port } => format!("Holm itself listens on port {port}"),
            Self::UnknownRoute { .. } => "no such route was added".to_owned(),
            Self::RouteOfManifest { .. } => "it comes from the manifest".to_owned(),
            Self::Volume { trouble, .. } => trouble.to_string(),
            Self::SecretsMissing { missing, .. } => {
                format!("its manifest asks for the secret {}, which is not set", list(missing))
            }
            Self::UnknownSecrets { .. } => "`holm secrets list` shows those there are".to_owned(),
            Self::SecretsNeeded { needed, .. } => format!("the manifest in service asks for {}", list(needed)),
            Self::TooManySecrets { limit, .. } => format!("an app has at most {limit}"),
            Self::VersionConflict { expected, actual, .. } => {
                format!("the request was made from version {expected}, and the app is at version {actual}")
            }
            Self::KeyReused { key } => format!("the key `{key}` belongs to another request"),
            Self::BadKey { length } => format!("its key has {length} bytes, not 1 to 200"),
        }
    }

    /// What to do, where it can be said.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownApp { .. } => "deploy it with `holm deploy`".to_owned(),
            Self::BeingDestroyed { .. } => "wait until its last instance has ended; `holm ps` shows them".to_owned(),
            Self::Stopped { app } => format!("start it with `holm start {app}`"),
            Self::DeploymentUnderWay { .. } => "wait for it to end, or go back with `holm rollback`".to_owned(),
            Self::NothingDeployed { .. } => "deploy it with `holm deploy`".to_owned(),
            Self::OtherAppsManifest { .. } => "use the manifest of the app, or rename the app in it".to_owned(),
            Self::NoImage { .. } => "name one on the command line, or as `image` in the manifest".to_owned(),
            Self::NoRoom { .. } => {
                "ask for fewer instances or less `memory`, or give microVMs more with `holm up --memory`".to_owned()
            }
            Self::NoDisk { .. } => {
                "ask for less, delete volumes or snapshots that nobody needs, or promise more with `holm up --disk`"
                    .to_owned()
            }
            Self::UnknownRelease { app, .. } | Self::NothingToRollBackTo { app } => {
                format!("`holm releases {app}` lists them")
            }
            Self::AlreadyCurrent { app, .. } => format!("`holm restart {app}` replaces its instances"),
            Self::RouteTaken { app, owner, .. } if app == owner => {
                "remove it first, with `holm route remove`".to_owned()
            }
            Self::RouteTaken { .. } => "choose another, or remove that one first".to_owned(),
            Self::PortReserved { .. } => "choose another port".to_owned(),
            Self::UnknownRoute { .. } => "`holm route list` shows the routes".to_owned(),
            Self::RouteOfManifest { .. } => "remove it from the manifest and deploy".to_owned(),
            Self::Volume { volume, trouble } => return trouble.hint(volume),
            Self::SecretsMissing { missing, .. } => {
                let name = missing.first().map_or("NAME", |name| name.as_str());
                format!(
                    "set it with `holm secrets set {name}`; say `required = false` in the manifest if it may be missing"
                )
            }
            Self::UnknownSecrets { .. } | Self::TooManySecrets { .. } => "`holm secrets list` shows them".to_owned(),
            Self::SecretsNeeded { .. } => "deploy a manifest that does not ask for it first".to_owned(),
            Self::VersionConflict { .. } => "look at the app again, then repeat the request".to_owned(),
            Self::KeyReused { .. } | Self::BadKey { .. } => "use a fresh key for each request".to_owned(),
            Self::BadManifest { .. }
            | Self::UnknownProcess { .. }
            | Self::TooManyInstances { .. }
            | Self::BadRoute { .. } => return None,
        })
    }
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ")
}

//! The requests and answers, as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holm_manifest::{Manifest, ManifestError, ProcessName, Route, RouteMatch, VolumeSize};
use holm_model::access::Scope;
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber, Seq};
use holm_model::state::State;
use holm_model::volume::VolumeId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A manifest on its way to the server: it travels as the text of the file and is checked again on arrival.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ManifestText", into = "ManifestText")]
pub struct SentManifest {
    text: ManifestText,
    manifest: Box<Manifest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ManifestText {
    file: String,
    text: String,
}

impl SentManifest {
    /// Reads and checks the text of the file called `file`.
    ///
    /// # Errors
    /// [`ManifestError`] as from [`Manifest::parse`].
    pub fn new(text: &str, file: &str) -> Result<Self, ManifestError> {
        ManifestText { file: file.to_owned(), text: text.to_owned() }.try_into()
    }

    /// The checked manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The checked manifest.
    #[must_use]
    pub fn into_manifest(self) -> Box<Manifest> {
        self.manifest
    }
}

impl TryFrom<ManifestText> for SentManifest {
    type Error = ManifestError;
    fn try_from(text: ManifestText) -> Result<Self, ManifestError> {
        let manifest = Box::new(Manifest::parse(&text.text, &text.file)?);
        Ok(Self { text, manifest })
    }
}

impl From<SentManifest> for ManifestText {
    fn from(sent: SentManifest) -> Self {
        sent.text
    }
}

/// Something somebody asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Command {
    /// Bring out an image. Answers once the wish is recorded; the server carries it out.
    Deploy {
        /// The app and environment.
        app: AppKey,
        /// The image: a registry's name, or `oci:` and an absolute path. At most 1024 bytes.
        image: String,
        /// The manifest.
        manifest: SentManifest,
    },
    /// Go back to an earlier release.
    Rollback {
        /// The app and environment.
        app: AppKey,
        /// The release; `None`: the newest one before the current that was ever healthy.
        to: Option<ReleaseNumber>,
    },
    /// Replace every instance by a new one of the same release.
    Restart {
        /// The app and environment.
        app: AppKey,
    },
    /// Set how many instances of a process type run.
    Scale {
        /// The app and environment.
        app: AppKey,
        /// The process type.
        process: ProcessName,
        /// The count, 0 to 100; `None`: what the manifest says.
        instances: Option<u32>,
    },
    /// Stop every instance, and keep releases, routes and configuration.
    Stop {
        /// The app and environment.
        app: AppKey,
    },
    /// Start a stopped app.
    Start {
        /// The app and environment.
        app: AppKey,
    },
    /// Add a route beside those of the manifest.
    AddRoute {
        /// The app and environment.
        app: AppKey,
        /// The route.
        route: Route,
    },
    /// Remove a route that was added.
    RemoveRoute {
        /// The app and environment.
        app: AppKey,
        /// What it matches.
        on: RouteMatch,
    },
    /// Let the app's routes be reached over IPv4 too, or no longer.
    Ipv4 {
        /// The app and environment.
        app: AppKey,
        /// Whether they are.
        allocated: bool,
    },
    /// Remove the app in this environment with everything that belongs to it.
    Destroy {
        /// The app and environment.
        app: AppKey,
        /// Whether its volumes go with it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        volumes: bool,
    },
    /// Make, grow or delete a volume.
    Volume {
        /// The volume.
        volume: VolumeId,
        /// What to do with it.
        change: VolumeChange,
    },
}

/// What can be done with a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeChange {
    /// Make it, empty.
    Create {
        /// Its size.
        size: VolumeSize,
    },
    /// Make it larger.
    Grow {
        /// Its new size.
        size: VolumeSize,
    },
    /// Remove it with everything in it.
    Delete,
}

impl Command {
    /// The app and environment it is about.
    #[must_use]
    pub const fn app(&self) -> &AppKey {
        match self {
            Self::Deploy { app, .. }
            | Self::Rollback { app, .. }
            | Self::Restart { app }
            | Self::Scale { app, .. }
            | Self::Stop { app }
            | Self::Start { app }
            | Self::AddRoute { app, .. }
            | Self::RemoveRoute { app, .. }
            | Self::Ipv4 { app, .. }
            | Self::Destroy { app, .. } => app,
            Self::Volume { volume, .. } => &volume.app,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Deploy { .. } => "deploy",
            Self::Rollback { .. } => "rollback",
            Self::Restart { .. } => "restart",
            Self::Scale { .. } => "scale",
            Self::Stop { .. } => "stop",
            Self::Start { .. } => "start",
            Self::AddRoute { .. } => "route add",
            Self::RemoveRoute { .. } => "route remove",
            Self::Ipv4 { .. } => "ipv4",
            Self::Destroy { .. } => "destroy",
            Self::Volume { change: VolumeChange::Create { .. }, .. } => "volumes create",
            Self::Volume { change: VolumeChange::Grow { .. }, .. } => "volumes grow",
            Self::Volume { change: VolumeChange::Delete, .. } => "volumes delete",
        }
    }

    /// Checks what the types do not: ranges, and that parts fit each other.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Deploy { app, image, manifest } => {
                if app.app != manifest.manifest().app {
                    return Err(format!("the manifest is of the app `{}`, not `{}`", manifest.manifest().app, app.app));
                }
                if image.is_empty() || image.len() > 1024 || image.chars().any(char::is_control) {
                    return Err("the image's name is empty, longer than 1024 bytes or not printable".to_owned());
                }
                Ok(())
            }
            Self::Scale { process, instances: Some(101..), .. } => {
                Err(format!("`{process}`: an instance count is 0 to 100"))
            }
            Self::AddRoute { route, .. } => holm_manifest::check_route(route),
            _ => Ok(()),
        }
    }
}

/// A command with who sent it and the key that makes sending it twice harmless.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Made once by the client for one wish; the same key with the same command answers the same.
    pub key: Uuid,
    /// Who: `user:anna`.
    pub actor: String,
    /// What.
    pub command: Command,
}

/// The answer to a command: it is recorded and will not be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The newest event that the command led to, or the newest of all when it changed nothing.
    pub seq: Seq,
    /// The deployment that carries it out, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentNumber>,
    /// Whether anything changed: `false` when everything was so already.
    pub changed: bool,
}

/// The whole state, document by document: [`State`] has keys that JSON objects cannot have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDocuments {
    /// The newest event in it.
    pub seq: Seq,
    /// [`State::documents`].
    pub documents: BTreeMap<String, String>,
}

impl StateDocuments {
    /// Packs `state`, or only what belongs to `app` and to the installation.
    #[must_use]
    pub fn of(state: &State, app: Option<&AppKey>) -> Self {
        let documents = match app {
            None => state.documents(),
            Some(app) => {
                let mut only = State { seq: state.seq, site: state.site.clone(), ..State::default() };
                let of_app = |key: &AppKey| key == app;
                only.apps.extend(state.apps.get_key_value(app).map(|(k, v)| (k.clone(), v.clone())));
                let releases = state.releases.iter().filter(|((key, _), _)| of_app(key));
                only.releases.extend(releases.map(|(k, v)| (k.clone(), v.clone())));
                let deployments = state.deployments.iter().filter(|((key, _), _)| of_app(key));
                only.deployments.extend(deployments.map(|(k, v)| (k.clone(), v.clone())));
                only.instances.extend(state.instances_of(app).map(|(k, v)| (k.clone(), v.clone())));
                only.volumes.extend(state.volumes_of(app).map(|(k, v)| (k.clone(), v.clone())));
                only.documents()
            }
        };
        Self { seq: state.seq, documents }
    }

    /// Packs what a token may see: its apps, or `app` alone, and nothing of the tokens.
    #[must_use]
    pub fn of_scope(state: &State, app: Option<&AppKey>, scope: &Scope) -> Self {
        let sees = |key: &AppKey| {
            app.is_none_or(|app| app == key) && scope.apps.as_ref().is_none_or(|apps| apps.contains(key))
        };
        let mut seen = state.clone();
        seen.site.tokens.clear();
        seen.apps.retain(|key, _| sees(key));
        seen.releases.retain(|(key, _), _| sees(key));
        seen.deployments.retain(|(key, _), _| sees(key));
        seen.instances.retain(|name, _| sees(&name.app));
        seen.volumes.retain(|id, _| sees(&id.app));
        Self { seq: seen.seq, documents: seen.documents() }
    }

    /// Unpacks the state.
    ///
    /// # Errors
    /// When a document is of a kind this version does not know.
    pub fn into_state(self) -> Result<State, holm_model::state::LoadError> {
        let mut state = State { seq: self.seq, ..State::default() };
        for (key, body) in &self.documents {
            state.load(key, body)?;
        }
        Ok(state)
    }
}

/// Which Holm answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerVersion {
    /// Holm's version.
    pub version: String,
    /// Its process on the host.
    pub pid: u32,
}

/// Which events are wanted. They come oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventQuery {
    /// Only events after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Seq>,
    /// Only events recorded at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only events about this app and environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppKey>,
    /// Only events about this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// Only the newest so many of those that fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
}

/// Which lines of the apps' output are wanted. Lines of several instances come in the order of their times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// Of this app and environment.
    pub app: AppKey,
    /// Only of this process type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessName>,
    /// Only of this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    /// Only lines of this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Only the newest so many lines of the past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
    /// Whether new lines follow as they are written, also of instances that start later.
    #[serde(default)]
    pub follow: bool,
}

/// One line of an app's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the guest read it.
    pub at: Timestamp,
    /// The instance that wrote it.
    pub instance: InstanceName,
    /// Where it was written to.
    pub stream: LogStream,
    /// The line without its line break; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// The app's standard output.
    Stdout,
    /// The app's standard error.
    Stderr,
    /// Holm itself, about the instance: lost lines, the guest kernel's last words.
    Holm,
}

/// How far a deployment's image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageProgress {
    /// What is done with it.
    pub step: ImageStep,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// What is done with an image on its way to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageStep {
    /// The name is looked up at the registry.
    Resolving,
    /// Its layers are fetched and checked.
    Pulling,
    /// The file system is made from the layers.
    Building,
}

/// What the host sees of an instance beyond the recorded state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LiveInstance {
    /// The microVM's process on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The instance's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::Ipv6Addr>,
    /// Memory used inside the guest, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<u64>,
    /// Memory the microVM takes on the host (proportional set size), in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_memory: Option<u64>,
    /// What the last health check said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// What it waits for, in one line: `a free build slot`, `2 of 3 layers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSummary {
    /// Its digest.
    pub digest: Digest,
    /// The names under which it was fetched.
    pub references: Vec<String>,
    /// Size of its file system on this host, in bytes.
    pub size: u64,
    /// When it was made here.
    pub created_at: Timestamp,
    /// The releases that use it, such as `hello v3`.
    pub used_by: Vec<String>,
}

/// An image with what it says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDetail {
    /// What the list shows.
    #[serde(flatten)]
    pub summary: ImageSummary,
    /// The processor it is for, such as `amd64`.
    pub architecture: String,
    /// Its `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// Its `Cmd`.
    pub cmd: Vec<String>,
    /// Its `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// Its `User`; empty: root.
    pub user: String,
    /// Its `WorkingDir`; empty: `/`.
    pub working_dir: String,
    /// Its `StopSignal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Its `ExposedPorts`, such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerSummary>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSummary {
    /// The digest of the compressed layer.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// The images.
    pub removed: Vec<Digest>,
    /// Bytes that are free now, layers included.
    pub freed: u64,
}

/// A kernel bundle that microVMs can boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSummary {
    /// Its name, such as `linux-6.12.48+deb13-cloud-amd64`.
    pub name: String,
    /// Its kernel's version.
    pub kernel: String,
    /// The bundle's id: 16 hexadecimal digits, a hash of its content.
    pub id: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether new instances boot it.
    pub default: bool,
}

/// What a guest bundle is to be made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestImport {
    /// Absolute paths of Debian kernel packages; none: Debian's newest cloud kernel, fetched with apt.
    pub packages: Vec<PathBuf>,
    /// Absolute path of the guest's PID 1; `None`: the one that lies beside the `holm` program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

/// One thing that `holm doctor` looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, in a word or two: `kvm`, `state folder`.
    pub subject: String,
    /// How it is.
    pub level: FindingLevel,
    /// What was found, in one line.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingLevel {
    /// As it should be.
    Ok,
    /// Works, with a loss.
    Warn,
    /// Does not work.
    Fail,
}

/// How Holm is to go down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Whether the microVMs are left running, for the next `holm up` to adopt.
    pub keep_instances: bool,
}

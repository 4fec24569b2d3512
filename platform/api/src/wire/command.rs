//! What somebody asks for, and the answer that it is recorded.

use holm_manifest::{Manifest, ManifestError, ProcessName, Route, RouteMatch, VolumeSize};
use holm_model::id::{AppKey, DeploymentNumber, ReleaseNumber, Seq};
use holm_model::volume::VolumeId;
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

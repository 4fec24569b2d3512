//! What people ask of the control plane, and what they get back.

use std::collections::BTreeSet;

use holm_manifest::{Manifest, ProcessName, Route, RouteMatch, SecretName};
use holm_model::id::{AppKey, DeploymentNumber, ReleaseNumber, SecretSetId, Seq};
use holm_model::volume::VolumeId;
use serde::{Deserialize, Serialize};

use crate::volumes::VolumeCommand;

/// Something a person asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Bring out an image with a manifest. Takes the place of a deployment that is under way.
    Deploy {
        /// The app and environment.
        app: AppKey,
        /// The image; `None`: the one the manifest names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<String>,
        /// The manifest.
        manifest: Box<Manifest>,
    },
    /// Go back to an earlier release. Takes the place of a deployment that is under way.
    Rollback {
        /// The app and environment.
        app: AppKey,
        /// The release. `None`: the one that serves when a deployment of another is under way, else the newest one
        /// below it that was ever healthy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
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
        /// 0 to 100; `None`: what the manifest says.
        instances: Option<u32>,
    },
    /// Run no instance until the app is started again.
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
    RouteAdd {
        /// The app and environment.
        app: AppKey,
        /// The route.
        route: Route,
    },
    /// Remove a route that was added.
    RouteRemove {
        /// The app and environment.
        app: AppKey,
        /// What the route matches.
        on: RouteMatch,
    },
    /// Put a new set of secrets, which lies sealed on the host already, in the place of the newest one.
    Secrets {
        /// The app and environment.
        app: AppKey,
        /// The set.
        set: SecretSetId,
        /// The secrets whose values are new in it.
        changed: BTreeSet<SecretName>,
        /// The secrets that are no longer in it.
        removed: BTreeSet<SecretName>,
        /// Whether running instances are replaced at once, one after the other, where that is possible.
        restart: bool,
    },
    /// Let the app's routes be reached over IPv4 too, or no longer.
    Ipv4 {
        /// The app and environment.
        app: AppKey,
        /// Whether they are.
        allocated: bool,
    },
    /// Stop every instance of the app and forget it.
    Destroy {
        /// The app and environment.
        app: AppKey,
        /// Whether its volumes go with it.
        #[serde(default)]
        volumes: bool,
    },
    /// Make, grow or delete a volume.
    Volume {
        /// The volume.
        volume: VolumeId,
        /// What to do with it.
        change: VolumeCommand,
    },
}

impl Command {
    /// The app and environment the command is about.
    #[must_use]
    pub const fn app(&self) -> &AppKey {
        match self {
            Self::Deploy { app, .. }
            | Self::Rollback { app, .. }
            | Self::Restart { app }
            | Self::Scale { app, .. }
            | Self::Stop { app }
            | Self::Start { app }
            | Self::RouteAdd { app, .. }
            | Self::RouteRemove { app, .. }
            | Self::Secrets { app, .. }
            | Self::Ipv4 { app, .. }
            | Self::Destroy { app, .. } => app,
            Self::Volume { volume, .. } => &volume.app,
        }
    }
}

/// Who asks, and how the request is told from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Who asks: `user:anna`.
    pub actor: String,
    /// The request's own key, at most 200 bytes: a repetition with the same key is answered like the first one and
    /// changes nothing.
    pub request_key: Option<String>,
    /// The app's version the request was made from (0: no such app); it is refused when the app has moved on.
    pub expected_version: Option<u64>,
}

impl Meta {
    /// A request of `actor` without a key or an expected version.
    #[must_use]
    pub fn new(actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), request_key: None, expected_version: None }
    }

    /// The same request with a key of its own.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.request_key = Some(key.into());
        self
    }
}

/// A command that is on disk and will be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The newest event when the command was accepted: a state of this sequence number or later includes it.
    pub seq: Seq,
    /// The app's version right after the command.
    pub version: u64,
    /// The deployment that the command began, if it began one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentNumber>,
    /// Whether the command changed anything; `false`: what it asks for was so already.
    pub changed: bool,
}

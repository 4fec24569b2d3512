//! What the state knows of secrets: names and versions, never values.
//!
//! Every change makes a new version of the whole set. A deployment or restart brings the newest version and a rollback the
//! one in service; an instance keeps the version it was placed with. So a rotation that fails leaves the old values in
//! service, and going back to older code never brings back a value that was rotated away.

use std::collections::{BTreeMap, BTreeSet};

use holm_manifest::SecretName;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::id::{AppKey, ReleaseNumber, SecretSetId};
use crate::state::{DeploymentKind, State};

/// One version of an app's secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsVersion {
    /// Counts up from 1 within the app and environment.
    pub number: u64,
    /// Where the values lie.
    pub set: SecretSetId,
}

/// The secrets of an app in one environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSecrets {
    /// The newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<SecretsVersion>,
    /// The version of the newest deployment that succeeded: what instances get that only replace others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<SecretsVersion>,
    /// The secrets of the newest version, each with the version in which it was last set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<SecretName, u64>,
}

impl AppSecrets {
    /// Whether there never was a secret.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.newest.is_none()
    }

    /// Whether the newest version serves.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.newest == self.serving
    }

    /// What a deployment of this kind brings; `serves` says whether a release is in service.
    #[must_use]
    pub fn for_deployment(&self, kind: &DeploymentKind, serves: bool) -> Option<SecretsVersion> {
        match kind {
            DeploymentKind::Rollback if serves => self.serving.clone(),
            _ => self.newest.clone(),
        }
    }

    /// Folds in a new version.
    pub(crate) fn change(&mut self, set: &SecretSetId, changed: &BTreeSet<SecretName>, removed: &BTreeSet<SecretName>) {
        let number = self.newest.as_ref().map_or(0, |version| version.number) + 1;
        self.newest = Some(SecretsVersion { number, set: set.clone() });
        self.names.retain(|name, _| !removed.contains(name));
        self.names.extend(changed.iter().map(|name| (name.clone(), number)));
    }
}

impl State {
    /// What an instance of `app` gets that is placed now with `release`: the version of the deployment that brings the
    /// release, else the one in service.
    #[must_use]
    pub fn secrets_for_new_instance(&self, app: &AppKey, release: ReleaseNumber) -> Option<SecretsVersion> {
        match self.active_deployment(app).filter(|(_, deployment)| deployment.release == Some(release)) {
            Some((_, deployment)) => deployment.secrets.clone(),
            None => self.apps.get(app)?.secrets.serving.clone(),
        }
    }

    /// Every set that an app or an instance still needs.
    #[must_use]
    pub fn secret_sets(&self) -> BTreeSet<&SecretSetId> {
        let apps = self.apps.values().flat_map(|app| [&app.secrets.newest, &app.secrets.serving]);
        let deployments = self.deployments.values().filter(|d| d.status.is_active()).map(|d| &d.secrets);
        let instances = self.instances.values().filter(|i| i.end.is_none()).map(|i| &i.secrets);
        apps.chain(deployments).chain(instances).flatten().map(|version| &version.set).collect()
    }
}

/// The event of a change, in words: names only.
#[must_use]
pub fn describe_change(event: &Event) -> Option<String> {
    let Event::SecretsChanged { changed, removed, .. } = event else { return None };
    let list =
        |names: &BTreeSet<SecretName>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    Some(match (changed.is_empty(), removed.is_empty()) {
        (false, true) => format!("the secrets {} were set", list(changed)),
        (true, false) => format!("the secrets {} were removed", list(removed)),
        (false, false) => format!("the secrets {} were set and {} removed", list(changed), list(removed)),
        (true, true) => "the secrets were written again".to_owned(),
    })
}

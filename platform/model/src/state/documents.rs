//! The state as documents: each under a key of its own, so that an event rewrites only what it touches.

use std::collections::BTreeMap;

use super::State;
use crate::id::{AppKey, DeploymentNumber, InstanceName, ReleaseNumber};
use crate::volume::VolumeId;

/// The name of one document of the state. Documents are stored apart, so that an event rewrites only what it touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DocumentKey {
    /// [`Site`](super::Site).
    Site,
    /// [`App`](super::App).
    App(AppKey),
    /// [`Release`](super::Release).
    Release(AppKey, ReleaseNumber),
    /// [`Deployment`](super::Deployment).
    Deployment(AppKey, DeploymentNumber),
    /// [`Instance`](super::Instance).
    Instance(InstanceName),
    /// [`Volume`](crate::volume::Volume).
    Volume(VolumeId),
}

/// A stored document that does not fit the state.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kind or key is not one this version knows.
    #[error("a stored document has the unknown key `{0}`")]
    UnknownKey(String),
    /// The body is not what the key promises.
    #[error("the stored document `{key}` cannot be read")]
    BadBody {
        /// The document's key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl DocumentKey {
    /// The key as text: `app hello`, `release hello 3` …, environments as in [`AppKey`].
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Site => "site".to_owned(),
            Self::App(app) => format!("app {app}"),
            Self::Release(app, n) => format!("release {app} {}", n.0),
            Self::Deployment(app, n) => format!("deployment {app} {}", n.0),
            Self::Instance(name) => format!("instance {name}"),
            Self::Volume(id) => format!("volume {id}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(' ').collect();
        Some(match parts[..] {
            ["site"] => Self::Site,
            ["app", app] => Self::App(app.parse().ok()?),
            ["release", app, n] => Self::Release(app.parse().ok()?, ReleaseNumber(n.parse().ok()?)),
            ["deployment", app, n] => Self::Deployment(app.parse().ok()?, DeploymentNumber(n.parse().ok()?)),
            ["instance", name] => Self::Instance(name.parse().ok()?),
            ["volume", id] => Self::Volume(id.parse().ok()?),
            _ => return None,
        })
    }
}

impl State {
    /// One document as it is stored, or `None` when it does not exist (any more).
    #[must_use]
    pub fn document(&self, key: &DocumentKey) -> Option<String> {
        let body = match key {
            DocumentKey::Site => Some(serde_json::to_string(&self.site)),
            DocumentKey::App(app) => self.apps.get(app).map(serde_json::to_string),
            DocumentKey::Release(app, n) => self.releases.get(&(app.clone(), *n)).map(serde_json::to_string),
            DocumentKey::Deployment(app, n) => self.deployments.get(&(app.clone(), *n)).map(serde_json::to_string),
            DocumentKey::Instance(name) => self.instances.get(name).map(serde_json::to_string),
            DocumentKey::Volume(id) => self.volumes.get(id).map(serde_json::to_string),
        };
        body.map(|json| json.expect("the state's documents have only text keys and finite numbers"))
    }

    /// Every document of this state, by key.
    #[must_use]
    pub fn documents(&self) -> BTreeMap<String, String> {
        let site = std::iter::once(DocumentKey::Site);
        let apps = self.apps.keys().cloned().map(DocumentKey::App);
        let releases = self.releases.keys().cloned().map(|(app, n)| DocumentKey::Release(app, n));
        let deployments = self.deployments.keys().cloned().map(|(app, n)| DocumentKey::Deployment(app, n));
        let instances = self.instances.keys().cloned().map(DocumentKey::Instance);
        let volumes = self.volumes.keys().cloned().map(DocumentKey::Volume);
        let keys = site.chain(apps).chain(releases).chain(deployments).chain(instances).chain(volumes);
        keys.filter_map(|key| Some((key.to_text(), self.document(&key)?))).collect()
    }

    /// Puts a stored document back.
    ///
    /// # Errors
    /// [`LoadError`] when the key is unknown or the body does not fit it.
    pub fn load(&mut self, key: &str, body: &str) -> Result<(), LoadError> {
        fn read<T: serde::de::DeserializeOwned>(key: &str, body: &str) -> Result<T, LoadError> {
            serde_json::from_str(body).map_err(|source| LoadError::BadBody { key: key.to_owned(), source })
        }
        match DocumentKey::parse(key).ok_or_else(|| LoadError::UnknownKey(key.to_owned()))? {
            DocumentKey::Site => self.site = read(key, body)?,
            DocumentKey::App(app) => drop(self.apps.insert(app, read(key, body)?)),
            DocumentKey::Release(app, n) => drop(self.releases.insert((app, n), read(key, body)?)),
            DocumentKey::Deployment(app, n) => drop(self.deployments.insert((app, n), read(key, body)?)),
            DocumentKey::Instance(name) => drop(self.instances.insert(name, read(key, body)?)),
            DocumentKey::Volume(id) => drop(self.volumes.insert(id, read(key, body)?)),
        }
        Ok(())
    }
}

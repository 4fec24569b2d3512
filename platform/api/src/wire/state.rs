//! What is known: the state, and the events that led to it.

use std::collections::BTreeMap;

use holm_model::access::Scope;
use holm_model::id::{AppKey, InstanceName, Seq};
use holm_model::state::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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

//! What a change of secrets means in a state: names and versions; the values are sealed elsewhere.

use std::collections::BTreeSet;

use holm_manifest::{Manifest, SecretName};
use holm_model::event::Event;
use holm_model::id::{AppKey, SecretSetId};
use holm_model::secrets::AppSecrets;
use holm_model::state::{App, State};

use crate::refusal::Refusal;

/// Most secrets of one app in one environment.
const MAX_SECRETS: usize = 200;

/// The change that was asked for.
pub(crate) struct Change<'c> {
    pub(crate) set: &'c SecretSetId,
    pub(crate) changed: &'c BTreeSet<SecretName>,
    pub(crate) removed: &'c BTreeSet<SecretName>,
    pub(crate) restart: bool,
}

/// The new version and, where instances run and no deployment is under way, a restart that brings it in service.
pub(crate) fn change(state: &State, key: &AppKey, app: &App, change: &Change<'_>) -> Result<Vec<Event>, Refusal> {
    let names = &app.secrets.names;
    let unknown: Vec<SecretName> = change.removed.iter().filter(|n| !names.contains_key(*n)).cloned().collect();
    if !unknown.is_empty() {
        return Err(Refusal::UnknownSecrets { app: key.clone(), unknown });
    }
    let added = change.changed.iter().filter(|name| !names.contains_key(*name)).count();
    if names.len() + added - change.removed.len() > MAX_SECRETS {
        return Err(Refusal::TooManySecrets { app: key.clone(), limit: MAX_SECRETS });
    }
    let required = |name: &SecretName| {
        state.manifests_of(key).any(|manifest| manifest.secrets.get(name).is_some_and(|how| how.required))
    };
    let needed: Vec<SecretName> = change.removed.iter().filter(|name| required(name)).cloned().collect();
    if !needed.is_empty() && !app.stopped {
        return Err(Refusal::SecretsNeeded { app: key.clone(), needed });
    }
    let (changed, removed) = (change.changed.clone(), change.removed.clone());
    let mut events = vec![Event::SecretsChanged { app: key.clone(), set: change.set.clone(), changed, removed }];
    let possible = app.current.is_some() && !app.stopped && state.active_deployment(key).is_none();
    if change.restart && possible {
        events.push(Event::RestartRequested { app: key.clone(), deployment: app.last_deployment.next() });
    }
    Ok(events)
}

/// A release does not begin without the secrets that its manifest asks for.
pub(crate) fn check_set(key: &AppKey, secrets: &AppSecrets, manifest: &Manifest) -> Result<(), Refusal> {
    let required = manifest.secrets.iter().filter(|(_, how)| how.required).map(|(name, _)| name);
    let missing: Vec<SecretName> = required.filter(|name| !secrets.names.contains_key(*name)).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(Refusal::SecretsMissing { app: key.clone(), missing }) }
}

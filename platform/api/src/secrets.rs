//! Changing and comparing secrets. Values go to the server and never come back.

use std::collections::{BTreeMap, BTreeSet};

use holm_model::id::AppKey;
use holm_secrets::{SecretName, Secrets};
use serde::{Deserialize, Serialize};

/// A change of the secrets of one app in one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsChange {
    /// The app and environment; it need not have been deployed yet.
    pub app: AppKey,
    /// Values to set.
    #[serde(default)]
    pub set: Secrets,
    /// Secrets to remove.
    #[serde(default)]
    pub unset: BTreeSet<SecretName>,
    /// Whether every secret that is not in `set` is removed.
    #[serde(default)]
    pub replace: bool,
    /// Whether every secret in `set` must exist already.
    #[serde(default)]
    pub rotate: bool,
    /// Whether running instances are replaced at once, one after the other.
    #[serde(default)]
    pub restart: bool,
}

impl SecretsChange {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self) -> Result<(), String> {
        if let Some(name) = self.unset.iter().find(|name| self.set.0.contains_key(*name)) {
            return Err(format!("`{name}` is both set and removed"));
        }
        self.set.check().map_err(|error| error.to_string())
    }
}

/// Values to compare with those that are set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsComparison {
    /// The app and environment.
    pub app: AppKey,
    /// The values.
    pub secrets: Secrets,
}

/// How one secret differs from what is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretDifference {
    /// The values are the same.
    Same,
    /// The values differ.
    Changed,
    /// It is not set yet.
    Added,
    /// It is set, and the comparison does not have it.
    Missing,
}

/// Every secret of either side.
pub type SecretDifferences = BTreeMap<SecretName, SecretDifference>;

/// Compares the values that are set with others.
#[must_use]
pub fn compare(set: &Secrets, with: &Secrets) -> SecretDifferences {
    let names: BTreeSet<&SecretName> = set.0.keys().chain(with.0.keys()).collect();
    let difference = |name: &SecretName| match (set.0.get(name), with.0.get(name)) {
        (Some(old), Some(new)) if old == new => SecretDifference::Same,
        (Some(_), Some(_)) => SecretDifference::Changed,
        (None, _) => SecretDifference::Added,
        (Some(_), None) => SecretDifference::Missing,
    };
    names.into_iter().map(|name| (name.clone(), difference(name))).collect()
}

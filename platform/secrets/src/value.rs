//! One secret's bytes, and a whole set of them with its limits.

use std::collections::BTreeMap;
use std::fmt;

use holm_manifest::SecretName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

/// Longest value in bytes. Longer things belong on a volume.
pub const MAX_VALUE: usize = 64 << 10;
/// Most bytes of all values of one app in one environment: they travel to the guest in one message.
pub const MAX_SET: usize = 256 << 10;
/// Most secrets of one app in one environment.
pub const MAX_SECRETS: usize = 200;

/// The bytes of a secret. Debug output shows their number only; they are overwritten when they are dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for whoever delivers them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl Drop for SecretValue {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        let mut text = base64::engine::general_purpose::STANDARD.encode(&self.0);
        let done = serializer.serialize_str(&text);
        text.zeroize();
        done
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let mut text = String::deserialize(deserializer)?;
        // The error must not repeat the text.
        let bytes = base64::engine::general_purpose::STANDARD.decode(&text);
        text.zeroize();
        bytes.map(Self).map_err(|_| serde::de::Error::custom("a secret's value is not base64"))
    }
}

/// Why a set cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretsError {
    /// One value is too long.
    #[error("`{name}` has {length} bytes, and {MAX_VALUE} are the most")]
    TooLong {
        /// The secret.
        name: SecretName,
        /// Its length.
        length: usize,
    },
    /// All values together are too long.
    #[error("the secrets have {0} bytes together, and {MAX_SET} are the most")]
    SetTooLong(usize),
    /// Too many.
    #[error("{0} secrets are too many: {MAX_SECRETS} are the most")]
    TooMany(usize),
}

/// The secrets of one app in one environment, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<SecretName, SecretValue>);

impl Secrets {
    /// Checks the limits.
    ///
    /// # Errors
    /// [`SecretsError`] says which limit is passed.
    pub fn check(&self) -> Result<(), SecretsError> {
        if self.0.len() > MAX_SECRETS {
            return Err(SecretsError::TooMany(self.0.len()));
        }
        for (name, value) in &self.0 {
            let length = value.expose().len();
            if length > MAX_VALUE {
                return Err(SecretsError::TooLong { name: name.clone(), length });
            }
        }
        let all = self.0.values().map(|value| value.expose().len()).sum();
        if all > MAX_SET { Err(SecretsError::SetTooLong(all)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, length: usize) -> (SecretName, SecretValue) {
        (name.parse().unwrap(), SecretValue::new(vec![b'x'; length]))
    }

    #[test]
    fn debug_output_shows_no_value() {
        let secrets = Secrets([("PASSWORD".parse().unwrap(), SecretValue::new("hunter2"))].into());
        let shown = format!("{secrets:?}");
        assert!(shown.contains("PASSWORD") && shown.contains("<7 bytes>") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn limits_hold_for_values_sets_and_counts() {
        assert_eq!(Secrets([named("A", MAX_VALUE)].into()).check(), Ok(()));
        let long = Secrets([named("A", MAX_VALUE + 1)].into());
        assert!(matches!(long.check(), Err(SecretsError::TooLong { length, .. }) if length == MAX_VALUE + 1));
        let set = Secrets(["A", "B", "C", "D", "E"].map(|name| named(name, MAX_VALUE)).into());
        assert_eq!(set.check(), Err(SecretsError::SetTooLong(5 * MAX_VALUE)));
        let many = Secrets((0..=MAX_SECRETS).map(|n| named(&format!("S{n}"), 1)).collect());
        assert_eq!(many.check(), Err(SecretsError::TooMany(MAX_SECRETS + 1)));
    }

    #[test]
    fn a_value_that_is_no_base64_is_refused_without_being_repeated() {
        let error = serde_json::from_str::<SecretValue>("\"hunter2!\"").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

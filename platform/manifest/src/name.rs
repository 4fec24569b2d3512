//! Names of apps, environments and process types: DNS labels, so that they can stand in host names and file names.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::diagnostic::printable;

/// Longest name, in bytes. Short enough that `app.env.process.number` stays far below the limits of file names.
pub(crate) const MAX_NAME: usize = 40;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("a name cannot be empty")]
    Empty,
    /// The name has more than 40 bytes.
    #[error("a name has at most {MAX_NAME} characters, this one has {0}")]
    TooLong(usize),
    /// A character that is not `a-z`, `0-9` or an inner `-`, or a first character that is not a letter.
    #[error("`{0}` is not a name: use lower-case letters, digits and inner hyphens, starting with a letter")]
    BadCharacter(String),
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong(name.len()));
    }
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !letters || !name.as_bytes()[0].is_ascii_lowercase() || name.ends_with('-') {
        return Err(NameError::BadCharacter(name.chars().take(MAX_NAME).map(printable).collect()));
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `name` (1 to 40 characters of `a-z0-9-`, first a letter, last not a hyphen).
            ///
            /// # Errors
            /// [`NameError`] says which rule the name breaks.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check(&name)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// The name of an app, unique on a Holm installation.
    AppName
);
name_type!(
    /// The name of an environment of an app; [`EnvName::default`] is `prod`.
    EnvName
);
name_type!(
    /// The name of a process type of an app, such as `web` or `worker`.
    ProcessName
);

name_type!(
    /// The name of a volume of an app, such as `data`.
    VolumeName
);

impl Default for EnvName {
    fn default() -> Self {
        Self("prod".to_owned())
    }
}

/// Longest name of a secret, in bytes.
const MAX_SECRET_NAME: usize = 128;

/// Why a secret's name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a secret's name: use letters, digits, `_`, `-` and `.`, first a letter or `_`, at most {MAX_SECRET_NAME}"
)]
pub struct SecretNameError(String);

/// The name of a secret: also the name of its file in the guest and, where the manifest wants that, of a variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

impl SecretName {
    /// Checks `name`: 1 to 128 of `A-Z a-z 0-9 _ - .`, first a letter or `_`.
    ///
    /// # Errors
    /// [`SecretNameError`] shows the start of the name.
    pub fn new(name: impl Into<String>) -> Result<Self, SecretNameError> {
        let name = name.into();
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || name.len() > MAX_SECRET_NAME || !name.bytes().all(inner) {
            return Err(SecretNameError(name.chars().take(20).map(printable).collect()));
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it can be the name of an environment variable.
    #[must_use]
    pub fn is_variable(&self) -> bool {
        !self.0.contains(['-', '.'])
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for SecretName {
    type Error = SecretNameError;
    fn try_from(name: String) -> Result<Self, SecretNameError> {
        Self::new(name)
    }
}

impl std::str::FromStr for SecretName {
    type Err = SecretNameError;
    fn from_str(name: &str) -> Result<Self, SecretNameError> {
        Self::new(name)
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> String {
        name.0
    }
}

//! Typed names and numbers, so that no two kinds are ever mixed up.

use std::fmt;

use holm_manifest::{AppName, EnvName, ProcessName};
use serde::{Deserialize, Serialize};

use crate::text::as_text;

/// An app in one of its environments: the unit that has releases, routes and configuration.
///
/// Written `hello` for the default environment `prod` and `hello/staging` for any other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppKey {
    /// The app.
    pub app: AppName,
    /// Its environment.
    pub env: EnvName,
}

impl fmt::Display for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.env == EnvName::default() { write!(f, "{}", self.app) } else { write!(f, "{}/{}", self.app, self.env) }
    }
}

/// A text that is not the name of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

impl ParseIdError {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(200).collect(), expected }
    }
}

impl std::str::FromStr for AppKey {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = |_| ParseIdError::new(text, "an app such as `hello` or `hello/staging`");
        let (app, env) = match text.split_once('/') {
            Some((app, env)) => (app, EnvName::new(env).map_err(bad)?),
            None => (text, EnvName::default()),
        };
        Ok(Self { app: AppName::new(app).map_err(bad)?, env })
    }
}

/// A set of secrets as it lies sealed on the host, never changed and never reused: 36 of `0-9 a-f -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretSetId(String);

impl SecretSetId {
    /// The id as text: also the stem of a file's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretSetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for SecretSetId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-';
        if text.len() != 36 || !text.bytes().all(fits) {
            return Err(ParseIdError::new(text, "the id of a set of secrets"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// One microVM of an app, never reused: `hello.web.7`, or `hello.staging.web.7` outside `prod`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName {
    /// The app and environment the instance belongs to.
    pub app: AppKey,
    /// Its process type.
    pub process: ProcessName,
    /// Counts up from 1 over every instance there ever was on this installation; its address is made from it.
    pub number: u64,
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.app.app)?;
        if self.app.env != EnvName::default() {
            write!(f, ".{}", self.app.env)?;
        }
        write!(f, ".{}.{}", self.process, self.number)
    }
}

impl std::str::FromStr for InstanceName {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError::new(text, "an instance such as `hello.web.7`");
        let parts: Vec<&str> = text.split('.').collect();
        let (app, env, process, number) = match parts[..] {
            [app, process, number] => (app, EnvName::default(), process, number),
            [app, env, process, number] if env != EnvName::default().as_str() => {
                (app, EnvName::new(env).map_err(|_| bad())?, process, number)
            }
            _ => return Err(bad()),
        };
        let app = AppKey { app: AppName::new(app).map_err(|_| bad())?, env };
        let process = ProcessName::new(process).map_err(|_| bad())?;
        let plain = !number.is_empty() && !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse().ok().filter(|_| plain).ok_or_else(bad)?;
        Ok(Self { app, process, number })
    }
}

as_text!(AppKey, SecretSetId, InstanceName);

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($prefix, "{}"), self.0))
            }
        }
    };
}

number_type!(
    /// Number of a release within its app and environment, from 1. Written `v3`.
    ReleaseNumber, "v"
);
number_type!(
    /// Number of a deployment within its app and environment, from 1. Written `d3`.
    DeploymentNumber, "d"
);
number_type!(
    /// Position of an event in the log, from 1 without gaps; 0 before the first event.
    Seq, ""
);

/// A content digest such as `sha256:4bcf…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest as text, with its algorithm.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 hexadecimal digits, for tables.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0["sha256:".len()..][..12]
    }

    /// The SHA-256 digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes))))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, ParseIdError> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text))
        } else {
            Err(ParseIdError::new(&text, "a digest: `sha256:` and 64 lower-case hexadecimal digits"))
        }
    }
}

impl std::str::FromStr for Digest {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.to_owned().try_into()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

//! Access tokens: what they allow, and what the state knows of them. Never a token itself, only its hash.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AppKey, Digest, ParseIdError};
use crate::text::as_text;

/// The public half of a token: 12 of `0-9 a-f`. It tells tokens apart and may be shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

impl TokenId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for TokenId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 12 || !text.bytes().all(fits) {
            return Err(ParseIdError::new(text, "the id of a token: 12 lower-case hexadecimal digits"));
        }
        Ok(Self(text.to_owned()))
    }
}

as_text!(TokenId);

/// What somebody may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// See apps, instances, releases, deployments and events.
    Read,
    /// See what apps write.
    Logs,
    /// Deploy, roll back and restart.
    Deploy,
    /// Scale, stop and start.
    Scale,
    /// Add and remove routes, allocate IPv4.
    Route,
    /// Set, remove and compare secrets.
    Secrets,
    /// Run commands in instances.
    Exec,
    /// Remove apps.
    Destroy,
    /// Everything about the host: images, guests, tokens, metrics, doctor, going down. Needs a token for all apps.
    Host,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Logs,
        Self::Deploy,
        Self::Scale,
        Self::Route,
        Self::Secrets,
        Self::Exec,
        Self::Destroy,
        Self::Host,
    ];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Logs => "logs",
            Self::Deploy => "deploy",
            Self::Scale => "scale",
            Self::Route => "route",
            Self::Secrets => "secrets",
            Self::Exec => "exec",
            Self::Destroy => "destroy",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl FromStr for Permission {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let known = Self::ALL.into_iter().find(|permission| permission.word() == text);
        known.ok_or_else(|| {
            ParseIdError::new(text, "a permission: read, logs, deploy, scale, route, secrets, exec, destroy or host")
        })
    }
}

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// What may be asked for.
    pub permissions: BTreeSet<Permission>,
    /// About which apps; `None`: about all, and about the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apps: Option<BTreeSet<AppKey>>,
}

impl Scope {
    /// Whether `permission` is given for `app`; `None`: for all apps at once, or the host.
    #[must_use]
    pub fn allows(&self, permission: Permission, app: Option<&AppKey>) -> bool {
        let about = match (&self.apps, app) {
            (None, _) => true,
            (Some(apps), Some(app)) => apps.contains(app),
            (Some(_), None) => false,
        };
        about && self.permissions.contains(&permission)
    }
}

/// A token that was not revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What its maker called it; the actor of its commands is `token:NAME`.
    pub name: String,
    /// The SHA-256 of its secret half, which has 256 random bits.
    pub hash: Digest,
    /// What it allows.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// From when on it is worth nothing; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl Token {
    /// Whether it can be used at `now`.
    #[must_use]
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_allows_what_it_names_and_nothing_else() {
        let app = |name: &str| name.parse::<AppKey>().unwrap();
        let narrow = Scope { permissions: [Permission::Deploy].into(), apps: Some([app("hello")].into()) };
        assert!(narrow.allows(Permission::Deploy, Some(&app("hello"))));
        for (permission, about) in [
            (Permission::Deploy, Some(app("hello/staging"))),
            (Permission::Deploy, Some(app("other"))),
            (Permission::Deploy, None),
            (Permission::Read, Some(app("hello"))),
            (Permission::Host, None),
        ] {
            assert!(!narrow.allows(permission, about.as_ref()), "{permission} {about:?}");
        }
        let wide = Scope { apps: None, ..narrow };
        assert!(wide.allows(Permission::Deploy, Some(&app("other"))) && wide.allows(Permission::Deploy, None));
        assert!(!wide.allows(Permission::Host, None));
    }

    #[test]
    fn every_permission_is_read_from_its_word() {
        for permission in Permission::ALL {
            assert_eq!(permission.word().parse(), Ok(permission));
            assert_eq!(serde_json::to_string(&permission).unwrap(), format!("\"{permission}\""));
        }
        assert!("everything".parse::<Permission>().is_err());
    }
}

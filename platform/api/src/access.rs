//! Access tokens on the wire: their text, the request that makes one, and which permission each request needs.
//!
//! A token is written `holm_ID_SECRET`: 12 hexadecimal digits that tell tokens apart, and 64 that stand for 256 random
//! bits. The server keeps the SHA-256 of the secret half only; at that length no salt and no slow hash is needed.

use std::collections::BTreeMap;

use holm_model::access::{Permission, Scope, Token, TokenId};
use holm_model::id::{AppKey, Digest, InstanceName};
use http::Method;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exec::{ExecRequest, ExecTarget};
use crate::problem::{Problem, ProblemCode};
use crate::secrets::{SecretsChange, SecretsComparison};
use crate::storage::StorageRequest;
use crate::wire::{Command, VolumeChange};

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenWish {
    /// What it is called: 1 to 40 of `a-z 0-9 -`.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// From when on it is worth nothing; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl TokenWish {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self) -> Result<(), String> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=40).contains(&self.name.len()) || !self.name.bytes().all(fits) {
            return Err("a token's name has 1 to 40 lower-case letters, digits and hyphens".to_owned());
        }
        if self.scope.permissions.is_empty() || self.scope.apps.as_ref().is_some_and(|apps| apps.is_empty()) {
            return Err("a token needs at least one permission, and at least one app where apps are named".to_owned());
        }
        if self.scope.apps.is_some() && self.scope.permissions.contains(&Permission::Host) {
            return Err("the permission `host` is about all apps: name none, or leave it out".to_owned());
        }
        Ok(())
    }
}

impl TokenWish {
    /// Whether it would give away more than a token with `scope` that ends `until` has.
    #[must_use]
    pub fn is_more_than(&self, scope: &Scope, until: Option<Timestamp>) -> bool {
        let apps = match (&self.scope.apps, &scope.apps) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(wanted), Some(own)) => !wanted.is_subset(own),
        };
        let longer = until.is_some_and(|until| self.expires_at.is_none_or(|end| end > until));
        apps || longer || !self.scope.permissions.is_subset(&scope.permissions)
    }
}

/// A token that was made. The only time that its text is shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// Its public half.
    pub id: TokenId,
    /// The whole token.
    pub token: String,
    /// The SHA-256 of the remote interface's certificate, where there is a remote interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Where the remote interface listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The tokens as they are listed.
pub type Tokens = BTreeMap<TokenId, Token>;

/// A fresh token: its id, its text, and the hash to keep.
///
/// # Errors
/// When the kernel gives no random numbers.
pub fn mint() -> std::io::Result<(TokenId, String, Digest)> {
    let mut bytes = [0; 38];
    getrandom::fill(&mut bytes).map_err(std::io::Error::from)?;
    let (id, secret) = bytes.split_at(6);
    let (id, secret) = (hex::encode(id), hex::encode(secret));
    let text = format!("holm_{id}_{secret}");
    let hash = Digest::of(secret.as_bytes());
    Ok((id.parse().expect("six bytes are 12 hexadecimal digits"), text, hash))
}

/// Finds the token with the text `text` among `tokens`.
///
/// # Errors
/// Why it is worth nothing, for the audit log; whoever asked is told less.
pub fn find<'t>(
    tokens: &'t BTreeMap<TokenId, Token>,
    text: &str,
    now: Timestamp,
) -> Result<(&'t TokenId, &'t Token), String> {
    let halves = text.strip_prefix("holm_").and_then(|rest| rest.split_once('_'));
    let (id, secret) = halves.ok_or("it is not a token")?;
    let id: TokenId = id.parse().map_err(|_| "it is not a token")?;
    let known = tokens.get_key_value(&id).ok_or_else(|| format!("there is no token {id}"))?;
    // Only hashes are compared: how long that takes says nothing about the secret.
    if Digest::of(secret.as_bytes()) != known.1.hash {
        return Err(format!("its secret half is not that of the token {id}"));
    }
    if !known.1.is_valid(now) {
        return Err(format!("the token {id} has expired"));
    }
    Ok(known)
}

/// What a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Any token.
    Token,
    /// The permission for at least one app; the answer shows no other.
    Somewhere(Permission),
    /// The permission for this app, or for the whole installation.
    For(Permission, Option<AppKey>),
}

impl Need {
    /// Whether `scope` is enough.
    #[must_use]
    pub fn is_met_by(&self, scope: &Scope) -> bool {
        match self {
            Self::Token => true,
            Self::Somewhere(permission) => scope.permissions.contains(permission),
            Self::For(permission, app) => scope.allows(*permission, app.as_ref()),
        }
    }

    /// The need in words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Token => "a token".to_owned(),
            Self::Somewhere(permission) => format!("`{permission}`"),
            Self::For(permission, Some(app)) => format!("`{permission}` for `{app}`"),
            Self::For(permission, None) => format!("`{permission}` for all apps"),
        }
    }

    /// The app it is about.
    #[must_use]
    pub fn app(&self) -> Option<&AppKey> {
        match self {
            Self::For(_, app) => app.as_ref(),
            Self::Token | Self::Somewhere(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct About {
    app: Option<AppKey>,
    instance: Option<InstanceName>,
}

fn about(query: &str) -> Result<Option<AppKey>, Problem> {
    let wrong = || Problem::bad_request("the request cannot be read");
    let about: About = serde_urlencoded::from_str(query).map_err(|_| wrong())?;
    match (about.app, about.instance) {
        (Some(app), Some(instance)) if instance.app != app => Err(wrong().because("the instance is of another app")),
        (app, instance) => Ok(app.or_else(|| instance.map(|instance| instance.app))),
    }
}

fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // The text may hold secrets: only the place is told.
    serde_json::from_slice(bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        Problem::bad_request("the request cannot be read").because(place)
    })
}

/// The permission a request from afar needs. A request that is not listed here is refused.
///
/// # Errors
/// A request that cannot be read, is not known, or is never taken from afar.
pub fn need(method: &Method, path: &str, query: &str, bytes: &[u8]) -> Result<Need, Problem> {
    use Permission::{Destroy, Exec, Host, Logs, Read, Secrets};
    let read_for = |permission| about(query).map(|app| Need::For(permission, app));
    match (method.as_str(), path) {
        ("GET", "/v1/version") => Ok(Need::Token),
        ("GET", "/v1/state") => match about(query)? {
            Some(app) => Ok(Need::For(Read, Some(app))),
            None => Ok(Need::Somewhere(Read)),
        },
        ("GET", "/v1/events" | "/v1/deployment" | "/v1/live") => read_for(Read),
        ("GET", "/v1/logs") => read_for(Logs),
        ("POST", "/v1/commands") => {
            let command: Command = body(bytes)?;
            let app = Some(command.app().clone());
            if matches!(&command, Command::Deploy { image, .. } if image.trim_start().starts_with("oci:")) {
                return Err(Problem::new(ProblemCode::Denied, "a folder on the host is not deployed from afar")
                    .hint("push the image to a registry, or deploy on the host itself"));
            }
            Ok(match command {
                Command::Destroy { .. } | Command::Volume { change: VolumeChange::Delete, .. } => {
                    Need::For(Destroy, app)
                }
                // What a deploy does too, where the manifest names a volume.
                Command::Volume { .. } => Need::For(Permission::Deploy, app),
                Command::Deploy { .. } | Command::Rollback { .. } | Command::Restart { .. } => {
                    Need::For(Permission::Deploy, app)
                }
                Command::Scale { .. } | Command::Stop { .. } | Command::Start { .. } => {
                    Need::For(Permission::Scale, app)
                }
                Command::AddRoute { .. } | Command::RemoveRoute { .. } | Command::Ipv4 { .. } => {
                    Need::For(Permission::Route, app)
                }
            })
        }
        ("POST", "/v1/secrets") => Ok(Need::For(Secrets, Some(body::<SecretsChange>(bytes)?.app))),
        ("POST", "/v1/secrets/compare") => Ok(Need::For(Secrets, Some(body::<SecretsComparison>(bytes)?.app))),
        ("POST", "/v1/storage") => Ok(body::<StorageRequest>(bytes)?.need()),
        ("POST", "/v1/exec") => {
            let app = match body::<ExecRequest>(bytes)?.target {
                ExecTarget::Instance(instance) => instance.app,
                ExecTarget::App { app, .. } => app,
            };
            Ok(Need::For(Exec, Some(app)))
        }
        ("GET", "/v1/images" | "/v1/image" | "/v1/guests" | "/v1/doctor" | "/v1/tokens" | "/v1/metrics")
        | ("POST", "/v1/images/prune" | "/v1/tokens" | "/v1/tokens/revoke" | "/v1/shutdown") => {
            Ok(Need::For(Host, None))
        }
        ("POST", "/v1/guests") => Err(Problem::new(ProblemCode::Denied, "a guest is not imported from afar")
            .hint("run `holm guest import` on the host itself")),
        _ => Err(Problem::not_found("this version of holm does not know this request")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(secret_hash: Digest, expires_at: Option<Timestamp>) -> Token {
        Token {
            name: "ci".to_owned(),
            hash: secret_hash,
            scope: Scope { permissions: [Permission::Read].into(), apps: None },
            created_at: Timestamp::UNIX_EPOCH,
            created_by: "user:anna".to_owned(),
            expires_at,
        }
    }

    #[test]
    fn a_token_is_found_by_its_text_until_it_expires() {
        let (id, text, hash) = mint().unwrap();
        let end = Timestamp::from_second(100).unwrap();
        let tokens: Tokens = [(id.clone(), token(hash, Some(end)))].into();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(find(&tokens, &text, at(99)).unwrap().0, &id);
        assert!(find(&tokens, &text, at(100)).unwrap_err().contains("expired"));
        let (_, other, _) = mint().unwrap();
        let forged = format!("holm_{id}_{}", other.rsplit_once('_').unwrap().1);
        for wrong in [&*forged, &other, "", "holm_", "holm__", &text[..text.len() - 1], &text.to_uppercase()] {
            let error = find(&tokens, wrong, at(0)).unwrap_err();
            assert!(!error.contains(wrong) || wrong.is_empty(), "the refusal repeats the token: {error}");
        }
    }

    #[test]
    fn requests_need_what_the_table_says() {
        let hello: AppKey = "hello".parse().unwrap();
        let asked = |method: &str, path: &str, query: &str, bytes: &str| {
            need(&method.parse().unwrap(), path, query, bytes.as_bytes())
        };
        let of = |permission| Ok(Need::For(permission, Some(hello.clone())));
        use Permission::*;
        assert_eq!(asked("GET", "/v1/state", "", ""), Ok(Need::Somewhere(Read)));
        assert_eq!(asked("GET", "/v1/state", "app=hello", ""), of(Read));
        assert_eq!(asked("GET", "/v1/events", "follow=true", ""), Ok(Need::For(Read, None)));
        assert_eq!(asked("GET", "/v1/live", "instance=hello.web.1", ""), of(Read));
        assert_eq!(asked("GET", "/v1/logs", "app=hello&instance=hello.web.1", ""), of(Logs));
        let stop = r#"{"verb":"stop","app":"hello"}"#;
        assert_eq!(asked("POST", "/v1/commands", "", stop), of(Scale));
        assert_eq!(asked("POST", "/v1/commands", "", &stop.replace("stop", "destroy")), of(Destroy));
        assert_eq!(asked("POST", "/v1/commands", "", &stop.replace("stop", "restart")), of(Deploy));
        assert_eq!(asked("POST", "/v1/secrets", "", r#"{"app":"hello"}"#), of(Secrets));
        assert_eq!(asked("POST", "/v1/shutdown", "", ""), Ok(Need::For(Host, None)));
        let grow = r#"{"verb":"volume","volume":"hello:data","change":{"grow":{"size":67108864}}}"#;
        assert_eq!(asked("POST", "/v1/commands", "", grow), of(Deploy));
        let delete = r#"{"verb":"volume","volume":"hello:data","change":"delete"}"#;
        assert_eq!(asked("POST", "/v1/commands", "", delete), of(Destroy));
        let storage = |ask: &str, rest: &str| {
            asked("POST", "/v1/storage", "", &format!(r#"{{"ask":{ask:?},"volume":"hello:data"{rest}}}"#))
        };
        for ask in ["volumes", "snapshots", "backups"] {
            assert_eq!(storage(ask, ""), of(Read));
            assert_eq!(asked("POST", "/v1/storage", "", &format!(r#"{{"ask":{ask:?}}}"#)), Ok(Need::For(Read, None)));
        }
        for ask in ["take_snapshot", "backup", "verify_backup"] {
            assert_eq!(storage(ask, ""), of(Deploy));
        }
        for (ask, rest) in [("delete_snapshot", r#","moment":"x""#), ("prune_backups", r#","keep":1"#)] {
            assert_eq!(storage(ask, rest), of(Destroy));
        }
        assert_eq!(
            asked("POST", "/v1/storage", "", r#"{"ask":"prune_backups","keep":1}"#),
            Ok(Need::For(Destroy, None))
        );
        for ask in ["restore_snapshot", "restore_backup"] {
            assert_eq!(storage(ask, r#","moment":"x","to":"hello:old""#), of(Deploy));
            // Else a token for one app would read what another one keeps.
            assert_eq!(storage(ask, r#","moment":"x","to":"other:old""#), Ok(Need::For(Host, None)));
        }
    }

    #[test]
    fn two_apps_in_one_request_are_refused() {
        let asked = |query: &str| need(&Method::GET, "/v1/logs", query, b"");
        assert!(asked("app=hello&instance=other.web.1").is_err());
        assert!(asked("app=hello&app=other").is_err());
        assert!(need(&Method::POST, "/v1/secrets", "", br#"{"app":"hello","app":"other"}"#).is_err());
    }

    #[test]
    fn what_reaches_into_the_host_or_is_not_listed_is_refused() {
        let toml = "schema = 1\\napp = \\\"hello\\\"\\n[process.web]\\n";
        let deploy = format!(
            r#"{{"verb":"deploy","app":"hello","image":"oci:/etc","manifest":{{"file":"holm.toml","text":"{toml}"}}}}"#
        );
        assert_eq!(need(&Method::POST, "/v1/commands", "", deploy.as_bytes()).unwrap_err().code, ProblemCode::Denied);
        let image = deploy.replace("oci:/etc", "registry.example/hello:1");
        assert!(need(&Method::POST, "/v1/commands", "", image.as_bytes()).is_ok());
        for (method, path) in [("POST", "/v1/guests"), ("GET", "/v2/state"), ("DELETE", "/v1/state"), ("GET", "/")] {
            assert!(need(&method.parse().unwrap(), path, "", b"{}").is_err(), "{method} {path}");
        }
    }

    #[test]
    fn wishes_are_checked() {
        let wish = |name: &str, permissions: &[Permission], apps: Option<&[&str]>| TokenWish {
            name: name.to_owned(),
            scope: Scope {
                permissions: permissions.iter().copied().collect(),
                apps: apps.map(|apps| apps.iter().map(|app| app.parse().unwrap()).collect()),
            },
            expires_at: None,
        };
        assert!(wish("ci", &[Permission::Deploy], Some(&["hello"])).check().is_ok());
        assert!(wish("ci", &[Permission::Host], None).check().is_ok());
        for wrong in [
            wish("", &[Permission::Deploy], None),
            wish("a b", &[Permission::Deploy], None),
            wish("ci", &[], None),
            wish("ci", &[Permission::Deploy], Some(&[])),
            wish("ci", &[Permission::Host], Some(&["hello"])),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_wish_is_held_against_the_token_that_makes_it() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let scope = |permissions: &[Permission], apps: Option<&str>| Scope {
            permissions: permissions.iter().copied().collect(),
            apps: apps.map(|app| [app.parse().unwrap()].into()),
        };
        let wish = |scope, expires_at| TokenWish { name: "ci".to_owned(), scope, expires_at };
        let (own, until) = (scope(&[Permission::Host, Permission::Read], None), at(100));
        assert!(!wish(own.clone(), until).is_more_than(&own, until));
        assert!(!wish(scope(&[Permission::Read], Some("hello")), at(99)).is_more_than(&own, until));
        assert!(wish(scope(&[Permission::Exec], None), at(99)).is_more_than(&own, until));
        assert!(wish(own.clone(), at(101)).is_more_than(&own, until));
        assert!(wish(own.clone(), None).is_more_than(&own, until));
        assert!(!wish(own.clone(), None).is_more_than(&own, None));
        let one = scope(&[Permission::Read], Some("hello"));
        assert!(wish(scope(&[Permission::Read], None), None).is_more_than(&one, None));
        assert!(wish(scope(&[Permission::Read], Some("other")), None).is_more_than(&one, None));
    }

    proptest! {
        #[test]
        fn any_request_has_a_need_or_is_refused(
            path in "/v1/(state|events|logs|commands|secrets|exec|live|x)",
            query in "[a-z=&%0-9./]{0,40}",
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            text in "\\{[\"a-z:,{} ]{0,60}\\}",
        ) {
            for method in [Method::GET, Method::POST] {
                let _ = need(&method, &path, &query, &bytes);
                let _ = need(&method, &path, &query, text.as_bytes());
            }
        }

        #[test]
        fn any_text_is_a_token_or_is_refused(text in ".{0,120}") {
            let (id, _, hash) = mint().unwrap();
            let tokens: Tokens = [(id, token(hash, None))].into();
            prop_assert!(find(&tokens, &text, Timestamp::UNIX_EPOCH).is_err());
        }
    }
}

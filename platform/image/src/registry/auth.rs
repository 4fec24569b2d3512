//! Logging in to a registry: Docker's credentials file, Basic, and the Bearer token dance.
//!
//! Sources: RFC 7235 (challenges), distribution's `docs/spec/auth/token.md`, docker-cli's `config.json`.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::AUTHORIZATION;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::{Registry, RegistryError, authority, connection, may_be_plain};
use crate::layout::read_limited;
use crate::reference::RegistryRef;

/// Bytes of a token answer or a credentials file.
const DOCUMENT_LIMIT: u64 = 1 << 20;
/// Where Docker files the credentials of its hub.
const HUB_KEYS: [&str; 3] = ["https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"];

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: HashMap<String, ConfigAuth>,
}

#[derive(Deserialize)]
struct ConfigAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Registry {
    /// The `Authorization` header that answers the registry's challenges.
    pub(super) async fn log_in(&self, reference: &RegistryRef, challenges: &[&str]) -> Result<String, RegistryError> {
        let registry = || reference.registry().to_owned();
        let basic = self.credentials(reference.registry())?;
        let challenge = challenges.iter().find_map(|text| parse_challenge(text));
        match challenge {
            None => Err(RegistryError::Challenge { registry: registry(), reason: "neither Basic nor Bearer" }),
            Some(Challenge::Basic) => basic.ok_or_else(|| RegistryError::Denied {
                registry: registry(),
                repository: reference.repository().to_owned(),
            }),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let wrong = |reason| RegistryError::Challenge { registry: registry(), reason };
                let mut url = Url::parse(&realm).map_err(|_| wrong("its token address is not a URL"))?;
                let plain = may_be_plain(&authority(&url), &self.options.insecure_registries);
                if url.scheme() != "https" && !(url.scheme() == "http" && plain) {
                    return Err(wrong("its token address is not https"));
                }
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", reference.repository()));
                url.query_pairs_mut().append_pair("scope", &scope);
                if let Some(service) = service {
                    url.query_pairs_mut().append_pair("service", &service);
                }
                self.fetch_token(reference, url, basic).await
            }
        }
    }

    async fn fetch_token(
        &self,
        reference: &RegistryRef,
        url: Url,
        basic: Option<String>,
    ) -> Result<String, RegistryError> {
        let registry = || reference.registry().to_owned();
        let mut request = self.client.get(url);
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic);
        }
        let failed = |source| connection(reference.registry(), source);
        let mut response = request.send().await.map_err(failed)?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(RegistryError::Denied {
                    registry: registry(),
                    repository: reference.repository().to_owned(),
                });
            }
            status => {
                return Err(RegistryError::Status { registry: registry(), status });
            }
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > DOCUMENT_LIMIT {
                return Err(RegistryError::DocumentSize { registry: registry(), limit: DOCUMENT_LIMIT });
            }
        }
        let answer = serde_json::from_slice::<TokenAnswer>(&bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let visible = |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let wrong = || RegistryError::Challenge { registry: registry(), reason: "its token service sent no token" };
        token.filter(visible).map(|token| format!("Bearer {token}")).ok_or_else(wrong)
    }

    /// The `Basic` header for a registry; the file is read anew each time, so that a changed password is seen.
    fn credentials(&self, registry: &str) -> Result<Option<String>, RegistryError> {
        let Some(path) = &self.options.credentials_file else {
            return Ok(None);
        };
        let wrong = |reason: String| RegistryError::Credentials { path: path.clone(), reason };
        let bytes = read_limited(path, DOCUMENT_LIMIT).map_err(|error| wrong(error.to_string()))?;
        // The decoder's message could quote a secret; the position is enough.
        let file: ConfigFile = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(format!("it is not valid at line {}, column {}", error.line(), error.column())))?;
        let host = |key: &str| {
            let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
            key.split('/').next().unwrap_or_default().to_owned()
        };
        let found = file.auths.get(registry).or_else(|| {
            let hub = (registry == "docker.io").then(|| HUB_KEYS.iter().find_map(|key| file.auths.get(*key))).flatten();
            hub.or_else(|| file.auths.iter().find(|(key, _)| host(key) == registry).map(|(_, auth)| auth))
        });
        let Some(found) = found else { return Ok(None) };
        let pair = match (&found.username, &found.password, &found.auth) {
            (Some(user), Some(password), _) if !user.is_empty() => format!("{user}:{password}"),
            (_, _, Some(auth)) => {
                let decoded = STANDARD.decode(auth.trim_end_matches('\0')).ok();
                let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).filter(|pair| pair.contains(':'));
                pair.ok_or_else(|| wrong(format!("`auth` of `{registry}` is not base64 of `user:password`")))?
            }
            _ => return Ok(None),
        };
        Ok(Some(format!("Basic {}", STANDARD.encode(pair))))
    }
}

fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            "scope" => scope = Some(value.to_owned()),
            _ => {}
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_in_every_spelling() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let own = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) })
        };
        for (text, wanted) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a:pull,push\"",
                bearer("https://a/t", Some("s"), Some("repository:a:pull,push")),
            ),
            ("bearer realm=https://a/t, service=s", bearer("https://a/t", Some("s"), None)),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"unclosed", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(parse_challenge(text), wanted, "{text}");
        }
    }
}

//! `holm tokens`: make, list and revoke access tokens for the interface from afar.

use std::collections::BTreeSet;

use holm_api::access::TokenWish;
use holm_manifest::parse_duration_ms;
use holm_model::access::{Permission, Scope, Token, TokenId};
use holm_model::id::AppKey;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::Context;
use crate::args::{Tokens, TokensCreate};
use crate::exit::Failure;
use crate::table::table;

pub(crate) async fn run(verb: &Tokens, context: &Context<'_>) -> Result<(), Failure> {
    match verb {
        Tokens::Create(create) => self::create(create, context).await,
        Tokens::List => list(context).await,
        Tokens::Revoke { id } => {
            context.client.revoke_token(id).await?;
            #[derive(Serialize)]
            struct Revoked<'a> {
                id: &'a TokenId,
            }
            context.out.show("tokens-revoke", &Revoked { id }, |revoked| {
                format!("the token {} is worth nothing any more\n", revoked.id)
            })
        }
    }
}

async fn create(create: &TokensCreate, context: &Context<'_>) -> Result<(), Failure> {
    let apps: BTreeSet<AppKey> = create.apps.iter().cloned().collect();
    let apps = (!create.all_apps).then_some(apps);
    let permissions: BTreeSet<Permission> = create.allow.iter().copied().collect();
    let expires_at = match create.expires.as_str() {
        "never" => None,
        text => Some(end(text, context.out.now)?),
    };
    let wish = TokenWish { name: create.name.clone(), scope: Scope { permissions, apps }, expires_at };
    wish.check().map_err(Failure::usage)?;
    let made = context.client.create_token(&wish).await?;
    context.out.say("this is the only time the token is shown; Holm keeps its hash alone");
    context.out.show("tokens-create", &made, |made| {
        let mut text = String::new();
        if let (Some(listen), Some(fingerprint)) = (&made.listen, &made.fingerprint) {
            let port = listen.rsplit_once(':').map_or("", |(_, port)| port);
            text.push_str(&format!("HOLM_HOST='https://THIS-HOST:{port}#{fingerprint}'\n"));
        }
        text.push_str(&format!("HOLM_TOKEN={}\n", made.token));
        text
    })
}

/// The time `text` from now: `90d`, or a duration such as `12h`.
fn end(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let wrong = || {
        Failure::usage(format!("`{text}` is not a duration"))
            .hint("write it as `90d`, `12h` or `30m`, at most 3650d, or `never`")
    };
    const DAY_MS: u64 = 86_400_000;
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).and_then(|d| d.checked_mul(DAY_MS));
    let ms =
        days.or_else(|| parse_duration_ms(text)).filter(|ms| (1..=3650 * DAY_MS).contains(ms)).ok_or_else(wrong)?;
    let span = i64::try_from(ms).map(SignedDuration::from_millis).map_err(|_| wrong())?;
    now.checked_add(span).map_err(|_| wrong())
}

/// A token as it is shown: without its hash.
#[derive(Serialize)]
struct Shown {
    id: TokenId,
    name: String,
    scope: Scope,
    created_at: Timestamp,
    created_by: String,
    expires_at: Option<Timestamp>,
    expired: bool,
}

#[derive(Serialize)]
struct Listed {
    tokens: Vec<Shown>,
}

async fn list(context: &Context<'_>) -> Result<(), Failure> {
    let shown = |(id, token): (TokenId, Token)| Shown {
        id,
        expired: !token.is_valid(context.out.now),
        name: token.name,
        scope: token.scope,
        created_at: token.created_at,
        created_by: token.created_by,
        expires_at: token.expires_at,
    };
    let listed = Listed { tokens: context.client.tokens().await?.into_iter().map(shown).collect() };
    context.out.show("tokens-list", &listed, |listed| {
        let row = |token: &Shown| {
            let list = |words: Vec<String>| words.join(",");
            let apps = token.scope.apps.as_ref().map(|apps| list(apps.iter().map(ToString::to_string).collect()));
            let permissions = list(token.scope.permissions.iter().map(ToString::to_string).collect());
            let end = match (token.expired, token.expires_at) {
                (true, _) => "expired".to_owned(),
                (false, Some(end)) => end.strftime("%Y-%m-%d %H:%M").to_string(),
                (false, None) => "never".to_owned(),
            };
            let apps = apps.unwrap_or_else(|| "all".to_owned());
            vec![token.id.to_string(), token.name.clone(), apps, permissions, end, token.created_by.clone()]
        };
        let rows: Vec<Vec<String>> = listed.tokens.iter().map(row).collect();
        table(&["ID", "NAME", "APPS", "ALLOWS", "EXPIRES", "MADE BY"], &rows)
    })
}

//! `holm deploy`, `rollback` and `restart`: the verbs that make a deployment and follow it.

use std::path::Path;

use holm_api::wire::{Command, SentManifest};
use holm_model::id::{AppKey, ReleaseNumber};
use uuid::Uuid;

use super::{Context, follow};
use crate::args::{Deploy, Follow, Plan, Rollback};
use crate::exit::Failure;
use crate::target::read_manifest;

/// What a deploy is made of, after reading the manifest.
pub(crate) struct Wish {
    pub(crate) app: AppKey,
    pub(crate) image: String,
    pub(crate) manifest: SentManifest,
}

/// Reads what `plan` and `deploy` have in common.
pub(crate) fn wish(plan: &Plan) -> Result<Wish, Failure> {
    let (manifest, text) = read_manifest(&plan.file)?;
    let (image, folder) = match (&plan.image, &manifest.image) {
        (Some(image), _) => (image, Path::new("")),
        // A folder in the manifest is meant from where the manifest lies.
        (None, Some(image)) => (image, plan.file.parent().unwrap_or(Path::new(""))),
        (None, None) => {
            return Err(Failure::usage("no image is named")
                .hint("name it, `holm deploy IMAGE`, or write `image = \"…\"` into the manifest"));
        }
    };
    let image = match image.strip_prefix("oci:") {
        Some(path) => format!("oci:{}", std::path::absolute(folder.join(path))?.display()),
        None => image.clone(),
    };
    let app = AppKey { app: manifest.app, env: plan.env.clone().unwrap_or_default() };
    let manifest = SentManifest::new(&text, &plan.file.display().to_string())?;
    Ok(Wish { app, image, manifest })
}

pub(crate) async fn deploy(deploy: &Deploy, context: &Context<'_>) -> Result<(), Failure> {
    let Wish { app, image, manifest } = wish(&deploy.plan)?;
    let command = Command::Deploy { app: app.clone(), image, manifest };
    send_and_follow(context, "deploy", &app, command, deploy.detach).await
}

pub(crate) async fn restart(restart: &Follow, context: &Context<'_>) -> Result<(), Failure> {
    let app = restart.app.resolve()?;
    send_and_follow(context, "restart", &app, Command::Restart { app: app.clone() }, restart.detach).await
}

pub(crate) async fn rollback(rollback: &Rollback, context: &Context<'_>) -> Result<(), Failure> {
    let (mut name, mut to) = (None, None);
    for word in &rollback.names {
        match parse_release(word) {
            Some(release) if to.is_none() => to = Some(release),
            None if name.is_none() => name = Some(word.as_str()),
            _ => return Err(Failure::usage("name one app and one release, such as `holm rollback hello v3`")),
        }
    }
    let app = rollback.app.resolve(name)?;
    let command = Command::Rollback { app: app.clone(), to };
    send_and_follow(context, "rollback", &app, command, rollback.detach).await
}

/// `3` and `v3` are releases; an app's name starts with a letter and is not just `v` and digits here.
fn parse_release(word: &str) -> Option<ReleaseNumber> {
    let digits = word.strip_prefix('v').unwrap_or(word);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().map(ReleaseNumber)).flatten()
}

async fn send_and_follow(
    context: &Context<'_>,
    verb: &str,
    app: &AppKey,
    command: Command,
    detach: bool,
) -> Result<(), Failure> {
    let accepted = context.client.submit(&command, Uuid::now_v7()).await?;
    follow::follow(context, verb, app, &accepted, detach).await
}

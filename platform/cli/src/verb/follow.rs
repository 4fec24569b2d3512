//! Following a deployment until it has ended: step lines, a bar for the image, and the end in words.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use holm_api::Problem;
use holm_api::view::{DeploymentUpdate, DeploymentView, InstanceView, Kind, Progress};
use holm_api::wire::{Accepted, ImageProgress, ImageStep};
use holm_model::id::AppKey;
use holm_model::report::Phase;
use serde::Serialize;

use super::{Context, interrupted};
use crate::exit::{Exit, Failure};
use crate::output::harmless;

#[derive(Serialize)]
struct Answer<'a> {
    /// Whether the command changed anything.
    changed: bool,
    /// The deployment as it ended, or as it is when nobody waits; `null` when there was nothing to do.
    deployment: Option<&'a DeploymentView>,
    /// The addresses of its routes that the ingress cannot listen on, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    closed: &'a BTreeMap<SocketAddr, String>,
}

/// Shows what came of a command that makes a deployment, following it to its end unless `detach`.
pub(crate) async fn follow(
    context: &Context<'_>,
    verb: &str,
    app: &AppKey,
    accepted: &Accepted,
    detach: bool,
) -> Result<(), Failure> {
    let out = context.out;
    let Some(number) = accepted.deployment else {
        let answer = Answer { changed: accepted.changed, deployment: None, closed: &BTreeMap::new() };
        return out.show(verb, &answer, |_| format!("{app} is so already: nothing to do\n"));
    };
    let mut updates = context.client.watch(app, number).await?;
    let bar = out.progress();
    let mut last: Option<DeploymentUpdate> = None;
    loop {
        let update = tokio::select! {
            update = updates.next() => update.map_err(|error| {
                bar.finish_and_clear();
                out.say(&format!("deployment {number} goes on without this command; see `holm status {app}`"));
                Failure::from(error)
            })?,
            () = interrupted() => {
                bar.finish_and_clear();
                out.say(&format!("deployment {number} goes on without this command; see `holm status {app}`"));
                return Err(Failure::silent(Exit::Interrupted));
            }
        };
        let Some(update) = update else { break };
        for line in steps(last.as_ref(), &update) {
            bar.suspend(|| out.say(&line));
        }
        show_image(&bar, update.image.as_ref());
        last = Some(update);
        if detach {
            break;
        }
    }
    bar.finish_and_clear();
    let Some(update) = last else {
        return Err(Problem::failed(format!("nothing is known of deployment {number} of `{app}`")).into());
    };
    let answer = Answer { changed: accepted.changed, deployment: Some(&update.deployment), closed: &update.closed };
    let failed = matches!(update.deployment.status, Progress::Failed | Progress::Superseded);
    if out.json() || !failed {
        out.show(verb, &answer, |_| result(&update.deployment))?;
    }
    match update.closed.first_key_value() {
        _ if failed => Err(failure(&update.deployment, out.json())),
        None => Ok(()),
        Some(_) if out.json() => Err(Failure::silent(Exit::Failed)),
        Some((listener, why)) => Err(unreached(app, *listener, why)),
    }
}

/// The end of a deployment whose app is not reached.
fn unreached(app: &AppKey, listener: SocketAddr, why: &str) -> Failure {
    let problem = Problem::failed(format!("{app} runs, but the ingress does not listen on {listener}"))
        .because(why)
        .hint("Holm goes on trying; `holm doctor` tells which ports cannot be opened");
    Failure::new(Exit::Failed, problem)
}

fn show_image(bar: &indicatif::ProgressBar, image: Option<&ImageProgress>) {
    match image {
        Some(image) => {
            bar.set_length(image.total.unwrap_or(image.done));
            bar.set_position(image.done);
            bar.set_message(step_name(image.step));
        }
        None => bar.set_message(""),
    }
}

const fn step_name(step: ImageStep) -> &'static str {
    match step {
        ImageStep::Resolving => "looking the image up",
        ImageStep::Pulling => "pulling the image",
        ImageStep::Building => "building the file system",
    }
}

/// What has happened between two updates, a line each.
pub(crate) fn steps(before: Option<&DeploymentUpdate>, now: &DeploymentUpdate) -> Vec<String> {
    let mut lines = Vec::new();
    let deployment = &now.deployment;
    let app = &deployment.app;
    if before.is_none() {
        lines.push(match (deployment.kind, &deployment.image, deployment.release) {
            (Kind::Deploy, Some(image), _) => format!("deploying {} to {app}", harmless(image)),
            (Kind::Rollback, _, Some(release)) => format!("rolling {app} back to {release}"),
            (Kind::Restart, _, _) => format!("restarting {app}"),
            _ => format!("deploying {app}"),
        });
    }
    let image_step = |update: &DeploymentUpdate| update.image.as_ref().map(|image| image.step);
    if let Some(step) = image_step(now).filter(|step| before.and_then(image_step) != Some(*step)) {
        lines.push(step_name(step).to_owned());
    }
    if let (Some(release), Some(digest), None) = (deployment.release, &deployment.digest, before_release(before)) {
        lines.push(format!("release {release} is {digest}"));
    }
    for instance in &now.instances {
        let earlier = before.and_then(|b| b.instances.iter().find(|other| other.instance == instance.instance));
        let was = earlier.map(|earlier| earlier.phase);
        let is_new_to_us = was.is_none() && instance.placed_at < deployment.requested_at;
        if was != Some(instance.phase) && !is_new_to_us {
            lines.push(instance_line(instance));
        }
    }
    for (process, room) in &now.waiting {
        if before.is_none_or(|before| !before.waiting.contains_key(process)) {
            lines.push(format!("another instance of `{process}` waits: {room}"));
        }
    }
    // An instance that has vanished has ended.
    for earlier in before.map(|b| b.instances.as_slice()).unwrap_or_default() {
        let gone = !now.instances.iter().any(|instance| instance.instance == earlier.instance);
        if gone && earlier.phase != Phase::Ended {
            lines.push(format!("{}: ended", earlier.instance));
        }
    }
    lines
}

fn before_release(before: Option<&DeploymentUpdate>) -> Option<&holm_model::id::Digest> {
    before.and_then(|before| before.deployment.digest.as_ref())
}

fn instance_line(instance: &InstanceView) -> String {
    let more = match (&instance.end, &instance.detail) {
        (Some(end), _) => format!(": {}", end.cause),
        (None, Some(detail)) => format!(": {detail}"),
        (None, None) => String::new(),
    };
    harmless(&format!("{}: {}{more}", instance.instance, instance.phase))
}

/// The end of a deployment that did not fail, in one line.
fn result(deployment: &DeploymentView) -> String {
    let app = &deployment.app;
    let number = deployment.deployment;
    match (deployment.status, deployment.release, &deployment.digest) {
        (Progress::Succeeded, Some(release), Some(digest)) => format!("{app} serves {release} ({digest})\n"),
        (Progress::Succeeded, ..) => format!("{app}: deployment {number} succeeded\n"),
        _ => format!("{app}: deployment {number} goes on; follow it with `holm status {app}`\n"),
    }
}

/// The end of a deployment that failed.
fn failure(deployment: &DeploymentView, json: bool) -> Failure {
    let (app, number) = (&deployment.app, deployment.deployment);
    // The document on standard output has said it.
    if json {
        return Failure::silent(Exit::Deployment);
    }
    let problem = match (deployment.status, deployment.superseded_by) {
        (Progress::Superseded, Some(by)) => Problem::conflict(format!("deployment {number} of {app} gave way to {by}"))
            .because("a newer deployment was asked for before this one had ended"),
        _ => Problem::failed(format!("deployment {number} of {app} failed")),
    };
    let why = deployment.why.as_deref().map(harmless);
    let mut problem = match why {
        Some(why) if deployment.last_log.is_empty() => problem.because(why),
        Some(why) => {
            let lines = deployment.last_log.iter().map(|line| format!("\n    | {}", harmless(line)));
            problem.because(format!("{why}\n  the last lines it wrote:{}", lines.collect::<String>()))
        }
        None => problem,
    };
    problem.hint = Some(match deployment.previous {
        Some(previous) => format!("{app} still serves {previous}; `holm events --app {app}` tells what happened"),
        None => format!("`holm events --app {app}` tells what happened"),
    });
    Failure::new(Exit::Deployment, problem)
}

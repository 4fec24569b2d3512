//! The release command: once, before the first instance of a new release, and its failure stops the rollout.
//!
//! It runs as an instance of its own, so that what is known of instances holds for it too: its log, its end, its place on
//! the host. A command that runs is never cut off by a newer deployment, which waits: half a migration is worse than a
//! late one.

use holm_manifest::{ReleaseCommand, format_duration_ms};
use holm_model::event::Event;
use holm_model::id::{AppKey, DeploymentNumber, InstanceName};
use holm_model::report::EndCause;
use holm_model::state::{Deployment, DeploymentKind, Instance, State};
use jiff::{SignedDuration, Timestamp};

use crate::Budget;
use crate::room::Shortage;

/// What stands between a deployment and its first instance.
pub(crate) enum Before {
    /// Nothing, or nothing any more.
    Ready,
    /// The release command runs, or one of an earlier deployment does.
    Waits,
    /// There is no memory for it.
    NoRoom(Shortage),
    /// This comes next.
    Decided(Box<Event>),
}

/// Judges the release command of a deployment that is being rolled out.
pub(crate) fn before_rollout(
    state: &State,
    key: &AppKey,
    number: DeploymentNumber,
    deployment: &Deployment,
    budget: &mut Budget<'_>,
) -> Before {
    let release = deployment.release.and_then(|number| Some((number, state.release(key, number)?)));
    let (Some((release, doc)), Some(started)) = (release, deployment.started_at) else { return Before::Ready };
    let Some(command) = &doc.manifest.release else { return Before::Ready };
    // A release that served before was prepared for then; a rollback or a restart prepares nothing.
    if doc.proven || !matches!(deployment.kind, DeploymentKind::Deploy { .. }) {
        return Before::Ready;
    }
    let tasks = || state.instances_of(key).filter(|(_, instance)| instance.task);
    let own = tasks().find(|(_, task)| task.release == release && task.placed_at >= started);
    if let Some((name, task)) = own {
        return judge(key, number, name, task);
    }
    let stopped = state.apps.get(key).is_some_and(|app| app.stopped);
    if stopped || tasks().any(|(_, task)| task.end.is_none()) {
        return Before::Waits;
    }
    if let Err(shortage) = budget.room.take(command.memory) {
        return Before::NoRoom(shortage);
    }
    Before::Decided(Box::new(Event::InstancePlaced {
        instance: budget.name(key, &ReleaseCommand::process_name()),
        release,
        epoch: state.apps.get(key).map_or(0, |app| app.epoch),
        why: format!("the release command of deployment {number}"),
        task: true,
    }))
}

fn judge(key: &AppKey, deployment: DeploymentNumber, name: &InstanceName, task: &Instance) -> Before {
    let Some(end) = &task.end else { return Before::Waits };
    let why = match (&end.cause, &task.retired) {
        (EndCause::Exited { code: 0 }, _) => return Before::Ready,
        (_, Some(retired)) => retired.clone(),
        (cause, None) => cause.to_string(),
    };
    Before::Decided(Box::new(Event::DeploymentFailed {
        app: key.clone(),
        deployment,
        why: format!("the release command, {name}, {why}"),
        last_log: end.last_log.clone(),
        back_to: None,
    }))
}

/// Ends the release commands of `key` that took too long; says when the next one will have.
pub(crate) fn overdue(state: &State, key: &AppKey, now: Timestamp) -> (Vec<Event>, Option<Timestamp>) {
    let (mut decisions, mut wake_at) = (Vec::new(), None);
    for (name, task) in state.instances_of(key).filter(|(_, instance)| instance.task && instance.is_live()) {
        let command = state.release(key, task.release).and_then(|release| release.manifest.release.as_ref());
        let limit = command.map_or(0, |command| command.timeout_ms);
        let wait = SignedDuration::from_millis(limit.try_into().unwrap_or(i64::MAX));
        match task.placed_at.saturating_add(wait) {
            Ok(end) if end > now => wake_at = [wake_at, Some(end)].into_iter().flatten().min(),
            _ => {
                let why = format!("did not end within {}", format_duration_ms(limit));
                decisions.push(Event::InstanceRetired { instance: name.clone(), why });
            }
        }
    }
    (decisions, wake_at)
}

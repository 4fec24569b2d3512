//! Events in words, one line each.

use holm_model::event::Event;
use holm_model::volume::VolumeOrigin;

use crate::output::harmless;

/// What happened, without the time and who caused it.
pub(crate) fn event(event: &Event) -> String {
    let text = match event {
        Event::DeployRequested { app, deployment, image, .. } => {
            format!("{app}: deployment {deployment} of {image} was asked for")
        }
        Event::ReleaseReady { app, deployment, release, digest, .. } => {
            format!("{app}: deployment {deployment} is release {release}, image {}", digest.short())
        }
        Event::RollbackRequested { app, deployment, release } => {
            format!("{app}: deployment {deployment} back to release {release} was asked for")
        }
        Event::RestartRequested { app, deployment } => {
            format!("{app}: deployment {deployment} restarts every instance")
        }
        Event::DeploymentSucceeded { app, deployment } => format!("{app}: deployment {deployment} succeeded"),
        Event::DeploymentFailed { app, deployment, why, .. } => format!("{app}: deployment {deployment} failed: {why}"),
        Event::Scaled { app, process, instances: Some(count) } => format!("{app}: `{process}` was scaled to {count}"),
        Event::Scaled { app, process, instances: None } => {
            format!("{app}: `{process}` was scaled back to the manifest's count")
        }
        Event::AppStopped { app } => format!("{app}: was stopped"),
        Event::AppStarted { app } => format!("{app}: was started"),
        Event::RouteAdded { app, route } => {
            format!("{app}: route {} to port {} of `{}` was added", route.on, route.port, route.process)
        }
        Event::RouteRemoved { app, on } => format!("{app}: route {on} was removed"),
        Event::SecretsChanged { app, .. } => {
            format!("{app}: {}", holm_model::secrets::describe_change(event).unwrap_or_default())
        }
        Event::Ipv4Allocated { app } => format!("{app}: its routes are reached over IPv4 too"),
        Event::Ipv4Released { app } => format!("{app}: its routes are no longer reached over IPv4"),
        Event::AppForgotten { app } => format!("{app}: is gone"),
        Event::InstancePlaced { instance, release, task: true, .. } => {
            format!("{instance}: placed to run the release command of {release}")
        }
        Event::AppDestroyed { app, volumes: true } => format!("{app}: was destroyed with its volumes"),
        Event::VolumeCreated { volume, size, origin } => match origin {
            VolumeOrigin::Empty => format!("{volume}: volume of {size} was made"),
            VolumeOrigin::Staged { what, .. } => format!("{volume}: volume of {size} was made from {what}"),
        },
        Event::VolumeGrown { volume, size } => format!("{volume}: volume was grown to {size}"),
        Event::SnapshotsChanged { volume, bytes } => {
            format!("{volume}: its snapshots take {} MiB of the disk", bytes.div_ceil(1 << 20))
        }
        Event::VolumeDeleted { volume } => format!("{volume}: volume was deleted"),
        Event::AppDestroyed { app, volumes: false } => format!("{app}: was destroyed"),
        Event::InstancePlaced { instance, release, why, .. } => format!("{instance}: placed with {release}: {why}"),
        Event::InstanceRetired { instance, why } => format!("{instance}: is to go: {why}"),
        Event::InstanceObserved { instance, phase, detail, .. } => match detail {
            Some(detail) => format!("{instance}: {phase}: {detail}"),
            None => format!("{instance}: {phase}"),
        },
        Event::InstanceEnded { instance, end } => format!("{instance}: ended: {}", end.cause),
        Event::InstanceForgotten { instance } => format!("{instance}: is remembered no longer"),
        Event::HostStarted { version, acceleration, network, why, .. } => {
            format!("holm {version} started with {acceleration} and the {network} network: {why}")
        }
        Event::TokenCreated { id, name, .. } => format!("the access token `{name}` ({id}) was made"),
        Event::TokenRevoked { id } => format!("the access token {id} was revoked"),
        Event::Asked { verb, about, refused, unrecorded } => {
            asked(verb, about.as_deref(), refused.as_deref(), *unrecorded)
        }
        Event::HostStopped { instances_kept: true } => "holm stopped and left the instances running".to_owned(),
        Event::HostStopped { instances_kept: false } => "holm stopped".to_owned(),
    };
    harmless(&text)
}

fn asked(verb: &str, about: Option<&str>, refused: Option<&str>, unrecorded: u64) -> String {
    let about = about.map(|about| format!(" of {about}")).unwrap_or_default();
    let more = if unrecorded > 0 { format!(" (and {unrecorded} more before)") } else { String::new() };
    match refused {
        Some(why) => format!("{verb}{about} was refused: {why}{more}"),
        None => format!("{verb}{about}"),
    }
}

//! What the host is told: every instance that is remembered, with what should become of it.

use std::collections::BTreeSet;

use holm_model::id::InstanceName;
use holm_model::state::{Instance, State};
use holm_model::target::{HostTarget, InstanceSpec, InstanceTarget, SecretsTarget, Want};
use holm_model::volume::VolumeTarget;

use crate::routing::own_route;
use crate::shape::Shape;
use crate::volumes;

/// The target of the (only) host.
#[must_use]
pub fn host_target(state: &State) -> HostTarget {
    let instances = state.instances.iter().filter_map(|(name, instance)| {
        let want = if instance.is_live() { Want::Run } else { Want::Stop };
        let target = InstanceTarget { want, spec: spec(state, name, instance)?, ports: ports(state, name, instance) };
        Some((name.clone(), target))
    });
    let volumes = state.volumes.values().map(|volume| {
        let target = VolumeTarget { size: volume.size, origin: volume.origin.clone() };
        (volume.number, target)
    });
    HostTarget { generation: state.seq, instances: instances.collect(), volumes: volumes.collect() }
}

fn spec(state: &State, name: &InstanceName, instance: &Instance) -> Option<InstanceSpec> {
    let release = state.release(&name.app, instance.release)?;
    let shape = Shape::of(state, name, instance)?;
    Some(InstanceSpec {
        instance: name.clone(),
        release: instance.release,
        image: release.digest.clone(),
        image_reference: release.reference.clone(),
        command: shape.command(),
        config: release.manifest.config_in(&name.app.env),
        cpu_millis: shape.cpu_millis(),
        memory: shape.memory(),
        health: shape.health(),
        stop: shape.stop(),
        volumes: if instance.task { Vec::new() } else { volumes::mounts(state, name, &release.manifest) },
        secrets: instance.secrets.clone().map(|version| SecretsTarget {
            version: version.number,
            set: version.set,
            uses: release.manifest.secrets.clone(),
        }),
    })
}

/// The guest's ports that routes lead to: those in force, and those the instance's own release will bring in force.
fn ports(state: &State, name: &InstanceName, instance: &Instance) -> BTreeSet<u16> {
    if instance.task {
        return BTreeSet::new();
    }
    let own = state.release(&name.app, instance.release).map(|r| r.manifest.routes_in(&name.app.env));
    let in_force = state.routes_of(&name.app);
    let in_force = in_force.values().map(|route| (route, own_route(state, name, instance, route).port));
    let own = own.unwrap_or_default().iter().map(|route| (route, route.port));
    in_force.chain(own).filter(|(route, _)| route.process == name.process).map(|(_, port)| port).collect()
}

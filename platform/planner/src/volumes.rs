//! Volumes: made and grown as the wanted release says, and never in the hands of two instances.

use std::collections::BTreeSet;

use holm_manifest::{Manifest, ProcessName, VolumeName};
use holm_model::event::Event;
use holm_model::id::{AppKey, InstanceName};
use holm_model::state::{Instance, State};
use holm_model::volume::{VolumeId, VolumeMount, VolumeNumber, VolumeOrigin};

/// The volumes of `manifest` that are missing or too small.
pub(crate) fn make_and_grow(state: &State, key: &AppKey, manifest: &Manifest) -> Vec<Event> {
    let decide = |(name, wanted): (&VolumeName, &holm_manifest::Volume)| {
        let volume = VolumeId { app: key.clone(), name: name.clone() };
        match state.volumes.get(&volume) {
            None => Some(Event::VolumeCreated { volume, size: wanted.size, origin: VolumeOrigin::Empty }),
            Some(there) if there.size < wanted.size => Some(Event::VolumeGrown { volume, size: wanted.size }),
            Some(_) => None,
        }
    };
    manifest.volumes.iter().filter_map(decide).collect()
}

/// The volumes that go with a destroyed app.
pub(crate) fn delete_all(state: &State, key: &AppKey) -> Vec<Event> {
    state.volumes_of(key).map(|(volume, _)| Event::VolumeDeleted { volume: volume.clone() }).collect()
}

/// Whether an instance has a volume that `manifest` gives to one of its process types: in a rollout it ends before its
/// successor starts, also under blue-green.
#[must_use]
pub fn gives_way(state: &State, manifest: &Manifest, name: &InstanceName, instance: &Instance) -> bool {
    let own = names_of(state, name, instance);
    manifest.processes.values().any(|process| process.mounts.keys().any(|volume| own.contains(volume)))
}

/// The volumes an instance mounts, as its own release says.
fn names_of<'s>(state: &'s State, name: &InstanceName, instance: &Instance) -> BTreeSet<&'s VolumeName> {
    let release = state.release(&name.app, instance.release).filter(|_| !instance.task);
    let process = release.and_then(|release| release.manifest.processes.get(&name.process));
    process.map(|process| process.mounts.keys().collect()).unwrap_or_default()
}

/// Whether an instance that has not ended has one of the volumes that `process` of `manifest` wants: a retired one too,
/// since its microVM may still write.
pub(crate) fn are_in_use(state: &State, key: &AppKey, manifest: &Manifest, process: &ProcessName) -> bool {
    let Some(wanted) = manifest.processes.get(process).map(|p| &p.mounts).filter(|m| !m.is_empty()) else {
        return false;
    };
    let mut open = state.instances_of(key).filter(|(_, instance)| instance.end.is_none());
    open.any(|(name, instance)| names_of(state, name, instance).into_iter().any(|volume| wanted.contains_key(volume)))
}

/// The instances that have not ended and have `volume`, newest last.
#[must_use]
pub fn users_of_volume<'s>(state: &'s State, volume: &VolumeId) -> Vec<&'s InstanceName> {
    let open = state.instances.iter().filter(|(name, i)| i.end.is_none() && name.app == volume.app);
    open.filter(|(name, i)| names_of(state, name, i).contains(&volume.name)).map(|(name, _)| name).collect()
}

/// The volumes an instance has. A volume that was deleted is left out: nothing that still runs has one.
pub(crate) fn mounts(state: &State, name: &InstanceName, manifest: &Manifest) -> Vec<VolumeMount> {
    let wanted = manifest.processes.get(&name.process).into_iter().flat_map(|process| &process.mounts);
    let mount = |(volume, path): (&VolumeName, &String)| {
        let volume = VolumeId { app: name.app.clone(), name: volume.clone() };
        let number: VolumeNumber = state.volumes.get(&volume)?.number;
        Some(VolumeMount { volume, number, path: path.clone() })
    };
    wanted.filter_map(mount).collect()
}

//! The host's disk: what is promised, what is free, and whether something fits. Everybody who asks that asks here.
//!
//! Room is promised when a command is accepted, not when something is written: a volume counts with its whole size, from the
//! moment a deployment that wants it is under way, and a process type with the logs of all instances it may have and of those
//! that are remembered. So what was accepted never waits for disk, and nothing the planner decides later promises more.

use std::collections::{BTreeMap, BTreeSet};

use holm_manifest::{Manifest, ProcessName, ReleaseCommand, VolumeName};
use holm_model::footprint::INSTANCE_DISK;
use holm_model::id::AppKey;
use holm_model::state::{App, State};
use holm_model::volume::VolumeId;

use crate::REMEMBERED;
use crate::room::Shortage;

/// The disk of the host, as far as volumes, their snapshots and logs may take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    promised: u64,
    cap: Option<u64>,
}

impl Disk {
    /// What is promised in `state`, and what may be.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let apps: BTreeSet<&AppKey> = state.apps.keys().chain(state.volumes.keys().map(|volume| &volume.app)).collect();
        let promised = apps.into_iter().map(|key| of_app(state, key, state.apps.get(key), &in_force(state, key))).sum();
        Self { promised, cap: state.site.host.as_ref().and_then(|host| host.disk) }
    }

    /// Whether `more` bytes can be promised beside what is. Nothing more always fits, also on a host that has come back
    /// smaller.
    ///
    /// # Errors
    /// When they cannot.
    pub fn fits(&self, more: u64) -> Result<(), Shortage> {
        let Some(cap) = self.cap else { return Ok(()) };
        let free = cap.saturating_sub(self.promised);
        if more > free { Err(Shortage { needs: more, free, cap }) } else { Ok(()) }
    }

    /// Bytes that are promised.
    #[must_use]
    pub const fn promised(&self) -> u64 {
        self.promised
    }

    /// Bytes that are promised and bytes that may be; `None` where nobody has said how many may be.
    #[must_use]
    pub fn figures(&self) -> Option<(u64, u64)> {
        self.cap.map(|cap| (self.promised, cap))
    }
}

/// Says whether the host's disk has room for `app` as it would be: with `coming` under way, or with the manifests that are in
/// force.
///
/// # Errors
/// When that would promise more than the host has.
pub fn fits_disk(state: &State, key: &AppKey, app: &App, coming: Option<&Manifest>) -> Result<(), Shortage> {
    let now = in_force(state, key);
    let current = || state.release(key, app.current?).map(|release| &release.manifest);
    let then = match coming {
        Some(coming) => current().into_iter().chain([coming]).collect(),
        None => now.clone(),
    };
    let (before, after) = (of_app(state, key, state.apps.get(key), &now), of_app(state, key, Some(app), &then));
    Disk::of(state).fits(after.saturating_sub(before))
}

/// Says whether the host's disk has room for a volume of so many bytes, there or not, with `snapshots` more bytes of its
/// snapshots.
///
/// # Errors
/// When that would promise more than the host has.
pub fn fits_volume(state: &State, volume: &VolumeId, bytes: u64, snapshots: u64) -> Result<(), Shortage> {
    let there = state.volumes.get(volume).map_or(0, |there| there.size.bytes());
    let wanted = wanted(&in_force(state, &volume.app)).get(&volume.name).copied().unwrap_or(0);
    let more = bytes.saturating_sub(there.max(wanted));
    Disk::of(state).fits(more.saturating_add(snapshots))
}

/// The manifests by which something is or may soon be made for an app.
fn in_force<'s>(state: &'s State, key: &'s AppKey) -> Vec<&'s Manifest> {
    let stays = state.apps.get(key).is_some_and(|app| !app.destroyed);
    state.manifests_of(key).filter(|_| stays).collect()
}

/// The largest size each volume is to have.
fn wanted<'m>(manifests: &[&'m Manifest]) -> BTreeMap<&'m VolumeName, u64> {
    let mut wanted = BTreeMap::new();
    for (name, volume) in manifests.iter().flat_map(|manifest| &manifest.volumes) {
        let size = wanted.entry(name).or_insert(0);
        *size = volume.size.bytes().max(*size);
    }
    wanted
}

/// What one app takes of the disk at the most: `app` as it is or would be, under `manifests`.
fn of_app(state: &State, key: &AppKey, app: Option<&App>, manifests: &[&Manifest]) -> u64 {
    let mut volumes: BTreeMap<&VolumeName, u64> = wanted(manifests);
    let mut snapshots = 0;
    for (id, volume) in state.volumes_of(key) {
        let size = volumes.entry(&id.name).or_insert(0);
        *size = volume.size.bytes().max(*size);
        snapshots += volume.snapshots;
    }
    volumes.values().sum::<u64>() + snapshots + instances(state, key, app, manifests) * INSTANCE_DISK
}

/// Instances of an app that may lie on the disk at once. Of each process type: those that run, as many that take their places,
/// and those that are remembered; of one that is wanted no longer the remembered ones.
fn instances(state: &State, key: &AppKey, app: Option<&App>, manifests: &[&Manifest]) -> u64 {
    let remembered = REMEMBERED as u64;
    let mut most: BTreeMap<ProcessName, u64> = BTreeMap::new();
    let gone = state.instances_of(key).map(|(name, _)| (name.process.clone(), 0));
    let command = manifests.iter().filter(|manifest| manifest.release.is_some());
    let command = command.map(|_| (ReleaseCommand::process_name(), 1));
    let wanted = manifests.iter().flat_map(|manifest| {
        manifest.processes.keys().map(|process| {
            let by_hand = app.and_then(|app| app.scale.get(process).copied());
            let count = by_hand.unwrap_or_else(|| manifest.instances_in(&key.env, process));
            (process.clone(), u64::from(count))
        })
    });
    for (process, count) in gone.chain(command).chain(wanted) {
        let known = most.entry(process).or_insert(0);
        *known = count.max(*known);
    }
    most.values().map(|count| 2 * count + remembered).sum()
}

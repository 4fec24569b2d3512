//! The host's memory: what is taken, what is free, and whether something fits. Everybody who asks that asks here.

use holm_manifest::{Manifest, Memory, ProcessName, Strategy};
use holm_model::footprint::footprint;
use holm_model::id::{AppKey, InstanceName};
use holm_model::state::{App, Host, Instance, State};

use crate::shape::Shape;
use crate::volumes::gives_way;

/// The memory of the host, as far as microVMs may take it. Memory is admitted for the worst case and never overcommitted.
#[derive(Debug, Clone)]
pub struct Room<'a> {
    /// The host, where it has said how much there is.
    host: Option<(&'a Host, u64)>,
    taken: u64,
}

/// Not enough memory, or not enough disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// What is needed at the same time, in bytes.
    pub needs: u64,
    /// What is free for it, in bytes.
    pub free: u64,
    /// What all may take together, in bytes.
    pub cap: u64,
}

impl<'a> Room<'a> {
    /// The room in `state`: every instance that has not ended takes its part.
    #[must_use]
    pub fn of(state: &'a State) -> Self {
        Self::counting(state, |_| true)
    }

    fn counting(state: &'a State, counts: impl Fn(&AppKey) -> bool) -> Self {
        let host = state.site.host.as_ref().and_then(|host| Some((host, host.memory?)));
        let running = state.instances.iter().filter(|(name, i)| i.end.is_none() && counts(&name.app));
        let taken = host.map_or(0, |(host, _)| {
            let of = |(name, instance): (_, &Instance)| Shape::of(state, name, instance).map(|shape| shape.memory());
            running.filter_map(of).map(|memory| footprint(memory, host)).sum()
        });
        Self { host, taken }
    }

    /// Takes the room of one more instance whose app may use `memory`.
    ///
    /// # Errors
    /// When there is not enough; nothing is taken.
    pub fn take(&mut self, memory: Memory) -> Result<(), Shortage> {
        let Some((host, cap)) = self.host else { return Ok(()) };
        let (needs, free) = (footprint(memory, host), cap.saturating_sub(self.taken));
        if needs > free {
            return Err(Shortage { needs, free, cap });
        }
        self.taken += needs;
        Ok(())
    }

    /// Memory that is taken and memory there is, in bytes; `None` where nobody has said how much there is.
    #[must_use]
    pub fn figures(&self) -> Option<(u64, u64)> {
        self.host.map(|(_, cap)| (self.taken, cap))
    }
}

/// Says whether `app` could go over to `manifest` beside what the other apps have: all of its instances, what has to run
/// beside them while they change places, and the release command.
///
/// # Errors
/// When the host could not hold that, however long it waits for this app's own instances.
pub fn fits(state: &State, key: &AppKey, app: &App, manifest: &Manifest, comes_in: bool) -> Result<(), Shortage> {
    let room = Room::counting(state, |other| other != key);
    let Some((host, cap)) = room.host else { return Ok(()) };
    let count = |process: &ProcessName| {
        u64::from(app.scale.get(process).copied().unwrap_or_else(|| manifest.instances_in(&key.env, process)))
    };
    let live: Vec<_> = state.instances_of(key).filter(|(_, instance)| instance.is_live() && !instance.task).collect();
    let size_of = |(name, instance): &(&InstanceName, &Instance)| {
        Shape::of(state, name, instance).map_or(0, |shape| footprint(shape.memory(), host))
    };
    // Who has a volume goes before its successor comes, and needs no room beside it.
    let stays: Vec<_> =
        live.iter().filter(|(name, instance)| !gives_way(state, manifest, name, instance)).copied().collect();
    let (mut all, mut largest) = (0, 0);
    for (name, process) in manifest.processes.iter().filter(|(name, _)| count(name) > 0) {
        let size = footprint(process.memory, host);
        all += count(name) * size;
        if process.mounts.is_empty() || stays.iter().any(|(live, _)| live.process == *name) {
            largest = largest.max(size);
        }
    }
    let now: u64 = live.iter().map(size_of).sum();
    let needs = match (comes_in && now > 0, manifest.strategy) {
        (false, _) => all,
        (true, Strategy::BlueGreen) => stays.iter().map(size_of).sum::<u64>() + all,
        (true, Strategy::Rolling) => now.max(all) + largest,
    };
    let task = manifest.release.as_ref().filter(|_| comes_in).map_or(0, |task| now + footprint(task.memory, host));
    let (needs, free) = (needs.max(task), cap.saturating_sub(room.taken));
    if needs > free { Err(Shortage { needs, free, cap }) } else { Ok(()) }
}

//! Backups by schedule: when each volume is due, what is tried again, and what is overdue.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use holm_api::Problem;
use holm_manifest::BackupPolicy;
use holm_model::volume::{VolumeId, VolumeNumber};
use holm_volume::backup::{About, Vault};
use holm_volume::file_system_of;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Storage, backup_problem};

/// How often the schedule is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// How long a backup that failed by schedule rests before the next try, at most.
const REST: Duration = Duration::from_secs(600);

impl Storage {
    /// How often a volume is to be backed up, by the release that should run.
    fn policies(&self) -> BTreeMap<VolumeId, BackupPolicy> {
        let state = self.control.state();
        let policy = |id: &VolumeId| {
            let release = state.wanted_release(&id.app).and_then(|number| state.release(&id.app, number))?;
            release.manifest.volumes.get(&id.name)?.backup
        };
        state.volumes.keys().filter_map(|id| Some((id.clone(), policy(id)?))).collect()
    }

    /// Makes backups by schedule until it is told to stop.
    pub(crate) async fn follow_schedule(self: Arc<Self>, stop: CancellationToken) {
        let Some(vault) = &self.vault else { return };
        let mut next: BTreeMap<VolumeId, Timestamp> = BTreeMap::new();
        loop {
            let policies = self.policies();
            self.overdue_now().retain(|id, _| policies.contains_key(id));
            for (id, policy) in policies {
                let every = Duration::from_millis(policy.every_ms);
                let now = Timestamp::now();
                let due = match next.get(&id) {
                    Some(due) => *due,
                    None => match vault.list(Some(&id)).await {
                        Ok(listed) => listed.last().map_or(now, |last| last.written_at + every),
                        Err(_) => now,
                    },
                };
                next.insert(id.clone(), due);
                let has_file = self.volume(&id).is_ok_and(|(_, volume)| self.volumes.path(volume.number).exists());
                if due > now || !has_file {
                    continue;
                }
                let done = tokio::select! {
                    () = stop.cancelled() => return,
                    done = self.scheduled(&id, policy, vault) => done,
                };
                match done {
                    Ok(()) => {
                        self.overdue_now().remove(&id);
                        next.insert(id, now + every);
                    }
                    Err(problem) => {
                        tracing::error!(volume = %id, %problem, "a backup by schedule failed; trying again later");
                        self.overdue_now().insert(id.clone(), problem);
                        next.insert(id, now + every.min(REST));
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn overdue_now(&self) -> std::sync::MutexGuard<'_, BTreeMap<VolumeId, Problem>> {
        self.overdue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Volumes that are not backed up by schedule although they should be, and why.
    pub(crate) fn overdue(&self) -> BTreeMap<VolumeId, Problem> {
        self.overdue_now().clone()
    }

    async fn scheduled(&self, id: &VolumeId, policy: BackupPolicy, vault: &Vault) -> Result<(), Problem> {
        let (_, volume) = self.volume(id)?;
        let here = file_system_of(&self.volumes.path(volume.number));
        let newest = vault.newest(id).await.map_err(backup_problem("look for the last backup"))?;
        if let Some(newest) = newest
            && let Ok(index) = vault.index(&newest).await
            && was_replaced(&index.about, volume.number, here)
        {
            return Err(Problem::refused(format!("cannot back up `{id}` by schedule"))
                .because(format!("it was made anew on this host and is not what {newest} was taken of"))
                .hint(format!(
                    "restore that one with `holm backups restore`; `holm backups create {id}` backs up what is here now"
                )));
        }
        let made = self.back_up(id, self.rate, false).await?;
        tracing::info!(backup = %made.id, read = made.read, sent = made.sent, "backed up by schedule");
        let _turn = self.turn.lock().await;
        let keep = usize::try_from(policy.keep).unwrap_or(usize::MAX);
        vault.prune_own(id, here, keep, super::GRACE).await.map(drop).map_err(backup_problem("remove old backups"))
    }
}

/// Whether the volume with this number and file system has taken the place of the one that a backup was taken of, as after a
/// state was imported: that has the volumes' names and numbers, and none of their files.
fn was_replaced(newest: &About, number: VolumeNumber, file_system: Option<Uuid>) -> bool {
    newest.number == number && !newest.may_be_of(file_system)
}

#[cfg(test)]
mod tests {
    use holm_manifest::VolumeSize;
    use holm_volume::backup::CHUNK;

    use super::*;

    #[test]
    fn a_volume_in_the_place_of_another_is_told() {
        let [one, two] = [1, 2].map(|id| Some(Uuid::from_u128(id)));
        let about = |file_system| About {
            form: 1,
            id: "hello:data@20260131T120000.000Z".parse().unwrap(),
            number: VolumeNumber(7),
            size: VolumeSize::from_mib(16).unwrap(),
            chunk: u64::from(CHUNK),
            taken_at: Timestamp::UNIX_EPOCH,
            follows: None,
            file_system,
        };
        let table = [
            (about(one), 7, one, false),
            (about(one), 7, two, true),
            // One that was made again by hand has another number: that is meant.
            (about(one), 8, two, false),
            // A backup of an older version, or a file that cannot be read: nobody knows.
            (about(None), 7, two, false),
            (about(one), 7, None, false),
        ];
        for (about, number, here, expected) in table {
            assert_eq!(was_replaced(&about, VolumeNumber(number), here), expected, "{about:?} {number} {here:?}");
        }
    }
}

//! Volumes, snapshots and backups of the running Holm: asked for by people, and made by schedule.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holm_agent::{AgentHandle, Copied, VolumeCopy};
use holm_api::storage::{
    BackupListed, BackupView, PrunedView, RestoredView, SnapshotView, StorageAnswer, StorageRequest, VerifiedView,
    VolumeView,
};
use holm_api::{Problem, ProblemCode};
use holm_control::{Command, Control, Meta, Refused, Rules, VolumeCommand};
use holm_manifest::VolumeSize;
use holm_model::volume::{Volume, VolumeId, VolumeOrigin};
use holm_volume::backup::{BackupError, BackupId, BackupKey, CHUNK, Made, NewBackup, Rate, Source, Vault};
use holm_volume::{ChangedClusters, Snapshot, SnapshotId, VolumeError, VolumeStore, file_system_of};
use jiff::Timestamp;

use super::backend::refused;
use super::images::chain;

mod room;
mod schedule;

/// A chunk that no backup names stays this long: another Holm may be about to name it.
const GRACE: Duration = Duration::from_secs(3600);

/// Where backups go, as `holm up` was told.
#[derive(Debug, Clone, Default)]
pub(crate) struct BackupOptions {
    /// The address of the store; `None`: there are no backups.
    pub(crate) store: Option<String>,
    /// The key's file; `None`: `backup.key` in the state folder.
    pub(crate) key: Option<std::path::PathBuf>,
    /// Bytes per second at most; 0: no limit.
    pub(crate) rate: u64,
}

/// The storage of the running Holm.
pub(crate) struct Storage {
    control: Control,
    agent: Arc<AgentHandle>,
    volumes: VolumeStore,
    vault: Option<Vault>,
    state_dir: PathBuf,
    rate: u64,
    /// Snapshots and backups are taken, and backups removed, one after the other.
    turn: tokio::sync::Mutex<()>,
    /// Volumes that are not backed up by schedule although they should be, and why.
    overdue: Mutex<BTreeMap<VolumeId, Problem>>,
}

/// The name of QEMU's record of what changed since a backup.
fn record_of(id: &BackupId) -> String {
    format!("holm-{}", id.moment.as_str())
}

fn volume_problem(what: &str) -> impl Fn(VolumeError) -> Problem {
    let what = format!("cannot {what}");
    move |error| {
        let code = match error {
            VolumeError::NoSnapshot(_) => ProblemCode::NotFound,
            _ => ProblemCode::Failed,
        };
        Problem::new(code, what.clone()).because(chain(&error))
    }
}

fn backup_problem(what: &str) -> impl Fn(BackupError) -> Problem {
    let what = format!("cannot {what}");
    move |error| {
        let code = match error {
            BackupError::NoBackup(_) => ProblemCode::NotFound,
            _ => ProblemCode::Failed,
        };
        let problem = Problem::new(code, what.clone()).because(chain(&error));
        match error {
            BackupError::Damaged { .. } | BackupError::MissingChunk(_) => problem.hint(
                "later backups may name what is lost too: `holm backups create VOLUME --whole` sends everything again",
            ),
            _ => problem,
        }
    }
}

impl Storage {
    pub(crate) fn new(
        state_dir: &Path,
        options: &BackupOptions,
        (control, agent, volumes): (Control, Arc<AgentHandle>, VolumeStore),
    ) -> Result<Self, BackupError> {
        let key = options.key.clone().unwrap_or_else(|| state_dir.join("backup.key"));
        let vault = match &options.store {
            Some(address) => Some(Vault::open(address, BackupKey::load_or_make(&key)?)?),
            None => None,
        };
        Ok(Self {
            control,
            agent,
            volumes,
            vault,
            state_dir: state_dir.to_owned(),
            rate: options.rate,
            turn: tokio::sync::Mutex::new(()),
            overdue: Mutex::default(),
        })
    }

    pub(crate) async fn answer(&self, request: StorageRequest, actor: String) -> Result<StorageAnswer, Problem> {
        match request {
            StorageRequest::Volumes { volume } => self.list_volumes(volume.as_ref()).map(StorageAnswer::Volumes),
            StorageRequest::TakeSnapshot { volume } => {
                self.take_snapshot(&volume, actor).await.map(|taken| StorageAnswer::Snapshot(snapshot_view(taken)))
            }
            StorageRequest::Snapshots { volume } => self.list_snapshots(volume.as_ref()).map(StorageAnswer::Snapshots),
            StorageRequest::DeleteSnapshot { volume, moment } => {
                let (_, found) = self.volume(&volume)?;
                let id = snapshot_id(&moment)?;
                let deleted = self.volumes.delete_snapshot(found.number, &id);
                deleted.map_err(volume_problem("delete the snapshot"))?;
                self.measure(&volume, found.number, actor).await;
                Ok(StorageAnswer::Done)
            }
            StorageRequest::RestoreSnapshot { volume, moment, to } => {
                self.restore_snapshot(&volume, &moment, &to, actor).await.map(StorageAnswer::Restored)
            }
            StorageRequest::Backup { volume, rate, whole } => self
                .back_up(&volume, rate.unwrap_or(self.rate), whole)
                .await
                .map(|made| StorageAnswer::Backup(made_view(made))),
            StorageRequest::Backups { volume } => {
                let listed = self.vault()?.list(volume.as_ref()).await.map_err(backup_problem("list the backups"))?;
                let view = |listed: holm_volume::backup::Listed| BackupListed {
                    volume: listed.id.volume,
                    moment: listed.id.moment.as_str().to_owned(),
                    written_at: listed.written_at,
                };
                Ok(StorageAnswer::Backups(listed.into_iter().map(view).collect()))
            }
            StorageRequest::VerifyBackup { volume, moment, rate } => {
                let id = self.backup_id(volume, moment).await?;
                let rate = Rate::new(rate.unwrap_or(self.rate));
                let seen = self.vault()?.verify(&id, &rate).await;
                let seen = seen.map_err(backup_problem(&format!("verify {id}")))?;
                let (volume, moment) = (seen.id.volume, seen.id.moment.as_str().to_owned());
                Ok(StorageAnswer::Verified(VerifiedView { volume, moment, chunks: seen.chunks, read: seen.read }))
            }
            StorageRequest::RestoreBackup { volume, moment, to, rate } => {
                let id = self.backup_id(volume, moment).await?;
                self.restore_backup(&id, &to, rate, actor).await.map(StorageAnswer::Restored)
            }
            StorageRequest::PruneBackups { volume, keep } => {
                let _turn = self.turn.lock().await;
                let keep = usize::try_from(keep).unwrap_or(usize::MAX);
                let gone = self.vault()?.prune(volume.as_ref(), keep, GRACE).await;
                let gone = gone.map_err(backup_problem("remove backups"))?;
                let backups = gone.backups.iter().map(ToString::to_string).collect();
                Ok(StorageAnswer::Pruned(PrunedView { backups, chunks: gone.chunks, bytes: gone.bytes }))
            }
        }
    }

    fn vault(&self) -> Result<&Vault, Problem> {
        self.vault.as_ref().ok_or_else(|| {
            Problem::new(ProblemCode::Refused, "there is no store for backups")
                .because("holm was started without one")
                .hint("start it with `holm up --backups FOLDER`, or `--backups s3://BUCKET/FOLDER`")
        })
    }

    fn volume(&self, id: &VolumeId) -> Result<(VolumeId, Volume), Problem> {
        let state = self.control.state();
        let found = state.volumes.get(id).cloned();
        let found = found.ok_or_else(|| {
            Problem::not_found(format!("there is no volume `{id}`")).hint("`holm volumes list` shows the volumes")
        })?;
        Ok((id.clone(), found))
    }

    fn list_volumes(&self, only: Option<&VolumeId>) -> Result<Vec<VolumeView>, Problem> {
        if let Some(id) = only {
            self.volume(id)?;
        }
        let state = self.control.state();
        let wanted = state.volumes.iter().filter(|(id, _)| only.is_none_or(|only| only == *id));
        let view = |(id, volume): (&VolumeId, &Volume)| {
            let snapshots = self.volumes.snapshots(volume.number).map_err(volume_problem("list the snapshots"))?;
            Ok(VolumeView {
                volume: id.clone(),
                size: volume.size,
                used: self.volumes.used(volume.number, &volume.origin),
                holder: self.agent.holder_of(volume.number),
                origin: match &volume.origin {
                    VolumeOrigin::Empty => None,
                    VolumeOrigin::Staged { what, .. } => Some(what.clone()),
                },
                created_at: volume.created_at,
                created_by: volume.created_by.clone(),
                file: self.volumes.path(volume.number).display().to_string(),
                snapshots: snapshots.len(),
            })
        };
        wanted.map(view).collect()
    }

    fn list_snapshots(&self, only: Option<&VolumeId>) -> Result<Vec<SnapshotView>, Problem> {
        let mut listed = Vec::new();
        for view in self.list_volumes(only)? {
            let (_, volume) = self.volume(&view.volume)?;
            let found = self.volumes.snapshots(volume.number).map_err(volume_problem("list the snapshots"))?;
            listed.extend(found.into_iter().map(snapshot_view));
        }
        Ok(listed)
    }

    /// The size of a volume's file; an error when nobody has had the volume yet.
    fn size_of_file(&self, id: &VolumeId, volume: &Volume) -> Result<VolumeSize, Problem> {
        let file = self.volumes.path(volume.number);
        let size = std::fs::metadata(file).ok().and_then(|meta| VolumeSize::try_from(meta.len()).ok());
        size.ok_or_else(|| {
            Problem::new(ProblemCode::Refused, format!("cannot copy the volume `{id}`"))
                .because("nobody has had it yet")
        })
    }

    async fn take_snapshot(&self, id: &VolumeId, actor: String) -> Result<Snapshot, Problem> {
        let _turn = self.turn.lock().await;
        let (id, volume) = self.volume(id)?;
        let size = self.size_of_file(&id, &volume)?;
        room::keep(self, &id, &volume, actor.clone()).await?;
        let taken = self.snapshot_in_its_room(&id, &volume, size).await;
        self.measure(&id, volume.number, actor).await;
        taken
    }

    async fn snapshot_in_its_room(
        &self,
        id: &VolumeId,
        volume: &Volume,
        size: VolumeSize,
    ) -> Result<Snapshot, Problem> {
        let what = format!("take a snapshot of `{id}`");
        let new = self.volumes.begin_snapshot(id, volume.number, size, Timestamp::now());
        let new = new.map_err(volume_problem(&what))?;
        let copy = VolumeCopy {
            number: volume.number,
            file: self.volumes.path(volume.number),
            target: new.path().to_owned(),
            size: size.bytes(),
            changes: None,
            record: None,
            rate: 0,
        };
        let copied = self.agent.copy_volume(&copy).await;
        let copied = copied.map_err(|error| Problem::failed(format!("cannot {what}")).because(chain(&error)))?;
        new.keep(copied == Copied::Frozen).map_err(volume_problem(&what))
    }

    async fn restore_snapshot(
        &self,
        id: &VolumeId,
        moment: &str,
        to: &VolumeId,
        actor: String,
    ) -> Result<RestoredView, Problem> {
        let _turn = self.turn.lock().await;
        let (id, volume) = self.volume(id)?;
        let problem = volume_problem("restore the snapshot");
        let (found, image) = self.volumes.snapshot(volume.number, &snapshot_id(moment)?).map_err(&problem)?;
        self.must_fit(to, found.size)?;
        let staged = self.volumes.stage();
        let target = staged.path().to_owned();
        let copied = tokio::task::spawn_blocking(move || holm_volume::clone_or_copy(&image, &target)).await;
        let copied = copied.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        copied.map_err(|error| Problem::failed("cannot restore the snapshot").because(error))?;
        let from = format!("snapshot {id}@{}", found.id.as_str());
        self.record(to, found.size, staged.keep().map_err(&problem)?, from, actor).await
    }

    /// Refuses before anything is copied what would be refused after it: the name is taken, or there is no room.
    fn must_fit(&self, to: &VolumeId, size: VolumeSize) -> Result<(), Problem> {
        let change = VolumeCommand::Create { size, origin: VolumeOrigin::Empty };
        let command = Command::Volume { volume: to.clone(), change };
        let decided = holm_control::decide(&self.control.state(), &Rules::default(), &command);
        decided.map(drop).map_err(|refusal| refused(Refused::Refusal(refusal)))
    }

    /// Records a volume whose file is staged. Until here nothing was acknowledged; from here on it is a volume.
    async fn record(
        &self,
        to: &VolumeId,
        size: VolumeSize,
        key: uuid::Uuid,
        from: String,
        actor: String,
    ) -> Result<RestoredView, Problem> {
        let origin = VolumeOrigin::Staged { key, what: from.clone() };
        let command = Command::Volume { volume: to.clone(), change: VolumeCommand::Create { size, origin } };
        self.control.submit(command, Meta::new(actor)).await.map_err(refused)?;
        Ok(RestoredView { volume: to.clone(), size, from })
    }

    async fn back_up(&self, id: &VolumeId, rate: u64, whole: bool) -> Result<Made, Problem> {
        let vault = self.vault()?;
        let _turn = self.turn.lock().await;
        let (id, volume) = self.volume(id)?;
        let size = self.size_of_file(&id, &volume)?;
        let what = format!("back up `{id}`");
        let problem = backup_problem(&what);
        let agent_problem =
            |error: holm_agent::AgentError| Problem::failed(format!("cannot {what}")).because(chain(&error));
        let newest = if whole { None } else { vault.newest(&id).await.map_err(&problem)? };
        let follows = match newest {
            Some(newest) => vault.index(&newest).await.inspect_err(|error| {
                tracing::warn!(backup = %newest, error = %chain(error), "cannot follow the last backup; making a whole one");
            }),
            None => Err(BackupError::NoBackup(id.to_string())),
        }
        .ok();
        let records = self.agent.change_records(volume.number).await.map_err(agent_problem)?;
        let since = follows.as_ref().filter(|index| index.about.number == volume.number && index.about.size == size);
        let since = since.map(|index| record_of(&index.about.id)).filter(|record| records.contains(record));
        for old in records.iter().filter(|record| Some(*record) != since.as_ref()) {
            self.agent.drop_record(volume.number, old).await.map_err(agent_problem)?;
        }
        let taken_at = Timestamp::now();
        let new = BackupId { volume: id.clone(), moment: SnapshotId::at(taken_at) };
        let scratch = Scratch(self.volumes.scratch());
        let copy = VolumeCopy {
            number: volume.number,
            file: self.volumes.path(volume.number),
            target: scratch.0.clone(),
            size: size.bytes(),
            changes: since.clone().map(|since| (since, CHUNK)),
            record: Some(record_of(&new)),
            rate,
        };
        let made = async {
            let copied = self.agent.copy_volume(&copy).await.map_err(agent_problem)?;
            let source = if since.is_some() && copied == Copied::Frozen {
                let read = ChangedClusters::open(&scratch.0);
                Source::Changes(read.map_err(|error| Problem::failed(format!("cannot {what}")).because(chain(&error)))?)
            } else {
                Source::Whole(scratch.0.clone())
            };
            let number = volume.number;
            let file_system = file_system_of(&copy.file);
            let backup = NewBackup { id: new.clone(), number, size, taken_at, file_system, follows, source };
            vault.make(backup, &Rate::new(rate)).await.map_err(&problem)
        };
        let made = made.await;
        // Changes are recorded since the newest backup that is there: this one, or the one before.
        let outdated = if made.is_ok() { since } else { Some(record_of(&new)) };
        if let Some(outdated) = outdated
            && let Err(error) = self.agent.drop_record(volume.number, &outdated).await
        {
            tracing::debug!(%error, "a record of changes stays until the next backup");
        }
        made
    }

    async fn backup_id(&self, volume: VolumeId, moment: Option<String>) -> Result<BackupId, Problem> {
        if let Some(moment) = moment {
            return Ok(BackupId { volume, moment: snapshot_id(&moment)? });
        }
        let newest = self.vault()?.newest(&volume).await.map_err(backup_problem("list the backups"))?;
        newest.ok_or_else(|| Problem::not_found(format!("there is no backup of `{volume}`")))
    }

    async fn restore_backup(
        &self,
        id: &BackupId,
        to: &VolumeId,
        rate: Option<u64>,
        actor: String,
    ) -> Result<RestoredView, Problem> {
        let what = format!("restore {id}");
        let vault = self.vault()?;
        self.must_fit(to, vault.index(id).await.map_err(backup_problem(&what))?.about.size)?;
        let staged = self.volumes.stage();
        let restored = vault.restore(id, staged.path(), &Rate::new(rate.unwrap_or(self.rate))).await;
        let about = restored.map_err(backup_problem(&what))?;
        let key = staged.keep().map_err(volume_problem("restore the backup"))?;
        self.record(to, about.size, key, format!("backup {id}"), actor).await
    }
}

/// A file that goes with this value.
struct Scratch(std::path::PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // One that stays is removed when the store is opened.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn snapshot_id(moment: &str) -> Result<SnapshotId, Problem> {
    SnapshotId::parse(moment)
        .ok_or_else(|| Problem::bad_request(format!("`{moment}` is not a moment such as the list shows")))
}

fn snapshot_view(taken: Snapshot) -> SnapshotView {
    let Snapshot { id, volume, size, taken_at, frozen, .. } = taken;
    SnapshotView { volume, moment: id.as_str().to_owned(), taken_at, size, frozen }
}

fn made_view(made: Made) -> BackupView {
    let Made { id, size, read, sent, only_changes, .. } = made;
    BackupView { volume: id.volume, moment: id.moment.as_str().to_owned(), size, read, sent, only_changes }
}

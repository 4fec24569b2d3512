//! `holm volumes`, `holm snapshots` and `holm backups`.

use holm_api::storage::{BackupListed, SnapshotView, StorageAnswer, StorageRequest, VolumeView};
use holm_api::wire::{Command, VolumeChange};
use holm_model::volume::VolumeId;
use serde::Serialize;
use uuid::Uuid;

use super::Context;
use crate::exit::Failure;
use crate::storage_args::{Backups, Snapshots, Volumes};
use crate::table::{clock, size, table};

#[derive(Serialize)]
struct Changed<'a> {
    volume: &'a VolumeId,
    changed: bool,
}

async fn change(
    context: &Context<'_>,
    verb: &str,
    volume: &VolumeId,
    change: VolumeChange,
    done: &str,
) -> Result<(), Failure> {
    let command = Command::Volume { volume: volume.clone(), change };
    let changed = context.client.submit(&command, Uuid::now_v7()).await?.changed;
    context.out.show(verb, &Changed { volume, changed }, |answer| match answer.changed {
        true => format!("{volume}: {done}\n"),
        false => format!("{volume} is so already: nothing to do\n"),
    })
}

async fn ask(context: &Context<'_>, verb: &str, request: &StorageRequest) -> Result<(), Failure> {
    let answer = context.client.storage(request).await?;
    context.out.show(verb, &answer, describe)
}

pub(crate) async fn volumes(verb: &Volumes, context: &Context<'_>) -> Result<(), Failure> {
    match verb {
        Volumes::List => ask(context, "volumes", &StorageRequest::Volumes { volume: None }).await,
        Volumes::Inspect { volume } => {
            let answer = context.client.storage(&StorageRequest::Volumes { volume: Some(volume.clone()) }).await?;
            context.out.show("volume", &answer, |answer| match answer {
                StorageAnswer::Volumes(volumes) => volumes.iter().map(detail).collect(),
                other => describe(other),
            })
        }
        Volumes::Create { volume, size } => {
            let done = format!("made, {size}; its file appears when an instance first has it");
            change(context, "volumes-create", volume, VolumeChange::Create { size: *size }, &done).await
        }
        Volumes::Grow { volume, size } => {
            let done = format!("grows to {size}; `holm volumes inspect {volume}` shows it");
            change(context, "volumes-grow", volume, VolumeChange::Grow { size: *size }, &done).await
        }
        Volumes::Delete { volume, yes } => {
            if !yes {
                let what = format!("`{volume}` would be removed with everything in it and its snapshots");
                let hint = format!("if that is meant: `holm volumes delete {volume} --yes`");
                return Err(Failure::usage(what).hint(hint));
            }
            change(context, "volumes-delete", volume, VolumeChange::Delete, "deleted").await
        }
    }
}

pub(crate) async fn snapshots(verb: &Snapshots, context: &Context<'_>) -> Result<(), Failure> {
    let (name, request) = match verb {
        Snapshots::Create { volume } => ("snapshots-create", StorageRequest::TakeSnapshot { volume: volume.clone() }),
        Snapshots::List { volume } => ("snapshots", StorageRequest::Snapshots { volume: volume.clone() }),
        Snapshots::Restore { snapshot: (volume, moment), to } => {
            let (volume, moment) = (volume.clone(), moment.clone());
            ("snapshots-restore", StorageRequest::RestoreSnapshot { volume, moment, to: to.clone() })
        }
        Snapshots::Delete { snapshot: (volume, moment) } => {
            let (volume, moment) = (volume.clone(), moment.clone());
            ("snapshots-delete", StorageRequest::DeleteSnapshot { volume, moment })
        }
    };
    ask(context, name, &request).await
}

pub(crate) async fn backups(verb: &Backups, context: &Context<'_>) -> Result<(), Failure> {
    let bytes = |rate: &Option<u32>| rate.map(|mib| u64::from(mib) << 20);
    let (name, request) = match verb {
        Backups::Create { volume, rate, whole } => {
            let (volume, whole) = (volume.clone(), *whole);
            ("backups-create", StorageRequest::Backup { volume, rate: bytes(rate), whole })
        }
        Backups::List { volume } => ("backups", StorageRequest::Backups { volume: volume.clone() }),
        Backups::Verify { backup: (volume, moment), rate } => {
            let (volume, moment) = (volume.clone(), moment.clone());
            ("backups-verify", StorageRequest::VerifyBackup { volume, moment, rate: bytes(rate) })
        }
        Backups::Restore { backup: (volume, moment), to, rate } => {
            let (volume, moment) = (volume.clone(), moment.clone());
            ("backups-restore", StorageRequest::RestoreBackup { volume, moment, to: to.clone(), rate: bytes(rate) })
        }
        Backups::Prune { volume, keep } => {
            ("backups-prune", StorageRequest::PruneBackups { volume: volume.clone(), keep: *keep })
        }
    };
    ask(context, name, &request).await
}

fn detail(view: &VolumeView) -> String {
    let holder = view.holder.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
    let origin = view.origin.as_deref().unwrap_or("an empty file system");
    let used = view.used.map_or_else(|| "nothing yet".to_owned(), size);
    format!(
        "volume    {}\nsize      {}\nused      {used}\nhas it    {holder}\nbegan as  {origin}\nmade      {} by {}\n\
         snapshots {}\nfile      {}\n",
        view.volume, view.size, view.created_at, view.created_by, view.snapshots, view.file
    )
}

fn describe(answer: &StorageAnswer) -> String {
    match answer {
        StorageAnswer::Volumes(volumes) => {
            let row = |view: &VolumeView| {
                let holder = view.holder.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
                let used = view.used.map_or_else(|| "-".to_owned(), size);
                vec![view.volume.to_string(), view.size.to_string(), used, holder, view.snapshots.to_string()]
            };
            table(&["VOLUME", "SIZE", "USED", "HAS IT", "SNAPSHOTS"], &volumes.iter().map(row).collect::<Vec<_>>())
        }
        StorageAnswer::Snapshot(taken) => format!("{}@{}: taken\n", taken.volume, taken.moment),
        StorageAnswer::Snapshots(snapshots) => {
            let row = |taken: &SnapshotView| {
                let name = format!("{}@{}", taken.volume, taken.moment);
                vec![name, taken.size.to_string(), clock(taken.taken_at)]
            };
            table(&["SNAPSHOT", "SIZE", "TAKEN"], &snapshots.iter().map(row).collect::<Vec<_>>())
        }
        StorageAnswer::Done => "done\n".to_owned(),
        StorageAnswer::Restored(made) => format!("{}: made from {}, {}\n", made.volume, made.from, made.size),
        StorageAnswer::Backup(made) => format!(
            "{}@{}: read {} of {}{}, sent {}\n",
            made.volume,
            made.moment,
            size(made.read),
            size(made.size),
            if made.only_changes { " (what had changed)" } else { "" },
            size(made.sent)
        ),
        StorageAnswer::Backups(backups) => {
            let row =
                |listed: &BackupListed| vec![format!("{}@{}", listed.volume, listed.moment), clock(listed.written_at)];
            table(&["BACKUP", "WRITTEN"], &backups.iter().map(row).collect::<Vec<_>>())
        }
        StorageAnswer::Verified(seen) => {
            format!("{}@{}: whole, {} chunks, {} read\n", seen.volume, seen.moment, seen.chunks, size(seen.read))
        }
        StorageAnswer::Pruned(gone) => {
            format!("{} backups and {} chunks removed, {}\n", gone.backups.len(), gone.chunks, size(gone.bytes))
        }
    }
}

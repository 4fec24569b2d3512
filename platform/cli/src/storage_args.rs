//! The arguments of the verbs about volumes, snapshots and backups.

use clap::Subcommand;
use holm_manifest::VolumeSize;
use holm_model::volume::VolumeId;

/// Volumes: what an app keeps beyond its instances.
#[derive(Debug, Subcommand)]
pub(crate) enum Volumes {
    /// List the volumes
    List,
    /// Show one volume
    Inspect {
        /// The volume, `APP:NAME` or `APP/ENV:NAME`
        #[arg(value_name = "VOLUME")]
        volume: VolumeId,
    },
    /// Make an empty volume; a manifest that names one makes it too
    Create {
        /// The volume, `APP:NAME` or `APP/ENV:NAME`; its app need not be there
        #[arg(value_name = "VOLUME")]
        volume: VolumeId,
        /// Its size, such as `512MiB` or `10GiB`
        #[arg(long, value_name = "SIZE")]
        size: VolumeSize,
    },
    /// Make a volume larger, also while an instance has it
    Grow {
        /// The volume
        #[arg(value_name = "VOLUME")]
        volume: VolumeId,
        /// Its new size
        #[arg(long, value_name = "SIZE")]
        size: VolumeSize,
    },
    /// Remove a volume with everything in it and its snapshots; its backups stay
    Delete {
        /// The volume
        #[arg(value_name = "VOLUME")]
        volume: VolumeId,
        /// Yes, really
        #[arg(long)]
        yes: bool,
    },
}

/// Snapshots: copies of a volume on the same host.
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshots {
    /// Take a snapshot, also while an instance has the volume
    Create {
        /// The volume
        #[arg(value_name = "VOLUME")]
        volume: VolumeId,
    },
    /// List the snapshots
    List {
        /// Only of this volume
        #[arg(value_name = "VOLUME")]
        volume: Option<VolumeId>,
    },
    /// Make a new volume from a snapshot
    Restore {
        /// The snapshot, `VOLUME@MOMENT`
        #[arg(value_name = "SNAPSHOT", value_parser = parse_moment)]
        snapshot: (VolumeId, String),
        /// The volume to make
        #[arg(long, value_name = "VOLUME")]
        to: VolumeId,
    },
    /// Remove a snapshot
    Delete {
        /// The snapshot, `VOLUME@MOMENT`
        #[arg(value_name = "SNAPSHOT", value_parser = parse_moment)]
        snapshot: (VolumeId, String),
    },
}

/// Backups: volumes at one moment, in an object store.
#[derive(Debug, Subcommand)]
pub(crate) enum Backups {
    /// Back a volume up, also while an instance has it
    Create {
        /// The volume
        #[arg(value_name = "VOLUME")]
        volume: VolumeId,
        /// MiB per second at most
        #[arg(long, value_name = "MIB")]
        rate: Option<u32>,
        /// Send everything again, also what the store should have: mends a store that lost something
        #[arg(long)]
        whole: bool,
    },
    /// List the backups in the store
    List {
        /// Only of this volume
        #[arg(value_name = "VOLUME")]
        volume: Option<VolumeId>,
    },
    /// Read a backup back and check every byte of it
    Verify {
        /// The backup, `VOLUME@MOMENT`, or a volume: its newest
        #[arg(value_name = "BACKUP", value_parser = parse_perhaps)]
        backup: (VolumeId, Option<String>),
        /// MiB per second at most
        #[arg(long, value_name = "MIB")]
        rate: Option<u32>,
    },
    /// Make a new volume from a backup
    Restore {
        /// The backup, `VOLUME@MOMENT`, or a volume: its newest
        #[arg(value_name = "BACKUP", value_parser = parse_perhaps)]
        backup: (VolumeId, Option<String>),
        /// The volume to make
        #[arg(long, value_name = "VOLUME")]
        to: VolumeId,
        /// MiB per second at most
        #[arg(long, value_name = "MIB")]
        rate: Option<u32>,
    },
    /// Remove all but the newest backups, and what only those needed
    Prune {
        /// Only of this volume
        #[arg(value_name = "VOLUME")]
        volume: Option<VolumeId>,
        /// How many of each volume stay
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
    },
}

fn parse_moment(text: &str) -> Result<(VolumeId, String), String> {
    match parse_perhaps(text)? {
        (volume, Some(moment)) => Ok((volume, moment)),
        (_, None) => Err("write it as VOLUME@MOMENT, as the list shows it".to_owned()),
    }
}

fn parse_perhaps(text: &str) -> Result<(VolumeId, Option<String>), String> {
    let (volume, moment) = match text.split_once('@') {
        Some((volume, moment)) => (volume, Some(moment.to_owned())),
        None => (text, None),
    };
    Ok((volume.parse().map_err(|error| format!("{error}"))?, moment))
}

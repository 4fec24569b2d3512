//! What is asked of volumes: each command with what the state has against it.

use std::fmt;

use holm_manifest::VolumeSize;
use holm_model::event::Event;
use holm_model::id::{AppKey, InstanceName};
use holm_model::state::State;
use holm_model::volume::{VolumeId, VolumeOrigin};
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;

/// Something a person asks of a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeCommand {
    /// Make it. Its app need not be there yet.
    Create {
        /// Its size.
        size: VolumeSize,
        /// Where its first content comes from.
        origin: VolumeOrigin,
    },
    /// Make it larger, also while an instance has it.
    Grow {
        /// Its new size.
        size: VolumeSize,
    },
    /// Take room for its snapshots before one is made, or give back what they do not take.
    KeepForSnapshots {
        /// What all of them take together at the most, in bytes.
        bytes: u64,
    },
    /// Remove it with everything in it. Its backups stay.
    Delete,
}

/// What the state has against a command about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeTrouble {
    /// There is none of that name.
    Unknown {
        /// The volumes of the app.
        known: Vec<VolumeId>,
    },
    /// There is one of that name.
    Exists,
    /// It would become smaller.
    Shrinks {
        /// Its size.
        size: VolumeSize,
    },
    /// An instance has it.
    InUse {
        /// Which.
        by: InstanceName,
    },
    /// The app's release names it, so that it would be made again.
    Wanted {
        /// The app.
        app: AppKey,
    },
}

impl VolumeTrouble {
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown_volume",
            Self::Exists => "volume_exists",
            Self::Shrinks { .. } => "volume_shrinks",
            Self::InUse { .. } => "volume_in_use",
            Self::Wanted { .. } => "volume_wanted",
        }
    }

    pub(crate) fn what(&self, volume: &VolumeId) -> String {
        match self {
            Self::Unknown { .. } => format!("there is no volume `{volume}`"),
            Self::Exists => format!("cannot make the volume `{volume}`"),
            Self::Shrinks { .. } => format!("cannot change the size of `{volume}`"),
            Self::InUse { .. } | Self::Wanted { .. } => format!("cannot delete the volume `{volume}`"),
        }
    }

    pub(crate) fn hint(&self, volume: &VolumeId) -> Option<String> {
        Some(match self {
            Self::Unknown { .. } => "`holm volumes list` shows the volumes".to_owned(),
            Self::Exists => "choose another name".to_owned(),
            Self::Shrinks { .. } => return None,
            Self::InUse { .. } => format!("stop the app first, with `holm stop {}`", volume.app),
            Self::Wanted { .. } => "deploy a manifest without it, or destroy the app".to_owned(),
        })
    }
}

impl fmt::Display for VolumeTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { known } if known.is_empty() => write!(f, "the app has no volumes"),
            Self::Unknown { known } => {
                let names: Vec<String> = known.iter().map(|id| format!("`{id}`")).collect();
                write!(f, "the volumes are {}", names.join(", "))
            }
            Self::Exists => write!(f, "there is one of that name already"),
            Self::Shrinks { size } => write!(f, "it has {size}, and a volume only grows"),
            Self::InUse { by } => write!(f, "`{by}` has it"),
            Self::Wanted { app } => write!(f, "the release of `{app}` names it"),
        }
    }
}

/// Says which events `command` leads to in `state`.
pub(crate) fn decide(state: &State, volume: &VolumeId, command: &VolumeCommand) -> Result<Vec<Event>, Refusal> {
    let refused = |trouble| Err(Refusal::Volume { volume: Box::new(volume.clone()), trouble: Box::new(trouble) });
    let unknown = || {
        let known = state.volumes_of(&volume.app).map(|(id, _)| id.clone()).collect();
        refused(VolumeTrouble::Unknown { known })
    };
    match (command, state.volumes.get(volume)) {
        (VolumeCommand::Create { .. }, Some(_)) => refused(VolumeTrouble::Exists),
        (VolumeCommand::Create { size, origin }, None) => {
            check_disk(state, volume, size.bytes(), 0)?;
            Ok(vec![Event::VolumeCreated { volume: volume.clone(), size: *size, origin: origin.clone() }])
        }
        (_, None) => unknown(),
        (VolumeCommand::Grow { size }, Some(there)) if *size < there.size => {
            refused(VolumeTrouble::Shrinks { size: there.size })
        }
        (VolumeCommand::Grow { size }, Some(there)) if *size == there.size => Ok(Vec::new()),
        (VolumeCommand::Grow { size }, Some(_)) => {
            check_disk(state, volume, size.bytes(), 0)?;
            Ok(vec![Event::VolumeGrown { volume: volume.clone(), size: *size }])
        }
        (VolumeCommand::KeepForSnapshots { bytes }, Some(there)) if *bytes == there.snapshots => Ok(Vec::new()),
        (VolumeCommand::KeepForSnapshots { bytes }, Some(there)) => {
            check_disk(state, volume, there.size.bytes(), bytes.saturating_sub(there.snapshots))?;
            Ok(vec![Event::SnapshotsChanged { volume: volume.clone(), bytes: *bytes }])
        }
        (VolumeCommand::Delete, Some(_)) => {
            let app = &volume.app;
            if let Some(by) = holm_planner::users_of_volume(state, volume).last() {
                return refused(VolumeTrouble::InUse { by: (*by).clone() });
            }
            let release = state.wanted_release(app).and_then(|number| state.release(app, number));
            if release.is_some_and(|release| release.manifest.volumes.contains_key(&volume.name)) {
                return refused(VolumeTrouble::Wanted { app: app.clone() });
            }
            Ok(vec![Event::VolumeDeleted { volume: volume.clone() }])
        }
    }
}

/// Whether the host's disk has room for `volume` with so many bytes, and for `snapshots` more bytes of its snapshots.
fn check_disk(state: &State, volume: &VolumeId, bytes: u64, snapshots: u64) -> Result<(), Refusal> {
    holm_planner::fits_volume(state, volume, bytes, snapshots)
        .map_err(|shortage| Refusal::NoDisk { what: volume.to_string(), shortage })
}

#[cfg(test)]
mod tests {
    use holm_model::event::Recorded;
    use holm_model::id::Seq;

    use super::*;

    fn size(mib: u64) -> VolumeSize {
        VolumeSize::from_mib(mib).unwrap()
    }

    fn folded(state: &mut State, events: Vec<Event>) {
        for event in events {
            let recorded = Recorded {
                seq: state.seq.next(),
                at: jiff::Timestamp::UNIX_EPOCH,
                actor: "user:anna".to_owned(),
                cause: None,
                event,
            };
            state.apply(&recorded);
        }
    }

    #[test]
    fn a_volume_is_made_grown_and_deleted_without_its_app() {
        let volume: VolumeId = "hello:data".parse().unwrap();
        let mut state = State { seq: Seq(6), ..State::default() };
        let make = VolumeCommand::Create { size: size(64), origin: VolumeOrigin::Empty };
        let refused = |state: &State, command| match decide(state, &volume, command) {
            Err(Refusal::Volume { trouble, .. }) => trouble.code(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&state, &VolumeCommand::Delete), "unknown_volume");
        let made = decide(&state, &volume, &make).unwrap();
        folded(&mut state, made);
        assert_eq!(state.volumes[&volume].number.0, 7);
        assert!(state.apps.is_empty(), "a volume makes no app");
        assert_eq!(refused(&state, &make), "volume_exists");
        assert_eq!(refused(&state, &VolumeCommand::Grow { size: size(32) }), "volume_shrinks");
        assert_eq!(decide(&state, &volume, &VolumeCommand::Grow { size: size(64) }).unwrap(), []);
        let grown = decide(&state, &volume, &VolumeCommand::Grow { size: size(128) }).unwrap();
        folded(&mut state, grown);
        assert_eq!(state.volumes[&volume].size, size(128));
        let mut reloaded = State { seq: state.seq, ..State::default() };
        for (key, body) in state.documents() {
            reloaded.load(&key, &body).unwrap();
        }
        assert_eq!(reloaded, state);
        let deleted = decide(&state, &volume, &VolumeCommand::Delete).unwrap();
        folded(&mut state, deleted);
        assert!(state.volumes.is_empty());
    }
}

//! Room for snapshots: kept before one is taken, given back when it is gone.

use holm_api::{Problem, ProblemCode};
use holm_control::{Command, Meta, Refused, VolumeCommand};
use holm_model::volume::{Volume, VolumeId, VolumeNumber};

use super::Storage;
use crate::up::backend::refused;
use crate::up::disk::Left;

/// Keeps room for one more snapshot of a volume: it counts with all that the volume takes, also where the file system shares
/// the blocks, since it comes to take that as the volume changes.
pub(super) async fn keep(storage: &Storage, id: &VolumeId, volume: &Volume, actor: String) -> Result<(), Problem> {
    let needs = storage.volumes.used(volume.number, &volume.origin).unwrap_or(0);
    let left = storage.left().map_err(|error| Problem::failed("cannot look at the disk").because(error))?;
    if needs > left.spare() {
        let [needs, spare] = [needs.div_ceil(1 << 20), left.spare() >> 20];
        return Err(Problem::new(ProblemCode::Refused, format!("cannot take a snapshot of `{id}`"))
            .because(format!("it takes {needs} MiB, and {spare} MiB of the disk are neither promised nor used"))
            .hint("delete snapshots or volumes that nobody needs, or make room on the disk"));
    }
    let bytes = storage.volumes.snapshots_take(volume.number) + needs;
    storage.tell(id, bytes, actor).await.map_err(refused)
}

impl Storage {
    /// What is left of the disk.
    pub(crate) fn left(&self) -> std::io::Result<Left> {
        Left::look(&self.control.state(), &self.state_dir, &self.volumes)
    }

    /// Records what the snapshots of a volume take, as they are now.
    pub(super) async fn measure(&self, id: &VolumeId, number: VolumeNumber, actor: String) {
        let bytes = self.volumes.snapshots_take(number);
        if let Err(error) = self.tell(id, bytes, actor).await {
            tracing::warn!(volume = %id, bytes, %error, "what the snapshots take was not recorded");
        }
    }

    /// The same for all volumes: somebody may have removed files while no Holm ran.
    pub(crate) async fn measure_all(&self) {
        let state = self.control.state();
        for (id, volume) in &state.volumes {
            self.measure(id, volume.number, "host".to_owned()).await;
        }
    }

    async fn tell(&self, id: &VolumeId, bytes: u64, actor: String) -> Result<(), Refused> {
        let command = Command::Volume { volume: id.clone(), change: VolumeCommand::KeepForSnapshots { bytes } };
        self.control.submit(command, Meta::new(actor)).await.map(drop)
    }
}

//! The files of volumes, as disks of microVMs.

use std::collections::BTreeMap;

use holm_model::target::{HostTarget, InstanceSpec};
use holm_model::volume::{VolumeNumber, VolumeTarget};
use holm_vmm::DiskSpec;
use holm_volume::{VolumeError, VolumeStore};

use super::Host;
use crate::volume::disk_serial;
use crate::world::Failure;

impl Host {
    /// The volumes of an instance as disks; their files are made when they are missing.
    pub(super) async fn volume_disks(
        &self,
        spec: &InstanceSpec,
        targets: &BTreeMap<VolumeNumber, VolumeTarget>,
    ) -> Result<Vec<DiskSpec>, Failure> {
        let mut disks = Vec::new();
        for mount in &spec.volumes {
            let target = targets.get(&mount.number).cloned();
            let target = target.ok_or_else(|| Failure(format!("the volume `{}` was deleted", mount.volume)))?;
            let number = mount.number;
            let path = blocking(&self.volumes, move |store| store.ensure(number, &target)).await?;
            disks.push(DiskSpec { path, read_only: false, serial: disk_serial(number) });
        }
        Ok(disks)
    }

    pub(super) async fn remove_deleted_volumes(&self, target: &HostTarget) -> Result<(), Failure> {
        let (generation, volumes) = (target.generation, target.volumes.clone());
        let gone = blocking(&self.volumes, move |store| {
            store.sweep_staged(&volumes)?;
            store.sweep(generation, &volumes)
        });
        for number in gone.await? {
            tracing::info!(%number, "removed a volume that was deleted");
        }
        Ok(())
    }
}

/// Works on the store where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    store: &VolumeStore,
    work: impl FnOnce(&VolumeStore) -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, Failure> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await.map_err(|error| Failure::of(&error))?;
    done.map_err(|error| Failure::of(&error))
}

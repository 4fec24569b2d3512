//! Volumes of running instances: grown with the target, and copied as they are at one moment.
//!
//! A copy of a volume that an instance has is made so: the guest freezes its file system, QEMU begins the copy (or the host
//! shares the file's blocks), the guest thaws. The app waits for milliseconds, however large the volume is. The guest thaws
//! by itself after [`FREEZE`]; then the thaw is refused and the copy is thrown away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holm_guest_control::VolumeAction;
use holm_model::id::InstanceName;
use holm_model::report::Phase;
use holm_model::volume::VolumeNumber;
use holm_vmm::{CopyWhat, DiskCopy};

use crate::agent::{AgentError, AgentHandle};
use crate::board::Reach;
use crate::life::Life;
use crate::world::{Guest, Machine};

/// How long a guest's file system may be frozen.
const FREEZE: Duration = Duration::from_secs(20);

/// How long a guest may take to write a volume out when it powers off.
const WRITE_OUT: Duration = Duration::from_secs(90);

/// The serial number of a volume's disk.
pub(crate) fn disk_serial(number: VolumeNumber) -> String {
    format!("vol-{number}")
}

/// A copy of a volume that is to be made.
#[derive(Debug, Clone)]
pub struct VolumeCopy {
    /// The volume.
    pub number: VolumeNumber,
    /// Its file.
    pub file: PathBuf,
    /// The file to copy to.
    pub target: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Only what changed since the record of this name was begun, in clusters of so many bytes.
    pub changes: Option<(String, u32)>,
    /// Record changes from this moment on, under this name.
    pub record: Option<String>,
    /// Bytes per second at most; 0: no limit.
    pub rate: u64,
}

/// Who had the volume when it was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// Nobody.
    Idle,
    /// A running instance, whose file system was frozen for the moment.
    Frozen,
}

/// The instance that has a volume.
struct Holder {
    machine: Arc<dyn Machine>,
    guest: Arc<dyn Guest>,
}

impl AgentHandle {
    async fn holder(&self, number: VolumeNumber) -> Result<Option<Holder>, AgentError> {
        let Some((name, _)) = self.shared.board.holder_of(number) else { return Ok(None) };
        // One that does not serve is told apart below.
        let _ = self.guest_of_serving(&name).await;
        let Some((name, reach)) = self.shared.board.holder_of(number) else { return Ok(None) };
        let report = self.shared.board.reports().borrow().clone();
        let phase = report.instances.get(&name).map_or(Phase::Placed, |seen| seen.phase);
        match reach {
            Reach { machine: Some(machine), guest: Some(guest), .. } => Ok(Some(Holder { machine, guest })),
            _ => Err(AgentError::NotRunning { instance: name, phase }),
        }
    }

    /// Copies a volume as it is at one moment. While nobody has it, an instance that is to get it waits.
    ///
    /// # Errors
    /// [`AgentError::NotRunning`] while the instance that has it boots or ends, [`AgentError::Volume`]. The target is
    /// worthless then.
    pub async fn copy_volume(&self, copy: &VolumeCopy) -> Result<Copied, AgentError> {
        let failed = |why: String| AgentError::Volume { number: copy.number, why };
        let alone = self.shared.idle_copies.lock().await;
        let Some(holder) = self.holder(copy.number).await? else {
            let (from, to) = (copy.file.clone(), copy.target.clone());
            let copied = tokio::task::spawn_blocking(move || holm_volume::clone_or_copy(&from, &to)).await;
            copied.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
            return Ok(Copied::Idle);
        };
        drop(alone);
        let serial = disk_serial(copy.number);
        let limit_ms = u64::try_from(FREEZE.as_millis()).expect("seconds");
        let (order, cloned) = {
            let what = match &copy.changes {
                Some((since, cluster)) => CopyWhat::Changes { since: since.clone(), cluster: *cluster },
                None => CopyWhat::Everything,
            };
            let order = DiskCopy {
                serial: serial.clone(),
                target: copy.target.clone(),
                size: copy.size,
                what,
                record: copy.record.clone(),
                rate: copy.rate,
            };
            let frozen = holder.guest.volume(&serial, VolumeAction::Freeze { limit_ms });
            frozen.await.map_err(|error| failed(format!("the guest cannot freeze it: {error}")))?;
            // From here on the guest has to be told to thaw, whatever comes.
            let begun = begin(&holder, copy, &order).await;
            let thawed = holder.guest.volume(&serial, VolumeAction::Thaw).await;
            let begun = match (begun, thawed) {
                (Ok(cloned), Ok(())) => Ok(cloned),
                (Err(why), _) => Err(why),
                (Ok(_), Err(error)) => Err(format!("the guest did not keep still: {error}")),
            };
            match begun {
                Ok(cloned) => (order, cloned),
                Err(why) => {
                    holder.machine.drop_copy(&serial).await;
                    return Err(failed(why));
                }
            }
        };
        if !cloned {
            holder.machine.finish_copy(&order).await.map_err(|error| failed(error.0))?;
        }
        Ok(Copied::Frozen)
    }

    /// The records of changes kept for a volume: none while no instance has it.
    ///
    /// # Errors
    /// As [`AgentHandle::copy_volume`].
    pub async fn change_records(&self, number: VolumeNumber) -> Result<Vec<String>, AgentError> {
        let Some(holder) = self.holder(number).await? else { return Ok(Vec::new()) };
        let found = holder.machine.change_records(&disk_serial(number)).await;
        found.map_err(|error| AgentError::Volume { number, why: error.0 })
    }

    /// Forgets a record of changes.
    ///
    /// # Errors
    /// As [`AgentHandle::copy_volume`].
    pub async fn drop_record(&self, number: VolumeNumber, record: &str) -> Result<(), AgentError> {
        let Some(holder) = self.holder(number).await? else { return Ok(()) };
        let dropped = holder.machine.drop_record(&disk_serial(number), record).await;
        dropped.map_err(|error| AgentError::Volume { number, why: error.0 })
    }

    /// The instance that has a volume, from its microVM's start to its end.
    #[must_use]
    pub fn holder_of(&self, number: VolumeNumber) -> Option<InstanceName> {
        self.shared.board.holder_of(number).map(|(name, _)| name)
    }
}

/// Begins the copy of a frozen volume; `true`: it is done already, since the file system shares the blocks.
async fn begin(holder: &Holder, copy: &VolumeCopy, order: &DiskCopy) -> Result<bool, String> {
    if copy.changes.is_none() && copy.record.is_none() {
        let (from, to) = (copy.file.clone(), copy.target.clone());
        let cloned = tokio::task::spawn_blocking(move || holm_volume::try_clone(&from, &to)).await;
        if cloned.map_err(|error| error.to_string())?.map_err(|error| error.to_string())? {
            return Ok(true);
        }
    }
    holder.machine.begin_copy(order).await.map_err(|error| error.0)?;
    Ok(false)
}

impl Life {
    /// What the guest gets beyond the app's grace to power off: with a volume, what the app wrote is written out first.
    pub(crate) fn power_off(&self) -> Duration {
        let limit = self.shared.limits.power_off;
        if self.spec.volumes.is_empty() { limit } else { limit.max(WRITE_OUT) }
    }

    /// Grows the volumes of a running instance to what the target says. `true`: something has failed and is to be tried
    /// again, such as beside a copy of the disk, which QEMU does not resize meanwhile.
    pub(crate) async fn follow_volumes(&mut self, machine: &Arc<dyn Machine>, guest: &Arc<dyn Guest>) -> bool {
        let mut behind = None;
        let targets = self.shared.volumes.subscribe().borrow().clone();
        for mount in &self.spec.volumes {
            let Some(target) = targets.get(&mount.number) else { continue };
            if self.grown.get(&mount.number) == Some(&target.size) {
                continue;
            }
            let serial = disk_serial(mount.number);
            let grown = async {
                let bytes = self.shared.world.grow_volume(mount.number, target).await.map_err(|failure| failure.0)?;
                machine.resize_disk(&serial, bytes).await.map_err(|failure| failure.0)?;
                guest.volume(&serial, VolumeAction::Grow).await.map_err(|failure| failure.to_string())
            };
            let answered = tokio::time::timeout(self.shared.limits.silence, grown).await;
            match answered.unwrap_or_else(|_| Err("the guest does not answer".to_owned())) {
                Ok(()) => drop(self.grown.insert(mount.number, target.size)),
                Err(why) => {
                    if self.behind.as_ref() != Some(&why) {
                        tracing::warn!(instance = %self.spec.instance, volume = %mount.volume, why, "cannot grow a volume yet");
                    }
                    behind = Some(why);
                }
            }
        }
        self.behind = behind;
        self.behind.is_some()
    }
}

//! Copies of a running VM's disk as it was at one moment, made by QEMU while the guest goes on writing.
//!
//! QEMU copies a cluster before the guest overwrites it, so the target is the disk at the moment the copy began. It can
//! also record, from that moment on, which clusters change: the next copy then needs only those. A record lives as long as
//! QEMU does.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::qemu_command::node_name;
use crate::qmp::{QmpClient, QmpError};

/// A copy of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskCopy {
    /// The disk's serial number.
    pub serial: String,
    /// The file to copy into: made when missing, emptied when there.
    pub target: PathBuf,
    /// The size of the disk in bytes.
    pub size: u64,
    /// What is copied.
    pub what: CopyWhat,
    /// Records changes from this moment on, under this name: 1 to 60 plain characters.
    pub record: Option<String>,
    /// Bytes per second to copy at most; 0: no limit.
    pub rate: u64,
}

/// What of a disk is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyWhat {
    /// All of it, into a sparse raw file of the disk's size.
    Everything,
    /// The clusters that changed since the record of this name was begun, into a qcow2 file with clusters of this size:
    /// what is not allocated in it has not changed.
    Changes {
        /// The record.
        since: String,
        /// Bytes per cluster: a power of two, 64 KiB to 2 MiB.
        cluster: u32,
    },
}

/// Why a copy did not work.
#[derive(Debug)]
pub(crate) enum CopyError {
    Monitor { command: &'static str, source: QmpError },
    Failed(String),
}

/// How often a copy is looked at.
const LOOK: Duration = Duration::from_millis(50);

async fn ask(monitor: &QmpClient, command: &'static str, arguments: Value) -> Result<Value, CopyError> {
    monitor.execute(command, arguments).await.map_err(|source| CopyError::Monitor { command, source })
}

/// The names of what a copy of the disk needs in QEMU.
struct Names {
    job: String,
    file: String,
    format: String,
}

impl Names {
    fn of(serial: &str) -> Self {
        Self { job: format!("copy-{serial}"), file: format!("copy-f-{serial}"), format: format!("copy-t-{serial}") }
    }
}

impl DiskCopy {
    pub(crate) async fn begin(&self, monitor: &QmpClient) -> Result<(), CopyError> {
        // What a copy of an earlier Holm may have left.
        drop_copy(monitor, &self.serial).await;
        let begun = self.try_begin(monitor).await;
        if begun.is_err() {
            drop_copy(monitor, &self.serial).await;
        }
        begun
    }

    async fn try_begin(&self, monitor: &QmpClient) -> Result<(), CopyError> {
        let names = Names::of(&self.serial);
        let made = std::fs::File::create(&self.target).and_then(|file| match self.what {
            CopyWhat::Everything => file.set_len(self.size),
            CopyWhat::Changes { .. } => Ok(()),
        });
        made.map_err(|error| CopyError::Failed(format!("cannot make {}: {error}", self.target.display())))?;
        let file = json!({
            "driver": "file", "node-name": names.file, "filename": self.target, "discard": "unmap",
        });
        ask(monitor, "blockdev-add", file).await?;
        let mut format =
            json!({ "node-name": names.format, "file": names.file, "detect-zeroes": "unmap", "discard": "unmap" });
        match &self.what {
            CopyWhat::Everything => format["driver"] = json!("raw"),
            CopyWhat::Changes { cluster, .. } => {
                let options = json!({
                    "driver": "qcow2", "file": names.file, "size": self.size, "cluster-size": cluster,
                });
                ask(monitor, "blockdev-create", json!({ "job-id": names.job, "options": options })).await?;
                wait(monitor, &names.job).await?;
                format = json!({ "node-name": names.format, "file": names.file, "driver": "qcow2" });
            }
        }
        ask(monitor, "blockdev-add", format).await?;
        let node = node_name(&self.serial);
        let mut backup = json!({
            "job-id": names.job, "device": node, "target": names.format, "speed": self.rate,
            "auto-dismiss": false, "on-source-error": "report", "on-target-error": "report",
        });
        match &self.what {
            CopyWhat::Everything => backup["sync"] = json!("full"),
            CopyWhat::Changes { since, .. } => {
                backup["sync"] = json!("bitmap");
                backup["bitmap"] = json!(since);
                // The record goes on: it is still good when this copy comes to nothing.
                backup["bitmap-mode"] = json!("never");
            }
        }
        let mut actions = Vec::new();
        if let Some(record) = &self.record {
            drop_record(monitor, &self.serial, record)
                .await
                .map_err(|source| CopyError::Monitor { command: "block-dirty-bitmap-remove", source })?;
            let granularity = match self.what {
                CopyWhat::Changes { cluster, .. } => cluster,
                CopyWhat::Everything => 64 << 10,
            };
            let data = json!({ "node": node, "name": record, "granularity": granularity.min(64 << 10) });
            actions.push(json!({ "type": "block-dirty-bitmap-add", "data": data }));
        }
        actions.push(json!({ "type": "blockdev-backup", "data": backup }));
        ask(monitor, "transaction", json!({ "actions": actions })).await.map(drop)
    }

    pub(crate) async fn finish(&self, monitor: &QmpClient) -> Result<(), CopyError> {
        let ended = wait(monitor, &Names::of(&self.serial).job).await;
        drop_copy(monitor, &self.serial).await;
        ended
    }
}

/// Waits for a job's end and dismisses it.
async fn wait(monitor: &QmpClient, job: &str) -> Result<(), CopyError> {
    loop {
        let jobs = ask(monitor, "query-jobs", Value::Null).await?;
        let found = jobs.as_array().into_iter().flatten().find(|found| found["id"] == job).cloned();
        let found = found.ok_or_else(|| CopyError::Failed("its job is gone".to_owned()))?;
        if found["status"] == "concluded" {
            ask(monitor, "job-dismiss", json!({ "id": job })).await?;
            return match found["error"].as_str() {
                None => Ok(()),
                Some(why) => Err(CopyError::Failed(why.to_owned())),
            };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Removes what a copy of the disk has in QEMU, as far as it is there. A job is told to end and waited for.
pub(crate) async fn drop_copy(monitor: &QmpClient, serial: &str) {
    let names = Names::of(serial);
    let there =
        |jobs: &Value| jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| job["id"] == names.job.as_str()));
    if monitor.execute("query-jobs", Value::Null).await.is_ok_and(|jobs| there(&jobs)) {
        // Ended already, perhaps: then it only needs to be dismissed.
        let _ = monitor.execute("job-cancel", json!({ "id": names.job })).await;
        let _ = wait(monitor, &names.job).await;
    }
    for node in [&names.format, &names.file] {
        let _ = monitor.execute("blockdev-del", json!({ "node-name": node })).await;
    }
}

/// The records of changes of a disk.
pub(crate) async fn change_records(monitor: &QmpClient, serial: &str) -> Result<Vec<String>, QmpError> {
    let nodes = monitor.execute("query-named-block-nodes", json!({ "flat": true })).await?;
    let name = node_name(serial);
    let node = nodes.as_array().into_iter().flatten().find(|node| node["node-name"] == name.as_str());
    let records = node.and_then(|node| node["dirty-bitmaps"].as_array()).into_iter().flatten();
    let sound = records.filter(|record| record["inconsistent"] != json!(true));
    Ok(sound.filter_map(|record| record["name"].as_str().map(str::to_owned)).collect())
}

/// Forgets a record of changes.
pub(crate) async fn drop_record(monitor: &QmpClient, serial: &str, record: &str) -> Result<(), QmpError> {
    if change_records(monitor, serial).await?.iter().any(|found| found == record) {
        let arguments = json!({ "node": node_name(serial), "name": record });
        monitor.execute("block-dirty-bitmap-remove", arguments).await?;
    }
    Ok(())
}

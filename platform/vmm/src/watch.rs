//! Seeing a VM to its end: notices that the guest has ended, saves its console, lets QEMU go and learns how it went.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use holm_process::{Process, ProcessEnd};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, watch};

use crate::qemu_command::CONSOLE_BYTES;
use crate::qmp::{Event, QmpClient, QmpError};
use crate::spec::VmSpec;
use crate::syscalls;
use crate::vmm::{ExitReason, VmExit};

/// How long QEMU may take to end once it was told to.
const QUIT_DEADLINE: Duration = Duration::from_secs(10);

/// The end of what the guest wrote to its console. Reading QEMU's ring empties it, so what was read is kept here.
#[derive(Debug, Default)]
pub(crate) struct Console(Mutex<Vec<u8>>);

impl Console {
    /// Fetches what is new and returns all that is kept.
    pub(crate) async fn fetch(&self, monitor: &QmpClient) -> Result<String, QmpError> {
        let arguments = json!({"device": "console", "size": CONSOLE_BYTES, "format": "base64"});
        let fresh = monitor.execute("ringbuf-read", arguments).await?;
        let fresh = base64::engine::general_purpose::STANDARD
            .decode(fresh.as_str().unwrap_or_default())
            .map_err(|error| QmpError::Malformed(error.to_string()))?;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&fresh);
        let surplus = kept.len().saturating_sub(CONSOLE_BYTES);
        kept.drain(..surplus);
        Ok(String::from_utf8_lossy(&kept).into_owned())
    }
}

/// What the watcher works with.
pub(crate) struct Watched {
    pub(crate) process: Arc<Process>,
    /// `None` when the monitor does not answer: then only the process is watched.
    pub(crate) monitor: Option<(QmpClient, broadcast::Receiver<Event>)>,
    pub(crate) console: Arc<Console>,
    pub(crate) run_dir: PathBuf,
    /// A message asks for the end of the VM; closed when the handle is dropped, which ends the watch, not the VM.
    pub(crate) quit_requests: mpsc::Receiver<()>,
    /// Told whether QEMU has paused the guest since a disk of its has no room.
    pub(crate) starved: watch::Sender<bool>,
}

/// Watches from now on. The receiver gets the end once; it closes without one when the handle was dropped before.
pub(crate) fn start(watched: Watched) -> watch::Receiver<Option<VmExit>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        if let Some(exit) = watched.until_end().await {
            sender.send_replace(Some(exit));
        }
    });
    receiver
}

/// What the watcher saw first.
enum Sight {
    /// The guest has ended; QEMU waits, paused.
    Ended(ExitReason),
    /// The QEMU process has ended.
    ProcessGone,
    /// The monitor went silent.
    MonitorGone,
    /// Nobody wants to know any more.
    HandleDropped,
}

impl Watched {
    async fn until_end(mut self) -> Option<VmExit> {
        let process = Arc::clone(&self.process);
        let gone = match process.watch_fd().and_then(syscalls::await_readable) {
            Ok(gone) => gone,
            Err(error) => {
                tracing::error!(%error, pid = process.pid(), "cannot watch a VM's process");
                return None;
            }
        };
        let mut console = String::new();
        let reason = loop {
            match self.next_sight(&gone).await {
                Sight::HandleDropped => return None,
                Sight::MonitorGone => self.monitor = None,
                Sight::ProcessGone => {
                    break self.monitor.as_mut().and_then(|(_, events)| reported_reason(events));
                }
                Sight::Ended(why) => {
                    console = self.save_console_and_quit().await;
                    if tokio::time::timeout(QUIT_DEADLINE, gone.readable()).await.is_err() {
                        let _ = process.kill();
                        let _ = gone.readable().await;
                    }
                    break Some(why);
                }
            }
        };
        let end = match process.reap() {
            ProcessEnd::Code(code) => ExitReason::Code(code),
            ProcessEnd::Signal(signal) => ExitReason::Signal(signal),
            ProcessEnd::NotOurChild => ExitReason::Unknown,
        };
        Some(VmExit { reason: reason.unwrap_or(end), console })
    }

    async fn next_sight(&mut self, gone: &AsyncFd<OwnedFd>) -> Sight {
        let Some((monitor, events)) = &mut self.monitor else {
            // Without a monitor a request to quit cannot be passed on; the caller kills after its grace.
            loop {
                tokio::select! {
                    _ = gone.readable() => return Sight::ProcessGone,
                    request = self.quit_requests.recv() => if request.is_none() { return Sight::HandleDropped },
                }
            }
        };
        // The guest may have ended before this listener was there.
        let mut look = true;
        loop {
            if std::mem::take(&mut look) {
                match monitor.execute("query-status", Value::Null).await {
                    Ok(answer) => match answer["status"].as_str() {
                        Some("shutdown" | "guest-panicked") => {
                            return Sight::Ended(reported_reason(events).unwrap_or(ExitReason::Unknown));
                        }
                        Some("internal-error") => return Sight::Ended(ExitReason::VmmError),
                        // A write found no room; other failures of a disk are the guest's to judge.
                        status => {
                            let now = status == Some("io-error");
                            self.starved.send_if_modified(|before| std::mem::replace(before, now) != now);
                        }
                    },
                    Err(_) => return Sight::MonitorGone,
                }
            }
            tokio::select! {
                _ = gone.readable() => return Sight::ProcessGone,
                request = self.quit_requests.recv() => {
                    return if request.is_some() { Sight::Ended(ExitReason::Quit) } else { Sight::HandleDropped };
                }
                event = events.recv() => match event {
                    Ok(event) => match shutdown_reason(&event) {
                        Some(reason) => return Sight::Ended(reason),
                        None => look = matches!(event.name.as_str(), "STOP" | "RESUME"),
                    },
                    Err(broadcast::error::RecvError::Lagged(_)) => look = true,
                    Err(broadcast::error::RecvError::Closed) => return Sight::MonitorGone,
                },
            }
        }
    }

    async fn save_console_and_quit(&self) -> String {
        let Some((monitor, _)) = &self.monitor else {
            return String::new();
        };
        let console = self.console.fetch(monitor).await.unwrap_or_default();
        if let Err(error) = save(&self.run_dir, &console).await {
            tracing::warn!(%error, run_dir = %self.run_dir.display(), "cannot save the console of a VM");
        }
        // QEMU may close the connection before its answer is read; whether it ends is seen by the process.
        let _ = monitor.execute("quit", Value::Null).await;
        console
    }
}

async fn save(run_dir: &Path, console: &str) -> std::io::Result<()> {
    tokio::fs::write(run_dir.join(VmSpec::CONSOLE_LOG), console).await
}

/// The reason in events that came while the status was asked for.
fn reported_reason(events: &mut broadcast::Receiver<Event>) -> Option<ExitReason> {
    std::iter::from_fn(|| events.try_recv().ok()).find_map(|event| shutdown_reason(&event))
}

fn shutdown_reason(event: &Event) -> Option<ExitReason> {
    if event.name != "SHUTDOWN" {
        return None;
    }
    Some(match event.data["reason"].as_str() {
        Some("guest-shutdown") => ExitReason::GuestShutdown,
        Some("guest-reset" | "guest-panic" | "subsystem-reset") => ExitReason::GuestReset,
        Some("host-qmp-quit" | "host-signal" | "host-ui") => ExitReason::Quit,
        _ => ExitReason::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_shutdown_is_read_from_its_event() {
        for (name, reason, expected) in [
            ("SHUTDOWN", "guest-shutdown", Some(ExitReason::GuestShutdown)),
            ("SHUTDOWN", "guest-reset", Some(ExitReason::GuestReset)),
            ("SHUTDOWN", "host-qmp-quit", Some(ExitReason::Quit)),
            ("SHUTDOWN", "something new", Some(ExitReason::Unknown)),
            ("STOP", "guest-shutdown", None),
        ] {
            let event = Event { name: name.into(), data: json!({"guest": true, "reason": reason}) };
            assert_eq!(shutdown_reason(&event), expected, "{name} {reason}");
        }
    }
}

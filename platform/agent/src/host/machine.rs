//! One QEMU process as a machine: its end in words, its forwards, and the way to its guest.

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use holm_guest_control::host::{ConnectOptions, GuestConnection, HostError};
use holm_vmm::{DiskCopy, ExitReason, HostForward, ProcessIdentity, Vm, VmExit, VmName, VmRecord, VmSpec};
use tokio::sync::watch;

use super::guest::ConnectedGuest;
use super::network::free_ports;
use crate::world::{Failure, Guest, Machine, MachineRecord};

/// Between two tries to reach a guest's control port.
const RECONNECT: Duration = Duration::from_millis(100);

/// Bytes of console or log text that go into a reason.
const WORDS: usize = 400;

#[derive(Debug)]
pub(super) struct QemuMachine {
    vm: Arc<dyn Vm>,
    connect: ConnectOptions,
}

impl QemuMachine {
    pub(super) fn new(vm: Arc<dyn Vm>, connect: ConnectOptions) -> Self {
        Self { vm, connect }
    }
}

/// The driver's record from ours.
pub(super) fn vm_record(name: VmName, record: &MachineRecord) -> VmRecord {
    let process = ProcessIdentity { pid: record.pid, start_time: record.start_time };
    VmRecord { name, process, run_dir: record.run_dir.clone() }
}

impl Machine for QemuMachine {
    fn record(&self) -> MachineRecord {
        let record = self.vm.record();
        let ProcessIdentity { pid, start_time } = record.process;
        MachineRecord { pid, start_time, run_dir: record.run_dir.clone() }
    }

    fn wait_exit(&self) -> BoxFuture<'_, String> {
        async move { describe(&self.vm.wait_exit().await, &self.vm.record().run_dir) }.boxed()
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async move { self.vm.kill().await.map(drop).map_err(|error| Failure::of(&error)) }.boxed()
    }

    fn starved(&self) -> watch::Receiver<bool> {
        self.vm.starved()
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async move { self.vm.resume().await.map_err(|error| Failure::of(&error)) }.boxed()
    }

    fn last_words(&self) -> BoxFuture<'_, String> {
        // Words are only an addition: without them the reason still stands.
        async move { self.vm.console().await.map(|text| last_lines(&text)).unwrap_or_default() }.boxed()
    }

    fn forward(&self, port: u16) -> BoxFuture<'_, Result<SocketAddrV4, Failure>> {
        async move {
            let free = free_ports(&[port].into())?;
            let listen = *free.get(&port).ok_or_else(|| Failure("no free port on loopback".to_owned()))?;
            let forward = HostForward { listen, guest_port: port };
            self.vm.forward(forward).await.map_err(|error| Failure::of(&error))?;
            Ok(listen)
        }
        .boxed()
    }

    fn resize_disk<'a>(&'a self, serial: &'a str, bytes: u64) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.vm.resize_disk(serial, bytes).await.map_err(|error| Failure::of(&error)) }.boxed()
    }

    fn begin_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.vm.begin_copy(copy).await.map_err(|error| Failure::of(&error)) }.boxed()
    }

    fn finish_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.vm.finish_copy(copy).await.map_err(|error| Failure::of(&error)) }.boxed()
    }

    fn drop_copy<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, ()> {
        self.vm.drop_copy(serial)
    }

    fn change_records<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async move { self.vm.change_records(serial).await.map_err(|error| Failure::of(&error)) }.boxed()
    }

    fn drop_record<'a>(&'a self, serial: &'a str, record: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.vm.drop_record(serial, record).await.map_err(|error| Failure::of(&error)) }.boxed()
    }

    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Guest>, Failure>> {
        async move {
            loop {
                let failure = match self.vm.connect_control().await {
                    Ok(pipe) => match GuestConnection::connect(pipe, self.connect.clone()).await {
                        Ok(connection) => return Ok(Arc::new(ConnectedGuest::new(connection)) as Arc<dyn Guest>),
                        Err(error @ HostError::Protocol { .. }) => return Err(Failure::of(&error)),
                        Err(error) => Failure::of(&error),
                    },
                    Err(error) => Failure::of(&error),
                };
                tracing::debug!(vm = %self.vm.record().name, %failure, "cannot reach the guest yet");
                tokio::time::sleep(RECONNECT).await;
            }
        }
        .boxed()
    }
}

/// How a microVM ended, with QEMU's or the guest's last lines.
fn describe(exit: &VmExit, run_dir: &Path) -> String {
    let how = match exit.reason {
        ExitReason::GuestShutdown => "the guest powered off".to_owned(),
        ExitReason::GuestReset => "the guest's kernel panicked or restarted".to_owned(),
        ExitReason::Quit => "QEMU was told to quit".to_owned(),
        ExitReason::Signal(signal) => format!("QEMU was ended by signal {signal}"),
        ExitReason::Code(code) => format!("QEMU exited with status {code}"),
        ExitReason::VmmError => "QEMU ended on an error".to_owned(),
        ExitReason::Unknown => "QEMU is gone".to_owned(),
    };
    // Absent or unreadable: then there are no words to add.
    let log = std::fs::read(run_dir.join(VmSpec::QEMU_LOG)).unwrap_or_default();
    let log = last_lines(&String::from_utf8_lossy(&log));
    let words = if log.is_empty() { last_lines(&exit.console) } else { log };
    if words.is_empty() { how } else { format!("{how}: {words}") }
}

/// The last few lines of `text` as one, without control characters.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words = lines[lines.len().saturating_sub(3)..].join("; ");
    let words: String = words.chars().filter(|c| !c.is_control()).collect();
    words[words.ceil_char_boundary(words.len().saturating_sub(WORDS))..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_one_short_line() {
        assert_eq!(last_lines("a\n\n b\r\nc\nd\n"), "b; c; d");
        assert_eq!(last_lines(""), "");
        assert_eq!(last_lines("\u{1b}[0mred"), "[0mred");
        assert!(last_lines(&"ü".repeat(1000)).len() <= WORDS);
    }
}

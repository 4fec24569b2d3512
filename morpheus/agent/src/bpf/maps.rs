//! The maps both modes share: threads to workers, process indices to pages and ledgers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use super::BpfError;
use super::command::{Command, Runner};
use super::layout::{LEDGER_SIZE, Ledger, Place, WORKER_SIZE};
use super::pages::Pages;

/// The loaded object's `workers`, `kernel_pages`, `runtime_pages` and `ledgers`.
#[derive(Debug)]
pub struct SharedMaps {
    workers: MapHandle,
    kernel_pages: MapHandle,
    runtime_pages: MapHandle,
    ledgers: MapHandle,
    commands: Runner,
}

impl SharedMaps {
    /// Takes hold of the maps of a loaded object.
    ///
    /// # Errors
    /// When the object lacks one or its records have another size than ours.
    pub fn of(object: &Object) -> Result<Self, BpfError> {
        let find = |name: &'static str, value_size: usize| {
            let map = object.maps().find(|map| map.name() == name).ok_or(BpfError::Object(name))?;
            if map.value_size() as usize != value_size {
                return Err(BpfError::Object(name));
            }
            MapHandle::try_from(&map).map_err(BpfError::libbpf("cannot keep a map"))
        };
        Ok(Self {
            workers: find("workers", WORKER_SIZE)?,
            kernel_pages: find("kernel_pages", 4)?,
            runtime_pages: find("runtime_pages", 4)?,
            ledgers: find("ledgers", 4)?,
            commands: Runner::of(object)?,
        })
    }

    /// Makes the pages visible to the programs under a process index.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn install(&self, process: u32, pages: &Pages) -> Result<(), BpfError> {
        let maps = pages.maps();
        let outer = [&self.ledgers, &self.runtime_pages, &self.kernel_pages];
        let inner = [maps.ledger, maps.runtime, maps.kernel];
        for (outer, inner) in outer.into_iter().zip(inner) {
            outer
                .update(&process.to_ne_bytes(), &inner.as_fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY)
                .map_err(BpfError::libbpf("cannot show a process's pages to the programs"))?;
        }
        Ok(())
    }

    /// Takes a process's pages away. When this returns no program uses them any more: the kernel waits for the running
    /// ones whenever an inner map is replaced or removed.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn remove(&self, process: u32) -> Result<(), BpfError> {
        for outer in [&self.kernel_pages, &self.runtime_pages, &self.ledgers] {
            outer
                .delete(&process.to_ne_bytes())
                .map_err(BpfError::libbpf("cannot take a process's pages from the programs"))?;
        }
        Ok(())
    }

    /// Returns when every program that ran at the call has ended: the same wait, forced by putting a page where it is.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn wait_for_programs(&self, process: u32, pages: &Pages) -> Result<(), BpfError> {
        self.kernel_pages
            .update(&process.to_ne_bytes(), &pages.maps().kernel.as_fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .map_err(BpfError::libbpf("cannot wait for the running programs"))
    }

    /// Empties a place for its new owner, who wants LOCAL after so many ns of its own, if not 0, and gives it its generation.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn open(&self, place: Place, rotation_ns: u32, pages: &Pages) -> Result<(), BpfError> {
        pages.clear(place, rotation_ns)?;
        self.commands.run(Command::Open(place))
    }

    /// Says in page 0 that a place has no living worker any more, if it is still this registration's.
    pub fn close(&self, place: Place) {
        self.tell(Command::Close(place));
    }

    /// Writes a process's heartbeat.
    pub fn beat(&self, process: u32, now_ns: u64) {
        self.tell(Command::Beat { process, now_ns });
    }

    /// Says in page 0 that nobody writes it any more: no living worker, and a heartbeat of long ago.
    pub fn retire(&self, process: u32) {
        self.tell(Command::Retire { process });
    }

    /// Says that the whole system is short of CPU until then.
    pub fn press(&self, until_ns: u64) {
        self.tell(Command::Pressure { until_ns });
    }

    /// Tells the programs. A process whose pages are gone already needs no telling.
    fn tell(&self, command: Command) {
        if let Err(error) = self.commands.run(command) {
            tracing::debug!(%error, ?command, "a page was not written");
        }
    }

    /// Makes the thread a worker.
    ///
    /// # Errors
    /// When the thread has ended, or memory is short.
    pub fn bind(&self, thread: BorrowedFd<'_>, place: Place) -> Result<(), BpfError> {
        self.workers
            .update(&thread.as_raw_fd().to_ne_bytes(), &place.to_bytes(), MapFlags::ANY)
            .map_err(BpfError::libbpf("cannot attach a worker to its thread"))
    }

    /// Makes the thread an ordinary one again. A thread that has ended is one already.
    pub fn unbind(&self, thread: BorrowedFd<'_>) {
        if let Err(error) = self.workers.delete(&thread.as_raw_fd().to_ne_bytes()) {
            tracing::debug!(%error, "the worker's thread was gone");
        }
    }

    /// Whether the thread is a worker.
    pub fn is_bound(&self, thread: BorrowedFd<'_>) -> bool {
        matches!(self.workers.lookup(&thread.as_raw_fd().to_ne_bytes(), MapFlags::ANY), Ok(Some(_)))
    }
}

/// Reads a worker's ledger; all zero when the place is somebody else's by now.
///
/// # Errors
/// Those of the kernel.
pub fn ledger(pages: &Pages, place: Place) -> Result<Ledger, BpfError> {
    let bytes = pages
        .maps()
        .ledger
        .lookup(&place.line().to_ne_bytes(), MapFlags::ANY)
        .map_err(BpfError::libbpf("cannot read a ledger"))?
        .unwrap_or_else(|| vec![0; LEDGER_SIZE]);
    Ok(Ledger::from_bytes(&bytes, place.generation).unwrap_or_default())
}

//! Who is registered and where: the table of processes and their slots. Pure: it decides, the daemon does.
//!
//! Two rules keep a place from leaking to somebody else. A generation is given once in the agent's life, and every program
//! compares it before it writes. And a slot or a process index that became free *rests* until the daemon says that every
//! program that may still have seen its last owner has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use morpheus_abi::protocol::{Refusal, Registration};
use morpheus_abi::{MAX_WORKERS, Slot};

use crate::bpf::layout::{PROCESSES, Place};

/// How much one user may take, so that no user can take it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processes (connections that said HELLO) of one user: 1..1023.
    pub processes_per_user: usize,
    /// Workers of one user.
    pub workers_per_user: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { processes_per_user: 256, workers_per_user: 2048 }
    }
}

/// A registered thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// Its number in the agent's PID namespace.
    pub tid: u32,
    /// Where its lines are.
    pub place: Place,
    /// What it registered with.
    pub registration: Registration,
}

/// A process that has pages.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number in the agent's PID namespace.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    workers: BTreeMap<Slot, Worker>,
    resting: BTreeSet<Slot>,
}

impl Process {
    /// Its workers by slot.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    fn free_slot(&self) -> Option<Slot> {
        (0..MAX_WORKERS as u32)
            .filter_map(Slot::new)
            .find(|slot| !self.workers.contains_key(slot) && !self.resting.contains(slot))
    }
}

/// All processes and workers.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    processes: BTreeMap<u32, Process>,
    /// Indices whose process has left, until [`Table::rested_process`].
    resting: BTreeSet<u32>,
    by_tid: HashMap<u32, Place>,
    last_generation: u32,
}

impl Table {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            processes: BTreeMap::new(),
            resting: BTreeSet::new(),
            by_tid: HashMap::new(),
            last_generation: 0,
        }
    }

    /// Gives a process an index.
    ///
    /// # Errors
    /// [`Refusal::Full`] when the user or the agent has as many as it can.
    pub fn enter(&mut self, pid: u32, uid: u32) -> Result<u32, Refusal> {
        if self.processes.values().filter(|process| process.uid == uid).count() >= self.limits.processes_per_user {
            return Err(Refusal::Full);
        }
        let index = (1..PROCESSES)
            .find(|index| !self.processes.contains_key(index) && !self.resting.contains(index))
            .ok_or(Refusal::Full)?;
        self.processes.insert(index, Process { pid, uid, workers: BTreeMap::new(), resting: BTreeSet::new() });
        Ok(index)
    }

    /// A process is gone. Its workers are returned to be undone; its index rests.
    pub fn leave(&mut self, index: u32) -> Vec<Worker> {
        let Some(process) = self.processes.remove(&index) else { return Vec::new() };
        self.resting.insert(index);
        for worker in process.workers.values() {
            self.by_tid.remove(&worker.tid);
        }
        process.workers.into_values().collect()
    }

    /// No program can see the pages under this index any more.
    pub fn rested_process(&mut self, index: u32) {
        self.resting.remove(&index);
    }

    /// Gives a thread a slot.
    ///
    /// # Errors
    /// [`Refusal::Order`] without pages, [`Refusal::AlreadyRegistered`], or [`Refusal::Full`]; in the last case
    /// [`Table::rests`] says whether [`Table::rested`] would help.
    pub fn register(&mut self, index: u32, tid: u32, registration: Registration) -> Result<Place, Refusal> {
        let uid = self.processes.get(&index).ok_or(Refusal::Order)?.uid;
        if self.by_tid.contains_key(&tid) {
            return Err(Refusal::AlreadyRegistered);
        }
        let of_user: usize =
            self.processes.values().filter(|process| process.uid == uid).map(|process| process.workers.len()).sum();
        if of_user >= self.limits.workers_per_user {
            return Err(Refusal::Full);
        }
        let process = self.processes.get_mut(&index).ok_or(Refusal::Order)?;
        let slot = process.free_slot().ok_or(Refusal::Full)?;
        // Four thousand million registrations until a number comes again; 0 is left out.
        self.last_generation = self.last_generation.wrapping_add(1).max(1);
        let place = Place { process: index, slot, generation: self.last_generation };
        process.workers.insert(slot, Worker { tid, place, registration });
        self.by_tid.insert(tid, place);
        Ok(place)
    }

    /// Takes a slot back; it rests.
    ///
    /// # Errors
    /// [`Refusal::NoSuchSlot`] when it is not this registration's any more.
    pub fn unregister(&mut self, index: u32, slot: Slot, generation: u32) -> Result<Worker, Refusal> {
        let process = self.processes.get_mut(&index).ok_or(Refusal::NoSuchSlot)?;
        let worker = *process.workers.get(&slot).ok_or(Refusal::NoSuchSlot)?;
        if worker.place.generation != generation {
            return Err(Refusal::NoSuchSlot);
        }
        process.workers.remove(&slot);
        process.resting.insert(slot);
        self.by_tid.remove(&worker.tid);
        Ok(worker)
    }

    /// Whether slots of the process rest.
    pub fn rests(&self, index: u32) -> bool {
        self.processes.get(&index).is_some_and(|process| !process.resting.is_empty())
    }

    /// Every program that may have seen a resting slot's last owner has ended.
    pub fn rested(&mut self, index: u32) {
        if let Some(process) = self.processes.get_mut(&index) {
            process.resting.clear();
        }
    }

    /// Where the thread of this number is registered.
    pub fn place_of(&self, tid: u32) -> Option<Place> {
        self.by_tid.get(&tid).copied()
    }

    /// The process with this index.
    pub fn process(&self, index: u32) -> Option<&Process> {
        self.processes.get(&index)
    }

    /// All processes by index.
    pub fn processes(&self) -> impl Iterator<Item = (u32, &Process)> {
        self.processes.iter().map(|(index, process)| (*index, process))
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.by_tid.len()
    }
}

#[cfg(test)]
mod tests;

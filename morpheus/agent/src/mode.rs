//! What a mode is to the daemon: loaded programs with the shared maps, told of every worker that comes and goes.
//!
//! The daemon calls, in this order: [`Mode::start`] once; [`Mode::add`] for each worker before its thread is bound in the
//! `workers` map, [`Mode::remove`] after it was unbound; [`Mode::health`] at every heartbeat; [`Mode::stop`] once, when
//! all workers are gone. Dropping a mode without `stop` (a panic) must undo the same through its descriptors.

use std::os::fd::BorrowedFd;

use morpheus_abi::protocol::Registration;

use crate::bpf::BpfError;
use crate::bpf::layout::Place;
use crate::bpf::maps::SharedMaps;
use crate::enforce::counts::Counts;

/// The modes' names, as on the command line and in the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// Tracing programs only.
    Observe,
    /// Our sched_ext scheduler.
    Enforce,
}

impl std::fmt::Display for ModeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        })
    }
}

/// How a mode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Well,
    /// The kernel ended it (a scheduler was ejected); the daemon stops with this reason and a code of its own.
    Ended(String),
}

/// A worker thread, as a mode gets to know it.
#[derive(Debug, Clone, Copy)]
pub struct Thread<'a> {
    /// A pidfd of the thread itself (`PIDFD_THREAD`).
    pub pidfd: BorrowedFd<'a>,
    /// Its number in the agent's PID namespace; may be reused once the thread has ended, unlike the pidfd.
    pub tid: u32,
}

/// A set of loaded BPF programs that gives hints.
pub trait Mode: Send {
    /// Which one.
    fn name(&self) -> ModeName;
    /// [`morpheus_abi::flags`] for the pages' headers.
    fn flags(&self) -> u32;
    /// The shared maps of the loaded object.
    fn maps(&self) -> &SharedMaps;
    /// Begins to work.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn start(&mut self) -> Result<(), BpfError>;
    /// A thread is about to become a worker.
    ///
    /// # Errors
    /// When it cannot be one; it is then not bound, and [`Mode::remove`] is not called for it.
    fn add(&mut self, thread: Thread<'_>, place: Place, registration: &Registration) -> Result<(), BpfError>;
    /// A worker is none any more; its thread may have ended.
    fn remove(&mut self, thread: Thread<'_>, place: Place);
    /// Looks whether the kernel still runs the programs.
    fn health(&mut self) -> Health;
    /// Detaches everything.
    fn stop(&mut self);
    /// What the scheduler decided about workers; `None` for a mode that schedules nothing.
    fn counts(&self) -> Option<Counts> {
        None
    }
    /// Each program's name and the number of instructions the verifier went through, for `bench/`.
    fn verified_instructions(&self) -> Vec<(String, u32)>;
}

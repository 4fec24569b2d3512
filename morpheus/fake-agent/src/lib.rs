//! Owns an agent without a kernel, for tests: real socket, real pages, hints when the test says so. May not be used by
//! anything but tests, and knows nothing of the clients' crates.
//!
//! It works on its pages with `pread` and `pwrite`, which see the same memory as the client's mapping.

#![forbid(unsafe_code)]

mod serve;

use std::fs::File;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use morpheus_abi::protocol::Registration;
use morpheus_abi::{
    ABI_VERSION, KernelLine, LINE_SIZE, PageHeader, Reason, RuntimeLine, Slot, WorkerState, YIELD_CAUSES, flags,
};
use rustix::net::Shutdown;
use tempfile::TempDir;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
///
/// # Panics
/// When it does not in [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// What an agent may do wrong or otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// As it should be.
    #[default]
    Proper,
    /// Welcomes with another ABI version.
    OldWelcome,
    /// Says the right version, but its pages have another.
    OldPages,
    /// Its pages are no Morpheus pages.
    ForgedPages,
    /// Its second page is of another kind.
    SwappedPages,
    /// Its pages could be cut short.
    UnsealedPages,
    /// Its pages are cut short already.
    ShortPages,
    /// Hands over no pages.
    NoPages,
    /// Answers with bytes that are no message.
    Gibberish,
    /// Hangs up instead of a welcome.
    HangsUp,
    /// Listens as a user that is neither root nor the test's. Needs root.
    Stranger,
}

/// A worker the agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The conversation it belongs to, counted from 0.
    pub process: usize,
    /// Its slot.
    pub slot: Slot,
    /// Its slot's generation.
    pub slot_generation: u32,
    /// What it registered with.
    pub registration: Registration,
}

/// See the crate.
pub struct FakeAgent {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    listener: Arc<std::os::fd::OwnedFd>,
    threads: Vec<JoinHandle<()>>,
    /// Holds the socket's folder unless the test brought its own.
    _folder: Option<TempDir>,
}

pub(crate) struct State {
    manner: Manner,
    generation: u64,
    next_slot_generation: u32,
    /// The pages of each conversation, kernel's and runtime's.
    pages: Vec<(File, File)>,
    /// The sockets of open conversations.
    sockets: Vec<Arc<std::os::fd::OwnedFd>>,
    seats: Vec<Seat>,
    /// Seats given back.
    left: Vec<Seat>,
}

impl FakeAgent {
    /// An agent at a socket of its own.
    pub fn start() -> Self {
        Self::start_as(Manner::Proper)
    }

    /// An agent with these manners at a socket of its own.
    pub fn start_as(manner: Manner) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("morpheus.sock");
        let mut agent = Self::start_at(&path, manner);
        agent._folder = Some(folder);
        agent
    }

    /// An agent at this path, in the place of one that is gone.
    pub fn start_at(path: &Path, manner: Manner) -> Self {
        let state = Arc::new(Mutex::new(State {
            manner,
            generation: rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec.unsigned_abs() + 1,
            next_slot_generation: 1,
            pages: Vec::new(),
            sockets: Vec::new(),
            seats: Vec::new(),
            left: Vec::new(),
        }));
        let listener = Arc::new(serve::listen(path, manner).expect("the test's socket can be bound"));
        let (accepting, shared) = (Arc::clone(&listener), Arc::clone(&state));
        let threads = vec![thread::spawn(move || serve::accept_all(&accepting, &shared))];
        Self { path: path.into(), state, listener, threads, _folder: None }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the agent's state")
    }

    /// The workers registered now.
    pub fn seats(&self) -> Vec<Seat> {
        self.state().seats.clone()
    }

    /// The workers that unregistered.
    pub fn left(&self) -> Vec<Seat> {
        self.state().left.clone()
    }

    /// The worker of this name; waits until it is registered and says it is running.
    #[track_caller]
    pub fn running(&self, name: &str) -> Seat {
        self.in_state(name, &[WorkerState::Running])
    }

    /// The worker of this name; waits until it is registered and has written its line.
    #[track_caller]
    pub fn running_or_parked(&self, name: &str) -> Seat {
        self.in_state(name, &[WorkerState::Running, WorkerState::Registered])
    }

    #[track_caller]
    fn in_state(&self, name: &str, states: &[WorkerState]) -> Seat {
        let mut found = None;
        eventually(&format!("worker {name} is in one of {states:?}"), || {
            found = self.seats().into_iter().find(|seat| seat.registration.name.as_str() == name);
            found.is_some_and(|seat| {
                let line = self.runtime_line(&seat);
                line.slot_generation == seat.slot_generation
                    && WorkerState::from_number(line.state).is_some_and(|state| states.contains(&state))
            })
        });
        found.expect("the condition held")
    }

    fn kernel_page<T>(&self, process: usize, use_it: impl FnOnce(&File) -> T) -> T {
        use_it(&self.state().pages[process].0)
    }

    /// Gives a hint, as the BPF programs do, whatever the worker's state. Its number.
    pub fn raise(&self, seat: &Seat, reason: Reason) -> u32 {
        self.raise_number(seat, reason.number(), 0)
    }

    /// Gives a hint with a deadline and a reason's number that perhaps nobody knows.
    pub fn raise_number(&self, seat: &Seat, reason: u32, deadline_ns: u64) -> u32 {
        self.kernel_page(seat.process, |page| {
            let at = |offset: usize| (seat.slot.line_offset() + offset) as u64;
            let seq = word(page, at(offset_of!(KernelLine, hint_seq))).wrapping_add(1);
            put(page, at(offset_of!(KernelLine, reason)), &reason.to_le_bytes());
            put(page, at(offset_of!(KernelLine, hint_time_ns)), &now_ns().to_le_bytes());
            put(page, at(offset_of!(KernelLine, deadline_ns)), &deadline_ns.to_le_bytes());
            put(page, at(offset_of!(KernelLine, hint_seq)), &seq.to_le_bytes());
            seq
        })
    }

    /// Writes what the agent measured of a worker: ns off the CPU, ns waiting, switches.
    pub fn measured(&self, seat: &Seat, off_cpu_ns: u64, runqueue_wait_ns: u64, involuntary_switches: u32) {
        self.kernel_page(seat.process, |page| {
            let at = |offset: usize| (seat.slot.line_offset() + offset) as u64;
            put(page, at(offset_of!(KernelLine, off_cpu_ns)), &off_cpu_ns.to_le_bytes());
            put(page, at(offset_of!(KernelLine, runqueue_wait_ns)), &runqueue_wait_ns.to_le_bytes());
            put(page, at(offset_of!(KernelLine, involuntary_switches)), &involuntary_switches.to_le_bytes());
        });
    }

    /// Stops the heartbeat some time ago. Until then it is far in the future, so that no slow machine makes it stale.
    pub fn hang(&self) {
        for (page, _) in &self.state().pages {
            put(page, offset_of!(PageHeader, heartbeat_ns) as u64, &1u64.to_le_bytes());
        }
    }

    /// What the worker has written.
    pub fn runtime_line(&self, seat: &Seat) -> RuntimeLine {
        let state = self.state();
        let mut line = [0; LINE_SIZE];
        state.pages[seat.process]
            .1
            .read_exact_at(&mut line, seat.slot.line_offset() as u64)
            .expect("the page is a whole memory file");
        let word =
            |at: usize| u32::from_le_bytes(*line[at..].first_chunk().expect("the field lies inside of the line"));
        RuntimeLine {
            ack_seq: word(offset_of!(RuntimeLine, ack_seq)),
            slot_generation: word(offset_of!(RuntimeLine, slot_generation)),
            critical_depth: word(offset_of!(RuntimeLine, critical_depth)),
            escapable: word(offset_of!(RuntimeLine, escapable)),
            escalation_policy: word(offset_of!(RuntimeLine, escalation_policy)),
            state: word(offset_of!(RuntimeLine, state)),
            last_yield_ns: u64::from(word(offset_of!(RuntimeLine, last_yield_ns)))
                | u64::from(word(offset_of!(RuntimeLine, last_yield_ns) + 4)) << 32,
            yields: std::array::from_fn::<u32, YIELD_CAUSES, _>(|cause| {
                word(offset_of!(RuntimeLine, yields) + 4 * cause)
            }),
            grace_ns: word(offset_of!(RuntimeLine, grace_ns)),
        }
    }

    /// As SIGKILL leaves it: every socket closed, nothing said. The socket's path goes free.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&*self.listener, Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().expect("the accepting thread does not panic");
        }
        let sockets = match self.state.lock() {
            Ok(mut state) => std::mem::take(&mut state.sockets),
            Err(_) => return,
        };
        for socket in sockets {
            let _ = rustix::net::shutdown(&*socket, Shutdown::Both);
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl State {
    /// The header of one of this agent's pages, heartbeat far in the future.
    pub(crate) fn header(&self, direction: morpheus_abi::Direction) -> PageHeader {
        let mut header = PageHeader::new(direction, self.generation, flags::OBSERVE | flags::RUNQUEUE_WAIT);
        header.heartbeat_ns = now_ns() + 3_600_000_000_000;
        match self.manner {
            Manner::OldPages => header.abi_version = ABI_VERSION - 1,
            Manner::ForgedPages => header.magic ^= 1,
            Manner::SwappedPages => header.direction ^= 1,
            _ => {}
        }
        header
    }
}

pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

pub(crate) fn put(page: &File, at: u64, bytes: &[u8]) {
    page.write_all_at(bytes, at).expect("the page is a whole memory file");
}

fn word(page: &File, at: u64) -> u32 {
    let mut bytes = [0; 4];
    page.read_exact_at(&mut bytes, at).expect("the page is a whole memory file");
    u32::from_le_bytes(bytes)
}

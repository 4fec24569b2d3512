//! A personality of a few calls, as a larger one would be made: processes with one sparse region for their private memory
//! (offset equal to address), a thread for each, fork by a snapshot.
//!
//! | rax | call | answer |
//! | --- | --- | --- |
//! | 0 | exit: code in rdi | |
//! | 1 | write: rdx bytes at rsi into the journal | bytes, or -14 |
//! | 2 | the process's number | |
//! | 3 | rsi bytes of zeroes at rdi | 0 |
//! | 4 | fork | the child's number, 0 in the child |

use alloc::sync::Arc;
use alloc::vec::Vec;

use holm_rt::abi::{Error, MapFlags, MapSpec, Protection, RestrictedReason, RestrictedState, limits};
use holm_rt::lock::Mutex;
use holm_rt::{Guest, Region, Space, VectorState, thread};

use crate::harness::soon;

pub(crate) const PAGE: u64 = limits::PAGE_SIZE;
pub(crate) const READ_WRITE: Protection = Protection::READ.or(Protection::WRITE);
/// Where a guest's program begins.
pub(crate) const CODE: u64 = 0x1000_0000;
/// The end of its stack of four pages.
pub(crate) const STACK: u64 = 0x2000_0000;
/// -EFAULT
const BAD_ADDRESS: u64 = 14_u64.wrapping_neg();
/// -ENOSYS
const NO_CALL: u64 = 38_u64.wrapping_neg();

/// The memory of a guest process.
pub(crate) struct Process {
    pub(crate) space: Space,
    pub(crate) memory: Region,
    mappings: Vec<(u64, u64, Protection)>,
}

/// What a guest process came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exit(u64),
    Exception(u32),
    Kicked,
}

impl Process {
    /// A process with a program and a stack.
    pub(crate) fn new(code: &[u8]) -> Result<Self, Error> {
        let memory = Region::new(limits::MAX_REGION)?;
        let mut process = Self { space: Space::new()?, memory, mappings: Vec::new() };
        process.memory.write(CODE, code)?;
        process.map(CODE, 4 * PAGE, Protection::READ | Protection::EXECUTE)?;
        process.map(STACK - 4 * PAGE, 4 * PAGE, READ_WRITE)?;
        Ok(process)
    }

    /// Shows a range of the memory.
    pub(crate) fn map(&mut self, address: u64, bytes: u64, protection: Protection) -> Result<(), Error> {
        let flags = MapFlags::FIXED;
        self.space
            .map(&self.memory, &MapSpec { address, offset: address, bytes, protection, flags, ..MapSpec::new() })?;
        self.mappings.push((address, bytes, protection));
        Ok(())
    }

    /// A process with the same memory, shared until one of them writes.
    pub(crate) fn fork(&self) -> Result<Self, Error> {
        let mut child = Self { space: Space::new()?, memory: self.memory.snapshot()?, mappings: Vec::new() };
        for (address, bytes, protection) in &self.mappings {
            child.map(*address, *bytes, *protection)?;
        }
        Ok(child)
    }

    /// Registers at the start of the program.
    pub(crate) fn start(&self) -> RestrictedState {
        RestrictedState { rip: CODE, rsp: STACK, rflags: 0x202, ..RestrictedState::new() }
    }
}

/// What all processes share.
#[derive(Default)]
pub(crate) struct Container {
    /// What they wrote.
    pub(crate) journal: Mutex<Vec<u8>>,
    /// How their processes ended, by number.
    pub(crate) ends: Mutex<Vec<(u64, End)>>,
    numbers: Mutex<u64>,
}

impl Container {
    fn number(&self) -> u64 {
        let mut last = self.numbers.lock();
        *last += 1;
        *last
    }

    /// Runs a process on the calling thread, and its children on threads of their own, to their ends.
    pub(crate) fn run(self: &Arc<Self>, process: Process) -> Result<End, Error> {
        let state = process.start();
        self.go_on(process, state, VectorState::default(), self.number())
    }

    fn go_on(
        self: &Arc<Self>,
        mut process: Process,
        state: RestrictedState,
        vector: VectorState,
        number: u64,
    ) -> Result<End, Error> {
        let mut guest = process.space.bind()?;
        guest.set_vector(&vector);
        let mut state = state;
        let mut children = Vec::new();
        let end = loop {
            guest.set(&state)?;
            let visit = guest.enter()?;
            state = visit.state;
            match visit.reason {
                RestrictedReason::Syscall => {}
                RestrictedReason::Exception => break End::Exception(state.vector),
                _ => break End::Kicked,
            }
            state.rax = match state.rax {
                0 => break End::Exit(state.rdi),
                1 => self.write(&guest, state.rsi, state.rdx),
                2 => number,
                3 => process.map(state.rdi, state.rsi, READ_WRITE).map_or(BAD_ADDRESS, |()| 0),
                4 => {
                    let (child, child_number) = (process.fork()?, self.number());
                    let container = Arc::clone(self);
                    let (state, vector) = (RestrictedState { rax: 0, ..state }, *guest.vector());
                    children.push(thread::spawn(move || container.go_on(child, state, vector, child_number))?);
                    child_number
                }
                _ => NO_CALL,
            };
        };
        for child in children {
            child.join(soon())?.ok_or(Error::BadState)??;
        }
        self.ends.lock().push((number, end));
        Ok(end)
    }

    fn write(&self, guest: &Guest, address: u64, bytes: u64) -> u64 {
        let mut text = alloc::vec![0; bytes.min(PAGE) as usize];
        match guest.read(address, &mut text) {
            Ok(()) => {
                self.journal.lock().extend_from_slice(&text);
                text.len() as u64
            }
            Err(_) => BAD_ADDRESS,
        }
    }
}

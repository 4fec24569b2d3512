//! What is written to page 0 on the agent's behalf: page 0 is frozen, so a small program does it when it is run.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::Object;

use super::BpfError;
use super::layout::Place;

/// A change of page 0; `struct morpheus_command` of bpf/maps.bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Write a process's heartbeat.
    Beat {
        /// Index in the page maps.
        process: u32,
        /// CLOCK_MONOTONIC in ns.
        now_ns: u64,
    },
    /// Empty a line and give it its generation.
    Open(Place),
    /// The line's worker is gone, if the line still has this generation.
    Close(Place),
    /// The whole system is short of CPU.
    Pressure {
        /// Until then: CLOCK_MONOTONIC in ns.
        until_ns: u64,
    },
    /// Nobody writes this page any more.
    Retire {
        /// Index in the page maps.
        process: u32,
    },
}

impl Command {
    fn to_bytes(self) -> [u8; 24] {
        let (kind, process, line, generation, now_ns) = match self {
            Self::Beat { process, now_ns } => (1u32, process, 0, 0, now_ns),
            Self::Open(place) => (2, place.process, place.line(), place.generation, 0),
            Self::Close(place) => (3, place.process, place.line(), place.generation, 0),
            Self::Retire { process } => (4, process, 0, 0, 0),
            Self::Pressure { until_ns } => (5, 0, 0, 0, until_ns),
        };
        let mut bytes = [0; 24];
        for (index, number) in [kind, process, line, generation].into_iter().enumerate() {
            bytes[4 * index..4 * index + 4].copy_from_slice(&number.to_ne_bytes());
        }
        bytes[16..].copy_from_slice(&now_ns.to_ne_bytes());
        bytes
    }
}

/// Runs the program `morpheus_agent` of a loaded object.
#[derive(Debug)]
pub struct Runner(OwnedFd);

impl Runner {
    /// Takes hold of the program.
    ///
    /// # Errors
    /// When the object has none.
    pub fn of(object: &Object) -> Result<Self, BpfError> {
        let program = object
            .progs()
            .find(|program| program.name() == "morpheus_agent")
            .ok_or(BpfError::Object("morpheus_agent"))?;
        let fd = program.as_fd().try_clone_to_owned().map_err(BpfError::system("cannot keep a program"))?;
        Ok(Self(fd))
    }

    /// Has a command done.
    ///
    /// # Errors
    /// When the program says no: there is no such process or line.
    pub fn run(&self, command: Command) -> Result<(), BpfError> {
        let what = "cannot write page 0";
        let mut context = command.to_bytes();
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            ctx_in: (&raw mut context).cast(),
            ctx_size_in: context.len() as u32,
            ..Default::default()
        };
        // SAFETY: the options are a whole structure that says its own size; they and the context they point to, with its
        // true length, live until the call returns.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.0.as_raw_fd(), &raw mut options) };
        // The program's own answer is a negative error number, too, in an unsigned field.
        let answer = if result < 0 { result } else { options.retval as i32 };
        if answer < 0 {
            return Err(BpfError::System { what, source: std::io::Error::from_raw_os_error(-answer) });
        }
        Ok(())
    }
}

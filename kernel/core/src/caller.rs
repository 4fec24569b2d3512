//! Who makes a system call, and what comes of it.

use holm_abi::Error;

use crate::machine::CpuId;
use crate::thread::ThreadId;
use crate::unit::UnitId;

/// Who makes a system call, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The processor.
    pub cpu: CpuId,
    /// The thread.
    pub thread: ThreadId,
    /// The thread's unit.
    pub unit: UnitId,
}

/// What comes of a system call that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; the value goes to `rax` and is not negative as an `i64`.
    Done(u64),
    /// The caller is blocked ([`crate::Kernel::block`] was called); the waker writes the result.
    Blocked,
    /// The registers of the caller say everything already (a short message arrived, restricted mode was entered).
    Registers,
    /// A bounded step is done, more is to do: the call is made again after interrupts were let in. Whatever the call needs
    /// to go on is recorded in the objects or in its argument registers.
    Again,
    /// The caller is no more.
    Ended,
}

/// The result of a system call.
pub type Answer = Result<Outcome, Error>;

impl Outcome {
    /// Done, with nothing to say.
    pub const OK: Self = Self::Done(0);
}

/// Where a struct of the interface is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Out<S> {
    /// The address in the caller's memory.
    pub address: u64,
    /// The bytes that the caller has room for: the size in its header, checked.
    pub bytes: usize,
    /// The struct.
    pub of: core::marker::PhantomData<S>,
}

/// A struct of the interface that was read and is to be written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InOut<S> {
    /// The address in the caller's memory.
    pub address: u64,
    /// What was there; its `size` is the caller's.
    pub value: S,
}

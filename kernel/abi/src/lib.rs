//! Stand-in until the real one is merged.
#![no_std]
/// Errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub enum Error { BadHandle, WrongType, Access, Revoked, Fault, Invalid, TooBig, NoMemory, Quota, Again, TimedOut, Closed, Cancelled, NotFound, Busy, Exists, Unsupported, BadState, Full, Permission }
impl Error {
    /// The value of `rax`.
    #[must_use]
    pub const fn to_return(self) -> i64 { -(self as i64) - 1 }
}
/// Types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub enum ObjectType { Unit, Thread, Region, Channel, Timer, Event, Image, System, Console }

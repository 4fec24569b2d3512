//! Capabilities: everything that can be touched is one; nothing is ambient (seed 3, 14.3, 15.1, 15.2).
//!
//! A unit names its capabilities by handles of its own [`table`]. Each capability is a [`grant`]: a node in the tree of who
//! got it from whom. Using a handle is a few compares (`Kernel::resolve`): generation, revocation epoch, type, rights.
//! Only after a revocation somewhere does the next use of a handle walk its grant's ancestors, once.
//!
//! - `hold`: using, installing and closing handles; `references`: what keeps objects;
//! - [`transfer`]: how capabilities travel, decided first, then performed without failure; [`short`]: the short way of one;
//! - `sweep`: what follows a revocation or the end of a unit, in bounded steps;
//! - `calls`: the system calls.

mod calls;
pub(crate) mod grant;
mod hold;
mod references;
pub(crate) mod short;
mod sweep;
pub(crate) mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_region;
pub(crate) mod transfer;

use holm_abi::{Handle, ObjectType, Rights};

pub use grant::{Grant, GrantId};
pub use table::CapTable;

use crate::object::Object;

/// A set of object types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types(u32);

impl Types {
    /// No type.
    pub const NONE: Self = Self(0);
    /// Every type.
    pub const ANY: Self = Self(u32::MAX);

    /// The set of one type.
    #[must_use]
    pub const fn of(object_type: ObjectType) -> Self {
        Self(1 << object_type as u32)
    }

    /// The types of both.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a type is in both.
    #[must_use]
    #[inline]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A capability that was found good: what a system call goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// The handle it was named by.
    pub handle: Handle,
    /// The object.
    pub object: Object,
    /// What the holder may do.
    pub rights: Rights,
    /// What receivers see of messages sent through it.
    pub badge: u64,
    /// Its grant: mappings remember it ([`crate::Kernel::grant_watch`]).
    pub grant: GrantId,
}

/// How far a bounded step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Nothing is left to do.
    Done,
    /// It is to be called again.
    More,
}

/// All grants, and the work that waits: revoked ones to sweep.
#[derive(Debug, Default)]
pub struct Capabilities {
    pub(crate) grants: grant::Grants,
}

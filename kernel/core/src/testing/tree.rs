//! What a test knows of capabilities: which comes from which, who has it, and what a use of it may answer.
//!
//! In this model a revocation ends everything below at once, and a capability that is closed ends what was lent from it. A
//! unit that ends closes its capabilities, one after the other: until then loans from them may hold, or not.

use std::vec::Vec;

use holm_abi::{Error, Handle, Rights};

/// Whether a capability holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It does.
    Holds,
    /// What it was lent from is being closed: one cannot tell.
    Fades,
    /// It was revoked, or what it was lent from was closed.
    Revoked,
}

/// A capability of `O`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<O> {
    /// What it is of.
    pub(crate) of: O,
    /// The unit that has it, or had it last.
    pub(crate) unit: usize,
    /// Its handle there.
    pub(crate) handle: Handle,
    pub(crate) rights: Rights,
    /// What it was derived or lent from.
    pub(crate) parent: Option<usize>,
    pub(crate) lent: bool,
    pub(crate) depth: u32,
    pub(crate) life: Life,
    /// Its handle was closed, or its unit ended.
    pub(crate) closed: bool,
}

impl<O> Known<O> {
    /// Whether somebody can use it, as far as one can tell.
    pub(crate) fn lives(&self) -> bool {
        self.life != Life::Revoked && !self.closed
    }

    /// Checks how a call through it that needs `rights` answered: an error must have its reason, a success its right.
    /// `others` are errors that have nothing to do with it.
    pub(crate) fn must_answer<T>(&self, rights: Rights, answer: &Result<T, Error>, others: &[Error])
    where
        O: core::fmt::Debug,
    {
        match answer {
            Ok(_) => assert!(self.lives() && self.rights.contains(rights), "{self:?} was used"),
            Err(Error::BadHandle) => assert!(self.closed, "{self:?} is no handle"),
            Err(Error::Revoked) => assert!(self.life != Life::Holds, "{self:?} is revoked"),
            Err(Error::Access) => assert!(!self.rights.contains(rights), "{self:?} is refused"),
            Err(error) => assert!(others.contains(error), "{self:?} answers {error:?}"),
        }
    }
}

/// All capabilities, by number.
#[derive(Debug)]
pub(crate) struct Tree<O>(pub(crate) Vec<Known<O>>);

impl<O> Tree<O> {
    /// A capability is revoked.
    pub(crate) fn revoke(&mut self, cap: usize) {
        self.end(cap, Life::Revoked);
    }

    /// Everything that came from a capability is revoked.
    pub(crate) fn revoke_children(&mut self, cap: usize) {
        self.end_below(cap, false, Life::Revoked);
    }

    /// The handle of a capability is given up.
    pub(crate) fn close(&mut self, cap: usize) {
        self.0[cap].closed = true;
        self.end_below(cap, true, Life::Revoked);
    }

    /// A unit ends that has `cap`.
    pub(crate) fn fade(&mut self, cap: usize) {
        self.0[cap].closed = true;
        self.end_below(cap, true, Life::Fades);
    }

    /// No work waits any more.
    pub(crate) fn settled(&mut self) {
        for cap in &mut self.0 {
            if cap.life == Life::Fades {
                cap.life = Life::Revoked;
            }
        }
    }

    fn end(&mut self, cap: usize, how: Life) {
        if self.0[cap].life != Life::Revoked {
            self.0[cap].life = how;
        }
        self.end_below(cap, false, how);
    }

    fn end_below(&mut self, cap: usize, only_lent: bool, how: Life) {
        for child in 0..self.0.len() {
            let entry = &self.0[child];
            if entry.parent == Some(cap) && entry.life != Life::Revoked && (!only_lent || entry.lent) {
                self.end(child, how);
            }
        }
    }
}

//! From a system call's number and registers to the function that does it.
//!
//! The table of the interface is the one source: each argument is decoded by its kind (a handle is resolved with the type and
//! the rights that the table asks for, a struct is read by the rules for versions and sizes), then `self.<name>` is called.
//! Nothing is done before every argument is good.

use core::marker::PhantomData;

/// A range of a user program's memory; not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserSlice {
    /// The first byte.
    pub address: u64,
    /// How many bytes.
    pub length: u64,
}

/// Room for records in a user program's memory; not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records<S> {
    /// The first record.
    pub address: u64,
    /// How many.
    pub count: u64,
    of: PhantomData<S>,
}

impl<S> Records<S> {
    /// Room for `count` records at `address`.
    #[must_use]
    pub const fn new(address: u64, count: u64) -> Self {
        Self { address, count, of: PhantomData }
    }

    /// The address of a record.
    #[must_use]
    pub const fn at(&self, number: u64) -> u64 {
        self.address.wrapping_add(number.wrapping_mul(size_of::<S>() as u64))
    }
}

//! Another process of this host, never mistaken for a later one that got its number.
//!
//! A number of a process is given again once it has ended. So a [`Process`] holds a pidfd: it goes on to mean the same
//! process, tells without a lock or a poll of `/proc` when that has ended, and is what signals go through. A
//! [`ProcessIdentity`] is the same for a file: the number with the time the process was started.
//!
//! This crate knows nothing else of Holm, starts no process, and may not touch the file system beside `/proc`.

#![forbid(unsafe_code)]

mod process;
mod stat;

pub use process::{Process, ProcessEnd, ProcessIdentity, lives};

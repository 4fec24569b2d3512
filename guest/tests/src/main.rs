//! Tests of the kernel through its interface: every primitive, every error of every call, a fuzzer.
//!
//! `tests run [NAME…]` runs the tests whose names contain one of the words (all without words) and prints
//! `test NAME ok` or `test NAME FAILED: reason` for each, then `tests done`; the exit code is 0 when all passed. Without
//! arguments it runs all. The other first arguments are
//! roles that the tests start this program in as children. It may break its own unit, never another one.
#![cfg_attr(holm_user, no_std, no_main)]

extern crate alloc;

mod agent;
mod caps;
mod channels;
mod errors;
mod events;
mod fuzz;
mod guards;
mod harness;
mod large;
mod memory;
mod pieces;
mod restricted;
mod roles;
mod sched;
mod starved;
mod system;
mod threads;
mod time;
mod units;
mod unseen;
mod waits;

holm_rt::entry!(roles::begin);

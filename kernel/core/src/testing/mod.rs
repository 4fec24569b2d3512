//! Kernels for tests, over the simulated machine.

mod calls;
mod history;
mod interleave;
pub(crate) mod ipc;
pub(crate) mod memory;
mod stage;
mod tree;
pub(crate) mod world;

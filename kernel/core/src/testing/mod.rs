//! Kernels for tests, over the simulated machine.

mod calls;
mod history;
pub(crate) mod ipc;
pub(crate) mod memory;
pub(crate) mod world;

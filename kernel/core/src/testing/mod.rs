//! Kernels for tests, over the simulated machine.

mod calls;
pub(crate) mod ipc;
pub(crate) mod memory;
pub(crate) mod world;

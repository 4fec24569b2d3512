//! Kernels for tests, over the simulated machine.

pub(crate) mod ipc;
pub(crate) mod memory;
pub(crate) mod world;

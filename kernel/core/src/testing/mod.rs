//! Kernels for tests, over the simulated machine.

pub(crate) mod ipc;

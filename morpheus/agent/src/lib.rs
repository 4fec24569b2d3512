//! Morpheus's agent, `morpheusd`: owns the BPF programs, the registration of worker threads, and the pages of each process.
//! May not change scheduling in observe mode, know anything of a runtime's tasks, or trust what a process writes.
//!
//! - [`worker`]: who is registered, where, and when a place may be used again. Pure.
//! - [`thread`]: whether a thread belongs to a peer, by pidfds, so that a reused number is noticed.
//! - [`bpf`]: the programs' maps, the pages, perf events. The only `unsafe`.
//! - [`mode`]: what *observe* and *enforce* are to the daemon; [`mod@observe`] and [`mod@enforce`] are the two.
//! - [`server`]: the socket: peers, their messages, the heartbeat.
//! - [`report`]: what an operator sees, made once; [`status`], [`top`] and [`metrics`] show it.
//! - [`check`]: what this kernel can do.

pub mod bpf;
pub mod check;
pub mod enforce;
pub mod histogram;
pub mod metrics;
pub mod mode;
pub mod notify;
pub mod observe;
pub mod pressure;
pub mod report;
pub mod server;
pub mod status;
pub mod thread;
pub mod top;
pub mod units;
pub mod verifier;
pub mod worker;

//! The logic of the Holm kernel: units, threads, memory, capabilities, channels, events, timers, scheduling. It may not
//! touch hardware, and has no `unsafe`: it runs over a [`Machine`], a real one in `kernel/x86_64`, a simulated one in tests.
//!
//! One [`Kernel`] is one value behind one lock. The machine layer calls an entry ([`Kernel::system_call`],
//! [`Kernel::fault`], [`Kernel::timer`], [`Kernel::kicked`], [`Kernel::console_input`]) with interrupts off; nothing sleeps
//! inside, and what comes back says what the processor does next.

#![no_std]
#![forbid(unsafe_code)]
#![allow(rustdoc::private_intra_doc_links, reason = "the pages are for readers of the core, who see its private parts")]

extern crate alloc;
#[cfg(any(test, feature = "sim"))]
extern crate std;

pub mod arena;
pub mod caller;
pub mod cap;
pub mod channel;
pub mod config;
pub mod console;
pub mod deadline;
mod direct;
pub mod dispatch;
mod entry;
pub mod event;
mod guard;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod object;
pub mod queue;
pub mod quota;
#[cfg(any(test, feature = "sim"))]
mod random;
pub mod restricted;
pub mod sched;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod system;
#[cfg(test)]
pub(crate) mod testing;
pub mod thread;
mod thread_calls;
pub mod thread_life;
pub mod time;
pub mod trace;
pub mod unit;
pub mod wait;
pub mod work;

pub use caller::{Answer, Caller, Outcome};
pub use direct::Direct;
pub use holm_abi::number;
pub use kernel::{BootInfo, Fault, Kernel, MemoryRange, Next};
pub use machine::{CpuId, FrameNumber, Machine, Nanos, SpaceId};
pub use object::Object;

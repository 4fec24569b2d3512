//! Safe Rust for native programs on the Holm kernel. It talks to the kernel by [`holm_abi`] only; `unsafe` lives in [`sys`].
//!
//! A program is an ordinary crate:
//!
//! ```ignore
//! #![cfg_attr(holm_user, no_std, no_main)]
//! extern crate alloc;
//!
//! holm_rt::entry!(main);
//!
//! fn main() -> i32 {
//!     holm_rt::println!("hello from unit {}", holm_rt::startup::unit_id());
//!     0
//! }
//! ```
//!
//! `cargo xtask kernel build` builds programs for the kernel: the host's target with `--cfg holm_user`, static, at a fixed
//! address (`guest/rt/program.ld`), `panic=abort`. Built without these flags, as by `cargo clippy`, a program says where it
//! belongs and ends; so it is checked with the rest of the workspace.
//!
//! Objects of the kernel are values: [`Unit`], [`Thread`], [`Region`], [`Channel`], [`Timer`], [`Events`] … close their
//! handle when they are dropped. [`thread::spawn`] runs closures, [`message`] gives messages a type, [`supervise`] restarts
//! units that end.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod archive;
pub mod channel;
pub mod console;
pub mod event;
pub mod lock;
pub mod message;
pub mod object;
mod region;
pub mod startup;
pub mod supervise;
#[allow(unsafe_code, reason = "the border to the kernel: every block says why it is sound")]
pub mod sys;
pub mod thread;
pub mod time;
pub mod unit;

pub use event::Source;
pub use holm_abi as abi;
pub use holm_abi::{Error, Handle};
pub use object::{
    Archive, Channel, Console, Events, Image, Object, Owned, Region, Space, System, Thread, Timer, Trace, Unit,
};
pub use sys::{Guest, Mapping, VectorState, Visit, end};
pub use thread::{JoinHandle, ThreadBuilder};
pub use time::Deadline;
pub use unit::UnitBuilder;

/// Names the function that a program begins with: `fn() -> i32`; what it returns is the unit's exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        /// What the kernel's first thread runs.
        #[cfg(holm_user)]
        #[unsafe(no_mangle)]
        extern "Rust" fn holm_main() -> i32 {
            $main()
        }

        /// What the host runs: nothing.
        #[cfg(not(holm_user))]
        fn main() -> std::process::ExitCode {
            let _used_on_the_kernel: fn() -> i32 = $main;
            std::process::ExitCode::FAILURE
        }
    };
}

//! The Holm kernel on x86-64: the machine layer below [`holm_kernel_core`], and the program that a loader boots. All `unsafe`
//! of the kernel is here; it may not decide anything that the core can decide.
//!
//! | module | what |
//! | --- | --- |
//! | `boot` | from the loader to the first thread; the other processors |
//! | `trap` | into the kernel and out of it: system calls, exceptions, interrupts |
//! | `lock` | the one lock around the core's kernel |
//! | `machine` | the machine as the core sees it |
//! | `memory` | page tables, address spaces, what processors remember of them, the heap |
//! | `time` | the clock and its rate |
//! | `percpu`, `cpu`, `apic`, `serial`, `power` | one processor's own things, and the devices |
//! | `bytes` | `memcpy` and its kin |
//!
//! It is built for bare metal by `cargo xtask kernel build`, which sets `bare_metal`; to an ordinary cargo run it is a program
//! that says so.

#![cfg_attr(bare_metal, no_std, no_main)]

#[cfg(bare_metal)]
extern crate alloc;

#[cfg(bare_metal)]
mod apic;
#[cfg(bare_metal)]
mod boot;
#[cfg(bare_metal)]
mod bytes;
#[cfg(bare_metal)]
mod cpu;
#[cfg(bare_metal)]
mod lock;
#[cfg(bare_metal)]
mod machine;
#[cfg(bare_metal)]
mod measure;
#[cfg(bare_metal)]
mod memory;
#[cfg(bare_metal)]
mod panic;
#[cfg(bare_metal)]
mod percpu;
#[cfg(bare_metal)]
mod power;
#[cfg(bare_metal)]
mod serial;
#[cfg(bare_metal)]
mod time;
#[cfg(bare_metal)]
mod trap;

#[cfg(not(bare_metal))]
fn main() -> std::process::ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "holm-kernel boots a machine; build it with `cargo xtask kernel build`");
    std::process::ExitCode::FAILURE
}

//! Into the kernel and out of it: descriptor tables, the assembly of entries and exits, and what they call in Rust.
//!
//! A system call takes this way:
//! 1. `syscall` jumps to `system_call_entry` in `stubs`, which saves the registers straight into the thread's structure in the
//!    core and takes this processor's kernel stack;
//! 2. [`enter::system_call`] locks the kernel and calls [`holm_kernel_core::Kernel::system_call`];
//! 3. [`leave`] turns the answer (which thread, which address space) into an [`leave::Exit`] and unlocks;
//! 4. the exit path in `stubs` loads registers and returns to the user program.

pub(crate) mod enter;
pub(crate) mod interrupts;
pub(crate) mod leave;
pub(crate) mod segments;
pub(crate) mod stubs;

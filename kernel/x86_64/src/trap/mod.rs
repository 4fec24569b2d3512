//! Into the kernel and out of it: descriptor tables, the assembly of entries and exits, and what they call in Rust.
//!
//! A system call takes this way:
//! 1. `syscall` jumps to `system_call_entry` in `stubs`, which saves the registers straight into the thread's structure in the
//!    core and takes this processor's kernel stack; the null call goes back from here;
//! 2. [`enter`] locks the kernel and calls [`holm_kernel_core::Kernel::direct`], which does a few calls at once and
//!    tells the machine itself which thread goes on; all others go to `system_call_slowly`;
//! 3. [`leave`] turns the answer (which thread, which address space) into an [`leave::Exit`] and unlocks;
//! 4. the exit path in `stubs` loads registers and returns to the user program.

pub(crate) mod enter;
pub(crate) mod interrupts;
pub(crate) mod leave;
pub(crate) mod segments;
pub(crate) mod stubs;

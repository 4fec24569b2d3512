//! Closures as threads.

use alloc::boxed::Box;
use core::arch::naked_asm;

use holm_abi::{Error, Handle, ThreadSpec, number};

use super::memory::{Stack, map_stack, unmap_stack};
use super::stubs;

/// What a new thread gets: what to run and the stack it runs on.
struct Start {
    work: Box<dyn FnOnce() + Send>,
    stack: Stack,
}

/// Where a new thread begins: rdi holds the address of its [`Start`]. Runs it, then unmaps the stack and ends the thread
/// without touching memory.
#[unsafe(naked)]
extern "C" fn enter() {
    naked_asm!(
        "xor ebp, ebp",
        "and rsp, -16",
        "sub rsp, 16",
        "mov rsi, rsp",
        "call {run}",
        "mov rsi, [rsp]",
        "mov rdx, [rsp + 8]",
        "xor edi, edi",
        "mov eax, {unmap}",
        "syscall",
        "2: xor edi, edi",
        "mov eax, {exit}",
        "syscall",
        "jmp 2b",
        run = sym run,
        unmap = const number::vm_unmap,
        exit = const number::thread_exit,
    )
}

/// Runs what the thread is for and leaves the place of its stack in `stack`.
///
/// # Safety
/// `start` comes from `Box::into_raw` and is given to no one else; `stack` is room for two words.
unsafe extern "C" fn run(start: *mut Start, stack: *mut [u64; 2]) {
    // SAFETY: `spawn` made the box and gave it to this thread alone.
    let Start { work, stack: own } = *unsafe { Box::from_raw(start) };
    work();
    // SAFETY: room for two words on the frame of `enter`.
    unsafe { stack.write([own.base, own.bytes]) };
}

/// Starts a thread that runs `work` on a stack of `stack_bytes`. `spec` gives its class, priority and affinity.
pub(crate) fn spawn(work: Box<dyn FnOnce() + Send>, stack_bytes: u64, spec: &ThreadSpec) -> Result<Handle, Error> {
    let stack = map_stack(stack_bytes)?;
    let (stack_base, stack_bytes) = (stack.base, stack.bytes);
    let start = Box::into_raw(Box::new(Start { work, stack }));
    let spec =
        ThreadSpec { entry: enter as *const () as u64, argument: start as u64, stack_base, stack_bytes, ..*spec };
    // SAFETY: the entry runs `start`, which is given to it alone, on a stack mapped for it alone.
    unsafe { stubs::thread_create(Handle::NONE, &spec) }.inspect_err(|_| {
        // SAFETY: no thread was made, so `start` is still ours and nobody runs on the stack.
        unsafe {
            unmap_stack(&Stack { base: stack_base, bytes: stack_bytes });
            drop(Box::from_raw(start));
        }
    })
}

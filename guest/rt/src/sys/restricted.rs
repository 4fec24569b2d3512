//! Guests of a personality: running code in restricted mode.

use core::arch::naked_asm;

use holm_abi::{Error, Handle, Protection, RestrictedReason, RestrictedState, number};

use super::memory::Mapping;
use super::stubs;

/// A guest: a space bound to the calling thread, and the page that holds its registers.
///
/// While it is bound the thread's lower half shows the guest space. So a personality must lie in the upper half with
/// everything it needs; a program linked below cannot bind itself (the kernel answers NotPermitted).
#[derive(Debug)]
pub struct Guest {
    state: Mapping,
}

/// Why the guest came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Why.
    pub reason: RestrictedReason,
    /// Its registers.
    pub state: RestrictedState,
}

impl Guest {
    /// Binds the calling thread to `space`, with the state in the first page of `region`.
    ///
    /// # Errors
    /// Those of vm_map and restricted_bind.
    pub fn bind(space: Handle, region: Handle, state: Mapping) -> Result<Self, Error> {
        if state.bytes() < RestrictedState::SIZE as u64 {
            return Err(Error::Invalid);
        }
        // SAFETY: the kernel refuses the binding while this unit maps anything in its own lower half, so no memory of this
        // program changes its meaning; the state page is only touched by copies.
        unsafe { stubs::restricted_bind(space, region, 0)? };
        Ok(Self { state })
    }

    /// Sets the guest's registers.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the state page is not writable.
    pub fn set(&self, state: &RestrictedState) -> Result<(), Error> {
        let mut bytes = [0; RestrictedState::SIZE];
        state.encode_whole(&mut bytes);
        self.state.write(0, &bytes)
    }

    /// Runs the guest until it makes a system call, faults or is kicked.
    ///
    /// # Errors
    /// Those of restricted_enter; [`Error::Invalid`] when the state page is not readable.
    pub fn enter(&self) -> Result<Visit, Error> {
        // SAFETY: `enter` keeps everything a function must keep: the kernel keeps rsp and the callee-saved registers, and
        // vector registers count as lost. The guest cannot reach the memory of the personality.
        let answer = unsafe { enter() };
        let reason = RestrictedReason::from_register(Error::from_register(answer)?)?;
        let mut bytes = [0; RestrictedState::SIZE];
        self.state.read(0, &mut bytes)?;
        Ok(Visit { reason, state: RestrictedState::decode_whole(&bytes)? })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _unbound = stubs::restricted_unbind();
    }
}

/// Enters the guest: returns the reason when it comes back, or the negated error when it did not start.
///
/// # Safety
/// The calling thread is bound.
#[unsafe(naked)]
unsafe extern "C" fn enter() -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "lea rdi, [rip + 2f]",
        "xor esi, esi",
        "mov eax, {number}",
        "syscall",
        "jmp 3f",
        "2: mov rax, rsi",
        "3: pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        number = const number::restricted_enter,
    )
}

/// What a state page must be mapped with.
pub(crate) const STATE_PROTECTION: Protection = Protection::READ.or(Protection::WRITE);

//! Guests of a personality: running code in restricted mode, and reaching its memory.

use core::arch::{asm, naked_asm};
use core::marker::PhantomData;
use core::mem::offset_of;

use holm_abi::{Error, Handle, MapSpec, Protection, RegionSpec, RestrictedReason, RestrictedState, limits, number};

use super::memory::Mapping;
use super::stubs;

/// A guest: a space bound to the calling thread, the page that holds its registers, and its vector registers.
///
/// While it is bound the thread's lower half shows the guest space. So a personality lies in the upper half with everything
/// it needs, as programs do unless they map something below on purpose (the kernel then answers NotPermitted).
#[derive(Debug)]
pub struct Guest {
    state: Mapping,
    vector: VectorState,
    /// The binding is the thread's.
    stays: PhantomData<*const ()>,
}

/// The vector and floating-point registers of a guest, as FXSAVE has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct VectorState([u8; 512]);

impl Default for VectorState {
    /// What a program begins with: registers of zeroes, every exception masked, round to nearest.
    fn default() -> Self {
        let mut area = [0; 512];
        [area[0], area[1]] = 0x037f_u16.to_le_bytes();
        [area[24], area[25]] = 0x1f80_u16.to_le_bytes();
        Self(area)
    }
}

/// Why the guest came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Why.
    pub reason: RestrictedReason,
    /// Its registers.
    pub state: RestrictedState,
}

/// A state as C has it, for the places of its fields.
#[repr(C)]
struct Layout {
    registers: [u64; 20],
    reason: u32,
    vector: u32,
    error_code: u64,
    fault_address: u64,
    fault_return: u64,
}

/// Where in a state the kernel looks for the place to go on at after a fault on a guest's address.
const FAULT_RETURN: usize = offset_of!(Layout, fault_return);
const _: () = assert!(size_of::<Layout>() == RestrictedState::SIZE);

impl Guest {
    /// Binds the calling thread to `space`, with the state in the page of `region` at `offset`, which `state` maps.
    ///
    /// # Errors
    /// Those of restricted_bind; [`Error::Invalid`] when `state` is no whole page that can be written.
    ///
    /// # Safety
    /// While it is bound nobody but this value writes the state's `fault_return`: the kernel has the thread go on there.
    pub unsafe fn bind(space: Handle, region: Handle, offset: u64, state: Mapping) -> Result<Self, Error> {
        if state.bytes() < limits::PAGE_SIZE {
            return Err(Error::Invalid);
        }
        state.write(0, &[0; RestrictedState::SIZE])?;
        // SAFETY: the kernel refuses the binding while this unit maps anything in its own lower half, so no memory of this
        // program changes its meaning; the state page is only touched by copies.
        unsafe { stubs::restricted_bind(space, region, offset)? };
        Ok(Self { state, vector: VectorState::default(), stays: PhantomData })
    }

    /// Binds the calling thread to `space` with a page of its own for the state.
    pub(crate) fn with_own_state(space: Handle) -> Result<Self, Error> {
        let region = stubs::vm_region_create(&RegionSpec { bytes: limits::PAGE_SIZE, ..RegionSpec::new() })?;
        let spec = MapSpec { protection: Protection::READ | Protection::WRITE, ..MapSpec::new() };
        let bound = Mapping::new(region, limits::PAGE_SIZE, &spec).and_then(|state| {
            // SAFETY: the region was made here, and its only handle is closed below: no other mapping of it can come.
            unsafe { Self::bind(space, region, 0, state) }
        });
        let _closed = stubs::cap_close(region);
        bound
    }

    /// Sets the guest's registers.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the state page is not writable.
    pub fn set(&self, state: &RestrictedState) -> Result<(), Error> {
        let mut bytes = [0; RestrictedState::SIZE];
        state.encode_whole(&mut bytes);
        let (registers, _) = bytes.split_at(FAULT_RETURN);
        self.state.write(0, registers)
    }

    /// Its vector registers.
    #[must_use]
    pub const fn vector(&self) -> &VectorState {
        &self.vector
    }

    /// Sets its vector registers to those of another guest.
    pub const fn set_vector(&mut self, vector: &VectorState) {
        self.vector = *vector;
    }

    /// Runs the guest until it makes a system call, faults or is kicked.
    ///
    /// # Errors
    /// Those of restricted_enter; [`Error::Invalid`] when the state page is not readable.
    pub fn enter(&mut self) -> Result<Visit, Error> {
        let reason = self.enter_briefly()?;
        let mut bytes = [0; RestrictedState::SIZE];
        self.state.read(0, &mut bytes)?;
        Ok(Visit { reason, state: RestrictedState::decode_whole(&bytes)? })
    }

    /// As [`Guest::enter`], without a copy of the registers.
    ///
    /// # Errors
    /// Those of restricted_enter.
    #[inline]
    pub fn enter_briefly(&mut self) -> Result<RestrictedReason, Error> {
        // SAFETY: `enter` keeps everything a function must keep: the kernel keeps rsp and the callee-saved registers, vector
        // registers count as lost, and `vector` was written by `fxsave64` or is what a program begins with. The guest cannot
        // reach the memory of the personality.
        let answer = unsafe { enter(&mut self.vector) };
        RestrictedReason::from_register(Error::from_register(answer)?)
    }

    /// Copies out of the guest's memory, as the guest would read it.
    ///
    /// # Errors
    /// [`Error::Fault`] when the guest cannot read all of it; `to` may be changed.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Error> {
        in_guest(address, to.len())?;
        // SAFETY: `to` is a slice to write; the other side is checked by `copy`.
        unsafe { self.copy(to.as_mut_ptr() as u64, address, to.len()) }
    }

    /// Copies into the guest's memory, as the guest would write it.
    ///
    /// # Errors
    /// [`Error::Fault`] when the guest cannot write all of it; what lies before is written.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), Error> {
        in_guest(address, from.len())?;
        // SAFETY: `from` is a slice to read; the other side is checked by `copy`.
        unsafe { self.copy(address, from.as_ptr() as u64, from.len()) }
    }

    /// Copies between this program and the guest.
    ///
    /// # Safety
    /// Of the two ranges one is in the lower half, the other is this program's to read or write.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), Error> {
        let left: usize;
        // SAFETY: this program has no memory in the lower half: what is read or written there is the guest's, where no Rust
        // reference leads. A fault there comes back behind `rep movsb` with the bytes that are left in rcx, since the state,
        // which is mapped and writable, says so meanwhile. The caller vouches for the other range.
        unsafe {
            asm!(
                "lea {place}, [rip + 2f]",
                "mov [{state} + {fault_return}], {place}",
                "rep movsb",
                "2:",
                "mov qword ptr [{state} + {fault_return}], 0",
                place = out(reg) _,
                state = in(reg) self.state.address(),
                fault_return = const FAULT_RETURN,
                inout("rcx") bytes => left,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack),
            );
        }
        if left == 0 { Ok(()) } else { Err(Error::Fault) }
    }
}

/// Checks that a range lies in the lower half.
fn in_guest(address: u64, bytes: usize) -> Result<(), Error> {
    let end = address.checked_add(bytes as u64);
    if end.is_some_and(|end| end <= limits::USER_HALF) { Ok(()) } else { Err(Error::Fault) }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _unbound = stubs::restricted_unbind();
    }
}

/// Enters the guest with its vector registers: returns the reason when it comes back, or the negated error when it did not
/// start.
///
/// # Safety
/// The calling thread is bound; `vector` is what `fxsave64` writes.
#[unsafe(naked)]
unsafe extern "C" fn enter(vector: *mut VectorState) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "fxrstor64 [rdi]",
        // The context: it comes back in rdi.
        "mov rsi, rdi",
        "lea rdi, [rip + 2f]",
        "mov eax, {number}",
        "syscall",
        "jmp 3f",
        "2: fxsave64 [rdi]",
        "mov rax, rsi",
        "3: fninit",
        "fldcw [rsp + 4]",
        "ldmxcsr [rsp]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        number = const number::restricted_enter,
    )
}

/// Maps a part of a region into a guest space; says where.
pub(crate) fn map_guest(space: Handle, region: Handle, spec: &MapSpec) -> Result<u64, Error> {
    // SAFETY: a guest space holds no memory of this program.
    unsafe { stubs::vm_map(space, region, spec) }
}

/// Unmaps a range of a guest space.
pub(crate) fn unmap_guest(space: Handle, address: u64, bytes: u64) -> Result<(), Error> {
    // SAFETY: a guest space holds no memory of this program.
    unsafe { stubs::vm_unmap(space, address, bytes) }.map(drop)
}

/// Changes what a guest may do with a range of its space.
pub(crate) fn protect_guest(space: Handle, address: u64, bytes: u64, protection: Protection) -> Result<(), Error> {
    // SAFETY: a guest space holds no memory of this program.
    unsafe { stubs::vm_protect(space, address, bytes, protection) }.map(drop)
}

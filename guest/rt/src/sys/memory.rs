//! Mappings of regions into this unit's own address space.

use core::sync::atomic::{AtomicU32, AtomicU64};

use holm_abi::{Error, Handle, MapSpec, Protection, RegionSpec, limits};

use super::stubs;

/// A part of a region, mapped into this unit; unmapped when it is dropped.
///
/// The same pages may be mapped elsewhere, so they are read and written by copies and atomics, never by plain references.
#[derive(Debug)]
pub struct Mapping {
    address: u64,
    bytes: u64,
    protection: Protection,
}

impl Mapping {
    /// Maps a region where the kernel chooses.
    ///
    /// # Errors
    /// Those of vm_map; [`Error::Invalid`] for `MapFlags::FIXED`, which could replace memory that is in use.
    pub fn new(region: Handle, region_bytes: u64, spec: &MapSpec) -> Result<Self, Error> {
        if spec.flags.contains(holm_abi::MapFlags::FIXED) {
            return Err(Error::Invalid);
        }
        let bytes = if spec.bytes == 0 { region_bytes.saturating_sub(spec.offset) } else { spec.bytes };
        // SAFETY: without FIXED the kernel maps where nothing is mapped.
        let address = unsafe { stubs::vm_map(Handle::NONE, region, spec)? };
        Ok(Self { address, bytes, protection: spec.protection })
    }

    /// Where it begins.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn place(&self, offset: u64, bytes: usize, right: Protection) -> Result<u64, Error> {
        let end = offset.checked_add(bytes as u64).ok_or(Error::Invalid)?;
        if end > self.bytes || !self.protection.contains(right) {
            return Err(Error::Invalid);
        }
        Ok(self.address + offset)
    }

    /// Copies out of it.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of it or without READ.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        let from = self.place(offset, to.len(), Protection::READ)? as *const u8;
        for (at, byte) in to.iter_mut().enumerate() {
            // SAFETY: `place` checked that the range lies in this mapping, which is readable and lives as long as `self`.
            *byte = unsafe { from.add(at).read_volatile() };
        }
        Ok(())
    }

    /// Copies into it.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of it or without WRITE.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Error> {
        let to = self.place(offset, from.len(), Protection::WRITE)? as *mut u8;
        for (at, byte) in from.iter().enumerate() {
            // SAFETY: `place` checked that the range lies in this mapping, which is writable and lives as long as `self`; no
            // Rust reference to plain memory of it is ever given out.
            unsafe { to.add(at).write_volatile(*byte) };
        }
        Ok(())
    }

    /// A number in it that several threads or units use at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of it, unaligned, or without READ and WRITE.
    pub fn atomic_u64(&self, offset: u64) -> Result<&AtomicU64, Error> {
        let at = self.place(offset, 8, Protection::READ | Protection::WRITE)?;
        if !at.is_multiple_of(8) {
            return Err(Error::Invalid);
        }
        // SAFETY: in the mapping, aligned, readable and writable, and borrowed from `self`, so still mapped.
        Ok(unsafe { AtomicU64::from_ptr(at as *mut u64) })
    }

    /// A number in it that several threads or units use at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of it, unaligned, or without READ and WRITE.
    pub fn atomic_u32(&self, offset: u64) -> Result<&AtomicU32, Error> {
        let at = self.place(offset, 4, Protection::READ | Protection::WRITE)?;
        if !at.is_multiple_of(4) {
            return Err(Error::Invalid);
        }
        // SAFETY: in the mapping, aligned, readable and writable, and borrowed from `self`, so still mapped.
        Ok(unsafe { AtomicU32::from_ptr(at as *mut u32) })
    }

    /// Changes what may be done with all of it.
    ///
    /// # Errors
    /// Those of vm_protect.
    pub fn protect(&mut self, protection: Protection) -> Result<(), Error> {
        // SAFETY: only this mapping is changed, and no plain reference into it exists.
        unsafe { stubs::vm_protect(Handle::NONE, self.address, self.bytes, protection)? };
        self.protection = protection;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and borrows of it have ended.
        let _gone = unsafe { stubs::vm_unmap(Handle::NONE, self.address, self.bytes) };
    }
}

/// A stack for a thread: its lowest page is a guard that nobody may touch. It has no owner in Rust: the thread's last
/// instructions unmap it.
pub(super) struct Stack {
    /// The lowest address, the guard included.
    pub(super) base: u64,
    /// Bytes, the guard included.
    pub(super) bytes: u64,
}

/// Maps a stack of at least `bytes` bytes.
pub(super) fn map_stack(bytes: u64) -> Result<Stack, Error> {
    let bytes = bytes.clamp(limits::PAGE_SIZE, limits::MAX_STACK).next_multiple_of(limits::PAGE_SIZE);
    let whole = bytes + limits::PAGE_SIZE;
    let region = stubs::vm_region_create(&RegionSpec { bytes: whole, ..RegionSpec::new() })?;
    let spec = MapSpec { protection: Protection::READ | Protection::WRITE, ..MapSpec::new() };
    // SAFETY: without FIXED the kernel maps where nothing is mapped.
    let mapped = unsafe { stubs::vm_map(Handle::NONE, region, &spec) };
    let _closed = stubs::cap_close(region);
    let base = mapped?;
    // Not unmapped: another mapping could come to lie there, and would go with the stack.
    // SAFETY: the first page of the mapping just made; nothing uses it.
    if let Err(error) = unsafe { stubs::vm_protect(Handle::NONE, base, limits::PAGE_SIZE, Protection::NONE) } {
        // SAFETY: the whole of the mapping just made; nothing uses it.
        let _gone = unsafe { stubs::vm_unmap(Handle::NONE, base, whole) };
        return Err(error);
    }
    Ok(Stack { base, bytes: whole })
}

/// Unmaps a stack that no thread runs on.
///
/// # Safety
/// No thread runs on it or will.
pub(super) unsafe fn unmap_stack(stack: &Stack) {
    // SAFETY: the caller says nobody uses it.
    let _gone = unsafe { stubs::vm_unmap(Handle::NONE, stack.base, stack.bytes) };
}

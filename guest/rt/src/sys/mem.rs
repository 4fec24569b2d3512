//! The functions on memory that the compiler and the prebuilt `core` call by name.

#[cfg(holm_user)]
mod symbols {
    use core::arch::asm;

    /// Copies `bytes` bytes that do not overlap.
    ///
    /// # Safety
    /// As C's `memcpy`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
        // SAFETY: the caller gives two ranges of `bytes` bytes; the direction flag is clear by the calling convention.
        unsafe {
            asm!(
                "rep movsq",
                "mov rcx, {rest}",
                "rep movsb",
                rest = in(reg) bytes & 7,
                inout("rcx") bytes >> 3 => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
        to
    }

    /// Copies `bytes` bytes that may overlap.
    ///
    /// # Safety
    /// As C's `memmove`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= bytes {
            // SAFETY: copying upwards never overwrites what is still to be read; `memcpy` copies upwards.
            return unsafe { memcpy(to, from, bytes) };
        }
        // SAFETY: the ranges have `bytes` > 0 bytes; copying downwards from the last byte never overwrites what is still to be
        // read. The direction flag is clear again at the end.
        unsafe {
            asm!(
                "std",
                "rep movsb",
                "cld",
                inout("rcx") bytes => _,
                inout("rdi") to.wrapping_add(bytes).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(bytes).wrapping_sub(1) => _,
                options(nostack),
            );
        }
        to
    }

    /// Fills `bytes` bytes.
    ///
    /// # Safety
    /// As C's `memset`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, bytes: usize) -> *mut u8 {
        let pattern = u64::from(byte as u8) * 0x0101_0101_0101_0101;
        // SAFETY: the caller gives a range of `bytes` bytes; the direction flag is clear by the calling convention.
        unsafe {
            asm!(
                "rep stosq",
                "mov rcx, {rest}",
                "rep stosb",
                rest = in(reg) bytes & 7,
                inout("rcx") bytes >> 3 => _,
                inout("rdi") to => _,
                in("rax") pattern,
                options(nostack, preserves_flags),
            );
        }
        to
    }

    /// Compares `bytes` bytes.
    ///
    /// # Safety
    /// As C's `memcmp`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
        let mut at = 0;
        while at < bytes {
            // SAFETY: `at` is below the length of both ranges. Volatile, so that the loop does not become a call of itself.
            let (l, r) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
            if l != r {
                return i32::from(l) - i32::from(r);
            }
            at += 1;
        }
        0
    }

    /// Compares `bytes` bytes for equality.
    ///
    /// # Safety
    /// As C's `bcmp`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
        // SAFETY: the same conditions.
        unsafe { memcmp(left, right, bytes) }
    }

    /// The length of a string that ends with a zero byte.
    ///
    /// # Safety
    /// As C's `strlen`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn strlen(text: *const u8) -> usize {
        let mut at = 0;
        // SAFETY: every byte up to the zero byte can be read.
        while unsafe { text.add(at).read_volatile() } != 0 {
            at += 1;
        }
        at
    }
}

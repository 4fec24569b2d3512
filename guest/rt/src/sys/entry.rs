//! The way into the kernel, and the way into the program.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, Ordering};

use holm_abi::{Error, Field, Handle, Short, StartInfo};

/// What the registers hold after a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The result, or the negated error.
    pub rax: u64,
    /// Reply token of a short message.
    pub rdi: u64,
    /// Badge of a short message.
    pub rsi: u64,
    /// Second result; first word of a short message.
    pub rdx: u64,
    /// Second word of a short message.
    pub r10: u64,
    /// Third word of a short message.
    pub r8: u64,
    /// Fourth word of a short message.
    pub r9: u64,
}

impl Answer {
    /// The result.
    ///
    /// # Errors
    /// What the kernel answered.
    #[inline]
    pub const fn result(self) -> Result<u64, Error> {
        Error::from_register(self.rax)
    }
}

/// A short message received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortAnswer {
    /// Length, priority and flags, and the handle of the capability that came.
    pub short: Short,
    /// The payload, first byte lowest; zero beyond its length.
    pub words: [u64; 4],
    /// Names the caller that waits for a reply; 0 when nobody does.
    pub token: u64,
    /// The badge of the capability it was sent through.
    pub badge: u64,
}

impl TryFrom<Answer> for ShortAnswer {
    type Error = Error;

    #[inline]
    fn try_from(answer: Answer) -> Result<Self, Error> {
        Ok(Self {
            short: Short::told(answer.result()?),
            words: [answer.rdx, answer.r10, answer.r8, answer.r9],
            token: answer.rdi,
            badge: answer.rsi,
        })
    }
}

/// Enters the kernel with a number and six argument registers, checked by nobody but the kernel.
///
/// # Safety
/// The kernel does what the registers say to the memory of this unit: addresses among them that are written must lie in
/// memory that nothing else counts on, mappings that are changed or removed must be of no use to anybody, and a new thread
/// must get a stack of its own and code to run.
#[inline]
pub unsafe fn raw(number: u64, arguments: [u64; 6]) -> Answer {
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    let mut answer = Answer { rax: number, rdi, rsi, rdx, r10, r8, r9 };
    // SAFETY: `syscall` changes rax, the argument registers, rcx, r11 and the vector registers, all of which are given
    // here; it does not touch the stack. What the kernel does to memory is what the caller of this function vouches for.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") answer.rax,
            inlateout("rdi") answer.rdi,
            inlateout("rsi") answer.rsi,
            inlateout("rdx") answer.rdx,
            inlateout("r10") answer.r10,
            inlateout("r8") answer.r8,
            inlateout("r9") answer.r9,
            lateout("rcx") _,
            lateout("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
    answer
}

/// The start info the kernel left on the first thread's stack; null before the program is entered.
static STARTUP: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// The start info, all zero when the program was not started by the kernel.
pub(crate) fn startup_info() -> StartInfo {
    let at = STARTUP.load(Ordering::Acquire);
    if at.is_null() {
        return StartInfo::new();
    }
    // SAFETY: `begin` stored the address at which the kernel wrote a start info of at least a header, which stays there,
    // above the first thread's first frame, as long as the unit lives; it is only read.
    let size = unsafe { core::slice::from_raw_parts(at, holm_abi::field::HEADER) };
    let size = size.get(4..8).and_then(|bytes| u32::get(bytes).ok()).map_or(0, |size| size as usize);
    // SAFETY: as above, for all the bytes that the header says the kernel wrote.
    let bytes = unsafe { core::slice::from_raw_parts(at, size.min(StartInfo::SIZE)) };
    StartInfo::decode(bytes).unwrap_or_default()
}

/// Bytes the kernel prepared for the program: its arguments or its environment.
pub(crate) fn startup_bytes(address: u64, bytes: u64) -> &'static [u8] {
    if address == 0 || bytes == 0 || STARTUP.load(Ordering::Acquire).is_null() {
        return &[];
    }
    // SAFETY: only called with addresses and lengths from the start info, where the kernel put the strings; they stay there
    // as long as the unit lives and nothing writes them.
    unsafe { core::slice::from_raw_parts(address as *const u8, bytes as usize) }
}

// Where the kernel starts the first thread: rdi holds the address of the start info, rsp is 8 below a multiple of 16.
#[cfg(holm_user)]
core::arch::global_asm!(
    ".section .text.start, \"ax\"",
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    ".text",
    begin = sym begin,
);

#[cfg(holm_user)]
extern "C" fn begin(startup: *mut u8) -> ! {
    unsafe extern "Rust" {
        fn holm_main() -> i32;
    }
    STARTUP.store(startup, Ordering::Release);
    crate::console::begin();
    // SAFETY: `entry!` defines `holm_main` with this signature in every program; without it the program does not link.
    let code = unsafe { holm_main() };
    end(i64::from(code))
}

/// The time-stamp counter. Under QEMU with `-icount shift=0` it counts instructions.
#[inline]
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: the kernel leaves reading the counter to programs; the instruction touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ends the unit with a code.
pub fn end(code: i64) -> ! {
    loop {
        // Without the right to stop its own unit the last thread's end does it.
        let _refused = super::unit_stop(Handle::NONE, code);
        let _refused = super::thread_exit(code);
    }
}

#[cfg(holm_user)]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    crate::println!("panic: {info}");
    end(101)
}

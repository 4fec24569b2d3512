//! The machine's own way between a personality and its guest (restricted mode): by `restricted_enter` into the guest, and back
//! by the guest's system call, without Rust, vector registers, or a look at anything that does not change.
//!
//! It does what `Kernel::restricted_direct` does, from the same state to the same one, with the kernel locked. What that needs
//! is prepared ([`arm`]) whenever the kernel is left with a bound thread: the address of the state page, both roots with their
//! tags. It is good as long as the thread is on this processor and the epoch is the one it was prepared in; whatever may make
//! it wrong on another processor (a flush, a kick, a reader of the trace) begins a new epoch ([`end_all`]). Where anything is
//! unusual, the call goes the long way, with nothing done yet:
//!
//! - the lock is taken, a kick waits, or the epoch has passed;
//! - the guest's state is not as a system call leaves it (`rcx` is `rip`, `r11` the flags), so that `sysret` cannot load it, or
//!   its trap flag is set, which `sysret` would let act too early;
//! - an address of it is none of a user's.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use holm_kernel_core::machine::USER_END;
use holm_kernel_core::restricted::{GUEST_FLAGS, Home, ThreadRestricted, USER_FLAGS};
use holm_kernel_core::thread::{Registers, Thread, ThreadId};

use crate::cpu::msr;
use crate::lock::{self, Locked};
use crate::memory::{Physical, tlb};
use crate::percpu::PerCpu;

/// In [`PerCpu::keep_vector`]: the thread is not bound to a guest.
pub(crate) const UNBOUND: u64 = 0;
/// It is bound, and every call goes the long way.
pub(crate) const BOUND: u64 = 1;
/// It runs its personality, and may cross into the guest.
pub(super) const AT_HOME: u64 = 2;
/// It runs its guest, and may cross back.
const IN_GUEST: u64 = 3;

/// Counts what may have made a prepared crossing wrong. Changed and read with the kernel locked.
static EPOCH: AtomicU64 = AtomicU64::new(1);

/// What a processor has prepared for the bound thread that it runs.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Prepared {
    /// The epoch in which it was prepared.
    epoch: u64,
    /// Where the kernel sees the guest's state.
    state: u64,
    /// What CR3 is loaded with for the guest, and for the personality.
    guest_root: u64,
    home_root: u64,
    /// The same as address spaces.
    guest_space: u32,
    home_space: u32,
    /// Where the core counts this processor's system calls.
    counter: *mut u64,
}

impl Prepared {
    /// Nothing is prepared.
    pub(crate) const NOTHING: Self = Self {
        epoch: 0,
        state: 0,
        guest_root: 0,
        home_root: 0,
        guest_space: 0,
        home_space: 0,
        counter: core::ptr::null_mut(),
    };
}

/// No crossing that was prepared is used any more. The kernel is locked.
#[inline]
pub(crate) fn end_all() {
    // Only changed under the kernel's lock, which orders it too.
    EPOCH.store(EPOCH.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Prepares the crossings of the bound thread that `cpu` leaves the kernel with, when nothing is against it.
#[cold]
pub(crate) fn arm(kernel: &mut Locked, cpu: &PerCpu, id: ThreadId) {
    let Some(crossing) = kernel.crossing(id) else { return };
    let Some(counter) = kernel.system_call_counter(cpu.id).map(core::ptr::from_mut) else { return };
    let spaces = kernel.machine().spaces();
    let known = |space| tlb::known_root(cpu, spaces, space);
    let (Some(guest_root), Some(home_root)) = (known(crossing.guest), known(crossing.home)) else { return };
    cpu.crossing.set(Prepared {
        epoch: EPOCH.load(Ordering::Relaxed),
        state: Physical::of(crossing.state).direct::<u8>().addr() as u64,
        guest_root,
        home_root,
        guest_space: crossing.guest.0,
        home_space: crossing.home.0,
        counter,
    });
    cpu.keep_vector.set(if crossing.active { IN_GUEST } else { AT_HOME });
}

/// Where a thread's structure has its registers, what it has of restricted mode, and the personality's registers.
const REGISTERS: usize = offset_of!(Thread, registers);
const RESTRICTED: usize = offset_of!(Thread, restricted);
const HOME: usize = RESTRICTED + offset_of!(ThreadRestricted, home);
/// Where a processor's structure has what is prepared.
const CROSSING: usize = offset_of!(PerCpu, crossing);
/// Where a state has the report, behind the registers.
const REPORT: usize = size_of::<Registers>();
/// The trap flag.
const TRAP: u64 = 0x100;

global_asm!(
    ".section .text.hot.crossing, \"ax\"",
    ".balign 64",
    // From the system call's entry: every register is saved in the thread's structure, to which `rsp` points; all but `rsp`,
    // `rdi`, `rcx` and `r11` are still what they were. The flags compare `KEEP_VECTOR` with `AT_HOME`.
    ".global crossing",
    "crossing:",
    "jne 5f",
    "cmp rax, {ENTER}",
    "jne keep_vector",
    // The lock: `next` is one above `serving` as long as somebody has it.
    "mov eax, [rip + {LOCK} + {NEXT}]",
    "cmp eax, [rip + {LOCK} + {SERVING}]",
    "jne keep_vector",
    "lea ecx, [rax + 1]",
    "lock cmpxchg [rip + {LOCK} + {NEXT}], ecx",
    "jne keep_vector",
    "mov rcx, gs:[{EPOCH_SEEN}]",
    "cmp rcx, [rip + {EPOCH}]",
    "jne 9f",
    "cmp byte ptr [rsp + {KICKED}], 0",
    "jne 9f",
    // Everything that is looked at is read once: other threads may write the state meanwhile.
    "mov rcx, {USER_END}",
    "mov rax, [rsp + {RDI}]",
    "cmp rax, rcx",
    "jae 9f",
    "mov r8, gs:[{STATE}]",
    "mov r9, [r8 + {S_RIP}]",
    "cmp r9, rcx",
    "jae 9f",
    "cmp r9, [r8 + {S_RCX}]",
    "jne 9f",
    "mov r10, [r8 + {S_RSP}]",
    "cmp r10, rcx",
    "jae 9f",
    "mov r11, [r8 + {S_RFLAGS}]",
    "test r11d, {TRAP}",
    "jnz 9f",
    "and r11d, {GUEST_FLAGS}",
    "or r11d, {USER_FLAGS}",
    "cmp r11, [r8 + {S_R11}]",
    "jne 9f",
    // The personality's bases, then the guest's; mostly all are zero.
    "mov rdx, [rsp + {FS}]",
    "mov [rsp + {H_FS}], rdx",
    "mov rdi, [rsp + {GS}]",
    "mov [rsp + {H_GS}], rdi",
    "or rdx, rdi",
    "mov rdi, [r8 + {S_FS}]",
    "or rdx, rdi",
    "mov r12, [r8 + {S_GS}]",
    "or rdx, r12",
    "jnz 7f",
    // From here on nothing fails.
    "4: mov [rsp + {H_RETURN}], rax",
    "mov [rsp + {H_CONTEXT}], rsi",
    "mov rdx, gs:[{SCRATCH}]",
    "mov [rsp + {H_RSP}], rdx",
    "mov [rsp + {H_RBX}], rbx",
    "mov [rsp + {H_RBP}], rbp",
    "mov rdx, [rsp + {R12}]",
    "mov [rsp + {H_R12}], rdx",
    "mov [rsp + {H_R13}], r13",
    "mov [rsp + {H_R14}], r14",
    "mov [rsp + {H_R15}], r15",
    "mov byte ptr [rsp + {ACTIVE}], 1",
    "mov edx, gs:[{GUEST_SPACE}]",
    "mov [rsp + {THREAD_SPACE}], edx",
    "mov gs:[{SPACE}], edx",
    "mov byte ptr gs:[{KEEP_VECTOR}], {IN_GUEST}",
    "inc dword ptr [rsp + {SYSCALLS}]",
    "mov rdx, gs:[{COUNTER}]",
    "inc qword ptr [rdx]",
    "mov rdx, gs:[{GUEST_ROOT}]",
    "mov cr3, rdx",
    "inc dword ptr [rip + {LOCK} + {SERVING}]",
    "mov rsp, r10",
    "mov rcx, r9",
    "mov rax, [r8 + {S_RAX}]",
    "mov rbx, [r8 + {S_RBX}]",
    "mov rdx, [r8 + {S_RDX}]",
    "mov rsi, [r8 + {S_RSI}]",
    "mov rdi, [r8 + {S_RDI}]",
    "mov rbp, [r8 + {S_RBP}]",
    "mov r9, [r8 + {S_R9}]",
    "mov r10, [r8 + {S_R10}]",
    "mov r12, [r8 + {S_R12}]",
    "mov r13, [r8 + {S_R13}]",
    "mov r14, [r8 + {S_R14}]",
    "mov r15, [r8 + {S_R15}]",
    "mov r8, [r8 + {S_R8}]",
    "swapgs",
    "sysretq",
    "",
    // Some base is not zero: `rdi` and `r12` are the guest's.
    "7: cmp rdi, rcx",
    "jae 9f",
    "cmp r12, rcx",
    "jae 9f",
    "mov [rsp + {FS}], rdi",
    "mov [rsp + {GS}], r12",
    "xchg rax, rdi",
    "mov rdx, rax",
    "shr rdx, 32",
    "mov ecx, {MSR_FS}",
    "wrmsr",
    "mov rax, r12",
    "mov rdx, r12",
    "shr rdx, 32",
    "mov ecx, {MSR_KERNEL_GS}",
    "wrmsr",
    "mov rax, rdi",
    // What no base is: they are loaded again for whoever comes next.
    "mov qword ptr gs:[{BASES}], -1",
    "jmp 4b",
    // The long way, with nothing done.
    "9: inc dword ptr [rip + {LOCK} + {SERVING}]",
    "mov rax, [rsp + {RAX}]",
    "mov r12, [rsp + {R12}]",
    "jmp keep_vector",
    "",
    // The guest made a system call.
    "5: mov eax, [rip + {LOCK} + {NEXT}]",
    "cmp eax, [rip + {LOCK} + {SERVING}]",
    "jne 10f",
    "lea ecx, [rax + 1]",
    "lock cmpxchg [rip + {LOCK} + {NEXT}], ecx",
    "jne 10f",
    "mov rcx, gs:[{EPOCH_SEEN}]",
    "cmp rcx, [rip + {EPOCH}]",
    "jne 9b",
    "cmp byte ptr [rsp + {KICKED}], 0",
    "jne 9b",
    // Its registers, those that are still here from here.
    "mov rcx, gs:[{STATE}]",
    "mov [rcx + {S_RBX}], rbx",
    "mov [rcx + {S_RDX}], rdx",
    "mov [rcx + {S_RSI}], rsi",
    "mov [rcx + {S_RBP}], rbp",
    "mov [rcx + {S_R8}], r8",
    "mov [rcx + {S_R9}], r9",
    "mov [rcx + {S_R10}], r10",
    "mov [rcx + {S_R11}], r11",
    "mov [rcx + {S_RFLAGS}], r11",
    "mov [rcx + {S_R12}], r12",
    "mov [rcx + {S_R13}], r13",
    "mov [rcx + {S_R14}], r14",
    "mov [rcx + {S_R15}], r15",
    "mov rax, [rsp + {RAX}]",
    "mov [rcx + {S_RAX}], rax",
    "mov rax, [rsp + {RDI}]",
    "mov [rcx + {S_RDI}], rax",
    "mov rax, gs:[{SCRATCH}]",
    "mov [rcx + {S_RSP}], rax",
    "mov rax, [rsp + {RIP}]",
    "mov [rcx + {S_RIP}], rax",
    "mov [rcx + {S_RCX}], rax",
    "mov rax, [rsp + {FS}]",
    "mov [rcx + {S_FS}], rax",
    "mov rdx, [rsp + {GS}]",
    "mov [rcx + {S_GS}], rdx",
    "xor r8d, r8d",
    "mov qword ptr [rcx + {REPORT}], {SYSCALL_REASON}",
    "mov [rcx + {REPORT} + 8], r8",
    "mov [rcx + {REPORT} + 16], r8",
    // Bases: those of the guest are in `rax` and `rdx`.
    "or rax, rdx",
    "mov r9, [rsp + {H_FS}]",
    "or rax, r9",
    "mov r10, [rsp + {H_GS}]",
    "or rax, r10",
    "jnz 12f",
    "11: mov byte ptr [rsp + {ACTIVE}], 0",
    "mov edx, gs:[{HOME_SPACE}]",
    "mov [rsp + {THREAD_SPACE}], edx",
    "mov gs:[{SPACE}], edx",
    "mov byte ptr gs:[{KEEP_VECTOR}], {AT_HOME}",
    "inc dword ptr [rsp + {SYSCALLS}]",
    "mov rdx, gs:[{COUNTER}]",
    "inc qword ptr [rdx]",
    "mov rdx, gs:[{HOME_ROOT}]",
    "mov cr3, rdx",
    "mov rcx, [rsp + {H_RETURN}]",
    "mov rdi, [rsp + {H_CONTEXT}]",
    "mov esi, {SYSCALL_REASON}",
    "mov rbx, [rsp + {H_RBX}]",
    "mov rbp, [rsp + {H_RBP}]",
    "mov r12, [rsp + {H_R12}]",
    "mov r13, [rsp + {H_R13}]",
    "mov r14, [rsp + {H_R14}]",
    "mov r15, [rsp + {H_R15}]",
    "mov r11d, {USER_FLAGS}",
    "mov rsp, [rsp + {H_RSP}]",
    "inc dword ptr [rip + {LOCK} + {SERVING}]",
    "xor eax, eax",
    "xor edx, edx",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "swapgs",
    "sysretq",
    "",
    // Some base is not zero: `r9` and `r10` are the personality's, which were in use before.
    "12: mov [rsp + {FS}], r9",
    "mov [rsp + {GS}], r10",
    "mov ecx, {MSR_FS}",
    "mov rax, r9",
    "mov rdx, r9",
    "shr rdx, 32",
    "wrmsr",
    "mov ecx, {MSR_KERNEL_GS}",
    "mov rax, r10",
    "mov rdx, r10",
    "shr rdx, 32",
    "wrmsr",
    "mov qword ptr gs:[{BASES}], -1",
    "jmp 11b",
    // The long way, not locked.
    "10: mov rax, [rsp + {RAX}]",
    "jmp keep_vector",
    ".text",
    ENTER = const holm_kernel_core::restricted::ENTER,
    SYSCALL_REASON = const holm_kernel_core::restricted::SYSCALL_REASON,
    LOCK = sym lock::LOCK,
    NEXT = const lock::NEXT,
    SERVING = const lock::SERVING,
    EPOCH = sym EPOCH,
    USER_END = const USER_END,
    TRAP = const TRAP,
    GUEST_FLAGS = const GUEST_FLAGS,
    USER_FLAGS = const USER_FLAGS,
    AT_HOME = const AT_HOME,
    IN_GUEST = const IN_GUEST,
    MSR_FS = const msr::FS_BASE,
    MSR_KERNEL_GS = const msr::KERNEL_GS_BASE,
    EPOCH_SEEN = const CROSSING + offset_of!(Prepared, epoch),
    STATE = const CROSSING + offset_of!(Prepared, state),
    GUEST_ROOT = const CROSSING + offset_of!(Prepared, guest_root),
    HOME_ROOT = const CROSSING + offset_of!(Prepared, home_root),
    GUEST_SPACE = const CROSSING + offset_of!(Prepared, guest_space),
    HOME_SPACE = const CROSSING + offset_of!(Prepared, home_space),
    COUNTER = const CROSSING + offset_of!(Prepared, counter),
    SCRATCH = const offset_of!(PerCpu, scratch),
    SPACE = const offset_of!(PerCpu, space),
    BASES = const offset_of!(PerCpu, bases),
    KEEP_VECTOR = const offset_of!(PerCpu, keep_vector),
    KICKED = const RESTRICTED + offset_of!(ThreadRestricted, kicked),
    ACTIVE = const RESTRICTED + offset_of!(ThreadRestricted, active),
    THREAD_SPACE = const offset_of!(Thread, space),
    SYSCALLS = const offset_of!(Thread, syscalls),
    RAX = const REGISTERS + offset_of!(Registers, rax),
    RDI = const REGISTERS + offset_of!(Registers, rdi),
    R12 = const REGISTERS + offset_of!(Registers, r12),
    RIP = const REGISTERS + offset_of!(Registers, rip),
    FS = const REGISTERS + offset_of!(Registers, fs_base),
    GS = const REGISTERS + offset_of!(Registers, gs_base),
    H_RETURN = const HOME + offset_of!(Home, return_to),
    H_CONTEXT = const HOME + offset_of!(Home, context),
    H_RSP = const HOME + offset_of!(Home, rsp),
    H_RBX = const HOME + offset_of!(Home, rbx),
    H_RBP = const HOME + offset_of!(Home, rbp),
    H_R12 = const HOME + offset_of!(Home, r12),
    H_R13 = const HOME + offset_of!(Home, r13),
    H_R14 = const HOME + offset_of!(Home, r14),
    H_R15 = const HOME + offset_of!(Home, r15),
    H_FS = const HOME + offset_of!(Home, fs_base),
    H_GS = const HOME + offset_of!(Home, gs_base),
    S_RAX = const offset_of!(Registers, rax),
    S_RBX = const offset_of!(Registers, rbx),
    S_RCX = const offset_of!(Registers, rcx),
    S_RDX = const offset_of!(Registers, rdx),
    S_RSI = const offset_of!(Registers, rsi),
    S_RDI = const offset_of!(Registers, rdi),
    S_RBP = const offset_of!(Registers, rbp),
    S_RSP = const offset_of!(Registers, rsp),
    S_R8 = const offset_of!(Registers, r8),
    S_R9 = const offset_of!(Registers, r9),
    S_R10 = const offset_of!(Registers, r10),
    S_R11 = const offset_of!(Registers, r11),
    S_R12 = const offset_of!(Registers, r12),
    S_R13 = const offset_of!(Registers, r13),
    S_R14 = const offset_of!(Registers, r14),
    S_R15 = const offset_of!(Registers, r15),
    S_RIP = const offset_of!(Registers, rip),
    S_RFLAGS = const offset_of!(Registers, rflags),
    S_FS = const offset_of!(Registers, fs_base),
    S_GS = const offset_of!(Registers, gs_base),
    REPORT = const REPORT,
);

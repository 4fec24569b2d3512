//! Starting the other processors: reset, a page of real-mode code, the boot tables, then Rust.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cpu::{self, Features};
use crate::memory::{PAGE, Physical};
use crate::percpu::PerCpu;
use crate::time::clock::Clock;
use crate::trap::{interrupts, segments, stubs};
use crate::{apic, trap};

/// Where the first code of a processor is copied to: a page of memory below 1 MiB that nothing else uses.
const PAGE_ADDRESS: u64 = 0x8000;
/// Nanoseconds until a processor that was reset takes the start message, and until it is given up.
const AFTER_RESET: u64 = 10_000;
const PATIENCE: u64 = 1_000_000_000;

global_asm!(
    ".section .rodata",
    ".balign 8",
    ".global trampoline",
    ".code16",
    "trampoline:",
    "cli",
    "cld",
    "xor ax, ax",
    "mov ds, ax",
    // `lgdt` with a base of 32 bits, from a place that the assembler cannot compute.
    ".byte 0x66, 0x0f, 0x01, 0x16",
    ".word trampoline_gdt - trampoline + {page}",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    // A far jump with 32-bit offset, to the 32-bit code segment of the boot table.
    ".byte 0x66, 0xea",
    ".long trampoline_32 - trampoline + {page}",
    ".word 24",
    ".code32",
    "trampoline_32:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov esp, {page} + 0x1000",
    "mov eax, offset enter_long_mode_tables",
    "call eax",
    "ljmp 8, offset processor_long",
    ".balign 8",
    "trampoline_gdt: .word 31",
    ".long boot_gdt",
    ".global trampoline_end",
    "trampoline_end:",
    "",
    ".section .boot.text, \"ax\"",
    ".code64",
    "processor_long:",
    "mov eax, 16",
    "mov ss, eax",
    "mov rax, offset processor_high",
    "jmp rax",
    "",
    // From here on at the kernel's own address: the boot tables are left, and with them the place we came from.
    ".text",
    "processor_high:",
    "mov rax, [rip + {root}]",
    "mov cr3, rax",
    "mov rdi, [rip + {which}]",
    "mov rsp, [rdi + {stack}]",
    "xor ebp, ebp",
    "call {begin}",
    "ud2",
    page = const PAGE_ADDRESS,
    root = sym ROOT,
    which = sym WHICH,
    stack = const core::mem::offset_of!(PerCpu, stack),
    begin = sym begin,
);

/// For the processor that is being started: the kernel's page-table root, its structure, the clock.
static ROOT: AtomicU64 = AtomicU64::new(0);
static WHICH: AtomicU64 = AtomicU64::new(0);
static CLOCK: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicBool = AtomicBool::new(false);

/// Starts the processor that `cpu` is for, and waits until it runs. False when it does not answer.
pub(super) fn start(cpu: &'static PerCpu, root: Physical, clock: &'static Clock) -> bool {
    unsafe extern "C" {
        static trampoline: u8;
        static trampoline_end: u8;
    }
    ROOT.store(root.0, Ordering::Relaxed);
    CLOCK.store(core::ptr::from_ref(clock) as u64, Ordering::Relaxed);
    WHICH.store(core::ptr::from_ref(cpu) as u64, Ordering::Relaxed);
    STARTED.store(false, Ordering::SeqCst);
    let (from, end) = (&raw const trampoline, &raw const trampoline_end);
    // SAFETY: the page is memory below 1 MiB, which boot leaves alone and maps; the code is shorter than a page.
    unsafe { Physical(PAGE_ADDRESS).direct::<u8>().copy_from_nonoverlapping(from, end as usize - from as usize) };
    apic::send_init(cpu.apic);
    wait(clock, AFTER_RESET, || false);
    // The second message is for processors that missed the first; others ignore it.
    (0..2).any(|_| {
        apic::send_start(cpu.apic, (PAGE_ADDRESS / PAGE) as u8);
        wait(clock, PATIENCE, || STARTED.load(Ordering::Acquire))
    })
}

/// Waits until `done`, for at most `nanos`; says whether it is.
fn wait(clock: &Clock, nanos: u64, done: impl Fn() -> bool) -> bool {
    let end = clock.now().after(holm_kernel_core::machine::Nanos(nanos));
    while !done() {
        if clock.now() >= end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// The first Rust that a processor runs, on its own stack.
extern "C" fn begin(percpu: &'static PerCpu) -> ! {
    let features = Features::read();
    // SAFETY: called once on this processor, in long mode on the kernel's own tables.
    unsafe { set_up(percpu, features) };
    // SAFETY: `start` stored the address of a clock that lives for good.
    let clock = unsafe { &*(CLOCK.load(Ordering::Relaxed) as *const Clock) };
    clock.start_timer();
    STARTED.store(true, Ordering::Release);
    stubs::wait_for_interrupt()
}

/// Makes the processor that runs this ready to take entries: control registers, descriptor tables, system calls, interrupts.
///
/// # Safety
/// Called once per processor, by itself, on the kernel's own page tables, with `percpu` its structure.
pub(super) unsafe fn set_up(percpu: &'static PerCpu, features: Features) {
    // SAFETY: as the caller promises.
    unsafe {
        cpu::set_control(features);
        percpu.segments.load(percpu.id.0);
        interrupts::load();
        segments::set_system_call(core::ptr::from_ref(percpu) as u64, trap::stubs::system_call_entry());
    }
    percpu.tags.enabled.set(features.pcid);
    apic::start(features);
}

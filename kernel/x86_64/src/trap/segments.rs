//! Segments and stacks: the descriptor table of each processor, with the stacks on which it takes exceptions.

use core::arch::asm;
use core::cell::UnsafeCell;

use crate::cpu::{msr, wrmsr};
use crate::memory::{PAGE, STACKS};

/// Selectors. `syscall` and `sysret` fix the order.
pub(crate) const KERNEL_CODE: u16 = 8;
pub(crate) const USER_DATA: u16 = 0x20 | 3;
pub(crate) const USER_CODE: u16 = 0x28 | 3;
const TASK: u16 = 0x30;

/// Exceptions of user programs and interrupts: what lies on this stack is moved away before anything else can come.
pub(crate) const STACK_ENTRY: u8 = 1;
/// What can come at any moment has a stack for itself each: non-maskable interrupts,
pub(crate) const STACK_NMI: u8 = 2;
/// debug exceptions,
pub(crate) const STACK_DEBUG: u8 = 3;
/// machine checks,
pub(crate) const STACK_MACHINE_CHECK: u8 = 4;
/// double faults,
pub(crate) const STACK_DOUBLE_FAULT: u8 = 5;
/// and interrupts that are handled without the kernel's lock.
pub(crate) const STACK_FLUSH: u8 = 6;

/// Pages of the stack that the kernel runs on.
const KERNEL_PAGES: u64 = 8;
/// Pages of each other stack.
const ENTRY_PAGES: u64 = 2;
/// Addresses set aside for the stacks of one processor.
const AREA: u64 = 1 << 20;
/// Addresses set aside for one stack: below it nothing is mapped.
const SLOT: u64 = 1 << 16;

/// The stacks of processor `cpu`: where each begins and how many pages it has. The first is the kernel's own.
pub(crate) fn stacks(cpu: u32) -> impl Iterator<Item = (u64, u64)> {
    let area = STACKS + u64::from(cpu) * AREA;
    (0..7u64).map(move |number| {
        let pages = if number == 0 { KERNEL_PAGES } else { ENTRY_PAGES };
        (area + (number + 1) * SLOT - pages * PAGE, pages)
    })
}

/// Where stack `number` of processor `cpu` ends: 0 is the kernel's own.
pub(crate) const fn stack_end(cpu: u32, number: u64) -> u64 {
    STACKS + cpu as u64 * AREA + (number + 1) * SLOT
}

/// Whether `address` lies in the unmapped part below a stack.
pub(crate) const fn below_a_stack(address: u64) -> bool {
    address >= STACKS && address < STACKS + crate::percpu::MAX_CPUS as u64 * AREA
}

/// The task state segment: of it, only the stacks matter in long mode.
#[derive(Debug, Clone, Copy)]
#[repr(C, packed(4))]
struct TaskState {
    reserved: u32,
    privilege_stacks: [u64; 3],
    reserved_2: u64,
    interrupt_stacks: [u64; 7],
    reserved_3: u64,
    reserved_4: u16,
    /// Beyond the end of the segment: user programs have no I/O ports.
    io_map: u16,
}

#[derive(Debug)]
#[repr(C, align(16))]
struct Tables {
    descriptors: [u64; 8],
    task: TaskState,
}

/// A processor's descriptor table and task state.
#[derive(Debug)]
pub(crate) struct Segments(UnsafeCell<Tables>);

/// What `lgdt` and `lidt` take.
#[repr(C, packed)]
pub(crate) struct Pointer {
    pub(crate) limit: u16,
    pub(crate) base: u64,
}

impl Segments {
    pub(crate) const fn new() -> Self {
        let task = TaskState {
            reserved: 0,
            privilege_stacks: [0; 3],
            reserved_2: 0,
            interrupt_stacks: [0; 7],
            reserved_3: 0,
            reserved_4: 0,
            io_map: size_of::<TaskState>() as u16,
        };
        Self(UnsafeCell::new(Tables { descriptors: [0; 8], task }))
    }

    /// Fills the tables in and makes the processor use them.
    ///
    /// # Safety
    /// Called once per processor, by itself, when `self` lies where it stays and its stacks are mapped.
    pub(crate) unsafe fn load(&self, cpu: u32) {
        // SAFETY: called once, before anything else looks at the tables.
        let tables = unsafe { &mut *self.0.get() };
        for number in 0..6 {
            tables.task.interrupt_stacks[number] = stack_end(cpu, number as u64 + 1);
        }
        tables.task.privilege_stacks[0] = stack_end(cpu, 0);
        let task = (&raw const tables.task) as u64;
        tables.descriptors = [
            0,
            0x00af_9b00_0000_ffff, // kernel code
            0x00cf_9300_0000_ffff, // kernel data
            0,                     // 32-bit user code: there is none
            0x00cf_f300_0000_ffff, // user data
            0x00af_fb00_0000_ffff, // user code
            (size_of::<TaskState>() as u64 - 1) | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56,
            task >> 32,
        ];
        let pointer = Pointer { limit: 63, base: (&raw const tables.descriptors) as u64 };
        // SAFETY: the table is complete and stays; its kernel segments are those that are loaded already.
        unsafe {
            asm!(
                "lgdt [{pointer}]",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov {scratch:e}, 16",
                "mov ss, {scratch:e}",
                "xor {scratch:e}, {scratch:e}",
                "mov ds, {scratch:e}",
                "mov es, {scratch:e}",
                "mov fs, {scratch:e}",
                "mov gs, {scratch:e}",
                "ltr {task:x}",
                pointer = in(reg) &raw const pointer,
                code = const KERNEL_CODE,
                task = in(reg) TASK,
                scratch = out(reg) _,
                options(preserves_flags),
            );
        }
    }
}

/// Sets up `syscall`, and the GS base that finds this processor's own things.
///
/// # Safety
/// `percpu` is this processor's structure, and its tables are loaded.
pub(crate) unsafe fn set_system_call(percpu: u64, entry: u64) {
    /// Cleared on the way in: alignment checks, nested task, direction, interrupts, single step.
    const CLEARED: u64 = 1 << 18 | 1 << 14 | 1 << 10 | 1 << 9 | 1 << 8;
    // SAFETY: the registers exist in long mode; selectors are those of the table above; `entry` is the stub for it. 32-bit
    // programs do not exist, and their entry leads to the same place, where they would not get without a code segment.
    unsafe {
        wrmsr(msr::EFER, crate::cpu::rdmsr(msr::EFER) | 1);
        wrmsr(msr::STAR, (0x18 | 3) << 48 | u64::from(KERNEL_CODE) << 32);
        wrmsr(msr::LSTAR, entry);
        wrmsr(msr::CSTAR, entry);
        wrmsr(msr::SFMASK, CLEARED);
        wrmsr(msr::GS_BASE, percpu);
        wrmsr(msr::KERNEL_GS_BASE, 0);
        wrmsr(msr::FS_BASE, 0);
    }
}

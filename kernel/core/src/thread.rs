//! Threads: registers, what the thread waits for, and its place with the scheduler.

use holm_abi::ExitReason;

use crate::arena::Id;
use crate::channel::ThreadCalls;
use crate::event::Watchers;
use crate::machine::{Nanos, SpaceId};
use crate::memory::ThreadMemory;
use crate::queue::Link;
use crate::restricted::ThreadRestricted;
use crate::sched::ThreadSched;
use crate::unit::UnitId;
use crate::unit::making::Making;
use crate::wait::Wait;

/// Names a thread.
pub type ThreadId = Id<Thread>;

/// The general registers of a thread outside the processor. The machine layer saves them here at every entry and loads
/// them from here at every exit; its assembly knows the offsets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names of the processor's manual")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// How many registers there are.
pub const REGISTERS: usize = size_of::<Registers>() / size_of::<u64>();

impl Registers {
    /// All of them, in their order.
    #[must_use]
    #[inline]
    pub const fn to_words(&self) -> [u64; REGISTERS] {
        let Self { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, .. } = *self;
        let Self { rip, rflags, fs_base, gs_base, .. } = *self;
        [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags, fs_base, gs_base]
    }

    /// The registers from their values in order.
    #[must_use]
    #[inline]
    pub const fn from_words(words: &[u64; REGISTERS]) -> Self {
        let [rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15, rest @ ..] = *words;
        let [rip, rflags, fs_base, gs_base] = rest;
        Self {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
            fs_base,
            gs_base,
        }
    }
}

/// The vector registers of a thread that was interrupted (FXSAVE format). A thread that entered by a system call has none:
/// native system calls clobber them, and the exit path clears them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Vector {
    /// FXSAVE area.
    pub area: [u8; 512],
    /// Whether `area` is to be loaded at the next exit (1) or the registers are to be cleared (0).
    pub saved: u64,
    /// The floating-point modes that cleared registers are loaded with: MXCSR, and the x87 control word above its 32 bits.
    pub modes: u64,
}

impl Vector {
    /// The modes that a thread begins with: every exception masked, round to nearest.
    pub const USUAL_MODES: u64 = 0x37f << 32 | 0x1f80;
}

impl Default for Vector {
    fn default() -> Self {
        Self { area: [0; 512], saved: 0, modes: Self::USUAL_MODES }
    }
}

/// How a thread is to be entered by the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// It stopped in a system call: registers that the convention lets change need not be loaded (`sysret` will do).
    SystemCall,
    /// It stopped at an arbitrary instruction: every register is loaded (`iretq`).
    Interrupt,
}

/// A thread.
#[derive(Debug)]
pub struct Thread {
    /// Its general registers.
    pub registers: Registers,
    /// Its vector registers.
    pub vector: Vector,
    /// How it stopped last.
    pub entry: EntryKind,
    /// The unit that it runs in.
    pub unit: UnitId,
    /// What it does.
    pub state: ThreadState,
    /// What it waits for, and what the waker needs to finish the operation.
    pub wait: Wait,
    /// When its wait ends by itself.
    pub deadline: Nanos,
    /// In the queue of the object it waits for.
    pub wait_link: Link,
    /// In a run queue.
    pub run_link: Link,
    /// Among the threads of its unit that have not ended.
    pub unit_link: Link,
    /// The address space that it runs in: its unit's, or a joined one while it is in restricted mode.
    pub space: SpaceId,
    /// Class, parameters, place and statistics.
    pub sched: ThreadSched,
    /// Calls it made and calls it serves.
    pub calls: ThreadCalls,
    /// A call on memory that goes on in steps.
    pub memory: ThreadMemory,
    /// A unit that it makes, in steps.
    pub making: Option<Making>,
    /// Restricted mode, where it is bound to a state page.
    pub restricted: ThreadRestricted,
    /// Handles and kernel structures that name it.
    pub references: u32,
    /// Its place among the threads of its unit, in order of creation.
    pub number: u32,
    /// What it ended with.
    pub exit_code: i64,
    /// Why it ended.
    pub exit_reason: ExitReason,
    /// Its unit ends with it.
    pub main: bool,
    /// System calls that are not yet counted for its unit.
    pub syscalls: u32,
    /// Who is told when it ends.
    pub watchers: Watchers,
}

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadState {
    /// Made, not yet started with its unit.
    Created,
    /// In a run queue, or throttled until its budget is refilled.
    Ready,
    /// On a processor.
    Running,
    /// Waits: see [`Thread::wait`].
    Blocked,
    /// Ended; kept while something names it.
    Ended,
}

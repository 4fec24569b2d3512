//! A stand-in for the core's entries.
use alloc::vec::Vec;
use holm_kernel_core::arena::Arena;
use holm_kernel_core::kernel::{BootInfo, MemoryRange};
use holm_kernel_core::machine::*;
use holm_kernel_core::machine::{CpuId, FrameNumber, SpaceId};
use holm_kernel_core::thread::*;
use holm_kernel_core::{Fault, Next};

#[derive(Debug)]
struct Pool(Vec<MemoryRange>);
impl FramePool for Pool {
    fn take(&mut self) -> Option<FrameNumber> {
        let range = self.0.last_mut()?;
        range.count -= 1;
        Some(FrameNumber(range.first.0 + range.count))
    }
    fn give(&mut self, _frame: FrameNumber) {}
}

#[derive(Debug)]
pub struct Kernel<M> {
    machine: M,
    threads: Arena<Thread>,
    pool: Pool,
    space: SpaceId,
    thread: ThreadId,
}

core::arch::global_asm!(
    ".section .rodata",
    ".global user_program",
    "user_program:",
    "mov r12d, 1000",
    "2: rdtsc",
    "mov ebx, eax",
    "xor eax, eax",
    "syscall",
    "rdtsc",
    "sub eax, ebx",
    "mov ebx, eax",
    "dec r12d",
    "jnz 2b",
    "mov rdi, rbx",
    "mov eax, 1",
    "syscall",
    "mov eax, 3",
    "syscall",
    "mov qword ptr [0x500000], 7",
    "mov eax, 2",
    "mov edi, 0",
    "syscall",
    "user_program_end:",
    ".global user_program_end",
    ".text"
);

impl<M: Machine> Kernel<M> {
    pub fn new(mut machine: M, info: BootInfo) -> Result<Self, &'static str> {
        if info.archive.is_none() {
            return Err("the boot archive is missing");
        }
        unsafe extern "C" {
            static user_program: [u8; 0];
            static user_program_end: [u8; 0];
        }
        let mut pool = Pool(info.memory);
        let space = machine.space_create(&mut pool).unwrap();
        let frame = pool.take().unwrap();
        machine.frame_zero(frame);
        let code = unsafe {
            core::slice::from_raw_parts(
                user_program.as_ptr(),
                user_program_end.as_ptr() as usize - user_program.as_ptr() as usize,
            )
        };
        machine.frame_write(frame, 0, code);
        machine.map(space, 0x400000, frame, PageRights { write: false, execute: true }, &mut pool).unwrap();
        let mut threads = Arena::default();
        let thread: Thread = Thread {
            registers: Registers { rip: 0x400000, rsp: 0x7000, rflags: 0x202, ..Default::default() },
            vector: Default::default(),
            entry: EntryKind::Interrupt,
            unit: holm_kernel_core::arena::Id::from_number(0),
            state: ThreadState::Running,
            wait: holm_kernel_core::wait::Wait::Nothing,
            deadline: Nanos::NEVER,
            wait_link: Default::default(),
            run_link: Default::default(),
            sched: Default::default(),
            calls: Default::default(),
            restricted: Default::default(),
            references: 0,
            number: 0,
            exit_code: 0,
        };
        let thread = threads.insert(thread).unwrap();
        Ok(Self { machine, threads, pool, space, thread })
    }
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }
    pub fn running(&mut self, id: ThreadId) -> Option<&mut Thread> {
        self.threads.get_mut(id)
    }
    pub fn system_call(&mut self, cpu: CpuId) -> Next {
        let thread = self.threads.get_mut(self.thread).unwrap();
        match thread.registers.rax {
            0 => thread.registers.rax = 0,
            1 => {
                let value = thread.registers.rdi;
                crate::serial::say!("null call: {value} now {:?}", self.machine.now());
            }
            3 => {
                let deadline = self.machine.now().after(Nanos(50_000_000));
                self.machine.set_timer(cpu, deadline);
                crate::serial::say!("sleep");
                for other in 1..self.machine.cpus() {
                    self.machine.kick(CpuId(other));
                }
                return Next::Idle;
            }
            _ => return Next::Halt(Halt::PowerOff(0)),
        }
        Next::Run(self.thread, self.space)
    }
    pub fn fault(&mut self, _cpu: CpuId, fault: Fault) -> Next {
        crate::serial::say!("fault {fault:?}");
        let frame = self.pool.take().unwrap();
        self.machine
            .map(self.space, 0x500000, frame, PageRights { write: true, execute: false }, &mut self.pool)
            .unwrap();
        Next::Run(self.thread, self.space)
    }
    pub fn timer(&mut self, _cpu: CpuId) -> Next {
        crate::serial::say!("timer {:?}", self.machine.now());
        Next::Run(self.thread, self.space)
    }
    pub fn kicked(&mut self, cpu: CpuId) -> Next {
        crate::serial::say!("kicked {cpu:?}");
        if cpu.0 == 0 { Next::Run(self.thread, self.space) } else { Next::Idle }
    }
    pub fn console_input(&mut self, _cpu: CpuId, byte: u8) -> Next {
        crate::serial::say!("input {byte}");
        Next::Idle
    }
}

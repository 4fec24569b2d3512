//! The entries of the kernel: what the machine layer calls. Each runs with interrupts off and says what comes next.

use holm_abi::{Error, TraceKind};

use crate::caller::{Answer, Caller, Outcome};
use crate::direct::Direct;
use crate::kernel::{Fault, Kernel, Next};
use crate::machine::{CpuId, Machine, Nanos};
use crate::memory::Access;
use crate::sched::attention;
use crate::thread::ThreadId;

/// Bytes of the `syscall` instruction: a call that is to be made again goes back by as many.
const SYSCALL_BYTES: u64 = 2;

impl<M: Machine> Kernel<M> {
    /// The thread on `cpu` made a system call; its registers say which. A machine that can take its own short cuts calls
    /// [`Kernel::direct`] first, and then [`Kernel::system_call_slowly`].
    #[inline]
    pub fn system_call(&mut self, cpu: CpuId) -> Next {
        let current = self.sched.cpu(cpu).and_then(|entry| entry.current);
        let number =
            current.and_then(|current| self.threads.get(current)).map_or(u64::MAX, |thread| thread.registers.rax);
        match self.direct(cpu, number) {
            Some(Direct::Leave) => self.direct_leave(cpu),
            Some(Direct::Same | Direct::Switched) => self.leave(cpu),
            None => match self.restricted_direct(cpu) {
                Some(next) => next,
                None => self.system_call_slowly(cpu),
            },
        }
    }

    /// As [`Kernel::system_call`], the long way.
    #[inline(never)]
    pub fn system_call_slowly(&mut self, cpu: CpuId) -> Next {
        let Some(current) = self.arrive(cpu) else { return self.leave(cpu) };
        let pressed = match self.sched.cpu_mut(cpu) {
            Some(entry) => {
                entry.syscalls += 1;
                entry.attention != 0
            }
            None => return Next::Idle,
        };
        let Some(thread) = self.threads.get_mut(current) else { return self.leave(cpu) };
        thread.syscalls = thread.syscalls.wrapping_add(1);
        if pressed && thread.sched.doomed.is_some() {
            // Another processor ended the thread: it does nothing more.
            return self.leave(cpu);
        }
        if self.restricted_active(current) {
            self.restricted_system_call(cpu, current);
            return self.leave(cpu);
        }
        let Some(thread) = self.threads.get(current) else { return self.leave(cpu) };
        let number = thread.registers.rax;
        let caller = Caller { cpu, thread: current, unit: thread.unit };
        if self.trace.wants(TraceKind::SyscallEnter) {
            let registers = &thread.registers;
            let data = [number, registers.rdi, registers.rsi, registers.rdx];
            self.trace_event(TraceKind::SyscallEnter, data);
        }
        let answer = self.dispatch(caller, number);
        self.answer(caller, number, answer);
        if number == holm_abi::number::cap_revoke {
            // It is done at once, however much follows it: that is for the entries after this one.
            self.background_later(cpu);
        } else {
            self.background(cpu);
        }
        self.leave(cpu)
    }

    /// Writes the result of a system call into its thread.
    #[inline]
    fn answer(&mut self, caller: Caller, number: u64, answer: Answer) {
        if self.trace.wants(TraceKind::SyscallExit) {
            let result = match answer {
                Ok(Outcome::Done(value)) => value,
                Err(error) => error.register(),
                Ok(_) => 0,
            };
            self.trace_event(TraceKind::SyscallExit, [number, result, 0, 0]);
        }
        let result = match answer {
            Ok(Outcome::Done(value)) => value,
            Err(error) => {
                if self.config.log_verbose && error != Error::WouldBlock {
                    self.log_refusal(caller, number, error);
                }
                error.register()
            }
            Ok(Outcome::Again) => return self.call_again(caller.thread, number),
            Ok(Outcome::Blocked | Outcome::Registers | Outcome::Ended) => return,
        };
        if let Some(thread) = self.threads.get_mut(caller.thread) {
            thread.registers.rax = result;
            if thread.calls.copies() {
                self.pieces_over(caller.thread);
            } else if thread.making.is_some() {
                self.making_over(caller.thread);
            }
        }
    }

    /// A thread makes its system call again when it goes on.
    pub(crate) fn call_again(&mut self, thread: ThreadId, number: u64) {
        if let Some(thread) = self.threads.get_mut(thread) {
            thread.registers.rip = thread.registers.rip.wrapping_sub(SYSCALL_BYTES);
            thread.registers.rax = number;
        }
    }

    /// The thread on `cpu` did what it cannot go on after, or touched a page that is not there yet.
    pub fn fault(&mut self, cpu: CpuId, fault: Fault) -> Next {
        if let Fault::Page { address, write, execute, present: false } = fault
            && let Some(next) = self.fault_resolved(cpu, address, Access::of(write, execute))
        {
            return next;
        }
        let Some(current) = self.arrive(cpu) else { return self.leave(cpu) };
        self.user_fault(cpu, current, fault);
        self.end_with_unit(current);
        self.background(cpu);
        self.leave(cpu)
    }

    /// The short way of the most usual fault: a page that is due, of a thread that goes on with it, and nothing else to do.
    /// `None`: it is to be handled as all others.
    #[inline]
    fn fault_resolved(&mut self, cpu: CpuId, address: u64, access: Access) -> Option<Next> {
        let entry = self.sched.cpu(cpu)?;
        if entry.attention != 0 || self.trace.kinds != 0 || self.work_waits() {
            return None;
        }
        let current = entry.current?;
        let thread = self.threads.get(current)?;
        let unit = self.units.get(thread.unit)?;
        if thread.restricted.is_bound() || unit.has_ended() {
            return None;
        }
        let (space, root) = (unit.memory.space?, thread.space);
        self.arrive(cpu);
        match self.space_fault_absent(space, address, access) {
            Ok(_) => self.trace.counts.page_faults += 1,
            // It faults again, and the next step follows.
            Err(Error::Interrupted) => {}
            Err(_) => return None,
        }
        Some(Next::Run(current, root))
    }

    /// The timer of `cpu` fired.
    pub fn timer(&mut self, cpu: CpuId) -> Next {
        self.arrive(cpu);
        if let Some(entry) = self.sched.cpu_mut(cpu) {
            entry.armed = Nanos::NEVER;
            entry.timer_entries += 1;
        }
        self.expire(cpu);
        self.guard(cpu);
        self.background(cpu);
        self.sampled_check(cpu);
        self.leave(cpu)
    }

    /// Another processor, or the kernel on it, made `cpu` look at its queues.
    pub fn kicked(&mut self, cpu: CpuId) -> Next {
        self.arrive(cpu);
        if let Some(entry) = self.sched.cpu_mut(cpu) {
            entry.kick_entries += 1;
            entry.attention |= attention::TIMER;
        }
        self.background(cpu);
        self.leave(cpu)
    }

    /// A byte came in on the console.
    pub fn console_input(&mut self, cpu: CpuId, byte: u8) -> Next {
        self.arrive(cpu);
        self.console_byte(byte);
        self.leave(cpu)
    }

    /// A thread whose unit is ending runs no further.
    fn end_with_unit(&mut self, thread: ThreadId) {
        let Some(unit) = self.threads.get(thread).and_then(|thread| self.units.get(thread.unit)) else { return };
        if unit.has_ended() {
            let (code, reason) = (unit.end.code, unit.end.reason);
            self.thread_end(thread, code, reason);
        }
    }

    /// A step of the work that waits, unless this entry did enough already. When there is more the timer brings `cpu` back for
    /// it, whatever runs meanwhile.
    #[inline(always)]
    fn background(&mut self, cpu: CpuId) {
        let spent = core::mem::take(&mut self.spent);
        if !self.work_waits() {
            return;
        }
        let more = spent || self.work_step();
        self.spent = false;
        if more && let Some(entry) = self.sched.cpu_mut(cpu) {
            entry.attention |= attention::TIMER;
        }
    }

    /// As [`Kernel::background`], without the step.
    fn background_later(&mut self, cpu: CpuId) {
        if self.work_waits()
            && let Some(entry) = self.sched.cpu_mut(cpu)
        {
            entry.attention |= attention::TIMER;
        }
    }

    #[cold]
    fn log_refusal(&mut self, caller: Caller, number: u64, error: Error) {
        let name = holm_abi::call(number).map_or("no call", |call| call.name);
        self.log(format_args!("unit {:?} thread {:?}: {name}: {}", caller.unit, caller.thread, error.name()));
    }

    /// The processor that a thread runs on, when it runs.
    pub(crate) fn runs_on(&self, thread: ThreadId) -> Option<CpuId> {
        let cpu = self.threads.get(thread)?.sched.cpu;
        (self.sched.cpu(cpu)?.current == Some(thread)).then_some(cpu)
    }
}

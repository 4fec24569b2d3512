//! The short way into a guest and back by its system call: the same as the long one, from the same state to the same state
//! (see [`crate::direct`]). A personality takes it for every system call of its guest.

use holm_abi::{RestrictedReason, number};

use super::{Home, Report, go_home, guest_registers};
use crate::kernel::{Kernel, Next};
use crate::machine::{CpuId, Machine, USER_END};
use crate::thread::{EntryKind, ThreadId};

impl<M: Machine> Kernel<M> {
    /// The system call on `cpu`, when it leads into a guest or comes from one, and the way is free. `None`: nothing was done.
    #[inline]
    pub fn restricted_direct(&mut self, cpu: CpuId) -> Option<Next> {
        let entry = self.sched.cpu(cpu)?;
        if entry.attention != 0 || self.trace.kinds != 0 {
            return None;
        }
        let current = entry.current?;
        let thread = self.threads.get(current)?;
        if thread.restricted.is_active() {
            return self.direct_guest_call(cpu, current);
        }
        if thread.registers.rax == number::restricted_enter { self.direct_enter(cpu, current) } else { None }
    }

    /// restricted_enter of the thread on `cpu`; `None` when there is a reason for the long way.
    #[inline]
    fn direct_enter(&mut self, cpu: CpuId, current: ThreadId) -> Option<Next> {
        let thread = self.threads.get_mut(current)?;
        let binding = thread.restricted.binding.as_ref()?;
        let (return_to, context) = (thread.registers.rdi, thread.registers.rsi);
        if thread.restricted.kicked || return_to >= USER_END {
            return None;
        }
        let (root, guest) = (binding.root, guest_registers(self.machine.frame_words(binding.frame))?);
        // Nothing fails from here on.
        thread.syscalls = thread.syscalls.wrapping_add(1);
        thread.restricted.home = Home::of(&thread.registers, return_to, context);
        thread.restricted.active = true;
        thread.registers = guest;
        thread.entry = EntryKind::Interrupt;
        thread.space = root;
        self.sched.cpu_mut(cpu)?.syscalls += 1;
        Some(Next::Run(current, root))
    }

    /// A system call of the guest on `cpu`; `None` when there is a reason for the long way.
    #[inline]
    fn direct_guest_call(&mut self, cpu: CpuId, current: ThreadId) -> Option<Next> {
        let thread = self.threads.get_mut(current)?;
        let binding = thread.restricted.binding?;
        if thread.restricted.kicked {
            return None;
        }
        thread.syscalls = thread.syscalls.wrapping_add(1);
        // As the processor leaves them.
        (thread.registers.rcx, thread.registers.r11) = (thread.registers.rip, thread.registers.rflags);
        let words = thread.registers.to_words();
        let home = thread.restricted.home;
        thread.restricted.active = false;
        go_home(thread, &home, RestrictedReason::Syscall, binding.joined);
        self.sched.cpu_mut(cpu)?.syscalls += 1;
        self.machine.frame_put_words(binding.frame, &words);
        self.write_report(&binding, RestrictedReason::Syscall, Report::default());
        Some(Next::Run(current, binding.joined))
    }
}

//! The shortest ways through the kernel: system calls that are done without the dispatcher, the run queues and a look at
//! the work that waits. Every reason to go the long way is looked at first; then they commit and cannot fail. The long way
//! is their specification: from the same state both lead to the same one.

use holm_abi::number;

use crate::arena::Arena;
use crate::cap::grant::Grants;
use crate::channel::{Channel, ChannelWork, Stamp};
use crate::config::Config;
use crate::kernel::{Kernel, Next};
use crate::machine::{CpuId, Machine, Nanos};
use crate::memory::Region;
use crate::sched::Cpu;
use crate::thread::{Thread, ThreadId};
use crate::trace::Counts;
use crate::unit::Unit;

/// What a processor does after a system call that went a short way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// It goes on with the thread that made the call.
    Same,
    /// It goes on with another thread: the one of the last [`Machine::take_up`].
    Switched,
    /// It goes on with what [`Kernel::direct_leave`] says; the machine knows nothing of it yet.
    Leave,
}

/// How a short way ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// With the thread that made the call.
    Same,
    /// With another one.
    Switched,
    /// With another one, at this time, and the timer is to be set.
    Timed(Nanos),
}

impl Way {
    const fn told(self, clock: &mut Nanos) -> Direct {
        match self {
            Self::Same => Direct::Same,
            Self::Switched => Direct::Switched,
            Self::Timed(now) => {
                *clock = now;
                Direct::Leave
            }
        }
    }
}

/// What the short ways have to do with: the parts of the kernel, each borrowed for itself, so that what was found once need
/// not be found again.
#[derive(Debug)]
pub(crate) struct Ways<'a, M> {
    pub(crate) machine: &'a mut M,
    pub(crate) threads: &'a mut Arena<Thread, 1>,
    pub(crate) units: &'a mut Arena<Unit, 1>,
    pub(crate) channels: &'a mut Arena<Channel, 1>,
    pub(crate) work: &'a mut ChannelWork,
    pub(crate) counts: &'a mut Counts,
    pub(crate) config: &'a Config,
    /// All grants, and the revocation epoch.
    pub(crate) grants: &'a mut Grants,
    pub(crate) epoch: u64,
    pub(crate) regions: &'a Arena<Region>,
    /// The processor, and whether it is the only one.
    pub(crate) cpu: CpuId,
    pub(crate) entry: &'a mut Cpu,
    pub(crate) alone: bool,
    /// See [`crate::sched::Sched`].
    pub(crate) waiting_fixed: u64,
    pub(crate) stamp: &'a mut Stamp,
    /// Who made the call.
    pub(crate) current: ThreadId,
}

/// Whether a call with this number can go the way of the thread's last one.
const fn is_line(number: u64) -> bool {
    number != number::cap_revoke
}

impl<M: Machine> Kernel<M> {
    /// The system call of the thread on `cpu`, when it is one of the few that have a short way, and that is free. `None`:
    /// nothing was done.
    ///
    /// `number` is what stands in the thread's `rax`.
    pub fn direct(&mut self, cpu: CpuId, number: u64) -> Option<Direct> {
        match number {
            number::chan_call_short => self.direct_of::<{ number::chan_call_short }>(cpu),
            number::chan_call_cap => self.direct_of::<{ number::chan_call_cap }>(cpu),
            number::chan_reply_recv_short => self.direct_of::<{ number::chan_reply_recv_short }>(cpu),
            number::chan_send_short => self.direct_of::<{ number::chan_send_short }>(cpu),
            number::chan_recv_short => self.direct_of::<{ number::chan_recv_short }>(cpu),
            number::thread_yield => self.direct_of::<{ number::thread_yield }>(cpu),
            number::cap_revoke => self.direct_of::<{ number::cap_revoke }>(cpu),
            _ => None,
        }
    }

    /// As [`Kernel::direct`], of the one call with this number: each is compiled for itself.
    #[inline(always)]
    pub fn direct_of<const NUMBER: u64>(&mut self, cpu: CpuId) -> Option<Direct> {
        if is_line(NUMBER) {
            // What is to be attended to comes with a new stamp.
            let way = match (self.ways::<true>(cpu), NUMBER) {
                (Some(ways), number::chan_call_short) => ways.call::<false, true>(),
                (Some(ways), number::chan_call_cap) => ways.call::<true, true>(),
                (Some(ways), number::chan_reply_recv_short) => ways.reply_recv::<true>(),
                (Some(ways), number::chan_send_short) => ways.send::<true>(),
                (Some(ways), number::chan_recv_short) => ways.recv::<true>(),
                (Some(ways), number::thread_yield) => ways.yields_again(),
                _ => None,
            };
            if let Some(way) = way {
                #[cfg(test)]
                {
                    self.channel_work.known += 1;
                }
                return Some(way.told(&mut self.sched.clock));
            }
            return self.direct_look::<NUMBER>(cpu);
        }
        self.direct_found::<NUMBER>(cpu)
    }

    /// As [`Kernel::direct_of`], where nothing is known.
    #[inline(never)]
    fn direct_look<const NUMBER: u64>(&mut self, cpu: CpuId) -> Option<Direct> {
        self.direct_found::<NUMBER>(cpu)
    }

    #[inline(always)]
    fn direct_found<const NUMBER: u64>(&mut self, cpu: CpuId) -> Option<Direct> {
        if self.trace.kinds != 0 {
            return None;
        }
        if !is_line(NUMBER) {
            self.sched.stamp.count();
        }
        let ways = self.ways::<false>(cpu)?;
        // Its vector registers are kept over system calls, or its guest made this one.
        if ways.threads.get(ways.current)?.restricted.is_bound() {
            return None;
        }
        let way = match NUMBER {
            number::chan_call_short => ways.call::<false, false>(),
            number::chan_call_cap => ways.call::<true, false>(),
            number::chan_reply_recv_short => ways.reply_recv::<false>(),
            number::chan_send_short => ways.send::<false>(),
            number::chan_recv_short => ways.recv::<false>(),
            number::thread_yield => ways.yields(),
            number::cap_revoke => ways.revoke(),
            _ => None,
        };
        Some(way?.told(&mut self.sched.clock))
    }

    /// What the short ways have to do with, on a processor that runs a thread and has nothing to attend to; `KNOWN`: that is
    /// to be known otherwise.
    #[inline(always)]
    fn ways<const KNOWN: bool>(&mut self, cpu: CpuId) -> Option<Ways<'_, M>> {
        #[cfg(test)]
        if self.channel_work.slow_only {
            return None;
        }
        let alone = self.sched.cpus.len() == 1;
        let entry = self.sched.cpus.get_mut(cpu.0 as usize)?;
        if !KNOWN && entry.attention != 0 {
            return None;
        }
        let current = entry.current?;
        Some(Ways {
            machine: &mut self.machine,
            threads: &mut self.threads,
            units: &mut self.units,
            channels: &mut self.channels,
            work: &mut self.channel_work,
            counts: &mut self.trace.counts,
            config: &self.config,
            epoch: self.caps.grants.epoch,
            grants: &mut self.caps.grants,
            regions: &self.regions,
            cpu,
            entry,
            alone,
            waiting_fixed: self.sched.waiting_fixed,
            stamp: &mut self.sched.stamp,
            current,
        })
    }

    /// Leaves after [`Direct::Leave`]: the timer has to be set after a switch.
    #[cold]
    pub fn direct_leave(&mut self, cpu: CpuId) -> Next {
        self.sched.here = cpu;
        self.sched.stamp.count();
        self.leave(cpu)
    }
}

impl<M: Machine> Ways<'_, M> {
    /// The switch from one thread to another, which the scheduler knows of already; whether the timer is to be set.
    #[inline(always)]
    pub(crate) fn switched(
        machine: &mut M,
        timed: bool,
        from: &mut Thread,
        to: (ThreadId, &mut Thread),
        now: Nanos,
    ) -> Way {
        if timed {
            return Way::Timed(now);
        }
        machine.set_down(from);
        machine.take_up(to.0, to.1);
        Way::Switched
    }
}

#[cfg(test)]
mod tests;

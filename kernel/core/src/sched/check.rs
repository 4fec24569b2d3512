//! Whether the run queues of a processor agree with themselves and with the threads.

use crate::deadline::Owners;
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine};
use crate::sched::{Class, Place, bit};
use crate::thread::ThreadState;

impl<M: Machine> Kernel<M> {
    /// What is wrong with the structures of `cpu`, if anything is. Takes time in proportion to what is queued there.
    pub(crate) fn broken_invariant(&mut self, cpu: CpuId) -> Option<&'static str> {
        let queues = self.sched.cpus.get(cpu.0 as usize)?;
        if let Some(current) = queues.current {
            match self.threads.get(current) {
                None => return Some("the current thread does not exist"),
                Some(thread) if thread.state != ThreadState::Running || thread.sched.place != Place::Running => {
                    return Some("the current thread does not run");
                }
                Some(thread) if thread.sched.cpu != cpu => return Some("the current thread is elsewhere"),
                Some(_) => {}
            }
            if self.sched.idle & bit(cpu) != 0 {
                return Some("idle with a thread");
            }
        }
        let filled = queues
            .fixed
            .iter()
            .enumerate()
            .fold(0u32, |filled, (level, queue)| if queue.is_empty() { filled } else { filled | 1 << level });
        if filled != queues.fixed_filled {
            return Some("the bitmap of priorities");
        }
        if !queues.fair.is_whole() {
            return Some("the ring of fair shares");
        }
        if (self.sched.waiting_fixed & bit(cpu) != 0) != (queues.fixed_filled != 0)
            || (self.sched.waiting_fair & bit(cpu) != 0) != (queues.fair.len() != 0)
            || (self.sched.waiting_background & bit(cpu) == 0) != queues.background.is_empty()
        {
            return Some("the masks of waiting threads");
        }
        let mut due = None;
        let mut next = queues.edf.first();
        while let Some(thread) = next {
            let Some(entry) = self.threads.get(thread) else { return Some("a queued thread does not exist") };
            if entry.sched.class != Class::Edf || entry.sched.place != Place::Queued || due > Some(entry.sched.due) {
                return Some("the order of deadlines");
            }
            due = Some(entry.sched.due);
            next = queues.edf.after(&self.threads, thread);
        }
        let mut owners = Owners { threads: &mut self.threads, timers: &mut self.timers.all };
        if !self.sched.cpus.get(cpu.0 as usize)?.deadlines.is_whole(&mut owners) {
            return Some("the heap of deadlines");
        }
        None
    }
}

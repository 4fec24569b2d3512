//! Moving threads between processors. `RT_EDF` threads never move: they were admitted where they are.
//!
//! A processor that is about to run something worse (or nothing) looks for a waiting thread that may run on it: the highest
//! `RT_FIXED` priority of all processors runs first, and an idle processor takes work from the fullest. At the end of a
//! `BEST_EFFORT` turn the thread moves when another processor has less to do. Each search looks at [`LOOK`] threads at most,
//! so that many threads bound to other processors cannot make it long.

use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::fair::Entry;
use crate::sched::{Class, Rank, attention, bit};
use crate::thread::ThreadId;

/// How many threads of a queue are looked at for one that may move.
pub(crate) const LOOK: u32 = 16;
/// How often a processor evens out a difference of one thread.
const EVEN_OUT: Nanos = Nanos(20_000_000);

/// The processors in a mask.
fn each(mut mask: u64) -> impl Iterator<Item = CpuId> {
    core::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let cpu = CpuId(mask.trailing_zeros());
        mask &= mask - 1;
        Some(cpu)
    })
}

impl<M: Machine> Kernel<M> {
    /// A thread of rank `rank` waits at `at`: makes a processor that has nothing better to do come and take it.
    pub(crate) fn offer(&mut self, rank: Rank, affinity: u64, at: CpuId) -> bool {
        let others = affinity & self.sched.all() & !bit(at);
        if let Some(idle) = each(others & self.sched.sleeping).next() {
            self.attend(idle, attention::CHOOSE);
            return true;
        }
        if rank.class != Class::Fixed {
            return false;
        }
        let lowest = each(others).filter_map(|cpu| Some((self.current_rank(cpu)?, cpu))).min_by_key(|(rank, _)| *rank);
        match lowest {
            Some((running, cpu)) if running < rank => {
                self.attend(cpu, attention::CHOOSE);
                true
            }
            _ => false,
        }
    }

    /// Offers the best `RT_FIXED` thread that waits at each processor again: two that woke together were offered to the same
    /// processor, which took one.
    pub(crate) fn offer_waiting(&mut self) {
        for at in each(self.sched.waiting_fixed) {
            let Some(queues) = self.sched.cpu(at) else { continue };
            let Some(level) = queues.fixed_filled.checked_ilog2() else { continue };
            let first = queues.fixed.get(level as usize).and_then(crate::queue::Queue::first);
            if let Some(thread) = first.and_then(|first| self.threads.get(first)) {
                let (rank, affinity) = (thread.sched.rank(), thread.sched.affinity);
                self.offer(rank, affinity, at);
            }
        }
    }

    /// Where a thread that wakes is queued: where it ran last, unless it may not or another processor idles.
    pub(crate) fn place_for(&mut self, thread: ThreadId) {
        let all = self.sched.all();
        let idle = self.sched.sleeping;
        let Some(state) = self.threads.get_mut(thread) else { return };
        let state = &mut state.sched;
        if state.class == Class::Edf || (all == 1 && state.cpu == CpuId(0)) {
            return;
        }
        let allowed = state.affinity & all;
        let last = bit(state.cpu);
        if allowed & idle & last != 0 {
            return;
        }
        let to = if allowed & idle != 0 {
            CpuId((allowed & idle).trailing_zeros())
        } else if allowed & last != 0 || allowed == 0 {
            return;
        } else {
            CpuId(allowed.trailing_zeros())
        };
        self.rebase(thread, to);
    }

    /// Gives a thread that is in no queue another processor.
    pub(crate) fn rebase(&mut self, thread: ThreadId, to: CpuId) {
        let Some(state) = self.threads.get_mut(thread) else { return };
        let state = &mut state.sched;
        if state.cpu == to {
            return;
        }
        let times = (self.sched.cpu(state.cpu).map(|cpu| cpu.fair.now), self.sched.cpu(to).map(|cpu| cpu.fair.now));
        if let (Some(from), Some(there)) = times {
            state.virtual_time = state.virtual_time.wrapping_sub(from).wrapping_add(there);
        }
        state.cpu = to;
        state.stats.migrations += 1;
    }

    /// Takes a thread from another processor that is better than `best`, the best that `cpu` has itself.
    pub(crate) fn pull(&mut self, cpu: CpuId, best: Option<Rank>) -> Option<ThreadId> {
        let mine = bit(cpu);
        let mut found = None;
        let fixed = self.sched.waiting_fixed & !mine;
        if fixed != 0 && best.is_none_or(|best| best.class <= Class::Fixed) {
            let mut floor = best;
            for other in each(fixed) {
                if let Some((rank, thread)) = self.find_fixed(other, cpu, floor) {
                    floor = Some(rank);
                    found = Some(thread);
                }
            }
        }
        let fair = self.sched.waiting_fair & !mine;
        if found.is_none() && fair != 0 && best.is_none_or(|best| best.class < Class::BestEffort) {
            let mut most = 0;
            for other in each(fair) {
                let Some(queues) = self.sched.cpu(other) else { continue };
                if queues.fair.len() > most
                    && let Some(thread) = queues.fair.find(&self.threads, LOOK, |thread| thread.sched.allows(cpu))
                {
                    most = queues.fair.len();
                    found = Some(thread);
                }
            }
        }
        let background = self.sched.waiting_background & !mine;
        if found.is_none() && background != 0 && best.is_none() {
            found = each(background).find_map(|other| {
                let queue = self.sched.cpu(other)?.background;
                let next = |thread: &ThreadId| queue.after(&self.threads, *thread);
                core::iter::successors(queue.first(), next)
                    .take(LOOK as usize)
                    .find(|thread| self.threads.get(*thread).is_some_and(|thread| thread.sched.allows(cpu)))
            });
        }
        let thread = found?;
        self.dequeue(thread);
        self.rebase(thread, cpu);
        Some(thread)
    }

    /// The best `RT_FIXED` thread queued at `from` that may run on `to` and is better than `floor`.
    fn find_fixed(&self, from: CpuId, to: CpuId, floor: Option<Rank>) -> Option<(Rank, ThreadId)> {
        let queues = self.sched.cpu(from)?;
        let mut filled = queues.fixed_filled;
        let mut left = LOOK;
        while filled != 0 {
            let level = 31 - filled.leading_zeros();
            let rank = Rank { class: Class::Fixed, within: u64::from(level) };
            if floor.is_some_and(|floor| rank <= floor) {
                return None;
            }
            filled &= !(1 << level);
            let mut next = queues.fixed[level as usize].first();
            while let Some(thread) = next {
                if left == 0 {
                    return None;
                }
                left -= 1;
                if self.threads.get(thread).is_some_and(|state| state.sched.allows(to)) {
                    return Some((rank, thread));
                }
                next = queues.fixed[level as usize].after(&self.threads, thread);
            }
        }
        None
    }

    /// The turn of `thread`, queued at `cpu`, is over: moves it where fewer `BEST_EFFORT` threads share a processor.
    pub(crate) fn even_out(&mut self, cpu: CpuId, thread: ThreadId) {
        let Some(state) = self.threads.get(thread) else { return };
        if state.sched.class != Class::BestEffort || self.sched.cpus.len() == 1 {
            return;
        }
        let others = state.sched.affinity & self.sched.all() & !bit(cpu);
        let load = |kernel: &Self, cpu: CpuId| {
            let queued = kernel.sched.cpu(cpu).map_or(0, |queues| queues.fair.len());
            // Whoever runs there keeps it from running, whatever its class.
            queued + u32::from(kernel.current_rank(cpu).is_some())
        };
        // `thread` is queued here, and the one that takes its place is about to run.
        let mine = self.sched.cpu(cpu).map_or(0, |queues| queues.fair.len());
        let Some((other, to)) = each(others).map(|to| (load(self, to), to)).min_by_key(|(load, _)| *load) else {
            return;
        };
        if other >= mine {
            return;
        }
        let now = self.clock();
        let Some(queues) = self.sched.cpu_mut(cpu) else { return };
        if mine - other == 1 && now.since(queues.balanced) < EVEN_OUT {
            return;
        }
        queues.balanced = now;
        self.dequeue(thread);
        self.rebase(thread, to);
        self.enqueue(thread, Entry::Back);
        self.announce(thread);
    }
}

//! The queues of ready threads: into them, out of them, and who is next.

use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::fair::{self, Entry};
use crate::sched::{Class, Place, Rank, attention, bit};
use crate::thread::ThreadId;

impl<M: Machine> Kernel<M> {
    /// The time of this entry: asked of the machine once.
    #[inline]
    pub(crate) fn clock(&mut self) -> Nanos {
        if self.sched.clock == Nanos(0) {
            self.sched.clock = self.machine.now();
        }
        self.sched.clock
    }

    /// Puts a ready thread into the queue of its class at its processor, which stays as it is otherwise.
    pub(crate) fn enqueue(&mut self, thread: ThreadId, entry: Entry) {
        let Some(state) = self.threads.get_mut(thread) else { return };
        let state = &mut state.sched;
        let cpu = state.cpu;
        let Some(queues) = self.sched.cpus.get_mut(cpu.0 as usize) else { return };
        state.place = Place::Queued;
        match state.class {
            Class::Edf => {
                let due = state.due;
                let mut behind = queues.edf.last();
                while let Some(before) = behind {
                    if self.threads.get(before).is_none_or(|other| other.sched.due <= due) {
                        break;
                    }
                    behind = queues.edf.before(&self.threads, before);
                }
                match behind {
                    Some(behind) => queues.edf.insert_behind(&mut self.threads, behind, thread),
                    None => queues.edf.push_front(&mut self.threads, thread),
                }
            }
            Class::Fixed => {
                let level = state.priority as usize % queues.fixed.len();
                match entry {
                    Entry::Front => queues.fixed[level].push_front(&mut self.threads, thread),
                    Entry::Back | Entry::BehindFirst => queues.fixed[level].push(&mut self.threads, thread),
                }
                queues.fixed_filled |= 1 << level;
                self.sched.waiting_fixed |= bit(cpu);
            }
            Class::BestEffort => {
                let time = queues.fair.admit(state.virtual_time);
                state.virtual_time = time;
                queues.fair.push(&mut self.threads, thread, time, entry);
                self.sched.waiting_fair |= bit(cpu);
            }
            Class::Background => {
                match entry {
                    Entry::Front => queues.background.push_front(&mut self.threads, thread),
                    Entry::Back | Entry::BehindFirst => queues.background.push(&mut self.threads, thread),
                }
                self.sched.waiting_background |= bit(cpu);
            }
        }
    }

    /// Takes a queued thread out of its queue.
    pub(crate) fn dequeue(&mut self, thread: ThreadId) {
        let Some(state) = self.threads.get_mut(thread) else { return };
        let state = &mut state.sched;
        debug_assert_eq!(state.place, Place::Queued);
        state.place = Place::Nowhere;
        let (cpu, class, level) = (state.cpu, state.class, state.priority as usize);
        let Some(queues) = self.sched.cpus.get_mut(cpu.0 as usize) else { return };
        match class {
            Class::Edf => queues.edf.remove(&mut self.threads, thread),
            Class::Fixed => {
                let level = level % queues.fixed.len();
                queues.fixed[level].remove(&mut self.threads, thread);
                if queues.fixed[level].is_empty() {
                    queues.fixed_filled &= !(1 << level);
                }
            }
            Class::BestEffort => queues.fair.remove(&mut self.threads, thread),
            Class::Background => queues.background.remove(&mut self.threads, thread),
        }
        self.note_empty(cpu);
    }

    fn note_empty(&mut self, cpu: CpuId) {
        let Some(queues) = self.sched.cpus.get(cpu.0 as usize) else { return };
        if queues.fixed_filled == 0 {
            self.sched.waiting_fixed &= !bit(cpu);
        }
        if queues.fair.len() == 0 {
            self.sched.waiting_fair &= !bit(cpu);
        }
        if queues.background.is_empty() {
            self.sched.waiting_background &= !bit(cpu);
        }
    }

    /// The rank of the best thread that is queued at `cpu`.
    pub(crate) fn best_queued(&self, cpu: CpuId) -> Option<Rank> {
        let queues = self.sched.cpu(cpu)?;
        if let Some(first) = queues.edf.first() {
            return Some(self.threads.get(first)?.sched.rank());
        }
        let (class, within) = if queues.fixed_filled != 0 {
            (Class::Fixed, u64::from(31 - queues.fixed_filled.leading_zeros()))
        } else if queues.fair.len() != 0 {
            (Class::BestEffort, 0)
        } else if !queues.background.is_empty() {
            (Class::Background, 0)
        } else {
            return None;
        };
        Some(Rank { class, within })
    }

    /// Takes the best thread that is queued at `cpu` out of its queue.
    pub(crate) fn take_best(&mut self, cpu: CpuId) -> Option<ThreadId> {
        let queues = self.sched.cpus.get_mut(cpu.0 as usize)?;
        let thread = if let Some(first) = queues.edf.pop(&mut self.threads) {
            first
        } else if queues.fixed_filled != 0 {
            let level = (31 - queues.fixed_filled.leading_zeros()) as usize;
            let first = queues.fixed[level].pop(&mut self.threads)?;
            if queues.fixed[level].is_empty() {
                queues.fixed_filled &= !(1 << level);
                if queues.fixed_filled == 0 {
                    self.sched.waiting_fixed &= !bit(cpu);
                }
            }
            first
        } else if let Some(first) = queues.fair.pop(&mut self.threads) {
            if queues.fair.len() == 0 {
                self.sched.waiting_fair &= !bit(cpu);
            }
            first
        } else {
            let first = queues.background.pop(&mut self.threads)?;
            if queues.background.is_empty() {
                self.sched.waiting_background &= !bit(cpu);
            }
            first
        };
        if let Some(state) = self.threads.get_mut(thread) {
            state.sched.place = Place::Nowhere;
        }
        Some(thread)
    }

    /// Makes `cpu` look at its queues before it leaves the kernel; another processor than this one is kicked.
    pub(crate) fn attend(&mut self, cpu: CpuId, what: u8) {
        let here = self.sched.here;
        let Some(entry) = self.sched.cpu_mut(cpu) else { return };
        let known = entry.attention;
        entry.attention |= what;
        if what & attention::CHOOSE != 0 {
            self.sched.sleeping &= !bit(cpu);
        }
        if cpu != here && known == 0 {
            self.machine.kick(cpu);
            self.watch_asked(cpu);
        }
    }

    /// The rank of what `cpu` runs; `None` when it idles or will choose anew.
    pub(crate) fn current_rank(&self, cpu: CpuId) -> Option<Rank> {
        let current = self.sched.cpu(cpu)?.current?;
        Some(self.threads.get(current)?.sched.rank())
    }

    /// A thread was queued at its processor: sees to it that it runs where and as soon as it should.
    pub(crate) fn announce(&mut self, thread: ThreadId) {
        let Some(state) = self.threads.get(thread) else { return };
        let (cpu, rank, affinity, weight) =
            (state.sched.cpu, state.sched.rank(), state.sched.affinity, state.sched.virtual_time);
        let Some(current) = self.current_rank(cpu) else { return self.attend(cpu, attention::CHOOSE) };
        if rank > current {
            return self.attend(cpu, attention::CHOOSE);
        }
        if rank == current && rank.class == Class::BestEffort && self.is_behind_current(cpu, weight) {
            if let Some(entry) = self.sched.cpu_mut(cpu) {
                entry.turn_over = true;
            }
            return self.attend(cpu, attention::CHOOSE);
        }
        if self.sched.cpus.len() > 1 && rank.class != Class::Edf && self.offer(rank, affinity, cpu) {
            return;
        }
        // Someone else wants the processor now: the current thread's turn needs an end.
        let ends = self.sched.cpu(cpu).map_or(Nanos::NEVER, |entry| entry.turn_ends);
        if rank.class == current.class && rank.class != Class::Edf && ends == Nanos::NEVER {
            self.attend(cpu, attention::TIMER);
        }
    }

    /// Whether virtual time `time` is so far behind the thread on `cpu` that this one's turn is over.
    fn is_behind_current(&mut self, cpu: CpuId, time: u64) -> bool {
        let now = self.clock();
        let Some(current) = self.sched.cpu(cpu).and_then(|entry| entry.current) else { return true };
        let Some(current) = self.threads.get(current).map(|thread| &thread.sched) else { return true };
        let ran = fair::virtual_time(now.since(current.since).0, current.params.weight);
        fair::ahead(current.virtual_time.wrapping_add(ran), time) > fair::GRAIN as i64
    }

    /// Sets the deadline of `due` among those of this processor.
    pub(crate) fn set_deadline(&mut self, due: crate::deadline::Due, when: Nanos) {
        let here = self.sched.here;
        let Some(cpu) = self.sched.cpus.get_mut(here.0 as usize) else { return };
        let mut owners = crate::deadline::Owners { threads: &mut self.threads, timers: &mut self.timers.all };
        cpu.deadlines.insert(&mut owners, when, due);
        if when < cpu.armed {
            cpu.attention |= attention::TIMER;
        }
    }

    /// Takes a deadline out again.
    pub(crate) fn clear_deadline(&mut self, place: Option<crate::deadline::DeadlinePlace>) {
        let Some(place) = place else { return };
        let Some(cpu) = self.sched.cpus.get_mut(place.cpu.0 as usize) else { return };
        let mut owners = crate::deadline::Owners { threads: &mut self.threads, timers: &mut self.timers.all };
        cpu.deadlines.remove(&mut owners, place);
    }
}

//! Which thread a processor runs: charging the one that ran, choosing the next, setting the timer.

use holm_abi::TraceKind;

use crate::deadline::{Due, Owners};
use crate::kernel::{Kernel, Next};
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::edf::Spent;
use crate::sched::fair::{self, Entry};
use crate::sched::{Class, Place, TURN, attention, bit};
use crate::thread::{ThreadId, ThreadState};
use crate::unit::UnitId;
use crate::wait::Wait;

/// How many deadlines are handled in one entry; more make the timer fire again at once.
const DUE_PER_ENTRY: usize = 16;

/// How long work that waits may wait while threads run.
pub(crate) const WORK_PAUSE: Nanos = Nanos(100_000);

impl<M: Machine> Kernel<M> {
    /// Every entry begins here: says who runs on `cpu`.
    #[inline]
    pub(crate) fn arrive(&mut self, cpu: CpuId) -> Option<ThreadId> {
        self.sched.here = cpu;
        self.sched.clock = Nanos(0);
        self.sched.stamp.count();
        self.sched.cpu(cpu)?.current
    }

    /// Every entry ends here: says what `cpu` does next.
    #[inline]
    pub(crate) fn leave(&mut self, cpu: CpuId) -> Next {
        if let Some(entry) = self.sched.cpu(cpu)
            && entry.attention == 0
            && let Some(current) = entry.current
            && let Some(thread) = self.threads.get(current)
            && !thread.restricted.wants_out()
        {
            return Next::Run(current, thread.space);
        }
        self.leave_slowly(cpu)
    }

    fn leave_slowly(&mut self, cpu: CpuId) -> Next {
        if let Some(halt) = self.halt {
            return Next::Halt(halt);
        }
        if self.trace.tells {
            self.trace_tell();
        }
        let what = self.sched.cpu(cpu).map_or(0, |entry| entry.attention);
        if what & attention::CHOOSE != 0 || self.sched.cpu(cpu).is_some_and(|entry| entry.current.is_none()) {
            if !self.choose_handed(cpu) {
                self.choose(cpu);
            }
            if self.trace.tells {
                // Whoever reads of this very switch.
                self.trace_tell();
                self.choose(cpu);
            }
        } else {
            self.time_turn(cpu);
        }
        self.set_timer(cpu);
        let Some(entry) = self.sched.cpu_mut(cpu) else { return Next::Idle };
        entry.attention = 0;
        let Some(current) = entry.current else { return Next::Idle };
        let Some(thread) = self.threads.get(current) else { return Next::Idle };
        if !thread.restricted.wants_out() {
            return Next::Run(current, thread.space);
        }
        self.restricted_leave_kicked(current);
        let Some(entry) = self.sched.cpu(cpu) else { return Next::Idle };
        match entry.current.and_then(|current| Some(Next::Run(current, self.threads.get(current)?.space))) {
            Some(next) => next,
            None => Next::Idle,
        }
    }

    /// Counts the time that the thread on `cpu` ran, up to `now`, and takes it from its budget.
    pub(crate) fn charge_run(&mut self, cpu: CpuId, now: Nanos) {
        let Some(entry) = self.sched.cpus.get_mut(cpu.0 as usize) else { return };
        let Some(current) = entry.current else { return };
        let Some(thread) = self.threads.get_mut(current) else { return };
        let state = &mut thread.sched;
        let ran = now.since(state.since).0;
        state.since = now;
        state.stats.run += ran;
        let unit = thread.unit;
        let syscalls = core::mem::take(&mut thread.syscalls);
        match state.class {
            Class::BestEffort => {
                let time = state.virtual_time.wrapping_add(fair::virtual_time(ran, state.params.weight));
                state.virtual_time = time;
                if entry.fair.len() == 0 {
                    entry.fair.advance(time);
                }
            }
            Class::Edf => match state.donor {
                None => {
                    if state.reservation.spend(ran) == Spent::Exhausted {
                        self.attend(cpu, attention::CHOOSE);
                    }
                }
                Some(donor) => self.charge_donor(cpu, current, donor, ran, now),
            },
            Class::Fixed | Class::Background => {}
        }
        if let Some(unit) = self.units.get_mut(unit) {
            unit.sched.stats.run += ran;
            unit.sched.syscalls += u64::from(syscalls);
        }
    }

    /// Counts the time that threads of `unit` run, on whichever processors.
    pub(crate) fn charge_running(&mut self, unit: UnitId) {
        let now = self.clock();
        for cpu in (0..self.sched.cpus.len() as u32).map(CpuId) {
            let current = self.sched.cpu(cpu).and_then(|entry| entry.current);
            if current.and_then(|current| self.threads.get(current)).is_some_and(|thread| thread.unit == unit) {
                self.charge_run(cpu, now);
            }
        }
    }

    fn charge_donor(&mut self, cpu: CpuId, server: ThreadId, donor: ThreadId, ran: u64, now: Nanos) {
        let Some(lender) = self.threads.get_mut(donor) else { return };
        let lender = &mut lender.sched;
        lender.stats.donated += ran;
        if lender.params.class != Class::Edf || lender.reservation.spend(ran) == Spent::Within {
            return;
        }
        lender.reservation.postpone(&lender.params, now);
        lender.stats.throttles += 1;
        lender.due = lender.reservation.deadline;
        let due = lender.due;
        if let Some(server) = self.threads.get_mut(server) {
            server.sched.due = due;
        }
        self.attend(cpu, attention::CHOOSE);
    }

    /// Queues a ready thread, or keeps it waiting for its budget. Does not say so to any processor.
    pub(crate) fn queue_ready(&mut self, thread: ThreadId, entry: Entry) {
        let now = self.clock();
        let Some(state) = self.threads.get_mut(thread) else { return };
        let state = &mut state.sched;
        if state.class == Class::Edf && state.donor.is_none() {
            if state.reservation.budget == 0 {
                let refill = state.reservation.refill_at(&state.params);
                if refill > now {
                    state.place = Place::Throttled;
                    self.trace_event(TraceKind::Throttle, [thread.number(), refill.0, 0, 0]);
                    return self.set_deadline(Due::Thread(thread), refill);
                }
                state.reservation.refill(&state.params, now);
                state.stats.periods += 1;
            }
            state.due = state.reservation.deadline;
        }
        self.enqueue(thread, entry);
    }

    /// Takes the thread off `cpu`; it is queued again when it can go on.
    fn set_down(&mut self, cpu: CpuId, now: Nanos) -> Option<ThreadId> {
        self.charge_run(cpu, now);
        let entry = self.sched.cpu_mut(cpu)?;
        let current = entry.current.take()?;
        let (turn_over, yielded) = (entry.turn_over, entry.yielded);
        let thread = self.threads.get_mut(current)?;
        if let Some((code, reason)) = thread.sched.doomed {
            thread.state = ThreadState::Ready;
            thread.sched.place = Place::Nowhere;
            self.thread_end(current, code, reason);
            return None;
        }
        thread.state = ThreadState::Ready;
        if yielded && thread.sched.class == Class::Edf && thread.sched.donor.is_none() {
            // The job is done; the next one begins with the next period.
            let late = note_job(&mut thread.sched, now);
            thread.sched.reservation.give_up();
            self.trace_late(current, late);
        } else if thread.sched.class == Class::Edf
            && thread.sched.donor.is_none()
            && thread.sched.reservation.budget == 0
        {
            thread.sched.stats.throttles += 1;
        }
        let thread = self.threads.get_mut(current)?;
        if let Some(home) = thread.sched.moves_to.take() {
            self.rebase(current, home);
        } else if !thread.sched.allows(cpu) && thread.sched.class != Class::Edf {
            let allowed = thread.sched.affinity & self.sched.all();
            if allowed != 0 {
                self.rebase(current, CpuId(allowed.trailing_zeros()));
            }
        }
        let behind = match (turn_over, yielded) {
            (_, true) => Entry::BehindFirst,
            (true, false) => Entry::Back,
            (false, false) => Entry::Front,
        };
        self.queue_ready(current, behind);
        Some(current)
    }

    /// What [`Kernel::choose`] comes to where the only processor has no thread, one was handed to it, and nobody is queued.
    /// False: it is not so, and nothing was done.
    #[inline]
    fn choose_handed(&mut self, cpu: CpuId) -> bool {
        #[cfg(test)]
        if self.channel_work.slow_only {
            return false;
        }
        let now = self.clock();
        let [entry] = self.sched.cpus.as_mut_slice() else { return false };
        let Some(id) = entry.handed else { return false };
        if entry.current.is_some() || entry.has_queued() || self.trace.wants(TraceKind::Switch) {
            return false;
        }
        let Some(thread) = self.threads.get_mut(id) else { return false };
        let state = &mut thread.sched;
        if state.class == Class::Edf {
            return false;
        }
        entry.handed = None;
        (entry.yielded, entry.turn_over) = (false, false);
        self.sched.sleeping &= !bit(cpu);
        if self.sched.idle & bit(cpu) != 0 {
            self.sched.idle &= !bit(cpu);
            entry.idle += now.since(entry.idle_since).0;
        }
        entry.current = Some(id);
        thread.state = ThreadState::Running;
        let waited = now.since(state.since).0;
        state.since = now;
        state.place = Place::Running;
        state.cpu = cpu;
        state.stats.wait += waited;
        state.stats.max_wait = state.stats.max_wait.max(waited);
        state.stats.switches += 1;
        entry.switches += 1;
        if state.class == Class::BestEffort {
            entry.fair.advance(state.virtual_time);
        }
        // Nobody waits for the end of its turn.
        entry.turn_ends = Nanos::NEVER;
        true
    }

    /// Chooses the thread that `cpu` runs from now on.
    fn choose(&mut self, cpu: CpuId) {
        let now = self.clock();
        let before = self.sched.cpu(cpu).and_then(|entry| entry.current);
        let down = if before.is_some() { self.set_down(cpu, now) } else { None };
        let Some(entry) = self.sched.cpu_mut(cpu) else { return };
        let yielded = core::mem::take(&mut entry.yielded);
        let turn_over = core::mem::take(&mut entry.turn_over) && !yielded;
        let handed = entry.handed.take();
        let chosen = self.next_for(cpu, handed);
        let Some(entry) = self.sched.cpus.get_mut(cpu.0 as usize) else { return };
        let was_idle = self.sched.idle & bit(cpu) != 0;
        let Some(thread) = chosen else {
            if !was_idle {
                self.sched.idle |= bit(cpu);
                entry.idle_since = now;
            }
            entry.turn_ends = Nanos::NEVER;
            self.sched.sleeping |= bit(cpu);
            if let Some(down) = down {
                self.settle(cpu, down, turn_over, yielded);
            }
            return;
        };
        self.sched.sleeping &= !bit(cpu);
        if was_idle {
            self.sched.idle &= !bit(cpu);
            entry.idle += now.since(entry.idle_since).0;
        }
        entry.current = Some(thread);
        if let Some(state) = self.threads.get_mut(thread) {
            state.state = ThreadState::Running;
            let waited = now.since(state.sched.since).0;
            state.sched.since = now;
            state.sched.place = Place::Running;
            state.sched.cpu = cpu;
            if down != Some(thread) {
                state.sched.stats.wait += waited;
                state.sched.stats.max_wait = state.sched.stats.max_wait.max(waited);
                state.sched.stats.switches += 1;
                entry.switches += 1;
            }
            if state.sched.class == Class::BestEffort {
                entry.fair.advance(state.sched.virtual_time);
            }
        }
        let interrupted = down.filter(|down| *down != thread);
        if before != Some(thread) {
            self.trace_switch(cpu, before, thread);
        }
        begin_turn(self, cpu, thread, now);
        if let Some(down) = interrupted {
            self.settle(cpu, down, turn_over, yielded);
        }
        if self.sched.cpus.len() > 1 && self.sched.waiting_fixed != 0 {
            self.offer_waiting();
        }
    }

    /// Sees to it that a thread that was taken off `cpu` and could go on does so where it can.
    fn settle(&mut self, cpu: CpuId, down: ThreadId, turn_over: bool, yielded: bool) {
        let Some(state) = self.threads.get_mut(down) else { return };
        if state.sched.place != Place::Queued {
            return;
        }
        state.sched.stats.preemptions += u64::from(!yielded);
        state.sched.stats.voluntary += u64::from(yielded);
        let (rank, affinity, at) = (state.sched.rank(), state.sched.affinity, state.sched.cpu);
        if at != cpu {
            self.announce(down);
        } else if self.sched.cpus.len() > 1 && rank.class != Class::Edf {
            let taken = self.offer(rank, affinity, cpu);
            if turn_over && !taken {
                self.even_out(cpu, down);
            }
        }
    }

    /// The best of: the thread handed over, those queued here, those that wait elsewhere and may run here.
    fn next_for(&mut self, cpu: CpuId, handed: Option<ThreadId>) -> Option<ThreadId> {
        let mut best = self.best_queued(cpu);
        if let Some(handed) = handed
            && let Some(state) = self.threads.get(handed)
        {
            let rank = state.sched.rank();
            let rivals = self.sched.waiting_fixed & !bit(cpu) != 0 && rank.class <= Class::Fixed;
            if best.is_none_or(|queued| queued <= rank) && !rivals {
                return Some(handed);
            }
            self.queue_ready(handed, Entry::Front);
            best = self.best_queued(cpu);
        }
        if self.sched.cpus.len() > 1
            && let Some(pulled) = self.pull(cpu, best)
        {
            return Some(pulled);
        }
        self.take_best(cpu)
    }

    /// Sets the machine's timer to what comes first: a deadline, or the end of the current thread's turn or budget.
    fn set_timer(&mut self, cpu: CpuId) {
        let waits = self.work_waits();
        let now = if waits { self.clock() } else { Nanos::NEVER };
        let Some(entry) = self.sched.cpus.get_mut(cpu.0 as usize) else { return };
        let wanted = match (waits, entry.current) {
            (true, None) => now,
            // A program that never enters the kernel keeps no other unit's end, and no revocation, from going on.
            (true, Some(_)) => entry.deadlines.next().min(entry.turn_ends).min(now.after(WORK_PAUSE)),
            (false, _) => entry.deadlines.next().min(entry.turn_ends),
        };
        // A timer that fires early for a turn that ended otherwise costs less than setting it at every switch; but a
        // processor that idles sleeps until it must wake.
        if wanted < entry.armed || (entry.current.is_none() && wanted != entry.armed) {
            entry.armed = wanted;
            self.machine.set_timer(cpu, wanted);
        }
    }

    /// Ends the current thread's turn in time when others of its class wait.
    fn time_turn(&mut self, cpu: CpuId) {
        let Some(entry) = self.sched.cpu(cpu) else { return };
        if entry.turn_ends != Nanos::NEVER {
            return;
        }
        if let Some(current) = entry.current {
            let now = self.clock();
            begin_turn(self, cpu, current, now);
        }
    }

    /// The running thread stopped to wait, until `deadline` at the latest.
    pub(crate) fn sched_blocked(&mut self, cpu: CpuId, thread: ThreadId, deadline: Nanos) {
        if self.sched.cpu(cpu).is_some_and(|entry| entry.current == Some(thread)) {
            let now = self.clock();
            self.charge_run(cpu, now);
            if let Some(entry) = self.sched.cpu_mut(cpu) {
                entry.current = None;
                entry.attention |= attention::CHOOSE;
                entry.turn_over = false;
                entry.yielded = false;
            }
            if let Some(state) = self.threads.get_mut(thread) {
                state.sched.place = Place::Nowhere;
                state.sched.stats.voluntary += 1;
                let home = state.sched.moves_to.take();
                if state.sched.params.class == Class::Edf {
                    let late = note_job(&mut state.sched, now);
                    self.trace_late(thread, late);
                }
                if let Some(home) = home {
                    self.rebase(thread, home);
                }
            }
        }
        let Some(state) = self.threads.get(thread) else { return };
        let (place, queued) = (state.sched.deadline_place, state.sched.place != Place::Nowhere);
        if queued {
            self.lift(thread);
            if let Some(state) = self.threads.get_mut(thread) {
                state.sched.place = Place::Nowhere;
            }
        } else if place.is_some() {
            self.clear_deadline(place);
        }
        if deadline != Nanos::NEVER {
            self.set_deadline(Due::Thread(thread), deadline);
        }
    }

    /// A thread became ready: it is queued, and the processor that should run it is told.
    pub(crate) fn sched_woken(&mut self, thread: ThreadId) {
        if self.made_ready(thread) {
            if self.is_next(thread) {
                return self.hand(CpuId(0), thread);
            }
            self.place_for(thread);
            self.queue_ready(thread, Entry::Front);
            if self.threads.get(thread).is_some_and(|state| state.sched.place == Place::Queued) {
                self.announce(thread);
            }
        }
    }

    /// Whether a thread that was woken is the first to want the only processor, which has no thread: it need not be queued.
    #[inline]
    fn is_next(&self, thread: ThreadId) -> bool {
        let [entry] = self.sched.cpus.as_slice() else { return false };
        entry.current.is_none()
            && entry.handed.is_none()
            && self.threads.get(thread).is_some_and(|state| {
                state.sched.class != Class::Edf && state.sched.moves_to.is_none() && state.sched.allows(CpuId(0))
            })
    }

    /// The caller on `cpu` blocked in a call that `to` serves: `to`, which waits in no queue any more, runs next on `cpu`
    /// without passing the run queue, unless it may not run here or someone better is ready.
    pub(crate) fn sched_handoff(&mut self, cpu: CpuId, to: ThreadId) {
        let Some(state) = self.threads.get_mut(to) else { return };
        if state.state != ThreadState::Blocked {
            return;
        }
        state.wait = Wait::Nothing;
        state.state = ThreadState::Ready;
        let free = self.sched.cpu(cpu).is_some_and(|entry| entry.current.is_none() && entry.handed.is_none());
        let direct = free && state.sched.allows(cpu) && (state.sched.class != Class::Edf || state.sched.cpu == cpu);
        if !direct {
            return self.sched_woken(to);
        }
        if !self.made_ready(to) {
            return;
        }
        self.rebase(to, cpu);
        self.hand(cpu, to);
    }

    /// `to`, which is ready and in no queue, is the next thread of `cpu` unless someone better is ready.
    fn hand(&mut self, cpu: CpuId, to: ThreadId) {
        let Some(state) = self.threads.get_mut(to) else { return };
        if state.sched.class == Class::Edf && state.sched.donor.is_none() {
            self.queue_ready(to, Entry::Front);
            return self.attend(cpu, attention::CHOOSE);
        }
        if state.sched.class == Class::BestEffort
            && let Some(entry) = self.sched.cpus.get_mut(cpu.0 as usize)
        {
            state.sched.virtual_time = entry.fair.admit(state.sched.virtual_time);
        }
        state.sched.place = Place::Handed;
        if let Some(entry) = self.sched.cpu_mut(cpu) {
            entry.handed = Some(to);
            entry.attention |= attention::CHOOSE;
        }
    }

    /// What waking begins with; false when there is no such thread.
    fn made_ready(&mut self, thread: ThreadId) -> bool {
        let now = self.clock();
        let Some(state) = self.threads.get_mut(thread) else { return false };
        let place = state.sched.deadline_place;
        state.sched.since = now;
        if state.sched.params.class == Class::Edf {
            state.sched.reservation.release(&state.sched.params, now);
            state.sched.stats.periods += 1;
        }
        if place.is_some() {
            self.clear_deadline(place);
        }
        self.trace_wake(thread);
        true
    }

    /// Takes a thread out of everything the scheduler has, whatever it does. One that runs on another processor must have
    /// been stopped there before.
    pub(crate) fn sched_remove(&mut self, thread: ThreadId) {
        let place = self.lift(thread);
        let Some(state) = self.threads.get_mut(thread) else { return };
        state.sched.place = Place::Nowhere;
        let (cpu, deadline) = (state.sched.cpu, state.sched.deadline_place);
        let share = core::mem::take(&mut state.sched.reservation.density);
        let admitted_at = state.sched.admitted_at();
        state.sched.moves_to = None;
        self.clear_deadline(deadline);
        self.sched.dismiss(admitted_at, share);
        if place == Place::Running
            && let Some(entry) = self.sched.cpu_mut(cpu)
        {
            entry.current = None;
            entry.turn_over = false;
            entry.yielded = false;
            self.attend(cpu, attention::CHOOSE);
        }
    }

    /// Handles the deadlines of `cpu` that have passed, a bounded number of them.
    pub(crate) fn expire(&mut self, cpu: CpuId) {
        let now = self.clock();
        for _ in 0..DUE_PER_ENTRY {
            let Some(entry) = self.sched.cpus.get_mut(cpu.0 as usize) else { return };
            let mut owners = Owners { threads: &mut self.threads, timers: &mut self.timers.all };
            match entry.deadlines.take_due(&mut owners, now) {
                None => break,
                Some(Due::Timer(timer)) => self.timer_expired(timer, now),
                Some(Due::Thread(thread)) => self.thread_due(thread, now),
            }
        }
        let Some(entry) = self.sched.cpu_mut(cpu) else { return };
        entry.attention |= attention::TIMER;
        if entry.turn_ends <= now {
            entry.turn_over = true;
            entry.attention |= attention::CHOOSE;
        }
    }

    /// A job of `thread` ended so many nanoseconds late.
    fn trace_late(&mut self, thread: ThreadId, late: u64) {
        if late > 0 {
            self.trace_event(TraceKind::DeadlineMiss, [thread.number(), late, 0, 0]);
        }
    }

    fn thread_due(&mut self, thread: ThreadId, now: Nanos) {
        let Some(state) = self.threads.get_mut(thread) else { return };
        if state.state == ThreadState::Blocked {
            // As `give_up`. Sleeping until a time is what `Time` asked for: it ends well.
            let result = if state.wait == Wait::Time { Ok(0) } else { Err(holm_abi::Error::TimedOut) };
            self.leave_wait(thread);
            return self.wake(thread, result);
        }
        if state.sched.place != Place::Throttled {
            return;
        }
        state.sched.reservation.refill(&state.sched.params, now);
        state.sched.stats.periods += 1;
        self.queue_ready(thread, Entry::Front);
        self.announce(thread);
    }
}

/// A job ended at `now`: counts it when it was late, and says by how many nanoseconds.
fn note_job(state: &mut crate::sched::ThreadSched, now: Nanos) -> u64 {
    let late = now.since(state.reservation.job).0;
    if late > 0 {
        state.stats.misses += 1;
        state.stats.max_lateness = state.stats.max_lateness.max(late);
    }
    late
}

/// When the turn of `thread`, which runs on `cpu` from now on, ends.
fn begin_turn<M: Machine>(kernel: &mut Kernel<M>, cpu: CpuId, thread: ThreadId, now: Nanos) {
    let Some(state) = kernel.threads.get(thread).map(|thread| &thread.sched) else { return };
    let Some(entry) = kernel.sched.cpus.get_mut(cpu.0 as usize) else { return };
    let left = |length: Nanos, others: bool| if others { now.after(length) } else { Nanos::NEVER };
    entry.turn_ends = match state.class {
        Class::Edf => {
            let lender = state.donor.and_then(|donor| kernel.threads.get(donor)).map(|lender| &lender.sched);
            now.after(Nanos(lender.unwrap_or(state).reservation.budget))
        }
        Class::Fixed => left(TURN, entry.fixed_filled & (1 << (u32::from(state.priority) % 32)) != 0),
        Class::BestEffort => left(fair::turn(kernel.config.turn, state.params.weight), entry.fair.len() != 0),
        Class::Background => left(kernel.config.turn, !entry.background.is_empty()),
    };
}

//! The switch from a thread that stops to the one that it hands over to, where nobody else has a say in it: no queue, no
//! reservation, no other processor. It is what [`Kernel::block`](crate::Kernel), a hand-over and a choice of the next thread
//! do one after the other, and does not fail.

use crate::channel::Line;
use crate::direct::{Way, Ways};
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::fair::{self, Entry};
use crate::sched::{Class, Cpu, Place, TURN, ThreadSched, attention, bit};
use crate::thread::{Thread, ThreadId, ThreadState};
use crate::unit::Unit;
use crate::wait::Wait;

impl ThreadSched {
    /// Whether it runs by its own rank, which needs no reservation, and no deadline waits for it.
    #[inline(always)]
    const fn is_plain(&self) -> bool {
        self.class as u8 == self.params.class as u8
            && self.priority == self.params.priority
            && matches!(self.class, Class::Fixed | Class::BestEffort)
            && self.donor.is_none()
            && self.deadline_place.is_none()
    }

    /// Whether its rank is certainly not above that of `other`.
    #[inline(always)]
    pub(crate) const fn is_at_most(&self, other: &Self) -> bool {
        let (one, two) = (self.class as u8, other.class as u8);
        one < two || (one == two && self.priority <= other.priority)
    }
}

impl Cpu {
    /// Whether `to`, which is blocked, may run here, on `cpu`, as soon as `from` stops, without a look at any queue.
    #[inline(always)]
    pub(crate) fn is_direct(
        &self,
        (cpu, alone, waiting_fixed): (CpuId, bool, u64),
        from: &ThreadSched,
        to: &ThreadSched,
    ) -> bool {
        let best = waiting_fixed == 0
            || (alone
                && to.class == Class::Fixed
                && self.fixed_filled.checked_shr(u32::from(to.priority)).is_some_and(|filled| filled <= 1));
        best && self.edf.is_empty()
            && from.is_plain()
            && to.is_plain()
            && to.cpu.0 == cpu.0
            && to.affinity & bit(cpu) != 0
    }

    /// Counts the time that `thread`, which is known to be of `FIXED` priority, ran here, up to `now`.
    #[inline(always)]
    fn count<const FIXED: bool>(&mut self, thread: &mut Thread, unit: &mut Unit, now: Nanos) {
        let state = &mut thread.sched;
        let ran = now.since(state.since).0;
        state.since = now;
        state.stats.run += ran;
        if !FIXED && state.class == Class::BestEffort {
            let time = state.virtual_time.wrapping_add(fair::virtual_time(ran, state.params.weight));
            state.virtual_time = time;
            if self.fair.len() == 0 {
                self.fair.advance(time);
            }
        }
        unit.sched.stats.run += ran;
        unit.sched.syscalls += u64::from(core::mem::take(&mut thread.syscalls));
    }

    /// `thread` runs here from now on, whose length of a turn is `turn`; it slept (`WOKEN`) or was queued. Whether the timer is
    /// to be set for its end.
    #[inline(always)]
    #[must_use]
    fn begin<const WOKEN: bool, const FIXED: bool>(
        &mut self,
        id: ThreadId,
        thread: &mut Thread,
        now: Nanos,
        turn: Nanos,
    ) -> bool {
        let state = &mut thread.sched;
        thread.state = ThreadState::Running;
        state.since = now;
        state.place = Place::Running;
        state.stats.switches += 1;
        self.switches += 1;
        self.current = Some(id);
        let (others, length) = if FIXED {
            (true, TURN)
        } else if state.class == Class::BestEffort {
            let mut time = state.virtual_time;
            if WOKEN {
                time = self.fair.admit(time);
                state.virtual_time = time;
            }
            self.fair.advance(time);
            (self.fair.len() != 0, turn)
        } else {
            (self.fixed_filled & 1u32.wrapping_shl(u32::from(state.priority)) != 0, TURN)
        };
        if !others {
            self.turn_ends = Nanos::NEVER;
            return false;
        }
        let length =
            if !FIXED && state.class == Class::BestEffort { fair::turn(length, state.params.weight) } else { length };
        self.turn_ends = now.after(length);
        if self.turn_ends < self.armed {
            self.attention |= attention::TIMER;
            return true;
        }
        false
    }

    /// `from`, which runs here in `unit`, stops to wait without a deadline, and `to` goes on: [`Cpu::is_direct`]. Whether the
    /// timer is to be set. `AGAIN`: its last wait was without a deadline, too.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "two threads and what belongs to them")]
    pub(crate) fn hand_over<const AGAIN: bool>(
        &mut self,
        from: &mut Thread,
        unit: &mut Unit,
        wait: Wait,
        to_id: ThreadId,
        to: &mut Thread,
        now: Nanos,
        turn: Nanos,
    ) -> bool {
        self.count::<false>(from, unit, now);
        from.wait = wait;
        if !AGAIN {
            from.deadline = Nanos::NEVER;
        }
        from.state = ThreadState::Blocked;
        from.sched.place = Place::Nowhere;
        from.sched.stats.voluntary += 1;
        to.wait = Wait::Nothing;
        self.begin::<true, false>(to_id, to, now, turn)
    }
}

impl Cpu {
    /// `from`, which runs here in `unit`, yields: it is or will be in its queue.
    #[inline(always)]
    fn set_aside<const FIXED: bool>(&mut self, from: &mut Thread, unit: &mut Unit, now: Nanos) {
        from.syscalls += 1;
        self.syscalls += 1;
        self.count::<FIXED>(from, unit, now);
        from.registers.rax = 0;
        from.state = ThreadState::Ready;
        from.sched.place = Place::Queued;
        from.sched.stats.voluntary += 1;
    }

    /// `to`, which was queued here, goes on. Whether the timer is to be set. With `FIXED` another one of its priority waits.
    #[inline(always)]
    fn resume<const FIXED: bool>(&mut self, id: ThreadId, to: &mut Thread, now: Nanos, turn: Nanos) -> bool {
        let waited = now.since(to.sched.since).0;
        to.sched.stats.wait += waited;
        to.sched.stats.max_wait = to.sched.stats.max_wait.max(waited);
        self.begin::<false, FIXED>(id, to, now, turn)
    }
}

impl<M: Machine> Ways<'_, M> {
    /// As [`Ways::yields`], between the same two threads of fixed priority as last time: see [`Line`].
    #[inline(always)]
    pub(crate) fn yields_again(self) -> Option<Way> {
        let Self { machine, threads, units, entry, current, stamp, .. } = self;
        let from = threads.get(current)?;
        let line = &from.calls.line;
        if !line.yields(*stamp) {
            return None;
        }
        let next = line.peer;
        let queue = &mut entry.fixed[usize::from(from.sched.priority) % crate::sched::PRIORITIES];
        if queue.only() != Some(next) {
            return None;
        }
        let unit = units.get_mut(from.unit)?;
        let (from, to) = threads.pair_mut(current, next)?;
        // Nothing fails from here on.
        queue.take_only(&mut to.run_link);
        queue.put_only(current, &mut from.run_link);
        let now = machine.now();
        entry.set_aside::<true>(from, unit, now);
        let timed = entry.resume::<true>(next, to, now, TURN);
        Some(Self::switched(machine, timed, from, (next, to), now))
    }

    /// The thread on the only processor yields to one of its own class, and nobody better waits: it goes behind its equals,
    /// and the first of them runs.
    #[inline(always)]
    pub(crate) fn yields(self) -> Option<Way> {
        let Self { machine, threads, units, entry, config, current, alone, stamp, .. } = self;
        let from = threads.get_mut(current)?;
        let state = &from.sched;
        let queued = match state.class {
            Class::Fixed => entry.fixed_filled.checked_shr(u32::from(state.priority)).is_some_and(|filled| filled == 1),
            Class::BestEffort => entry.fixed_filled == 0 && entry.fair.len() != 0,
            Class::Edf | Class::Background => false,
        };
        if !(queued
            && alone
            && entry.edf.is_empty()
            && state.is_plain()
            && state.moves_to.is_none()
            && state.allows(CpuId(0)))
        {
            return None;
        }
        let unit = units.get_mut(from.unit)?;
        if state.class == Class::Fixed {
            let queue = &mut entry.fixed[usize::from(state.priority) % crate::sched::PRIORITIES];
            if let Some(next) = queue.only() {
                // The two change places.
                let (from, to) = threads.pair_mut(current, next)?;
                // Nothing fails from here on.
                from.calls.line = Line::of_yield(*stamp, next);
                queue.take_only(&mut to.run_link);
                queue.put_only(current, &mut from.run_link);
                let now = machine.now();
                entry.set_aside::<false>(from, unit, now);
                let timed = entry.resume::<false>(next, to, now, config.turn);
                return Some(Self::switched(machine, timed, from, (next, to), now));
            }
        }
        // Nothing fails from here on: there is another one in the queue.
        let now = machine.now();
        entry.set_aside::<false>(from, unit, now);
        let next = if from.sched.class == Class::Fixed {
            let queue = &mut entry.fixed[usize::from(from.sched.priority) % crate::sched::PRIORITIES];
            queue.turn(threads, current)?
        } else {
            let time = entry.fair.admit(from.sched.virtual_time);
            from.sched.virtual_time = time;
            entry.fair.push(threads, current, time, Entry::BehindFirst);
            entry.fair.pop(threads)?
        };
        let to = threads.get_mut(next)?;
        let timed = entry.resume::<false>(next, to, now, config.turn);
        match threads.pair_mut(current, next) {
            Some((from, to)) => Some(Self::switched(machine, timed, from, (next, to), now)),
            // Nobody was before it after all.
            None => Some(if timed { Way::Timed(now) } else { Way::Same }),
        }
    }
}

//! The life of threads: made, started, changed, ended.

use holm_abi::{Error, EventMask, ExitReason};

use crate::channel::ThreadCalls;
use crate::deadline::Deadlines;
use crate::event::{Source, Watchers};
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos, SpaceId};
use crate::memory::ThreadMemory;
use crate::object::Object;
use crate::queue::Link;
use crate::quota::Resource;
use crate::restricted::ThreadRestricted;
use crate::sched::{Class, Params, Place, ThreadSched, attention};
use crate::thread::{EntryKind, Registers, Thread, ThreadId, ThreadState, Vector};
use crate::thread_calls::params_of;
use crate::unit::{UnitId, UnitState};
use crate::wait::Wait;

/// Interrupts on, and the bit that is always set.
const USER_FLAGS: u64 = 0x202;

/// What a thread starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadStart {
    /// Its first instruction.
    pub entry: u64,
    /// Its stack pointer.
    pub stack: u64,
    /// `rdi`, `rsi`, `rdx`.
    pub arguments: [u64; 3],
    /// Where its code and data are.
    pub space: SpaceId,
}

/// The event that tells of an end.
pub(crate) const fn how_it_ended(reason: ExitReason) -> EventMask {
    match reason {
        ExitReason::None | ExitReason::Exited | ExitReason::Stopped => EventMask::EXIT,
        _ => EventMask::CRASH,
    }
}

impl<M: Machine> Kernel<M> {
    /// Bytes of kernel memory that a thread is charged for.
    pub(crate) fn thread_cost(&self) -> u64 {
        size_of::<Thread>() as u64 + Deadlines::ENTRY * self.sched.cpus.len() as u64
    }

    /// Makes a thread of `unit` that has not started. It is kept until it ended and nothing names it.
    ///
    /// # Errors
    /// [`Error::Quota`] (threads or kernel memory), [`Error::NoMemory`], [`Error::Invalid`] for wrong parameters or an
    /// affinity without a processor, [`Error::Busy`] when `RT_EDF` parameters are not admitted, [`Error::BadState`] when the
    /// unit has ended.
    pub(crate) fn thread_new(
        &mut self,
        unit: UnitId,
        start: ThreadStart,
        params: Params,
        affinity: u64,
    ) -> Result<ThreadId, Error> {
        params.check()?;
        let allowed = affinity & self.sched.all();
        if allowed == 0 {
            return Err(Error::Invalid);
        }
        let cost = self.thread_cost();
        let deadlines = self.threads.len() as usize + self.timers.all.len() as usize + 1;
        let owner = self.units.get(unit).ok_or(Error::BadState)?;
        if !matches!(owner.state, UnitState::Created | UnitState::Running) {
            return Err(Error::BadState);
        }
        self.charge(unit, Resource::Threads, 1)?;
        if let Err(error) = self.charge(unit, Resource::Kernel, cost) {
            self.refund(unit, Resource::Threads, 1);
            return Err(error);
        }
        let made = self.make_thread(unit, start, params, allowed, deadlines);
        match made {
            Ok(thread) => {
                if let Some(owner) = self.units.get_mut(unit) {
                    owner.threads.push(&mut self.threads, thread);
                    owner.references += 1;
                }
            }
            Err(_) => {
                self.refund(unit, Resource::Threads, 1);
                self.refund(unit, Resource::Kernel, cost);
            }
        }
        made
    }

    /// Makes the first thread of a unit, with the unit's class.
    ///
    /// # Errors
    /// As [`Kernel::thread_new`].
    pub(crate) fn thread_first(&mut self, unit: UnitId, entry: u64, stack: u64, info: u64) -> Result<ThreadId, Error> {
        let owner = self.units.get(unit).ok_or(Error::BadState)?;
        let params = params_of(owner.class, owner.base_priority, Params::default())?;
        let space = owner.memory.root.ok_or(Error::BadState)?;
        self.thread_new(unit, ThreadStart { entry, stack, arguments: [info, 0, 0], space }, params, u64::MAX)
    }

    fn make_thread(
        &mut self,
        unit: UnitId,
        start: ThreadStart,
        params: Params,
        affinity: u64,
        deadlines: usize,
    ) -> Result<ThreadId, Error> {
        for cpu in &mut self.sched.cpus {
            cpu.deadlines.reserve(deadlines).map_err(|_| Error::NoMemory)?;
        }
        // New threads begin here when they may: their stack and arguments are in this processor's caches.
        let here = self.sched.here;
        let mut cpu = if affinity & crate::sched::bit(here) != 0 { here } else { CpuId(affinity.trailing_zeros()) };
        let mut share = 0;
        if params.class == Class::Edf {
            (cpu, share) = self.sched.admit(&params, affinity, cpu)?;
        }
        let owner = self.units.get_mut(unit).ok_or(Error::BadState)?;
        let number = owner.threads_made;
        owner.threads_made = number.wrapping_add(1);
        let mut sched = ThreadSched::new(params, affinity, cpu);
        sched.reservation.density = share;
        let registers = Registers {
            rip: start.entry,
            rsp: start.stack,
            rdi: start.arguments[0],
            rsi: start.arguments[1],
            rdx: start.arguments[2],
            rflags: USER_FLAGS,
            ..Registers::default()
        };
        let thread = Thread {
            registers,
            vector: Vector::default(),
            entry: EntryKind::Interrupt,
            unit,
            state: ThreadState::Created,
            wait: Wait::Nothing,
            deadline: Nanos::NEVER,
            wait_link: Link::default(),
            run_link: Link::default(),
            unit_link: Link::default(),
            space: start.space,
            sched,
            calls: ThreadCalls::default(),
            memory: ThreadMemory::default(),
            making: None,
            restricted: ThreadRestricted::default(),
            watchers: Watchers::default(),
            references: 1,
            number,
            exit_code: 0,
            exit_reason: ExitReason::None,
            main: false,
            syscalls: 0,
        };
        self.threads.insert(thread).map_err(|_| {
            self.sched.dismiss(cpu, share);
            Error::NoMemory
        })
    }

    /// Starts a thread that was made.
    ///
    /// # Errors
    /// [`Error::BadState`] when it was started before.
    pub(crate) fn thread_start(&mut self, thread: ThreadId) -> Result<(), Error> {
        let entry = self.threads.get_mut(thread).ok_or(Error::BadState)?;
        if entry.state != ThreadState::Created {
            return Err(Error::BadState);
        }
        entry.state = ThreadState::Ready;
        self.trace_thread(thread);
        self.sched_woken(thread);
        Ok(())
    }

    /// Makes a thread enter the kernel soon, so that what was changed of it is seen.
    pub(crate) fn restricted_nudge(&mut self, thread: ThreadId) {
        if let Some(cpu) = self.runs_on(thread) {
            self.attend(cpu, attention::TIMER);
        }
    }

    /// Ends a thread wherever it is, but on another processor: that one is told, and ends it when it next enters the kernel.
    /// Says whether it is ended already.
    pub(crate) fn thread_stop(&mut self, thread: ThreadId, code: i64, reason: ExitReason) -> bool {
        let here = self.sched.here;
        let Some(entry) = self.threads.get_mut(thread) else { return true };
        if entry.sched.place == Place::Running && entry.sched.cpu != here {
            entry.sched.doomed = Some((code, reason));
            let cpu = entry.sched.cpu;
            self.attend(cpu, attention::CHOOSE);
            return false;
        }
        self.thread_end(thread, code, reason);
        true
    }

    /// Ends a thread that does not run on another processor: takes it out of whatever it waits for, tells who watches it, and
    /// lets its unit end with its last thread. Nothing happens when it has ended.
    pub(crate) fn thread_end(&mut self, thread: ThreadId, code: i64, reason: ExitReason) {
        let Some(entry) = self.threads.get_mut(thread) else { return };
        if entry.state == ThreadState::Ended {
            return;
        }
        if entry.state == ThreadState::Blocked {
            self.leave_wait(thread);
        }
        self.sched_remove(thread);
        self.calls_thread_ended(thread);
        self.memory_abandon(thread);
        self.pieces_over(thread);
        self.making_over(thread);
        self.restricted_abandon(thread);
        let Some(entry) = self.threads.get_mut(thread) else { return };
        entry.state = ThreadState::Ended;
        entry.wait = Wait::Nothing;
        entry.exit_code = code;
        entry.exit_reason = reason;
        let main = entry.main;
        let unit = entry.unit;
        let mut last = false;
        let stats = entry.sched.stats;
        if let Some(owner) = self.units.get_mut(unit) {
            owner.threads.remove(&mut self.threads, thread);
            owner.sched.ended.add(&stats);
            last = owner.threads.is_empty();
        }
        self.refund(unit, Resource::Threads, 1);
        self.trace_thread(thread);
        self.raise(Source::Thread(thread), how_it_ended(reason), code as u64, reason as u64);
        if last || main {
            self.unit_threads_gone(unit, code, reason);
        }
        self.release(Object::Thread(thread));
    }

    /// Takes back a thread that was made and has never run: nobody is told.
    pub(crate) fn thread_end_unnoticed(&mut self, thread: ThreadId) {
        self.sched_remove(thread);
        let Some(entry) = self.threads.get_mut(thread) else { return };
        entry.state = ThreadState::Ended;
        let unit = entry.unit;
        if let Some(owner) = self.units.get_mut(unit) {
            owner.threads.remove(&mut self.threads, thread);
        }
        self.refund(unit, Resource::Threads, 1);
        self.release(Object::Thread(thread));
    }

    /// Nothing names an ended thread any more.
    pub(crate) fn thread_released(&mut self, thread: ThreadId) {
        let cost = self.thread_cost();
        // A thread that was never started ends with the last handle to it.
        if self.threads.get(thread).is_some_and(|entry| entry.state != ThreadState::Ended) {
            return;
        }
        self.watchers_gone(Source::Thread(thread));
        let Some(entry) = self.threads.remove(thread) else { return };
        self.refund(entry.unit, Resource::Kernel, cost);
        self.release(Object::Unit(entry.unit));
    }

    /// Sets class and parameters. An `RT_EDF` thread is admitted anew, to another processor where that is needed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for parameters out of range; [`Error::Busy`] when no processor can admit it: nothing changed.
    pub(crate) fn thread_set_params(&mut self, thread: ThreadId, params: Params) -> Result<(), Error> {
        params.check()?;
        let affinity = self.threads.get(thread).ok_or(Error::BadState)?.sched.affinity;
        self.resettle(thread, params, affinity, affinity)
    }

    /// As [`Kernel::thread_set_params`], for `RT_EDF` on one processor.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn thread_settle_on(&mut self, thread: ThreadId, params: Params, cpu: CpuId) -> Result<(), Error> {
        params.check()?;
        let affinity = self.threads.get(thread).ok_or(Error::BadState)?.sched.affinity;
        self.resettle(thread, params, affinity, crate::sched::bit(cpu))
    }

    /// Sets the processors that a thread may run on; those that do not exist are ignored.
    ///
    /// # Errors
    /// [`Error::Invalid`] when none is left; [`Error::Busy`] when the thread is `RT_EDF` and none of them admits it.
    pub(crate) fn thread_set_affinity(&mut self, thread: ThreadId, affinity: u64) -> Result<(), Error> {
        let allowed = affinity & self.sched.all();
        if allowed == 0 {
            return Err(Error::Invalid);
        }
        let params = self.threads.get(thread).ok_or(Error::BadState)?.sched.params;
        self.resettle(thread, params, allowed, allowed)
    }

    fn resettle(&mut self, thread: ThreadId, params: Params, affinity: u64, admit_on: u64) -> Result<(), Error> {
        let now = self.clock();
        let entry = self.threads.get(thread).ok_or(Error::BadState)?;
        if entry.state == ThreadState::Ended {
            return Err(Error::BadState);
        }
        let (home, old) = (entry.sched.cpu, entry.sched.reservation.density);
        let admitted_at = entry.sched.admitted_at();
        let mut settled = (home, 0);
        self.sched.dismiss(admitted_at, old);
        if params.class == Class::Edf {
            match self.sched.admit(&params, admit_on, home) {
                Ok(found) => settled = found,
                Err(error) => {
                    self.sched.readmit(admitted_at, old);
                    return Err(error);
                }
            }
        }
        let place = self.lift(thread);
        let (cpu, density) = settled;
        let Some(entry) = self.threads.get_mut(thread) else { return Err(Error::BadState) };
        let state = &mut entry.sched;
        let same = state.params == params && old != 0;
        state.params = params;
        state.affinity = affinity;
        state.reservation.density = density;
        if params.class == Class::Edf && !same {
            state.reservation.budget = params.budget.0;
            state.reservation.deadline = now.after(params.deadline);
            state.reservation.job = state.reservation.deadline;
        }
        let moves = if place == Place::Running { None } else { Some(cpu).filter(|cpu| *cpu != home) };
        let bound = affinity & crate::sched::bit(home) == 0;
        if let Some(cpu) = moves {
            self.rebase(thread, cpu);
        } else if place != Place::Running && bound {
            self.rebase(thread, CpuId(affinity.trailing_zeros()));
        }
        self.renew_effective(thread);
        if let Some(entry) = self.threads.get_mut(thread) {
            let moves = place == Place::Running && density != 0 && cpu != home;
            entry.sched.moves_to = moves.then_some(cpu);
        }
        self.put_back(thread, place);
        self.calls_rank_changed(thread);
        Ok(())
    }
}

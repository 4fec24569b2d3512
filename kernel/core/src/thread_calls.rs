//! The system calls on threads, scheduling, clocks and timers.

use holm_abi::{
    ClockId, Error, SchedClass, SchedFlags, SchedParams, SchedStats, ThreadAttr, ThreadAttrMask, ThreadFlags,
    ThreadInfo, ThreadSpec, TimerFlags, TimerInfo, TimerMode, TimerSpec, limits,
};

use crate::caller::{Answer, Caller, Out, Outcome};
use crate::cap::Cap;
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos, USER_END};
use crate::object::Object;
use crate::sched::{Class, Params, Place, Stats, attention, bit};
use crate::thread::{Thread, ThreadId, ThreadState};
use crate::thread_life::ThreadStart;
use crate::unit::{UnitId, UnitState};

use holm_abi::ExitReason;
use holm_abi::ObjectType;

/// Threads of a unit that one step of a call changes or adds up.
const STEP: usize = 64;

/// The class in the interface.
pub(crate) const fn class_told(class: Class) -> SchedClass {
    match class {
        Class::Edf => SchedClass::RtEdf,
        Class::Fixed => SchedClass::RtFixed,
        Class::BestEffort => SchedClass::BestEffort,
        Class::Background => SchedClass::Background,
    }
}

/// The priority or the weight in the interface.
pub(crate) const fn priority_told(params: &Params) -> u32 {
    match params.class {
        Class::Fixed => params.priority as u32,
        Class::BestEffort => params.weight,
        Class::Edf | Class::Background => 0,
    }
}

/// A class with its priority or weight, 0 for the class's default.
///
/// # Errors
/// [`Error::Invalid`] for `RT_EDF`, which needs more, and out of range.
pub(crate) fn params_of(class: SchedClass, priority: u32, inherited: Params) -> Result<Params, Error> {
    let params = match class {
        SchedClass::Inherit if priority == 0 => inherited,
        SchedClass::RtFixed => Params::fixed(u8::try_from(priority).map_err(|_| Error::Invalid)?),
        SchedClass::BestEffort if priority == 0 => Params::default(),
        SchedClass::BestEffort => Params::best_effort(priority),
        SchedClass::Background if priority == 0 => Params::background(),
        SchedClass::Inherit | SchedClass::RtEdf | SchedClass::Background => return Err(Error::Invalid),
    };
    params.check()?;
    Ok(params)
}

/// The parameters of a call, and the processor it asks for.
fn params_asked(asked: &SchedParams) -> Result<(Params, Option<CpuId>), Error> {
    let edf = asked.class == SchedClass::RtEdf;
    let stray = (!edf && (asked.cpu != 0 || asked.runtime != 0 || asked.deadline != 0 || asked.period != 0))
        || (asked.class != SchedClass::RtFixed && asked.priority != 0)
        || (asked.class != SchedClass::BestEffort && asked.weight != 0);
    if stray {
        return Err(Error::Invalid);
    }
    let params = match asked.class {
        SchedClass::Inherit => return Err(Error::Invalid),
        SchedClass::RtFixed => Params::fixed(u8::try_from(asked.priority).map_err(|_| Error::Invalid)?),
        SchedClass::BestEffort if asked.weight == 0 => Params::default(),
        SchedClass::BestEffort => Params::best_effort(asked.weight),
        SchedClass::Background => Params::background(),
        SchedClass::RtEdf => Params::edf(Nanos(asked.runtime), Nanos(asked.deadline), Nanos(asked.period)),
    };
    params.check()?;
    Ok((params, (edf && asked.cpu != u32::MAX).then_some(CpuId(asked.cpu))))
}

impl<M: Machine> Kernel<M> {
    /// Does nothing.
    pub(crate) fn sys_null(&mut self, _caller: Caller) -> Answer {
        Ok(Outcome::OK)
    }

    fn within_ceiling(&self, unit: UnitId, class: Class) -> Result<(), Error> {
        let allowed = self.units.get(unit).ok_or(Error::BadState)?.max_class;
        if allowed.allows(class_told(class)) { Ok(()) } else { Err(Error::NotPermitted) }
    }

    /// Makes a thread, which runs at once when its unit runs.
    pub(crate) fn thread_create(&mut self, caller: Caller, unit: Object, spec: ThreadSpec) -> Answer {
        let Object::Unit(unit) = unit else { return Err(Error::WrongType) };
        let owner = self.units.get(unit).ok_or(Error::BadState)?;
        let space = owner.memory.root.ok_or(Error::BadState)?;
        let inherited = params_of(owner.class, owner.base_priority, Params::default())?;
        let params = params_of(spec.sched_class, spec.base_priority, inherited)?;
        self.within_ceiling(unit, params.class)?;
        let top = spec.stack_base.checked_add(spec.stack_bytes).ok_or(Error::Invalid)?;
        if spec.entry >= USER_END || top > USER_END || spec.fs_base >= USER_END || (spec.stack_bytes < 16 && top != 0) {
            return Err(Error::Invalid);
        }
        let affinity = if spec.affinity == 0 { u64::MAX } else { spec.affinity };
        let start = ThreadStart {
            entry: spec.entry,
            // As after a call: `rsp + 8` is a multiple of 16.
            stack: if top == 0 { 0 } else { (top & !15) - 8 },
            arguments: [spec.argument, spec.argument2, 0],
            space,
        };
        let thread = self.thread_new(unit, start, params, affinity)?;
        if let Some(entry) = self.threads.get_mut(thread) {
            entry.registers.fs_base = spec.fs_base;
            entry.main = spec.flags.contains(ThreadFlags::MAIN);
        }
        let handle = self.install_or(caller.unit, Object::Thread(thread), ObjectType::Thread, |kernel| {
            kernel.thread_end_unnoticed(thread);
        })?;
        if self.units.get(unit).is_some_and(|unit| unit.state == UnitState::Running) {
            self.thread_start(thread)?;
        }
        Ok(Outcome::Done(handle.raw() as u64))
    }

    /// Ends the caller.
    pub(crate) fn thread_exit(&mut self, caller: Caller, code: i64) -> Answer {
        self.thread_end(caller.thread, code, ExitReason::Exited);
        Ok(Outcome::Ended)
    }

    /// Lets others of the same rank run first.
    pub(crate) fn thread_yield(&mut self, caller: Caller) -> Answer {
        let Some(thread) = self.threads.get(caller.thread) else { return Ok(Outcome::Ended) };
        let state = &thread.sched;
        let Some(entry) = self.sched.cpus.get_mut(caller.cpu.0 as usize) else { return Ok(Outcome::OK) };
        let others = match state.class {
            Class::Edf => state.donor.is_none(),
            Class::Fixed => entry.fixed_filled & 1u32.wrapping_shl(u32::from(state.priority)) != 0,
            Class::BestEffort => entry.fair.len() != 0,
            Class::Background => !entry.background.is_empty(),
        };
        if others {
            entry.turn_over = true;
            entry.yielded = true;
            entry.attention |= attention::CHOOSE;
        }
        Ok(Outcome::OK)
    }

    /// Changes affinity and segment bases.
    pub(crate) fn thread_set_attr(&mut self, caller: Caller, thread: Object, attr: ThreadAttr) -> Answer {
        let thread = Self::thread_of(thread)?;
        let bases = attr.mask.intersects(ThreadAttrMask::FS_BASE.or(ThreadAttrMask::GS_BASE));
        if bases && thread != caller.thread {
            return Err(Error::NotPermitted);
        }
        if (attr.mask.contains(ThreadAttrMask::FS_BASE) && attr.fs_base >= USER_END)
            || (attr.mask.contains(ThreadAttrMask::GS_BASE) && attr.gs_base >= USER_END)
        {
            return Err(Error::Invalid);
        }
        if attr.mask.contains(ThreadAttrMask::AFFINITY) {
            self.thread_set_affinity(thread, attr.affinity)?;
        }
        let Some(entry) = self.threads.get_mut(thread) else { return Err(Error::BadState) };
        if attr.mask.contains(ThreadAttrMask::FS_BASE) {
            entry.registers.fs_base = attr.fs_base;
        }
        if attr.mask.contains(ThreadAttrMask::GS_BASE) {
            entry.registers.gs_base = attr.gs_base;
        }
        Ok(Outcome::OK)
    }

    /// Tells about a thread.
    pub(crate) fn thread_get_info(&mut self, caller: Caller, thread: Object, to: Out<ThreadInfo>) -> Answer {
        let id = Self::thread_of(thread)?;
        let now = self.clock();
        if let Some(cpu) = self.runs_on(id) {
            self.charge_run(cpu, now);
        }
        let depth = self.call_depth(id);
        let thread = self.threads.get(id).ok_or(Error::BadState)?;
        let effective = Params { class: thread.sched.class, priority: thread.sched.priority, ..thread.sched.params };
        let info = ThreadInfo {
            id: id.number(),
            unit_id: thread.unit.number(),
            state: state_told(thread),
            exit_reason: thread.exit_reason,
            exit_code: thread.exit_code,
            sched_class: class_told(thread.sched.params.class),
            base_priority: priority_told(&thread.sched.params),
            effective_class: class_told(effective.class),
            effective_priority: priority_told(&effective),
            cpu_time: thread.sched.stats.run,
            affinity: thread.sched.affinity,
            last_cpu: thread.sched.cpu.0,
            call_depth: depth,
            flags: if thread.main { ThreadFlags::MAIN } else { ThreadFlags::NONE },
            ..ThreadInfo::new()
        };
        self.write_out(caller, &to, |bytes| info.encode(bytes))?;
        Ok(Outcome::OK)
    }

    /// Ends another thread, or the caller.
    pub(crate) fn thread_kill(&mut self, caller: Caller, thread: Cap, code: i64) -> Answer {
        let thread = Self::thread_of(thread.object)?;
        let state = self.threads.get(thread).ok_or(Error::BadState)?.state;
        if state == ThreadState::Ended {
            return Err(Error::BadState);
        }
        self.thread_stop(thread, code, ExitReason::Killed);
        Ok(if thread == caller.thread { Outcome::Ended } else { Outcome::OK })
    }

    /// Sets what new threads of a unit get, and with `APPLY_TO_THREADS` those it has.
    pub(crate) fn sched_set_unit_params(&mut self, _caller: Caller, unit: Object, asked: SchedParams) -> Answer {
        let Object::Unit(unit) = unit else { return Err(Error::WrongType) };
        let (params, _) = params_asked(&asked)?;
        if params.class == Class::Edf {
            return Err(Error::Invalid);
        }
        self.within_ceiling(unit, params.class)?;
        let Some(entry) = self.units.get_mut(unit) else { return Err(Error::BadState) };
        (entry.class, entry.base_priority) = (class_told(params.class), priority_told(&params));
        if !asked.flags.contains(SchedFlags::APPLY_TO_THREADS) {
            return Ok(Outcome::OK);
        }
        // Made again after every step: threads that have the parameters already are passed over, and the queue is turned so
        // that each step begins with others.
        let count = entry.threads.len() as usize;
        let mut changed = 0;
        let mut thread = entry.threads.first();
        for _ in 0..count {
            let Some(now) = thread else { break };
            thread = self.units.get(unit).and_then(|unit| unit.threads.after(&self.threads, now));
            if self.threads.get(now).is_some_and(|entry| entry.sched.params == params) {
                continue;
            }
            if changed == STEP {
                return Ok(Outcome::Again);
            }
            changed += 1;
            self.thread_set_params(now, params)?;
        }
        Ok(Outcome::OK)
    }

    /// Sets class and parameters of a thread.
    pub(crate) fn sched_set_thread_params(&mut self, _caller: Caller, thread: Object, asked: SchedParams) -> Answer {
        let thread = Self::thread_of(thread)?;
        let (params, cpu) = params_asked(&asked)?;
        if !asked.flags.is_none() {
            return Err(Error::Invalid);
        }
        let entry = self.threads.get(thread).ok_or(Error::BadState)?;
        let (unit, affinity) = (entry.unit, entry.sched.affinity);
        if entry.state == ThreadState::Ended {
            return Err(Error::BadState);
        }
        self.within_ceiling(unit, params.class)?;
        match cpu {
            None => self.thread_set_params(thread, params)?,
            Some(cpu) if cpu.0 < self.sched.cpus.len() as u32 && affinity & bit(cpu) != 0 => {
                self.thread_settle_on(thread, params, cpu)?;
            }
            Some(_) => return Err(Error::Invalid),
        }
        Ok(Outcome::OK)
    }

    /// Tells how a thread, or all threads of a unit, fared.
    pub(crate) fn sched_query(&mut self, caller: Caller, object: Object, to: Out<SchedStats>) -> Answer {
        let now = self.clock();
        let (params, stats) = match object {
            Object::Thread(id) => {
                if let Some(cpu) = self.runs_on(id) {
                    self.charge_run(cpu, now);
                }
                let thread = self.threads.get(id).ok_or(Error::BadState)?;
                (thread.sched.params, thread.sched.stats)
            }
            Object::Unit(id) => {
                self.charge_running(id);
                let unit = self.units.get(id).ok_or(Error::BadState)?;
                (params_of(unit.class, unit.base_priority, Params::default())?, self.unit_stats(id))
            }
            _ => return Err(Error::WrongType),
        };
        let told = SchedStats {
            class: class_told(params.class),
            priority: priority_told(&params),
            run_time: stats.run,
            wait_time: stats.wait,
            max_wait: stats.max_wait,
            switches: stats.switches,
            preemptions: stats.preemptions,
            voluntary: stats.voluntary,
            migrations: stats.migrations,
            misses: stats.misses,
            throttles: stats.throttles,
            max_lateness: stats.max_lateness,
            periods: stats.periods,
            donated_time: stats.donated,
            ..SchedStats::new()
        };
        self.write_out(caller, &to, |bytes| told.encode(bytes))?;
        Ok(Outcome::OK)
    }

    /// What is counted of a unit's threads, those that ended included. Of those that live, the first 64 are looked at beyond
    /// their run time, so that asking takes a bounded time.
    pub(crate) fn unit_stats(&self, unit: UnitId) -> Stats {
        let Some(entry) = self.units.get(unit) else { return Stats::default() };
        let mut all = entry.sched.ended;
        let next = |thread: &ThreadId| entry.threads.after(&self.threads, *thread);
        for thread in core::iter::successors(entry.threads.first(), next).take(STEP) {
            if let Some(thread) = self.threads.get(thread) {
                all.add(&thread.sched.stats);
            }
        }
        all.run = entry.sched.stats.run;
        all
    }

    /// How long the threads of a unit ran.
    pub(crate) fn unit_cpu_time(&mut self, unit: UnitId) -> Nanos {
        self.charge_running(unit);
        Nanos(self.units.get(unit).map_or(0, |unit| unit.sched.stats.run))
    }

    /// The highest class of a unit was lowered: threads above it are put down to `BEST_EFFORT`.
    pub(crate) fn unit_ceiling_changed(&mut self, unit: UnitId) {
        let Some(entry) = self.units.get(unit) else { return };
        let ceiling = entry.max_class;
        let mut thread = entry.threads.first();
        while let Some(now) = thread {
            thread = self.units.get(unit).and_then(|unit| unit.threads.after(&self.threads, now));
            let above = |class| !ceiling.allows(class_told(class));
            if self.threads.get(now).is_some_and(|thread| above(thread.sched.params.class)) {
                // Leaving a class is always admitted.
                let _ = self.thread_set_params(now, Params::default());
            }
        }
    }

    /// Reads a clock.
    pub(crate) fn time_get(&mut self, caller: Caller, clock: ClockId) -> Answer {
        Ok(Outcome::Done(self.clock_of(caller, clock)))
    }

    /// Makes a timer.
    pub(crate) fn timer_create(&mut self, caller: Caller, clock: ClockId, spec: TimerSpec) -> Answer {
        let relative = spec.flags.contains(TimerFlags::RELATIVE);
        let timer = self.timer_new(caller.unit, clock, relative, Nanos(spec.slack))?;
        let handle = self.install_or(caller.unit, Object::Timer(timer), ObjectType::Timer, |kernel| {
            kernel.timer_released(timer);
        })?;
        Ok(Outcome::Done(handle.raw() as u64))
    }

    /// Arms a timer.
    pub(crate) fn timer_arm(
        &mut self,
        _caller: Caller,
        timer: Cap,
        deadline: Nanos,
        mode: TimerMode,
        period: u64,
    ) -> Answer {
        let timer = Self::timer_of(&timer)?;
        let good = match mode {
            TimerMode::OneShot => period == 0,
            TimerMode::Periodic => (limits::MIN_PERIOD..=limits::MAX_PERIOD).contains(&period),
        };
        if !good || deadline == Nanos::NEVER {
            return Err(Error::Invalid);
        }
        self.timer_set(timer, deadline, Nanos(period));
        Ok(Outcome::OK)
    }

    /// Disarms a timer.
    pub(crate) fn timer_cancel(&mut self, _caller: Caller, timer: Cap) -> Answer {
        if self.timer_stop(Self::timer_of(&timer)?) { Ok(Outcome::OK) } else { Err(Error::BadState) }
    }

    /// Tells about a timer.
    pub(crate) fn timer_get_info(&mut self, caller: Caller, timer: Cap, to: Out<TimerInfo>) -> Answer {
        let id = Self::timer_of(&timer)?;
        let timer = self.timers.all.get(id).ok_or(Error::BadState)?;
        let info = TimerInfo {
            id: id.number(),
            deadline: timer.deadline.0,
            period: timer.period.0,
            expirations: timer.expirations,
            clock: timer.clock,
            mode: Self::timer_mode(timer),
            ..TimerInfo::new()
        };
        self.write_out(caller, &to, |bytes| info.encode(bytes))?;
        Ok(Outcome::OK)
    }
}

/// Where a thread is in its life, in the interface.
fn state_told(thread: &Thread) -> holm_abi::ThreadState {
    use holm_abi::ThreadState as Told;
    match thread.state {
        ThreadState::Created => Told::Created,
        ThreadState::Ready if thread.sched.place == Place::Throttled => Told::Throttled,
        ThreadState::Ready | ThreadState::Running => Told::Runnable,
        ThreadState::Blocked => Told::Blocked,
        ThreadState::Ended => Told::Exited,
    }
}

//! A kernel whose threads are played by a test: time passes, timers fire, kicks arrive, and what the kernel lets run is seen.

use std::vec::Vec;

use crate::caller::Caller;
use crate::kernel::{Kernel, Next};
use crate::machine::{CpuId, Machine, Nanos, SpaceId};
use crate::quota::Quotas;
use crate::sched::{Class, Params};
use crate::sim::SimMachine;
use crate::thread::{ThreadId, ThreadState};
use crate::thread_life::ThreadStart;
use crate::unit::{Unit, UnitId, UnitState};
use crate::wait::Wait;

/// What each unit may have of everything.
pub(crate) const LIMIT: u64 = 1 << 24;

/// A kernel and what its processors do.
pub(crate) struct World {
    pub(crate) kernel: Kernel<SimMachine>,
    pub(crate) unit: UnitId,
    cpus: u32,
    running: Vec<Option<ThreadId>>,
}

impl World {
    /// `cpus` idle processors and a unit without threads.
    pub(crate) fn new(cpus: u32) -> Self {
        let mut kernel = Kernel::empty(SimMachine::new(cpus)).unwrap();
        let unit = kernel.units.insert(new_unit()).unwrap();
        let mut world = Self { kernel, unit, cpus, running: std::vec![None; cpus as usize] };
        for cpu in 0..cpus {
            let next = world.kernel.kicked(CpuId(cpu));
            world.left(CpuId(cpu), next);
        }
        world
    }

    /// A thread that is ready.
    pub(crate) fn spawn(&mut self, params: Params, affinity: u64) -> ThreadId {
        self.try_spawn(params, affinity).unwrap()
    }

    pub(crate) fn try_spawn(&mut self, params: Params, affinity: u64) -> Result<ThreadId, holm_abi::Error> {
        let start = ThreadStart { entry: 0x1000, stack: 0x2000, arguments: [0; 3], space: SpaceId(1) };
        let thread = self.kernel.thread_new(self.unit, start, params, affinity)?;
        self.inside(|kernel| kernel.thread_start(thread).unwrap());
        Ok(thread)
    }

    /// Something happens in the kernel on processor 0, as by an interrupt there.
    pub(crate) fn inside<T>(&mut self, what: impl FnOnce(&mut Kernel<SimMachine>) -> T) -> T {
        self.inside_on(CpuId(0), what)
    }

    pub(crate) fn inside_on<T>(&mut self, cpu: CpuId, what: impl FnOnce(&mut Kernel<SimMachine>) -> T) -> T {
        self.kernel.arrive(cpu);
        let result = what(&mut self.kernel);
        let next = self.kernel.leave(cpu);
        self.left(cpu, next);
        self.deliver_kicks();
        result
    }

    fn left(&mut self, cpu: CpuId, next: Next) {
        self.running[cpu.0 as usize] = match next {
            Next::Run(thread, _) => Some(thread),
            Next::Idle => None,
            Next::Halt(how) => panic!("halted: {how:?}"),
        };
    }

    pub(crate) fn deliver_kicks(&mut self) {
        while let Some(cpu) = self.kernel.machine.take_kick() {
            let next = self.kernel.kicked(cpu);
            self.left(cpu, next);
        }
        self.check();
    }

    /// Who runs on a processor.
    pub(crate) fn on(&self, cpu: u32) -> Option<ThreadId> {
        self.running[cpu as usize]
    }

    pub(crate) fn now(&self) -> Nanos {
        self.kernel.machine.now()
    }

    /// The next time at which a timer fires.
    pub(crate) fn next_timer(&self) -> Nanos {
        (0..self.cpus).map(|cpu| self.kernel.machine.timer(CpuId(cpu))).min().unwrap()
    }

    /// Lets time pass until `end`; timers fire when they are due. `seen` is told of every stretch: from, to, who runs where.
    pub(crate) fn run_until(&mut self, end: Nanos, mut seen: impl FnMut(Nanos, Nanos, &[Option<ThreadId>])) {
        loop {
            let now = self.now();
            let until = self.next_timer().max(now).min(end);
            if until > now {
                seen(now, until, &self.running);
                self.kernel.machine.advance(until.since(now));
            }
            let due: Vec<u32> = (0..self.cpus).filter(|cpu| self.kernel.machine.timer(CpuId(*cpu)) <= until).collect();
            if due.is_empty() {
                return;
            }
            for cpu in due {
                self.fire(CpuId(cpu));
            }
            if self.now() >= end && self.next_timer() > end {
                return;
            }
        }
    }

    fn fire(&mut self, cpu: CpuId) {
        self.kernel.machine.set_timer(cpu, Nanos::NEVER);
        let next = self.kernel.timer(cpu);
        self.left(cpu, next);
        self.deliver_kicks();
    }

    /// The thread that runs on `cpu` waits until `deadline`, or until it is woken.
    pub(crate) fn block(&mut self, thread: ThreadId, deadline: Nanos) {
        let cpu = self.kernel.runs_on(thread).expect("only a running thread blocks");
        let unit = self.unit;
        self.inside_on(cpu, |kernel| kernel.block(Caller { cpu, thread, unit }, Wait::Time, deadline));
    }

    /// The thread yields.
    pub(crate) fn yield_now(&mut self, thread: ThreadId) {
        let cpu = self.kernel.runs_on(thread).expect("only a running thread yields");
        let unit = self.unit;
        self.inside_on(cpu, |kernel| {
            kernel.thread_yield(Caller { cpu, thread, unit }).unwrap();
        });
    }

    pub(crate) fn wake(&mut self, thread: ThreadId) {
        self.inside(|kernel| kernel.wake(thread, Ok(0)));
    }

    pub(crate) fn state(&self, thread: ThreadId) -> ThreadState {
        self.kernel.threads.get(thread).map_or(ThreadState::Ended, |thread| thread.state)
    }

    pub(crate) fn ran(&self, thread: ThreadId) -> u64 {
        self.kernel.threads.get(thread).unwrap().sched.stats.run
    }

    pub(crate) fn class(&self, thread: ThreadId) -> Class {
        self.kernel.threads.get(thread).unwrap().sched.class
    }

    /// What must hold whenever no processor is in the kernel.
    pub(crate) fn check(&mut self) {
        for cpu in 0..self.cpus {
            assert_eq!(self.kernel.broken_invariant(CpuId(cpu)), None, "on processor {cpu}");
            let seen = self.kernel.sched.cpus[cpu as usize].current;
            assert_eq!(seen, self.running[cpu as usize], "processor {cpu} runs what the kernel says");
            let next = self.kernel.sched.cpus[cpu as usize].deadlines.next();
            assert!(self.kernel.machine.timer(CpuId(cpu)) <= next, "the timer of {cpu} fires for the next deadline");
        }
        for (id, thread) in self.kernel.threads.iter() {
            let runs = self.running.contains(&Some(id));
            assert_eq!(runs, thread.state == ThreadState::Running, "{id:?}");
            if thread.state == ThreadState::Ready {
                use crate::sched::Place;
                match thread.sched.place {
                    Place::Queued => assert!(thread.run_link.queued(), "{id:?}"),
                    Place::Throttled => assert!(thread.sched.deadline_place.is_some(), "{id:?} waits for its budget"),
                    other => panic!("{id:?} is ready and {other:?}"),
                }
            }
        }
    }
}

fn new_unit() -> Unit {
    let mut unit = Unit::new(None, Quotas::new(LIMIT, LIMIT, 65_536, LIMIT));
    (unit.state, unit.references) = (UnitState::Running, 1);
    unit
}

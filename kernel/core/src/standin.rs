//! Stand-ins for what other parts of the core do, until they are merged: each is dropped when its owner's is there.

use holm_abi::Error;

use crate::event::{EventId, Source};
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::queue::Link;
use crate::thread::{EntryKind, Registers, Thread, ThreadId, ThreadState, Vector};
use crate::time::TimerId;
use crate::unit::UnitId;
use crate::wait::Wait;

impl<M: Machine> Kernel<M> {
    pub(crate) fn timer_references(&mut self, _id: TimerId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn event_references(&mut self, _id: EventId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn trace_reader_references(&mut self, _id: crate::trace::ReaderId) -> Option<&mut u32> {
        None
    }
    pub(crate) fn trace_reader_released(&mut self, _id: crate::trace::ReaderId) {}
    pub(crate) fn timer_released(&mut self, _id: TimerId) {}
    pub(crate) fn event_released(&mut self, _id: EventId) {}
    pub(crate) fn thread_released(&mut self, id: ThreadId) {
        if self.threads.get(id).is_some_and(|thread| thread.state == ThreadState::Ended)
            && let Some(thread) = self.threads.remove(id)
        {
            self.release(crate::Object::Unit(thread.unit));
        }
    }
    pub(crate) fn sched_handoff(&mut self, _cpu: CpuId, to: ThreadId) {
        self.sched_woken(to);
    }
    pub(crate) fn sched_inherit(&mut self, _server: ThreadId, _donor: ThreadId) {}
    pub(crate) fn sched_disinherit(&mut self, _server: ThreadId) {}
    pub(crate) fn raise(&mut self, _source: Source, _mask: u64, _data0: u64, _data1: u64) {}
    pub(crate) fn watchers_gone(&mut self, _source: Source) {}
    pub(crate) fn unit_cpu_time(&self, _unit: UnitId) -> Nanos {
        Nanos(0)
    }
    pub(crate) fn unit_ceiling_changed(&mut self, _unit: UnitId) {}
    pub(crate) fn thread_first(&mut self, unit: UnitId, entry: u64, stack: u64, info: u64) -> Result<ThreadId, Error> {
        self.charge(unit, crate::quota::Resource::Threads, 1)?;
        let space = self.units.get(unit).and_then(|unit| unit.memory.root).ok_or(Error::BadState)?;
        let registers = Registers { rip: entry, rsp: stack, rdi: info, rflags: 0x202, ..Registers::default() };
        let thread = self
            .threads
            .insert(Thread {
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
                space,
                sched: crate::sched::ThreadSched::default(),
                calls: crate::channel::ThreadCalls::default(),
                memory: crate::memory::ThreadMemory::default(),
                restricted: crate::restricted::ThreadRestricted::default(),
                references: 1,
                number: 0,
                exit_code: 0,
            })
            .map_err(|_| Error::NoMemory)?;
        let owner = self.units.get_mut(unit).ok_or(Error::BadState)?;
        owner.threads.push(&mut self.threads, thread);
        owner.references += 1;
        Ok(thread)
    }
    pub(crate) fn thread_start(&mut self, thread: ThreadId) -> Result<(), Error> {
        let entry = self.threads.get_mut(thread).ok_or(Error::BadState)?;
        entry.state = ThreadState::Ready;
        self.sched_woken(thread);
        Ok(())
    }
    pub(crate) fn thread_kill(&mut self, thread: ThreadId, code: i64) -> bool {
        self.thread_end(thread, code);
        true
    }
    pub(crate) fn thread_end(&mut self, thread: ThreadId, code: i64) {
        let Some(entry) = self.threads.get_mut(thread) else { return };
        entry.state = ThreadState::Ended;
        let unit = entry.unit;
        let mut last = false;
        if let Some(owner) = self.units.get_mut(unit) {
            owner.threads.remove(&mut self.threads, thread);
            last = owner.threads.is_empty();
        }
        self.memory_abandon(thread);
        self.restricted_abandon(thread);
        self.refund(unit, crate::quota::Resource::Threads, 1);
        if last {
            self.unit_threads_gone(unit, code);
        }
        self.release(crate::Object::Thread(thread));
    }
}

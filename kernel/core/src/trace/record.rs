//! Writing trace records.

use holm_abi::{EventMask, TraceKind, TraceRecord};

use crate::cap::GrantId;
use crate::event::Source;
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine, Nanos};
use crate::sched::attention;
use crate::thread::{ThreadId, ThreadState};
use crate::time::TimerId;
use crate::trace::{RING, Reader, Told};
use crate::unit::UnitId;

/// How many readers are told of one record.
const MAX_READERS: u32 = 16;

impl Reader {
    /// Whether it wants a record.
    pub(crate) const fn accepts(&self, record: &TraceRecord) -> bool {
        self.kinds & (1 << record.kind as u32) != 0
            && (self.only_unit == 0 || self.only_unit == record.unit)
            && self.cpus & 1u64.wrapping_shl(record.cpu) != 0
    }
}

impl<M: Machine> Kernel<M> {
    /// Adds a record to the trace of this processor when someone reads records of this kind.
    #[inline]
    pub(crate) fn trace_event(&mut self, kind: TraceKind, data: [u64; 4]) {
        if self.trace.wants(kind) {
            self.trace_record(kind, data);
        }
    }

    fn trace_record(&mut self, kind: TraceKind, data: [u64; 4]) {
        let now = self.clock();
        let here = self.sched.here;
        let thread = self.sched.cpu(here).and_then(|cpu| cpu.current);
        let unit = thread.and_then(|thread| self.threads.get(thread)).map_or(0, |thread| thread.unit.number());
        let Some(ring) = self.trace.rings.get_mut(here.0 as usize) else { return };
        let record = TraceRecord {
            timestamp: now.0,
            sequence: ring.written,
            cpu: here.0,
            kind,
            unit,
            thread: thread.map_or(0, crate::arena::Id::number),
            data,
        };
        let at = (ring.written % RING as u64) as usize;
        match ring.records.get_mut(at) {
            Some(old) => *old = record,
            None => ring.records.push(record),
        }
        ring.written += 1;
        let mut from = 0;
        for _ in 0..MAX_READERS {
            let Some((id, reader)) = self.trace.readers.next_from(from) else { return };
            from = id.index() + 1;
            if reader.told == Told::No
                && reader.accepts(&record)
                && let Some(reader) = self.trace.readers.get_mut(id)
            {
                reader.told = Told::Soon;
                self.trace.tells = true;
                self.attend(here, attention::TRACE);
            }
        }
    }

    /// Tells readers of what was recorded in this entry. Not at once: a record may be of a scheduler in the midst of its work,
    /// and who is told wakes.
    pub(crate) fn trace_tell(&mut self) {
        self.trace.tells = false;
        let mut from = 0;
        while let Some((id, reader)) = self.trace.readers.next_from(from) {
            from = id.index() + 1;
            if reader.told == Told::Soon {
                if let Some(reader) = self.trace.readers.get_mut(id) {
                    reader.told = Told::Yes;
                }
                self.raise(Source::Trace(id), EventMask::READABLE, 0, 0);
            }
        }
    }

    /// A processor changed to another thread.
    #[inline]
    pub(crate) fn trace_switch(&mut self, _cpu: CpuId, before: Option<ThreadId>, after: ThreadId) {
        if self.trace.wants(TraceKind::Switch) {
            let before = before.map_or(0, crate::arena::Id::number);
            self.trace_record(TraceKind::Switch, [before, after.number(), 0, 0]);
        }
    }

    /// A thread started or ended.
    pub(crate) fn trace_thread(&mut self, thread: ThreadId) {
        let state = match self.threads.get(thread).map(|entry| entry.state) {
            Some(ThreadState::Ended) => holm_abi::ThreadState::Exited,
            _ => holm_abi::ThreadState::Runnable,
        };
        self.trace_event(TraceKind::ThreadState, [thread.number(), state as u64, 0, 0]);
    }

    /// A thread became runnable.
    #[inline]
    pub(crate) fn trace_wake(&mut self, thread: ThreadId) {
        if self.trace.wants(TraceKind::Wake) {
            let waker = self.sched.cpu(self.sched.here).and_then(|cpu| cpu.current);
            self.trace_record(TraceKind::Wake, [thread.number(), waker.map_or(0, crate::arena::Id::number), 0, 0]);
        }
    }

    /// A unit came into its state.
    pub(crate) fn trace_unit(&mut self, unit: UnitId) {
        let Some(entry) = self.units.get(unit) else { return };
        let data = [unit.number(), entry.state as u64, entry.end.reason as u64, 0];
        self.trace_event(TraceKind::UnitState, data);
    }

    /// A capability got into the hands of `to`: granted, derived or transferred by `from`.
    pub(crate) fn trace_grant(&mut self, grant: GrantId, from: u64, to: UnitId) {
        if self.trace.wants(TraceKind::CapGrant)
            && let Some(node) = self.caps.grants.get(grant)
        {
            let data = [node.object.number(), from, to.number(), node.rights.bits()];
            self.trace_record(TraceKind::CapGrant, data);
        }
    }

    /// A timer expired.
    pub(crate) fn trace_timer(&mut self, timer: TimerId, due: Nanos) {
        self.trace_event(TraceKind::Timer, [timer.number(), due.0, 0, 0]);
    }

    /// The kinds that someone reads changed.
    pub(crate) fn trace_renew(&mut self) {
        let enabled = self.config.trace;
        let read = self.trace.readers.iter().fold(0, |kinds, (_, reader)| kinds | reader.kinds);
        self.trace.kinds = if enabled { read } else { 0 };
        if !self.config.trace_syscalls {
            self.trace.kinds &= !(1 << TraceKind::SyscallEnter as u32 | 1 << TraceKind::SyscallExit as u32);
        }
        self.machine.crossings_end();
    }
}

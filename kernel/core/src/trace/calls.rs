//! The system calls on trace and log.

use holm_abi::{Error, LogRange, ObjectType, TraceFilter, TraceKind, TraceRecord, limits};

use crate::caller::{Answer, Caller, InOut, Outcome};
use crate::cap::Cap;
use crate::dispatch::{Records, UserSlice};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;
use crate::quota::Resource;
use crate::trace::log::TEXT;
use crate::trace::{RING, Reader, ReaderId, Told};

/// Records that one call looks at at most.
const LOOK: u64 = 256;
/// Bytes of the time in front of a line of the log, and its end.
const STAMP: usize = 24;

impl<M: Machine> Kernel<M> {
    fn reader_cost(&self) -> u64 {
        size_of::<Reader>() as u64 + 8 * self.sched.cpus.len() as u64
    }

    /// Adds a record of a program to the trace.
    pub(crate) fn trace_emit(&mut self, caller: Caller, _system: Cap, event: u64, data: UserSlice) -> Answer {
        let event = u32::try_from(event).map_err(|_| Error::Invalid)?;
        let mut bytes = [0; 24];
        let bytes = bytes.get_mut(..usize::try_from(data.length).unwrap_or(usize::MAX)).ok_or(Error::TooBig)?;
        self.copy_in(caller.unit, data.address, bytes)?;
        let mut words = [u64::from(event), 0, 0, 0];
        for (word, chunk) in words.iter_mut().skip(1).zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            for (to, from) in whole.iter_mut().zip(chunk) {
                *to = *from;
            }
            *word = u64::from_le_bytes(whole);
        }
        self.trace_event(TraceKind::User, words);
        Ok(Outcome::OK)
    }

    /// Makes a reader of the trace.
    pub(crate) fn trace_subscribe(&mut self, caller: Caller, _system: Cap, filter: TraceFilter) -> Answer {
        let cost = self.reader_cost();
        let mut next = alloc::vec::Vec::new();
        next.try_reserve_exact(self.trace.rings.len()).map_err(|_| Error::NoMemory)?;
        next.extend(self.trace.rings.iter().map(|ring| ring.written));
        self.charge(caller.unit, Resource::Kernel, cost)?;
        let reader = Reader {
            references: 0,
            watchers: crate::event::Watchers::default(),
            unit: caller.unit,
            kinds: if filter.kinds == 0 { u64::MAX } else { filter.kinds },
            only_unit: filter.unit,
            cpus: if filter.cpus == 0 { u64::MAX } else { filter.cpus },
            next,
            told: Told::No,
        };
        let Ok(reader) = self.trace.readers.insert(reader) else {
            self.refund(caller.unit, Resource::Kernel, cost);
            return Err(Error::NoMemory);
        };
        let handle = self.install_or(caller.unit, Object::Trace(reader), ObjectType::Trace, |kernel| {
            kernel.trace_reader_released(reader);
        })?;
        self.trace_renew();
        Ok(Outcome::Done(handle.raw() as u64))
    }

    /// Nothing names a reader any more.
    pub(crate) fn trace_reader_released(&mut self, id: ReaderId) {
        let cost = self.reader_cost();
        self.watchers_gone(crate::event::Source::Trace(id));
        let Some(reader) = self.trace.readers.remove(id) else { return };
        self.refund(reader.unit, Resource::Kernel, cost);
        self.trace_renew();
    }

    pub(crate) fn trace_reader_references(&mut self, id: ReaderId) -> Option<&mut u32> {
        self.trace.readers.get_mut(id).map(|reader| &mut reader.references)
    }

    /// The next record for a reader, of all processors the oldest; what it does not want is skipped. `looked` counts down.
    fn trace_next(&mut self, id: ReaderId, looked: &mut u64) -> Option<TraceRecord> {
        loop {
            let reader = self.trace.readers.get(id)?;
            let oldest = self
                .trace
                .rings
                .iter()
                .enumerate()
                .filter_map(|(cpu, ring)| {
                    let wanted = *reader.next.get(cpu)?;
                    let number = wanted.max(ring.written.saturating_sub(RING as u64));
                    if number >= ring.written {
                        return None;
                    }
                    Some((ring.records.get((number % RING as u64) as usize)?, cpu, number))
                })
                .min_by_key(|(record, ..)| record.timestamp);
            let (record, cpu, number) = oldest.map(|(record, cpu, number)| (*record, cpu, number))?;
            let wanted = reader.accepts(&record);
            if *looked == 0 {
                return None;
            }
            if wanted {
                return Some(record);
            }
            *looked -= 1;
            if let Some(next) = self.trace.readers.get_mut(id)?.next.get_mut(cpu) {
                *next = number + 1;
            }
        }
    }

    /// Whether a reader has something to read.
    pub(crate) fn trace_has_more(&mut self, id: ReaderId) -> bool {
        let mut looked = LOOK;
        // When there is too much to look at, reading will tell.
        self.trace_next(id, &mut looked).is_some() || looked == 0
    }

    /// Gives a reader its records.
    pub(crate) fn trace_read(&mut self, caller: Caller, trace: Cap, to: Records<TraceRecord>) -> Answer {
        let Object::Trace(id) = trace.object else { return Err(Error::WrongType) };
        let wanted = to.count.min(limits::MAX_RECORDS);
        let mut looked = LOOK;
        let mut given = 0;
        if let Some(reader) = self.trace.readers.get_mut(id) {
            reader.told = Told::No;
        }
        while given < wanted {
            let Some(record) = self.trace_next(id, &mut looked) else { break };
            let mut bytes = [0; TraceRecord::SIZE];
            record.encode(&mut bytes);
            self.copy_out(caller.unit, to.at(given), &bytes)?;
            if let Some(next) =
                self.trace.readers.get_mut(id).and_then(|reader| reader.next.get_mut(record.cpu as usize))
            {
                *next = record.sequence + 1;
            }
            given += 1;
        }
        if given == 0 && looked == 0 {
            return Ok(Outcome::Again);
        }
        Ok(Outcome::Done(given))
    }

    /// Gives lines of the log.
    pub(crate) fn sys_get_logs(&mut self, caller: Caller, _log: Cap, range: InOut<LogRange>, to: UserSlice) -> Answer {
        let mut given = LogRange { sequence: range.value.sequence, lost: 0, chain: 0, ..range.value };
        let oldest = self.trace.log.oldest();
        if given.sequence < oldest {
            given.lost = oldest - given.sequence;
            given.sequence = oldest;
        }
        let mut written = 0u64;
        let room = to.length.min(limits::MAX_COPY);
        for _ in 0..limits::MAX_RECORDS {
            let Some(line) = self.trace.log.line(given.sequence).copied() else { break };
            let mut text = [0; TEXT + STAMP];
            let length = lay_out(&line, &mut text);
            if written + length as u64 > room {
                break;
            }
            let bytes = text.get(..length).unwrap_or_default();
            self.copy_out(caller.unit, to.address.wrapping_add(written), bytes)?;
            written += length as u64;
            given.chain = line.chain;
            given.sequence += 1;
        }
        self.write_back(caller, &range, range.value.size, |bytes| given.encode(bytes))?;
        Ok(Outcome::Done(written))
    }
}

/// A line as it is read: seconds, text, end. Says how many bytes it has.
fn lay_out(line: &crate::trace::log::Line, to: &mut [u8; TEXT + STAMP]) -> usize {
    use core::fmt::Write;
    struct Cut<'a>(&'a mut [u8], usize);
    impl Write for Cut<'_> {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            for (to, byte) in self.0.iter_mut().skip(self.1).zip(text.bytes()) {
                *to = byte;
                self.1 += 1;
            }
            Ok(())
        }
    }
    let mut cut = Cut(to, 0);
    // Cannot fail: what does not fit is cut.
    let _ = write!(cut, "[{:6}.{:06}] ", line.time.0 / 1_000_000_000, line.time.0 / 1_000 % 1_000_000);
    let mut at = cut.1;
    for byte in line.text().iter().chain(b"\n") {
        if let Some(to) = to.get_mut(at) {
            *to = *byte;
            at += 1;
        }
    }
    at
}

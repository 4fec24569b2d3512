//! The console: a line to the outside that units reach by a capability.

use holm_abi::{Error, EventMask, limits};

use crate::caller::{Answer, Caller, Outcome};
use crate::cap::Cap;
use crate::dispatch::UserSlice;
use crate::event::Source;
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};
use crate::queue::{Queue, Through};
use crate::thread::ThreadId;
use crate::wait::Wait;

/// Bytes that are kept until someone reads them; more are dropped.
const INPUT: usize = 256;
/// Bytes that are written in one step: a serial line takes its time.
const STEP: usize = 64;

/// What was typed and not yet read, and who waits for it.
#[derive(Debug)]
pub struct Console {
    input: [u8; INPUT],
    start: usize,
    length: usize,
    waiters: Queue,
    /// Bytes that found no room.
    pub(crate) dropped: u64,
}

impl Default for Console {
    fn default() -> Self {
        Self { input: [0; INPUT], start: 0, length: 0, waiters: Queue::new(Through::Wait), dropped: 0 }
    }
}

/// What a thread that waits for input waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsoleWait {
    /// Where the bytes go.
    pub address: u64,
    /// How many.
    pub length: u64,
}

impl Console {
    fn push(&mut self, byte: u8) {
        if self.length == INPUT {
            self.dropped += 1;
            return;
        }
        if let Some(place) = self.input.get_mut((self.start + self.length) % INPUT) {
            *place = byte;
            self.length += 1;
        }
    }

    /// Copies the oldest bytes; they stay.
    fn peek(&self, to: &mut [u8]) -> usize {
        let length = to.len().min(self.length);
        for (at, place) in to.iter_mut().take(length).enumerate() {
            *place = self.input.get((self.start + at) % INPUT).copied().unwrap_or(0);
        }
        length
    }

    const fn drop_first(&mut self, length: usize) {
        self.start = (self.start + length) % INPUT;
        self.length -= length;
    }
}

impl<M: Machine> Kernel<M> {
    pub(crate) const fn console_has_input(&self) -> bool {
        self.console.length > 0
    }

    /// A byte came in.
    pub(crate) fn console_byte(&mut self, byte: u8) {
        self.console.push(byte);
        while self.console.length > 0 {
            let Some(thread) = self.console.waiters.pop(&mut self.threads) else { break };
            let Some((unit, Wait::Console(wait))) = self.threads.get(thread).map(|entry| (entry.unit, entry.wait))
            else {
                continue;
            };
            let result = self.console_give(unit, wait);
            self.wake(thread, result);
        }
        if self.console.length > 0 {
            self.raise(Source::Console, EventMask::READABLE, 0, 0);
        }
    }

    fn console_give(&mut self, unit: crate::unit::UnitId, wait: ConsoleWait) -> Result<u64, Error> {
        let mut bytes = [0; INPUT];
        let wanted = usize::try_from(wait.length).unwrap_or(INPUT).min(INPUT);
        let length = self.console.peek(bytes.get_mut(..wanted).unwrap_or_default());
        self.copy_out(unit, wait.address, bytes.get(..length).unwrap_or_default())?;
        self.console.drop_first(length);
        Ok(length as u64)
    }

    /// Takes a thread out of those that wait for input.
    pub(crate) fn console_give_up(&mut self, thread: ThreadId) {
        self.console.waiters.remove(&mut self.threads, thread);
    }

    /// Reads what was typed; waits for the first byte.
    pub(crate) fn console_read(&mut self, caller: Caller, _console: Cap, to: UserSlice, deadline: Nanos) -> Answer {
        if to.length == 0 {
            return Ok(Outcome::OK);
        }
        let wait = ConsoleWait { address: to.address, length: to.length };
        if self.console_has_input() {
            return self.console_give(caller.unit, wait).map(Outcome::Done);
        }
        if deadline <= self.clock() {
            return Err(Error::TimedOut);
        }
        self.console.waiters.push(&mut self.threads, caller.thread);
        self.block(caller, Wait::Console(wait), deadline);
        Ok(Outcome::Blocked)
    }

    /// Writes to the console. A step is short because the line is slow; the caller gets how many bytes went out and goes on
    /// with the rest.
    pub(crate) fn console_write(&mut self, caller: Caller, _console: Cap, from: UserSlice) -> Answer {
        let mut bytes = [0; STEP];
        let length = usize::try_from(from.length.min(limits::MAX_COPY)).unwrap_or(STEP).min(STEP);
        let bytes = bytes.get_mut(..length).unwrap_or_default();
        self.copy_in(caller.unit, from.address, bytes)?;
        self.machine.console_write(bytes);
        Ok(Outcome::Done(length as u64))
    }
}

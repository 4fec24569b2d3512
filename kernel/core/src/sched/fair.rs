//! Fair sharing by weight, with a pick in constant time.
//!
//! A thread's virtual time grows while it runs, the slower the greater its weight; the thread with the least is behind and
//! runs next. Exact order needs a tree. Here virtual time is cut into buckets (one is about 1.3 ms of weight 100): a ring of
//! 64 queues and a bitmap, first come first served within one. Two threads are then treated in the wrong order only when
//! they are less than a bucket apart, so that shares over a long run differ from the weights by at most a bucket and a turn
//! per thread. Turns are shorter for small weights, so that one turn never leaves the ring.
//!
//! Virtual time wraps; only differences count. A thread that slept comes back at most [`CREDIT`] behind the others: sleeping
//! is not saving.

use crate::arena::Arena;
use crate::machine::Nanos;
use crate::queue::{Queue, Through};
use crate::thread::{Thread, ThreadId};

const BUCKETS: usize = 64;
/// A bucket is 2^27 units; a nanosecond at weight 100 is 100 units.
const SHIFT: u32 = 27;
/// Buckets are numbers of 37 bits, which wrap.
const NUMBERS: u64 = u64::MAX >> SHIFT;
/// How far behind the others a thread may come back.
pub const CREDIT: u64 = 1 << SHIFT;
/// How far ahead the current thread is before one that wakes takes its place.
pub const GRAIN: u64 = CREDIT / 2;

/// The weight that a thread has when nothing is said, and the virtual time of a nanosecond at weight 1.
const USUAL: u32 = 100;
const SCALE: u64 = 10_000;

/// Virtual time of `ran` nanoseconds at `weight`.
#[must_use]
pub const fn virtual_time(ran: u64, weight: u32) -> u64 {
    // Nearly all have it, and a division takes its time.
    if weight == USUAL { ran.wrapping_mul(SCALE / USUAL as u64) } else { unusual_time(ran, weight) }
}

#[cold]
const fn unusual_time(ran: u64, weight: u32) -> u64 {
    match weight {
        0 => ran.wrapping_mul(SCALE),
        _ => ran.wrapping_mul(SCALE) / weight as u64,
    }
}

/// How long a turn is when it is `base` at weight 100: in proportion to the weight, between an eighth and twice of it.
#[must_use]
pub const fn turn(base: Nanos, weight: u32) -> Nanos {
    let length = base.0.saturating_mul(weight as u64) / 100;
    Nanos(if length < base.0 / 8 {
        base.0 / 8
    } else if length > base.0 * 2 {
        base.0 * 2
    } else {
        length
    })
}

/// `a - b` of virtual times, which wrap.
#[must_use]
pub const fn ahead(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b) as i64
}

/// Where a thread that is as far as its bucket's others goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// In front: it was interrupted in its turn, or comes back from sleep.
    Front,
    /// Behind: its turn is over.
    Back,
    /// Behind at least one other: it yielded.
    BehindFirst,
}

/// The ready `BEST_EFFORT` threads of a processor.
#[derive(Debug)]
pub struct Fair {
    ring: [Queue; BUCKETS],
    filled: u64,
    /// The bucket where the ring starts; no thread is in an earlier one.
    start: u64,
    /// Virtual time of the processor: never goes back.
    pub(crate) now: u64,
    length: u32,
}

impl Fair {
    pub(crate) const fn new() -> Self {
        Self { ring: [Queue::new(Through::Run); BUCKETS], filled: 0, start: 0, now: 0, length: 0 }
    }

    /// How many threads are ready.
    pub(crate) const fn len(&self) -> u32 {
        self.length
    }

    /// The virtual time that a thread with `time` goes on with: not too far behind, nor out of the ring.
    pub(crate) const fn admit(&self, time: u64) -> u64 {
        let behind = ahead(time, self.now);
        if behind < -(CREDIT as i64) {
            self.now.wrapping_sub(CREDIT)
        } else if behind > ((BUCKETS as i64 - 2) << SHIFT) {
            self.now.wrapping_add((BUCKETS as u64 - 2) << SHIFT)
        } else {
            time
        }
    }

    /// The processor's virtual time is at least `time`: that of the thread that is furthest behind.
    pub(crate) const fn advance(&mut self, time: u64) {
        if ahead(time, self.now) > 0 {
            self.now = time;
        }
    }

    fn first_bucket(&self) -> Option<u64> {
        if self.filled == 0 {
            return None;
        }
        let from_start = self.filled.rotate_right((self.start % BUCKETS as u64) as u32).trailing_zeros();
        Some(self.start.wrapping_add(u64::from(from_start)) & NUMBERS)
    }

    pub(crate) fn push(&mut self, threads: &mut Arena<Thread, 1>, thread: ThreadId, time: u64, entry: Entry) {
        let mut bucket = time >> SHIFT;
        match self.first_bucket() {
            None => self.start = self.now.wrapping_sub(CREDIT) >> SHIFT,
            Some(first) if entry == Entry::BehindFirst && distance(bucket, first) < 0 => bucket = first,
            Some(_) => {}
        }
        let offset = distance(bucket, self.start).clamp(0, BUCKETS as i64 - 1) as u64;
        let at = (self.start.wrapping_add(offset) % BUCKETS as u64) as usize;
        match entry {
            Entry::Front => self.ring[at].push_front(threads, thread),
            Entry::Back | Entry::BehindFirst => self.ring[at].push(threads, thread),
        }
        self.filled |= 1 << at;
        self.length += 1;
        if let Some(entry) = threads.get_mut(thread) {
            entry.sched.bucket = at as u8;
        }
    }

    /// The thread to run next.
    pub(crate) fn pop(&mut self, threads: &mut Arena<Thread, 1>) -> Option<ThreadId> {
        let bucket = self.first_bucket()?;
        self.start = bucket;
        let at = (bucket % BUCKETS as u64) as usize;
        let thread = self.ring[at].pop(threads)?;
        self.taken(at);
        Some(thread)
    }

    /// Takes out a thread that is queued here.
    pub(crate) fn remove(&mut self, threads: &mut Arena<Thread, 1>, thread: ThreadId) {
        let Some(entry) = threads.get(thread) else { return };
        let at = entry.sched.bucket as usize % BUCKETS;
        self.ring[at].remove(threads, thread);
        self.taken(at);
    }

    const fn taken(&mut self, at: usize) {
        if self.ring[at].is_empty() {
            self.filled &= !(1 << at);
        }
        self.length -= 1;
    }

    /// The first of at most `limit` threads, in the order in which they would run, that `wanted` accepts.
    pub(crate) fn find(
        &self,
        threads: &Arena<Thread, 1>,
        limit: u32,
        wanted: impl Fn(&Thread) -> bool,
    ) -> Option<ThreadId> {
        let mut left = limit;
        let turned = (self.start % BUCKETS as u64) as u32;
        let mut filled = self.filled.rotate_right(turned);
        while filled != 0 {
            let at = (filled.trailing_zeros() + turned) as usize % BUCKETS;
            filled &= filled - 1;
            let mut next = self.ring[at].first();
            while let Some(thread) = next {
                if left == 0 {
                    return None;
                }
                left -= 1;
                if threads.get(thread).is_some_and(&wanted) {
                    return Some(thread);
                }
                next = self.ring[at].after(threads, thread);
            }
        }
        None
    }

    /// Whether bitmap, count and queues agree: for the sampled checks.
    pub(crate) fn is_whole(&self) -> bool {
        let mut length = 0;
        let agreed = self.ring.iter().enumerate().all(|(at, queue)| {
            length += queue.len();
            queue.is_empty() == (self.filled & (1 << at) == 0)
        });
        agreed && length == self.length
    }
}

/// `a - b` of bucket numbers, which have 37 bits and wrap.
const fn distance(a: u64, b: u64) -> i64 {
    (a.wrapping_sub(b) << SHIFT) as i64 >> SHIFT
}

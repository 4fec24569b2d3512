//! The deadlines of one processor: a heap that finds the earliest in constant time and changes in logarithmic time.
//!
//! Room is reserved when a thread or a timer is made, so that setting a deadline cannot fail; it comes in pieces, so that
//! growing moves no deadline. Every thread and timer is in at most one heap, once, and knows its place there.

use alloc::vec::Vec;

use crate::arena::{Arena, Full};
use crate::machine::{CpuId, Nanos};
use crate::thread::{Thread, ThreadId};
use crate::time::{Timer, TimerId};

/// Who has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A thread: its wait ends, or its budget is refilled.
    Thread(ThreadId),
    /// A timer: it expires.
    Timer(TimerId),
}

/// Where a deadline stands: in whose heap, and at which place of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlinePlace {
    /// Whose heap.
    pub cpu: CpuId,
    at: u32,
}

/// A deadline's place belongs to what has it.
#[derive(Debug)]
pub(crate) struct Owners<'a> {
    pub(crate) threads: &'a mut Arena<Thread, 1>,
    pub(crate) timers: &'a mut Arena<Timer>,
}

impl Owners<'_> {
    fn place(&mut self, due: Due) -> Option<&mut Option<DeadlinePlace>> {
        match due {
            Due::Thread(thread) => Some(&mut self.threads.get_mut(thread)?.sched.deadline_place),
            Due::Timer(timer) => Some(&mut self.timers.get_mut(timer)?.place),
        }
    }

    fn set(&mut self, due: Due, place: Option<DeadlinePlace>) {
        if let Some(known) = self.place(due) {
            *known = place;
        }
    }
}

/// Deadlines of one piece of a heap.
const PIECE: usize = 128;

/// The deadlines of one processor.
#[derive(Debug)]
pub struct Deadlines {
    cpu: CpuId,
    /// The heap, cut into pieces that are full but for the last used one.
    pieces: Vec<Vec<(Nanos, Due)>>,
    length: usize,
}

impl Deadlines {
    /// None, of processor `cpu`.
    #[must_use]
    pub const fn new(cpu: CpuId) -> Self {
        Self { cpu, pieces: Vec::new(), length: 0 }
    }

    /// Bytes that one more deadline may take in one heap.
    pub const ENTRY: u64 = size_of::<(Nanos, Due)>() as u64;

    /// Makes room for `total` deadlines.
    ///
    /// # Errors
    /// [`Full`] when there is no memory for them.
    pub fn reserve(&mut self, total: usize) -> Result<(), Full> {
        while self.pieces.len() * PIECE < total {
            let mut piece = Vec::new();
            piece.try_reserve_exact(PIECE).map_err(|_| Full)?;
            self.pieces.try_reserve(1).map_err(|_| Full)?;
            self.pieces.push(piece);
        }
        Ok(())
    }

    #[inline]
    fn at(&self, at: usize) -> Option<(Nanos, Due)> {
        self.pieces.get(at / PIECE)?.get(at % PIECE).copied()
    }

    /// When what stands at `at` is due; nothing is never.
    #[inline]
    fn when(&self, at: usize) -> Nanos {
        self.at(at).map_or(Nanos::NEVER, |(when, _)| when)
    }

    fn put(&mut self, at: usize, what: (Nanos, Due)) {
        if let Some(place) = self.pieces.get_mut(at / PIECE).and_then(|piece| piece.get_mut(at % PIECE)) {
            *place = what;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        if let (Some(first), Some(second)) = (self.at(one), self.at(other)) {
            self.put(one, second);
            self.put(other, first);
        }
    }

    /// The earliest deadline, or [`Nanos::NEVER`].
    #[must_use]
    #[inline]
    pub fn next(&self) -> Nanos {
        self.when(0)
    }

    /// How many deadlines there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no deadline.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds the deadline of `due`, which has none.
    pub(crate) fn insert(&mut self, owners: &mut Owners<'_>, when: Nanos, due: Due) {
        let at = self.length;
        debug_assert!(at < self.pieces.len() * PIECE, "room for every deadline is reserved");
        let Some(piece) = self.pieces.get_mut(at / PIECE) else { return };
        piece.push((when, due));
        self.length += 1;
        self.rise(owners, at);
    }

    /// Takes out the earliest deadline when it is not later than `now`.
    pub(crate) fn take_due(&mut self, owners: &mut Owners<'_>, now: Nanos) -> Option<Due> {
        let (when, due) = self.at(0)?;
        if when > now {
            return None;
        }
        self.remove_at(owners, 0);
        owners.set(due, None);
        Some(due)
    }

    /// Takes out the deadline that stands at `place`.
    pub(crate) fn remove(&mut self, owners: &mut Owners<'_>, place: DeadlinePlace) {
        if let Some((_, due)) = self.at(place.at as usize) {
            self.remove_at(owners, place.at as usize);
            owners.set(due, None);
        }
    }

    fn remove_at(&mut self, owners: &mut Owners<'_>, at: usize) {
        let Some(last) = self.length.checked_sub(1) else { return };
        self.swap(at, last);
        if let Some(piece) = self.pieces.get_mut(last / PIECE) {
            piece.pop();
        }
        self.length = last;
        if at < last {
            let at = self.rise(owners, at);
            self.sink(owners, at);
        }
    }

    fn rise(&mut self, owners: &mut Owners<'_>, from: usize) -> usize {
        let mut at = from;
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.when(parent) <= self.when(at) {
                break;
            }
            self.swap(parent, at);
            self.tell(owners, at);
            at = parent;
        }
        self.tell(owners, at);
        at
    }

    fn sink(&mut self, owners: &mut Owners<'_>, from: usize) {
        let mut at = from;
        loop {
            let left = 2 * at + 1;
            if left >= self.length {
                break;
            }
            let right = left + 1;
            let child = if right < self.length && self.when(right) < self.when(left) { right } else { left };
            if self.when(at) <= self.when(child) {
                break;
            }
            self.swap(at, child);
            self.tell(owners, at);
            at = child;
        }
        self.tell(owners, at);
    }

    fn tell(&self, owners: &mut Owners<'_>, at: usize) {
        if let Some((_, due)) = self.at(at) {
            owners.set(due, Some(DeadlinePlace { cpu: self.cpu, at: at as u32 }));
        }
    }

    /// Whether the heap is ordered and everyone knows its place: for the sampled checks.
    pub(crate) fn is_whole(&self, owners: &mut Owners<'_>) -> bool {
        (0..self.length).all(|at| {
            self.at(at).is_some_and(|(when, due)| {
                (at == 0 || self.when((at - 1) / 2) <= when)
                    && owners
                        .place(due)
                        .is_some_and(|place| *place == Some(DeadlinePlace { cpu: self.cpu, at: at as u32 }))
            })
        })
    }
}

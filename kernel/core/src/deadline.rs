//! The deadlines of one processor: a heap that finds the earliest in constant time and changes in logarithmic time.
//!
//! Room is reserved when a thread or a timer is made, so that setting a deadline cannot fail. Every thread and timer is in
//! at most one heap, once, and knows its place there.

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
    pub(crate) threads: &'a mut Arena<Thread>,
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

/// The deadlines of one processor.
#[derive(Debug)]
pub struct Deadlines {
    cpu: CpuId,
    heap: Vec<(Nanos, Due)>,
}

impl Deadlines {
    /// None, of processor `cpu`.
    #[must_use]
    pub const fn new(cpu: CpuId) -> Self {
        Self { cpu, heap: Vec::new() }
    }

    /// Bytes that one more deadline may take in one heap.
    pub const ENTRY: u64 = size_of::<(Nanos, Due)>() as u64;

    /// Makes room for `total` deadlines.
    ///
    /// # Errors
    /// [`Full`] when there is no memory for them.
    pub fn reserve(&mut self, total: usize) -> Result<(), Full> {
        if total <= self.heap.capacity() {
            return Ok(());
        }
        self.heap.try_reserve(total - self.heap.len()).map_err(|_| Full)
    }

    /// The earliest deadline, or [`Nanos::NEVER`].
    #[must_use]
    #[inline]
    pub fn next(&self) -> Nanos {
        self.heap.first().map_or(Nanos::NEVER, |(when, _)| *when)
    }

    /// How many deadlines there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is no deadline.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Adds the deadline of `due`, which has none.
    pub(crate) fn insert(&mut self, owners: &mut Owners<'_>, when: Nanos, due: Due) {
        debug_assert!(self.heap.len() < self.heap.capacity(), "room for every deadline is reserved");
        self.heap.push((when, due));
        self.rise(owners, self.heap.len() - 1);
    }

    /// Takes out the earliest deadline when it is not later than `now`.
    pub(crate) fn take_due(&mut self, owners: &mut Owners<'_>, now: Nanos) -> Option<Due> {
        let (when, due) = *self.heap.first()?;
        if when > now {
            return None;
        }
        self.remove_at(owners, 0);
        owners.set(due, None);
        Some(due)
    }

    /// Takes out the deadline that stands at `place`.
    pub(crate) fn remove(&mut self, owners: &mut Owners<'_>, place: DeadlinePlace) {
        if let Some((_, due)) = self.heap.get(place.at as usize).copied() {
            self.remove_at(owners, place.at as usize);
            owners.set(due, None);
        }
    }

    fn remove_at(&mut self, owners: &mut Owners<'_>, at: usize) {
        self.heap.swap_remove(at);
        if at < self.heap.len() {
            let at = self.rise(owners, at);
            self.sink(owners, at);
        }
    }

    fn rise(&mut self, owners: &mut Owners<'_>, from: usize) -> usize {
        let mut at = from;
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent].0 <= self.heap[at].0 {
                break;
            }
            self.heap.swap(parent, at);
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
            if left >= self.heap.len() {
                break;
            }
            let right = left + 1;
            let child = if right < self.heap.len() && self.heap[right].0 < self.heap[left].0 { right } else { left };
            if self.heap[at].0 <= self.heap[child].0 {
                break;
            }
            self.heap.swap(at, child);
            self.tell(owners, at);
            at = child;
        }
        self.tell(owners, at);
    }

    fn tell(&self, owners: &mut Owners<'_>, at: usize) {
        owners.set(self.heap[at].1, Some(DeadlinePlace { cpu: self.cpu, at: at as u32 }));
    }

    /// Whether the heap is ordered and everyone knows its place: for the sampled checks.
    pub(crate) fn is_whole(&self, owners: &mut Owners<'_>) -> bool {
        self.heap.iter().enumerate().all(|(at, (when, due))| {
            (at == 0 || self.heap[(at - 1) / 2].0 <= *when)
                && owners
                    .place(*due)
                    .is_some_and(|place| *place == Some(DeadlinePlace { cpu: self.cpu, at: at as u32 }))
        })
    }
}

//! Queues of threads: linked through the threads themselves, so that waiting needs no memory.
//!
//! A thread has one link for the queue it waits in and one for the run queue; each names its neighbours. All operations
//! take constant time.

use crate::arena::Arena;
use crate::thread::{Thread, ThreadId};

/// A thread's place in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    previous: Option<ThreadId>,
    next: Option<ThreadId>,
    queued: bool,
}

impl Link {
    /// Whether the thread is in a queue through this link.
    #[must_use]
    pub const fn queued(&self) -> bool {
        self.queued
    }
}

/// Which of a thread's links a queue uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// The queue of an object it waits for.
    Wait,
    /// A run queue.
    Run,
    /// The threads of a unit.
    Unit,
}

impl Through {
    const fn of(self, thread: &mut Thread) -> &mut Link {
        match self {
            Self::Wait => &mut thread.wait_link,
            Self::Run => &mut thread.run_link,
            Self::Unit => &mut thread.unit_link,
        }
    }

    const fn seen(self, thread: &Thread) -> &Link {
        match self {
            Self::Wait => &thread.wait_link,
            Self::Run => &thread.run_link,
            Self::Unit => &thread.unit_link,
        }
    }
}

/// Threads in the order in which they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    first: Option<ThreadId>,
    last: Option<ThreadId>,
    length: u32,
    through: Through,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub const fn new(through: Through) -> Self {
        Self { first: None, last: None, length: 0, through }
    }

    /// How many threads are in it.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.length
    }

    /// Whether no thread is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The thread that came first.
    #[must_use]
    pub const fn first(&self) -> Option<ThreadId> {
        self.first
    }

    /// The one thread that is in it, if it is one.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn only(&self) -> Option<ThreadId> {
        if self.length == 1 { self.first } else { None }
    }

    /// Takes out the one thread that is in it, with the link through which it is.
    #[inline(always)]
    pub(crate) const fn take_only(&mut self, link: &mut Link) {
        (self.first, self.last, self.length) = (None, None, 0);
        *link = Link { previous: None, next: None, queued: false };
    }

    /// Puts a thread, which is in no queue through this link, into this empty one.
    #[inline(always)]
    pub(crate) const fn put_only(&mut self, thread: ThreadId, link: &mut Link) {
        (self.first, self.last, self.length) = (Some(thread), Some(thread), 1);
        *link = Link { previous: None, next: None, queued: true };
    }

    /// Puts `thread`, which is in no queue through this link, at the end and takes the first one out, which is another.
    #[inline(always)]
    pub(crate) fn turn(&mut self, threads: &mut Arena<Thread, 1>, thread: ThreadId) -> Option<ThreadId> {
        if self.length != 1 {
            self.push(threads, thread);
            return self.pop(threads);
        }
        let first = self.first?;
        if let Some((entry, gone)) = threads.pair_mut(thread, first) {
            self.take_only(self.through.of(gone));
            self.put_only(thread, self.through.of(entry));
        }
        Some(first)
    }

    /// The thread behind `thread`, which is in this queue.
    #[must_use]
    pub fn after(&self, threads: &Arena<Thread, 1>, thread: ThreadId) -> Option<ThreadId> {
        self.through.seen(threads.get(thread)?).next
    }

    /// Adds `thread` at the end. Nothing happens when it is in a queue already.
    pub fn push(&mut self, threads: &mut Arena<Thread, 1>, thread: ThreadId) {
        let Some(entry) = threads.get_mut(thread) else { return };
        let link = self.through.of(entry);
        if link.queued {
            return;
        }
        *link = Link { previous: self.last, next: None, queued: true };
        match self.last.and_then(|last| threads.get_mut(last)) {
            Some(last) => self.through.of(last).next = Some(thread),
            None => self.first = Some(thread),
        }
        self.last = Some(thread);
        self.length += 1;
    }

    /// The thread that came last.
    #[must_use]
    pub const fn last(&self) -> Option<ThreadId> {
        self.last
    }

    /// The thread in front of `thread`, which is in this queue.
    #[must_use]
    pub fn before(&self, threads: &Arena<Thread, 1>, thread: ThreadId) -> Option<ThreadId> {
        self.through.seen(threads.get(thread)?).previous
    }

    /// Adds `thread` right behind `behind`, which is in this queue. Nothing happens when it is in a queue already.
    pub fn insert_behind(&mut self, threads: &mut Arena<Thread, 1>, behind: ThreadId, thread: ThreadId) {
        let Some(next) = self.after(threads, behind) else { return self.push(threads, thread) };
        let Some(entry) = threads.get_mut(thread) else { return };
        let link = self.through.of(entry);
        if link.queued {
            return;
        }
        *link = Link { previous: Some(behind), next: Some(next), queued: true };
        if let Some(entry) = threads.get_mut(behind) {
            self.through.of(entry).next = Some(thread);
        }
        if let Some(entry) = threads.get_mut(next) {
            self.through.of(entry).previous = Some(thread);
        }
        self.length += 1;
    }

    /// Adds `thread` at the front. Nothing happens when it is in a queue already.
    pub fn push_front(&mut self, threads: &mut Arena<Thread, 1>, thread: ThreadId) {
        let Some(entry) = threads.get_mut(thread) else { return };
        let link = self.through.of(entry);
        if link.queued {
            return;
        }
        *link = Link { previous: None, next: self.first, queued: true };
        match self.first.and_then(|first| threads.get_mut(first)) {
            Some(first) => self.through.of(first).previous = Some(thread),
            None => self.last = Some(thread),
        }
        self.first = Some(thread);
        self.length += 1;
    }

    /// Takes the first thread out.
    pub fn pop(&mut self, threads: &mut Arena<Thread, 1>) -> Option<ThreadId> {
        let first = self.first?;
        self.remove(threads, first);
        Some(first)
    }

    /// Takes `thread`, which is in this queue or in none, out.
    pub fn remove(&mut self, threads: &mut Arena<Thread, 1>, thread: ThreadId) {
        let Some(entry) = threads.get_mut(thread) else { return };
        let link = core::mem::take(self.through.of(entry));
        if !link.queued {
            return;
        }
        match link.previous.and_then(|previous| threads.get_mut(previous)) {
            Some(previous) => self.through.of(previous).next = link.next,
            None => self.first = link.next,
        }
        match link.next.and_then(|next| threads.get_mut(next)) {
            Some(next) => self.through.of(next).previous = link.previous,
            None => self.last = link.previous,
        }
        self.length -= 1;
    }
}

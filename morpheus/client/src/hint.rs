//! What a worker does all day: ask for a hint, take it, yield, and say when not to.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::time::Duration;

use morpheus_abi::{NO_DEADLINE, Reason, YieldCause};

use crate::lines::{self, LINES, Lines};
use crate::{clock, worker};

/// A request to yield, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// What the kernel asks for.
    pub reason: Reason,
    /// The hint's number within this registration; it wraps.
    pub seq: u32,
    /// When it was given: CLOCK_MONOTONIC in ns.
    pub time_ns: u64,
    /// By when to yield, or with [`Reason::Quota`] when the quota is refilled: CLOCK_MONOTONIC in ns.
    pub deadline_ns: Option<u64>,
}

impl Hint {
    /// How long ago the hint was given.
    pub fn age(&self) -> Duration {
        Duration::from_nanos(clock::now_ns().saturating_sub(self.time_ns))
    }

    /// How long until the deadline; zero when it has passed.
    pub fn until_deadline(&self) -> Option<Duration> {
        self.deadline_ns.map(|deadline| Duration::from_nanos(deadline.saturating_sub(clock::now_ns())))
    }
}

/// Whether [`take_hint`] is worth calling: the whole cost of a checkpoint without a hint.
///
/// A thread-local pointer and two relaxed loads. No test for an agent, a page or a worker: a thread without looks at a
/// static line on which nothing is ever pending.
#[inline(always)]
pub fn hint_pending() -> bool {
    // The closure answers with a bool: handing the lines out of it would cost a null test that finds nothing.
    LINES.with(|lines| {
        let Lines { kernel, runtime, .. } = lines.get();
        kernel.hint_seq.load(Ordering::Relaxed) != runtime.ack_seq.load(Ordering::Relaxed)
    })
}

/// Takes the pending hint, if there is one, and by that acknowledges it.
///
/// `None` also for a hint that does not count: of an agent whose heartbeat is stale, or with a reason this version does
/// not know. Such a hint is acknowledged too, so it does not stay pending.
#[inline(always)]
pub fn take_hint() -> Option<Hint> {
    if hint_pending() { take_pending() } else { None }
}

#[cold]
#[inline(never)]
fn take_pending() -> Option<Hint> {
    if lines::fire() || worker::settle() {
        return None;
    }
    let lines = LINES.get();
    let (seq, reason, time_ns, deadline_ns) = lines::read_hint(lines.kernel);
    lines.runtime.ack_seq.store(seq, Ordering::Relaxed);
    if !lines.live() {
        return None;
    }
    let deadline_ns = (deadline_ns != NO_DEADLINE).then_some(deadline_ns);
    reason.map(|reason| Hint { reason, seq, time_ns, deadline_ns })
}

/// Gives the CPU to another thread that is ready, with `sched_yield`. Not inside a critical section: there it does nothing
/// and answers false. Counted in the worker's ledger either way.
pub fn yield_thread() -> bool {
    yield_because(YieldCause::Voluntary)
}

/// Like [`yield_thread`], counted under the hint's reason.
pub fn yield_for(hint: &Hint) -> bool {
    yield_because(hint.reason.into())
}

fn yield_because(cause: YieldCause) -> bool {
    let lines = LINES.get();
    let withheld = in_critical();
    lines.count(if withheld { YieldCause::Withheld } else { cause }, clock::now_ns());
    if !withheld {
        rustix::thread::sched_yield();
    }
    !withheld
}

/// Counts a yield that did not give up the thread: a runtime that rotated its tasks for [`Reason::Local`].
pub fn record_yield(cause: YieldCause) {
    LINES.get().count(cause, clock::now_ns());
}

/// While it lives, Morpheus neither yields nor escalates this thread. Guards nest. The kernel's own preemption goes on.
#[derive(Debug)]
#[must_use = "the critical section ends when the guard is dropped"]
pub struct Critical {
    /// Of this thread: not to be sent to another.
    thread: PhantomData<*const ()>,
}

/// Begins a critical section of this thread. Works on threads that are no workers, too.
pub fn critical() -> Critical {
    lines::enter_critical();
    Critical { thread: PhantomData }
}

impl Drop for Critical {
    fn drop(&mut self) {
        lines::exit_critical();
    }
}

/// Whether this thread is in a critical section.
pub fn in_critical() -> bool {
    lines::critical_depth() > 0
}

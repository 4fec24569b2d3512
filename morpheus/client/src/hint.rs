//! What a worker does all day: ask for a hint, take it, yield, and say when not to.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::time::Duration;

use morpheus_abi::{NO_DEADLINE, Reason, YieldCause};

use crate::lines::{self, LINES, Lines};
use crate::pace::Pace;
use crate::{clock, worker};

thread_local! {
    static PACE: Cell<Pace> = const { Cell::new(Pace::new(false)) };
}

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
    let now_ns = clock::now_ns();
    if in_critical() {
        LINES.get().count(YieldCause::Withheld, now_ns);
        return false;
    }
    yield_because(YieldCause::Voluntary, now_ns);
    true
}

/// Like [`yield_thread`] for a hint, counted under its reason, at a pace that costs the worker no more than its fair share:
/// after a yield that took some time, the next is not done before the worker has run for as long as it was kept from its CPU
/// since (at most 20 ms). Then it answers false, as in a critical section. A [`polite`](crate::WorkerConfig::polite) worker yields each time.
pub fn yield_for(hint: &Hint) -> bool {
    let now_ns = clock::now_ns();
    let pace = PACE.get();
    let waited_ns = LINES.get().kernel.runqueue_wait_ns.load(Ordering::Relaxed);
    if in_critical() || !pace.allows(now_ns, waited_ns) {
        LINES.get().count(YieldCause::Withheld, now_ns);
        return false;
    }
    yield_because(hint.reason.into(), now_ns);
    PACE.set(pace.after(now_ns, clock::now_ns(), waited_ns));
    true
}

fn yield_because(cause: YieldCause, now_ns: u64) {
    LINES.get().count(cause, now_ns);
    rustix::thread::sched_yield();
}

/// Sets the calling thread's pace: it is a worker from now on.
pub(crate) fn begin_pace(polite: bool) {
    PACE.set(Pace::new(polite));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Both workers have just been away for a ms, by a clock that is an hour ahead: no slow machine ends the rest.
    #[test]
    fn a_costly_yield_is_followed_by_a_rest_unless_the_worker_is_polite() {
        let hint = Hint { reason: Reason::Waiter, seq: 1, time_ns: 0, deadline_ns: None };
        let ahead = clock::now_ns() + 3_600_000_000_000;
        for polite in [false, true] {
            begin_pace(polite);
            assert!(yield_for(&hint), "nothing to rest from");
            PACE.set(Pace::new(polite).after(ahead, ahead + 1_000_000, 0));
            assert_eq!(yield_for(&hint), polite);
            assert!(yield_thread(), "what the program wants is no matter of pace");
        }
    }
}

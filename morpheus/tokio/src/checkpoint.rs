//! The places where a task is ready to yield, and what a hint does there.

use morpheus::{Hint, Reason, hint_pending, in_critical, record_yield, take_hint, yield_for};

use crate::cooperative;

/// A place where this task may yield. Ready at once while nobody asks for the CPU, for the cost of
/// [`morpheus::hint_pending`].
///
/// With a hint pending, the task goes to the end of the runtime's queue once, and for `WAITER` and `SLICE_END` the worker
/// thread gives up the CPU: inside of [`cooperative`](crate::cooperative) when the whole task has returned to it, else
/// right here, where the task holds nothing that a `Send` future could not hold across an `await`. Inside a critical
/// section it is ready at once and leaves the hint pending.
#[inline]
pub async fn checkpoint() {
    if hint_pending() {
        answer().await;
    }
}

#[cold]
async fn answer() {
    if in_critical() {
        return;
    }
    // Inside of `cooperative` the hint stays pending until its poll ends, so that all branches of a `join!` see it and
    // give way; the wrapper takes it then.
    if cooperative::inside() || answer_between_tasks() {
        tokio::task::yield_now().await;
    }
}

/// Takes the pending hint, and gives up the thread if it asks for that. Whether there was a hint.
#[inline]
pub(crate) fn answer_between_tasks() -> bool {
    hint_pending() && !in_critical() && take_hint().is_some_and(|hint| give_way(&hint))
}

#[cold]
fn give_way(hint: &Hint) -> bool {
    match hint.reason {
        Reason::Waiter | Reason::SliceEnd => {
            yield_for(hint);
        }
        // The tasks change places here; that is all they ask of a runtime.
        Reason::Local | Reason::Quota | Reason::Pressure => record_yield(hint.reason.into()),
    }
    true
}

/// A place in a long computation without `await` where its thread may give up the CPU. The reason of the hint it took.
///
/// For `WAITER` and `SLICE_END` it has yielded the thread when it returns. The other reasons ask for something only the
/// caller can do: finish soon, or do less. Inside a critical section it does nothing and leaves the hint pending.
#[inline]
pub fn checkpoint_blocking() -> Option<Reason> {
    if hint_pending() { answer_blocking() } else { None }
}

#[cold]
fn answer_blocking() -> Option<Reason> {
    if in_critical() {
        return None;
    }
    let hint = take_hint()?;
    if matches!(hint.reason, Reason::Waiter | Reason::SliceEnd) {
        yield_for(&hint);
    }
    Some(hint.reason)
}

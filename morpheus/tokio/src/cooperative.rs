//! A future around another that answers hints before and after its polls.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::checkpoint::answer_between_tasks;

thread_local! {
    /// How many cooperative futures are being polled on this thread, one inside the other.
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// Whether a cooperative future is being polled on this thread, which will answer the pending hint.
pub(crate) fn inside() -> bool {
    POLLS.get() > 0
}

/// Makes `future` answer hints between its polls: before each, and after each that leaves it pending. The outermost of
/// nested cooperative futures does. It is ready exactly when `future` is, and pending only when `future` is, so it needs no
/// wake of its own.
///
/// Worth it for futures with `await`s that wait for something; a computation needs [`checkpoint`](crate::checkpoint)s
/// inside, which give way to the end of this future's poll.
pub fn cooperative<F: Future>(future: F) -> Cooperative<F> {
    Cooperative { future }
}

pin_project! {
    /// See [`cooperative`].
    #[derive(Debug, Clone)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Cooperative<F> {
        #[pin]
        future: F,
    }
}

/// Counts one poll, also through a panic.
struct Inside;

impl Inside {
    fn enter() -> Self {
        POLLS.set(POLLS.get() + 1);
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        POLLS.set(POLLS.get() - 1);
    }
}

impl<F: Future> Future for Cooperative<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.project().future;
        if inside() {
            return future.poll(cx);
        }
        answer_between_tasks();
        let poll = {
            let _inside = Inside::enter();
            future.poll(cx)
        };
        // A result is better handed over first: the next poll or checkpoint answers then.
        if poll.is_pending() {
            answer_between_tasks();
        }
        poll
    }
}

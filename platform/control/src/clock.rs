//! The time, replaceable so that tests decide when it passes.

use futures_util::future::BoxFuture;
use jiff::Timestamp;

/// Tells the time and waits for it.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Ends when the time is `at` or later.
    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()>;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn until(&self, at: Timestamp) -> BoxFuture<'_, ()> {
        let wait = at.duration_since(self.now());
        Box::pin(tokio::time::sleep(wait.try_into().unwrap_or_default()))
    }
}

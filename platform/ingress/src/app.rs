//! What one app may take of the ingress, over all its routes, so that a flood at one app leaves the others served.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::admission::Source;
use crate::rate::{Pace, nanos};
use crate::stats::Refusal;
use crate::table::AppLimits;

/// An app of the table in force.
#[derive(Debug)]
pub(crate) struct LiveApp {
    limits: AppLimits,
    pub(crate) used: Arc<AppUse>,
}

/// What an app takes now. Outlives tables.
#[derive(Debug)]
pub(crate) struct AppUse {
    began: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    pace: Pace,
    sources: HashMap<Source, usize>,
}

impl AppUse {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counts are changed in one step each, so they are right even after a panic elsewhere.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveApp {
    /// An app with what it took before, if it was there.
    pub(crate) fn new(limits: AppLimits, before: Option<&Self>) -> Self {
        let fresh = || Arc::new(AppUse { began: Instant::now(), counts: Mutex::default() });
        Self { limits, used: before.map_or_else(fresh, |before| Arc::clone(&before.used)) }
    }

    /// Counts one connection of `source` until the answer is dropped.
    pub(crate) fn enter(&self, source: Source) -> Result<InApp, Refusal> {
        let AppLimits { max_connections, max_per_source, connects } = self.limits;
        let mut counts = self.used.lock();
        if max_connections.is_some_and(|most| counts.open >= most) {
            return Err(Refusal::AppLimit);
        }
        let of_source = counts.sources.get(&source).copied().unwrap_or(0);
        if max_per_source.is_some_and(|most| of_source >= most) {
            return Err(Refusal::AppSourceLimit);
        }
        if connects.is_some_and(|rate| !counts.pace.take(rate, nanos(self.used.began.elapsed()))) {
            return Err(Refusal::AppRate);
        }
        counts.open += 1;
        counts.sources.insert(source, of_source + 1);
        Ok(InApp { used: Arc::clone(&self.used), source })
    }
}

/// One counted connection to an app.
#[derive(Debug)]
pub(crate) struct InApp {
    used: Arc<AppUse>,
    source: Source,
}

impl Drop for InApp {
    fn drop(&mut self) {
        let mut counts = self.used.lock();
        counts.open -= 1;
        if let Entry::Occupied(mut entry) = counts.sources.entry(self.source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn each_cap_of_an_app_refuses_with_its_own_reason_and_reopens() {
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let wide = AppLimits::default();
        let app = LiveApp::new(AppLimits { max_connections: Some(1), ..wide }, None);
        let held = app.enter(a).unwrap();
        assert_eq!(app.enter(b).unwrap_err(), Refusal::AppLimit);
        drop(held);
        drop(app.enter(b).unwrap());

        let app = LiveApp::new(AppLimits { max_per_source: Some(1), ..wide }, None);
        let held = app.enter(a).unwrap();
        assert_eq!(app.enter(a).unwrap_err(), Refusal::AppSourceLimit);
        let other = app.enter(b).unwrap();
        drop((held, other));
        drop(app.enter(a).unwrap());
        assert!(app.used.lock().sources.is_empty() && app.used.lock().open == 0);

        let once = Rate { per_second: 1, burst: 1 };
        let app = LiveApp::new(AppLimits { connects: Some(once), ..wide }, None);
        let _held = app.enter(a).unwrap();
        assert_eq!(app.enter(b).unwrap_err(), Refusal::AppRate);
    }

    #[test]
    fn a_new_table_keeps_what_the_app_has_and_takes_the_new_limits() {
        let before = LiveApp::new(AppLimits::default(), None);
        let _held = before.enter(source("192.0.2.1")).unwrap();
        let after = LiveApp::new(AppLimits { max_connections: Some(1), ..AppLimits::default() }, Some(&before));
        assert_eq!(after.enter(source("192.0.2.2")).unwrap_err(), Refusal::AppLimit);
    }
}

//! Equal work is done once: whoever asks for it while it runs shares its progress and its result.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Work in progress by key. It runs as its own task: it goes on when whoever asked for it has gone.
pub(crate) struct Flights<K, P, V> {
    running: Arc<Mutex<HashMap<K, Watch<P, V>>>>,
}

type Watch<P, V> = watch::Receiver<State<P, V>>;

struct State<P, V> {
    progress: Option<P>,
    result: Option<V>,
}

/// Tells those who wait how far the work is.
pub(crate) struct Reporter<P, V>(watch::Sender<State<P, V>>);

impl<P, V> Reporter<P, V> {
    pub(crate) fn report(&self, progress: P) {
        self.0.send_modify(|state| state.progress = Some(progress));
    }
}

impl<K, P, V> Default for Flights<K, P, V> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<K, P, V> Flights<K, P, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    P: Copy + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of the work for `key`: of the work that runs already, else of `work`. `None` if the work panicked.
    pub(crate) async fn run<F>(
        &self,
        key: K,
        mut progress: impl FnMut(P),
        work: impl FnOnce(Arc<Reporter<P, V>>) -> F,
    ) -> Option<V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut watch = self.join(key, work);
        loop {
            let (heard, result) = {
                let state = watch.borrow_and_update();
                (state.progress, state.result.clone())
            };
            if let Some(heard) = heard {
                progress(heard);
            }
            if result.is_some() || watch.changed().await.is_err() {
                return result;
            }
        }
    }

    fn join<F>(&self, key: K, work: impl FnOnce(Arc<Reporter<P, V>>) -> F) -> Watch<P, V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed channel is left by work that panicked.
        if let Some(watch) = running.get(&key).filter(|watch| watch.has_changed().is_ok()) {
            return watch.clone();
        }
        let (sender, watch) = watch::channel(State { progress: None, result: None });
        running.insert(key.clone(), watch.clone());
        let reporter = Arc::new(Reporter(sender));
        let work = work(Arc::clone(&reporter));
        let all = Arc::clone(&self.running);
        tokio::spawn(async move {
            let result = work.await;
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            reporter.0.send_modify(|state| state.result = Some(result));
        });
        watch
    }
}

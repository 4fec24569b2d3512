//! A forked child of a process that never had an agent. Alone in its file, since no other test may have mapped pages.

mod child;

use child::fork;
use morpheus::{Worker, WorkerConfig};

#[test]
fn a_child_of_a_worker_that_waits_for_an_agent_asks_anew() {
    let folder = tempfile::tempdir().unwrap();
    let config = WorkerConfig::new("waiting").socket(folder.path().join("nobody.sock"));
    let worker = Worker::register(config.clone());
    // The parent has just tried in vain and would not try again now.
    let code = fork(|| match Worker::try_register(config.clone()) {
        Err(morpheus::NotAvailable::NoAgent { source: Some(_), .. }) => 0,
        Err(_) => 1,
        Ok(_) => 2,
    });
    assert_eq!(code, 0);
    drop(worker);
}

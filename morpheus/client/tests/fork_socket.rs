//! A forked child closes its copy of the conversation's socket. Alone in its file, since it counts the process's sockets.

mod child;

use child::fork;
use morpheus::{Worker, WorkerConfig};
use morpheus_fake_agent::FakeAgent;

fn open_sockets() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("proc is mounted")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Else the agent would not see the conversation's end while the child lives.
#[test]
fn a_child_does_not_hold_its_parents_conversation_open() {
    let agent = FakeAgent::start();
    let _worker = Worker::register(WorkerConfig::new("parent").socket(agent.socket()));
    agent.running("parent");
    let parents = open_sockets();
    let childs = fork(|| u8::try_from(open_sockets()).unwrap());
    assert_eq!(usize::try_from(childs).unwrap() + 1, parents, "the child has all but the client's end");
}

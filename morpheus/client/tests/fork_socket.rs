//! A forked child closes its copy of the conversation's socket. Alone in its file, since it counts the process's sockets.

use std::time::Instant;

use morpheus::{Worker, WorkerConfig};
use morpheus_fake_agent::{FakeAgent, PATIENCE};

/// Runs `child` in a forked child, which ends with what it returns. Its exit status.
fn fork(child: impl FnOnce() -> u8) -> i32 {
    // SAFETY: the child runs only `child` and ends with `_exit`. That it allocates and takes locks of its own although
    // the parent has threads is what the C library's allocator supports, and what this file tests of Morpheus.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(255);
        // SAFETY: ends the child at once, without destructors of the parent's state.
        unsafe { libc::_exit(code.into()) };
    }
    let deadline = Instant::now() + PATIENCE;
    let mut status = 0;
    loop {
        // SAFETY: waits for this function's own child, into a live integer.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 if Instant::now() > deadline => {
                // SAFETY: ends this function's own child, which is not yet waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                panic!("the child hangs");
            }
            0 => std::thread::park_timeout(std::time::Duration::from_millis(1)),
            _ => return libc::WEXITSTATUS(status),
        }
    }
}

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

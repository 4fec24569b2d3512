//! A function run in a forked child of the test's process.

use std::time::Instant;

use morpheus_fake_agent::PATIENCE;

/// Runs `child` in a forked child, which ends with what it returns. Its exit code.
///
/// # Panics
/// When it ends by a signal, or not in time.
pub(crate) fn fork(child: impl FnOnce() -> u8) -> i32 {
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
            _ => {
                assert!(libc::WIFEXITED(status), "the child ended by a signal: {status:#x}");
                return libc::WEXITSTATUS(status);
            }
        }
    }
}

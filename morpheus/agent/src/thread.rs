//! Which thread a peer means, and that it is the peer's. A number alone proves nothing: it may be another thread's by the
//! time it is used. So a pidfd is opened first and looked at last; a thread that lives at the end had its number all along.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use morpheus_abi::protocol::Refusal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// `PIDFD_THREAD` (Linux 6.9): the thread itself, not its process. The kernel defines it as O_EXCL.
pub const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0o200);

/// A thread that was a peer's when it was looked at.
#[derive(Debug)]
pub struct PeersThread {
    /// The thread itself.
    pub pidfd: OwnedFd,
    /// Its number in our PID namespace.
    pub tid: u32,
}

/// Finds the peer's thread with this number as the peer sees it.
///
/// # Errors
/// [`Refusal::NotYourThread`] when there is none; [`Refusal::Internal`] when the kernel would not say.
pub fn identify(peer_pid: u32, peer: BorrowedFd<'_>, tid_there: u32) -> Result<PeersThread, Refusal> {
    let tid = translate(peer_pid, tid_there).ok_or(Refusal::NotYourThread)?;
    let number = i32::try_from(tid).ok().and_then(Pid::from_raw).ok_or(Refusal::NotYourThread)?;
    let pidfd = match pidfd_open(number, PIDFD_THREAD) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::NOENT) => return Err(Refusal::NotYourThread),
        Err(error) => {
            tracing::warn!(%error, tid, "cannot open a pidfd of a thread");
            return Err(Refusal::Internal);
        }
    };
    // Both are alive after the look into /proc, so both had their numbers during it.
    if tasks(peer_pid).join(tid.to_string()).exists() && lives(pidfd.as_fd()) && lives(peer) {
        Ok(PeersThread { pidfd, tid })
    } else {
        Err(Refusal::NotYourThread)
    }
}

/// Whether the thread or process of a pidfd has not ended.
pub fn lives(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0))
}

fn tasks(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task"))
}

/// The number here of the thread that has this number in the peer's PID namespace. Both are the same unless the peer is in
/// a namespace of its own, such as a container's.
fn translate(pid: u32, tid_there: u32) -> Option<u32> {
    if numbers(&format!("/proc/{pid}/status"))?.len() == 1 {
        return Some(tid_there);
    }
    std::fs::read_dir(tasks(pid)).ok()?.filter_map(Result::ok).find_map(|entry| {
        let tid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let numbers = numbers(&format!("/proc/{pid}/task/{tid}/status"))?;
        (numbers.last() == Some(&tid_there)).then_some(tid)
    })
}

/// A thread's numbers from our namespace inwards: the `NSpid` line of its status.
fn numbers(path: &str) -> Option<Vec<u32>> {
    nspid(&std::fs::read_to_string(path).ok()?)
}

fn nspid(status: &str) -> Option<Vec<u32>> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_numbers_are_read_from_our_namespace_inwards() {
        assert_eq!(nspid("Name:\tx\nNSpid:\t4711\t12\nNSpgid:\t1\n"), Some(vec![4711, 12]));
        assert_eq!(nspid("NSpid:\t9\n"), Some(vec![9]));
        assert_eq!(nspid("Name:\tx\n"), None);
    }

    fn own() -> (u32, OwnedFd) {
        (std::process::id(), pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap())
    }

    #[test]
    fn a_thread_of_the_peers_process_is_found() {
        let (pid, pidfd) = own();
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        assert_eq!(identify(pid, pidfd.as_fd(), tid).unwrap().tid, tid);
    }

    #[test]
    fn threads_of_others_and_numbers_of_nobody_are_refused() {
        let (pid, pidfd) = own();
        for tid in [1, 0, u32::MAX, i32::MAX as u32] {
            assert_eq!(identify(pid, pidfd.as_fd(), tid).unwrap_err(), Refusal::NotYourThread, "{tid}");
        }
    }

    #[test]
    fn a_thread_that_has_ended_is_refused() {
        let (pid, pidfd) = own();
        let tid = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get() as u32).join().unwrap();
        // The kernel may take the thread's entry away a moment after join returns.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while tasks(pid).join(tid.to_string()).exists() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(identify(pid, pidfd.as_fd(), tid).unwrap_err(), Refusal::NotYourThread);
    }
}

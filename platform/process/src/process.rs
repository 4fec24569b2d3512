//! A process held by its pidfd: whether it lives, its end, its identity.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};

use crate::stat::start_time;

/// A process, told apart from a later one with the same number by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

/// A process that was alive when it was opened. It stays the same process whatever becomes of its number.
#[derive(Debug)]
pub struct Process {
    identity: ProcessIdentity,
    pidfd: OwnedFd,
}

/// How a process ended, as far as it can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Only its parent is told.
    NotOurChild,
}

/// Whether the process with this number has not ended. The answer is about whoever has the number now: for more than one
/// question open a [`Process`].
///
/// # Errors
/// What the kernel says when it cannot be told, as when there is no descriptor left.
pub fn lives(pid: u32) -> io::Result<bool> {
    hold(pid)?.map_or(Ok(false), |pidfd| ends_within(&pidfd, Duration::ZERO).map(|ended| !ended))
}

/// The descriptor of the process that has this number now.
fn hold(pid: u32) -> io::Result<Option<OwnedFd>> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    match pidfd_open(number, PidfdFlags::empty()) {
        // The last two, by the kernel's age: the number of a process just reaped, or of a thread that leads none.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn ends_within(pidfd: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

impl Process {
    /// Opens the process with this number: `None` when there is none, or when it has ended and only waits to be reaped.
    ///
    /// # Errors
    /// What the kernel says, as when there is no descriptor left; what `/proc` says when it is not as in
    /// proc_pid_stat(5).
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pidfd) = hold(pid)? else { return Ok(None) };
        let Some(start_time) = start_time(pid)? else { return Ok(None) };
        // Asked last: while it lives nobody else has its number, so what was read is its own.
        let process = Self { identity: ProcessIdentity { pid, start_time }, pidfd };
        Ok(process.lives()?.then_some(process))
    }

    /// What tells it from every other process of this boot.
    #[must_use]
    pub const fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Whether it has not ended. One that only waits to be reaped has: its descriptors are closed and its locks given
    /// back, in all of its threads.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn lives(&self) -> io::Result<bool> {
        self.ends_within(Duration::ZERO).map(|ended| !ended)
    }

    /// Waits until it has ended, for so long at the most; says whether it has.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn ends_within(&self, patience: Duration) -> io::Result<bool> {
        ends_within(&self.pidfd, patience)
    }

    /// A descriptor that becomes readable when it ends.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn watch_fd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Sends SIGKILL; a process that has ended already is fine.
    ///
    /// # Errors
    /// When it belongs to somebody else.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends a signal; a process that has ended already is fine.
    ///
    /// # Errors
    /// When it belongs to somebody else.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Collects the exit status of a child that has ended. Blocks while it has not.
    #[must_use]
    pub fn reap(&self) -> ProcessEnd {
        match retry_on_intr(|| waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ProcessEnd::Code(code),
                (None, Some(signal)) => ProcessEnd::Signal(signal),
                (None, None) => ProcessEnd::NotOurChild,
            },
            Ok(None) | Err(_) => ProcessEnd::NotOurChild,
        }
    }
}

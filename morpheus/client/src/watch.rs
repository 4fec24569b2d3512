//! The one thread of Morpheus in a process: it sleeps until the agent goes, then tries until one is back.

use std::io;
use std::os::fd::OwnedFd;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};

use crate::domain::Domain;
use crate::sys;

/// Starts the watcher of a domain.
pub(crate) fn start(domain: &'static Domain) -> io::Result<()> {
    let watcher = thread::Builder::new().name("morpheus-watch".to_owned()).stack_size(128 << 10);
    sys::without_signals(|| watcher.spawn(move || domain.watch())).map(drop)
}

/// Returns when the other end is gone, or this end was shut down. Data is not waited for: requests wait for their own.
pub(crate) fn wait_for_end(socket: &OwnedFd) {
    let mut ends = [PollFd::new(socket, PollFlags::RDHUP)];
    // Only a signal can interrupt, and the caller looks again then; all are blocked.
    let _ = poll(&mut ends, None);
}

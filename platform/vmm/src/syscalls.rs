//! What needs `unsafe`: starting a process apart from this one, attaching to a tap interface, registering a descriptor.
#![allow(unsafe_code, reason = "what the standard library has no safe way for; each block says why it holds")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::spec::RunAs;

/// Starts `command` in its own session, with no descriptors of this process but its standard ones and `keep`, and,
/// where asked, nicer and as another user without supplementary groups.
///
/// `keep` are the descriptors the command line speaks of; their numbers stay the same.
pub(crate) fn spawn_apart(
    command: &mut Command,
    keep: &[OwnedFd],
    nice: u8,
    run_as: Option<RunAs>,
) -> io::Result<Child> {
    let keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        // SAFETY: each call takes plain numbers (setgroups a zero length, so its null pointer is not read) and is
        // async-signal-safe. The calls act on the freshly forked child, whose only thread is this one; the raw system
        // calls for the ids avoid the C library's signalling of other threads. `keep` was allocated before the fork.
        unsafe {
            check(libc::setsid().into())?;
            let (first, last) = (3_u32, u32::MAX);
            check(libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC))?;
            for &fd in &keep {
                check(libc::fcntl(fd, libc::F_SETFD, 0).into())?;
            }
            if nice > 0 {
                check(libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice)).into())?;
            }
            if let Some(RunAs { uid, gid }) = run_as {
                check(libc::syscall(libc::SYS_setgroups, 0_usize, std::ptr::null::<libc::gid_t>()))?;
                check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
                check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes only async-signal-safe system calls and allocates nothing (`last_os_error` holds a number).
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens the existing tap interface `ifname` (at most 15 bytes) as one queue without packet information header.
pub(crate) fn open_tap(ifname: &str) -> io::Result<OwnedFd> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not an interface name");
    // The kernel would make an interface that does not exist; a VM without its routes is worse than an error.
    if !std::path::Path::new("/sys/class/net").join(ifname).exists() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such network interface"));
    }
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = ifname.as_bytes();
    if bytes.is_empty() || bytes.len() >= request.ifr_name.len() {
        return Err(invalid());
    }
    for (slot, &byte) in request.ifr_name.iter_mut().zip(bytes) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| invalid())?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives until after the call; the descriptor is open.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) }.into())?;
    rustix::fs::fcntl_setfl(&tun, rustix::fs::OFlags::NONBLOCK)?;
    Ok(tun.into())
}

/// Registers a descriptor with the runtime, to wait for it to become readable.
pub(crate) fn await_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open file until it is dropped, and the registration takes it over.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| io::Error::other(error.to_string()))
}

/// The rate of this processor's time stamp counter in kHz, measured over 20 ms; the guest's runs at the same rate under TCG.
pub(crate) fn time_stamp_khz() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; it reads a counter and nothing else.
    let ticks = || unsafe { std::arch::x86_64::_rdtsc() };
    let (begin, from) = (std::time::Instant::now(), ticks());
    while begin.elapsed().as_millis() < 20 {
        std::hint::spin_loop();
    }
    let (to, nanos) = (ticks(), begin.elapsed().as_nanos().max(1));
    u64::try_from(u128::from(to.saturating_sub(from)) * 1_000_000 / nanos).unwrap_or(0)
}

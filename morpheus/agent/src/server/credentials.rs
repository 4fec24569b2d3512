//! Who is at the other end of a socket, by the kernel's word: the user and process that connected, a pidfd of that process,
//! and the process that sent each single message. Raw system calls, because a number that our PID namespace does not know
//! comes as 0, which safe wrappers cannot hold.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `SO_PEERPIDFD` (Linux 6.5).
const SO_PEERPIDFD: libc::c_int = 77;

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    /// Its number in our PID namespace at that time.
    pub pid: u32,
    /// Its user at that time.
    pub uid: u32,
    /// The process itself.
    pub pidfd: OwnedFd,
}

fn option<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int, zero: T) -> io::Result<T> {
    let mut value = zero;
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `length` bytes of plain integers (the callers pass c_int and ucred) and lives until the call
    // returns; the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Learns who connected.
///
/// # Errors
/// When the kernel does not say, the peer has ended already, or is outside our PID namespace.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let credentials = option(socket, libc::SO_PEERCRED, libc::ucred { pid: 0, uid: 0, gid: 0 })?;
    let pid = u32::try_from(credentials.pid)
        .ok()
        .filter(|pid| *pid > 0)
        .ok_or_else(|| io::Error::other("the peer is outside this PID namespace"))?;
    let pidfd = option(socket, SO_PEERPIDFD, -1)?;
    // SAFETY: the option's value is a new descriptor of ours.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Peer { pid, uid: credentials.uid, pidfd })
}

/// A received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its whole length, which may be above the buffer's; 0 at the end of the connection.
    pub length: usize,
    /// The process that sent it; `None` when the kernel did not say or it is outside our PID namespace.
    pub sender: Option<u32>,
}

/// Room for one `SCM_CREDENTIALS`, aligned as a control message must be. Descriptors that somebody sends along do not fit
/// and are closed by the kernel.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receives one packet without waiting. The socket must have `SO_PASSCRED`.
///
/// # Errors
/// `WouldBlock` when there is none, and those of the connection.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    // SAFETY: CMSG_SPACE only computes.
    let space = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: all-zero is a valid msghdr: null pointers and lengths of zero.
    let header = unsafe { header.assume_init_mut() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = space.min(control.0.len());
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to `buffer` and `control` with their true lengths; both live until the call returns.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut *header, flags) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Received { length, sender: sender(header) })
}

fn sender(header: &libc::msghdr) -> Option<u32> {
    // SAFETY: the header is as recvmsg left it, its control buffer is alive in the caller and aligned.
    let first = unsafe { libc::CMSG_FIRSTHDR(header) };
    if first.is_null() {
        return None;
    }
    // SAFETY: CMSG_FIRSTHDR gives null unless a whole header lies in the control buffer, which is aligned for it.
    let head = unsafe { *first };
    // SAFETY: CMSG_LEN only computes.
    let whole = unsafe { libc::CMSG_LEN(size_of::<libc::ucred>() as u32) } as usize;
    if head.cmsg_level != libc::SOL_SOCKET || head.cmsg_type != libc::SCM_CREDENTIALS || head.cmsg_len < whole {
        return None;
    }
    // SAFETY: the length says that a whole ucred follows the header; it may lie unaligned.
    let credentials = unsafe { libc::CMSG_DATA(first).cast::<libc::ucred>().read_unaligned() };
    u32::try_from(credentials.pid).ok().filter(|pid| *pid > 0)
}

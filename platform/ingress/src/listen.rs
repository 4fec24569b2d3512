//! Listening sockets: one per worker on the same address, so that the kernel spreads connections over them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with, sockopt};

/// Options of listening sockets. Connections inherit them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketOptions {
    pub(crate) ipv6_only: bool,
    pub(crate) peer: PeerOptions,
}

/// When a silent peer counts as dead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerOptions {
    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged.
    pub(crate) user_timeout: Duration,
    /// Idle time before the first keepalive probe to a client.
    pub(crate) keepalive: Duration,
}

const KEEPALIVE_PROBES: u32 = 3;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The kernel lowers this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Opens `count` sockets on one address and answers that address, which differs from `addr` only for port 0.
pub(crate) fn open(
    addr: SocketAddr,
    count: usize,
    options: SocketOptions,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    // The first bind is exclusive, so that an address somebody else serves is an error even if they would share
    // it. Only then is the address opened to our own further sockets; they are of the same user and bound at once.
    let first = bound(addr, options, false)?;
    sockopt::set_socket_reuseport(&first, true)?;
    let addr = SocketAddr::try_from(getsockname(&first)?)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bound(addr, options, true)?);
    }
    for socket in &sockets {
        listen(socket, BACKLOG)?;
    }
    Ok((addr, sockets.into_iter().map(TcpListener::from).collect()))
}

fn bound(addr: SocketAddr, options: SocketOptions, shared: bool) -> io::Result<rustix::fd::OwnedFd> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, options.ipv6_only)?;
    }
    // Lets a restarted ingress bind while old connections are in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, shared)?;
    tune(&socket, options.peer)?;
    bind(&socket, &addr)?;
    Ok(socket)
}

/// Sets what connections from clients have: no delay, and an end for clients that vanished.
fn tune(socket: &impl rustix::fd::AsFd, options: PeerOptions) -> io::Result<()> {
    tune_backend(socket, options)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, options.keepalive)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Sets what connections to backends have. Unlike clients they are watched: who runs the instances closes the
/// connections of one that vanished, so probes would only cost four calls per connection.
pub(crate) fn tune_backend(socket: &impl rustix::fd::AsFd, options: PeerOptions) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    let millis = u32::try_from(options.user_timeout.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, millis)?;
    Ok(())
}

//! Listening sockets from one process to another (`SCM_RIGHTS`, unix(7)).
//!
//! Each message has one byte and at most [`AT_ONCE`] descriptors, and one byte is read at a time: so no descriptor is lost
//! in a read that has no room for it. Nothing else may be under way on the connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::wire::Passed;

/// Descriptors in one message; the kernel takes up to 253.
const AT_ONCE: usize = 64;

/// A listening address and its sockets.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(super) passed: Passed,
    pub(super) sockets: Vec<OwnedFd>,
}

impl Listening {
    pub(crate) fn new(wanted: std::net::SocketAddr, local: std::net::SocketAddr, sockets: Vec<OwnedFd>) -> Self {
        Self { passed: Passed { wanted, local, sockets: sockets.len() }, sockets }
    }

    /// The address in the table, the real one, and the sockets.
    pub(crate) fn into_parts(self) -> (std::net::SocketAddr, std::net::SocketAddr, Vec<TcpListener>) {
        (self.passed.wanted, self.passed.local, self.sockets.into_iter().map(TcpListener::from).collect())
    }
}

/// Sends the sockets, in their order.
pub(super) fn send(to: &UnixStream, listening: &[Listening]) -> io::Result<()> {
    for all in listening {
        for some in all.sockets.chunks(AT_ONCE) {
            let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&some)) {
                return Err(io::Error::other("no room for the descriptors"));
            }
            sendmsg(to, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)?;
        }
    }
    Ok(())
}

/// Receives the sockets that were announced.
pub(super) fn receive(from: &UnixStream, announced: &[Passed]) -> io::Result<Vec<Listening>> {
    let mut listening = Vec::with_capacity(announced.len());
    for passed in announced {
        let mut sockets = Vec::new();
        while sockets.len() < passed.sockets {
            let some = receive_some(from)?;
            if some.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sockets did not come"));
            }
            sockets.extend(some);
        }
        listening.push(Listening { passed: *passed, sockets });
    }
    Ok(listening)
}

fn receive_some(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut all = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            all.extend(some);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_arrive_with_the_connections_that_wait_in_them() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let local = listener.local_addr().unwrap();
        let copies: Vec<OwnedFd> = (0..AT_ONCE + 3).map(|_| listener.try_clone().unwrap().into()).collect();
        let client = std::net::TcpStream::connect(local).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sent = [Listening::new(local, local, copies)];
        let announced = [sent[0].passed];
        let sending = std::thread::spawn(move || {
            send(&ours, &sent).unwrap();
            ours
        });
        let mut received = receive(&theirs, &announced).unwrap();
        drop((listener, sending.join().unwrap()));
        let (_, _, sockets) = received.pop().unwrap().into_parts();
        assert_eq!(sockets.len(), AT_ONCE + 3);
        assert_eq!(sockets[AT_ONCE + 2].accept().unwrap().1, client.local_addr().unwrap());
    }

    #[test]
    fn sockets_that_do_not_come_are_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let local = "[::1]:1".parse().unwrap();
        let announced = [Passed { wanted: local, local, sockets: 1 }];
        assert_eq!(receive(&theirs, &announced).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

//! One conversation with the agent: connect, be welcomed, and one request after the other.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use morpheus_abi::protocol::{MAX_MESSAGE, Message, Registration};
use morpheus_abi::{ABI_VERSION, Slot};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, shutdown, socket_with,
};

use crate::refusal::NotAvailable;
use crate::sys::Mapping;

/// An agent that takes longer than this to answer is as good as gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// A conversation in which the agent has handed over the pages.
pub(crate) struct Link {
    pub(crate) socket: Arc<OwnedFd>,
    pub(crate) mapping: &'static Mapping,
}

impl Link {
    /// Connects, checks who is there, and maps the pages.
    pub(crate) fn open(path: &Path) -> Result<Self, NotAvailable> {
        let no_agent =
            |error: rustix::io::Errno| NotAvailable::NoAgent { path: path.into(), source: Some(error.into()) };
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(no_agent)?;
        // Sending's patience is connecting's, too.
        for way in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, way, Some(PATIENCE)).map_err(no_agent)?;
        }
        connect(&socket, &SocketAddrUnix::new(path).map_err(no_agent)?).map_err(no_agent)?;
        let peer = socket_peercred(&socket).map_err(|error| NotAvailable::Conversation(error.into()))?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return Err(NotAvailable::Untrusted { uid: peer.uid.as_raw() });
        }
        let (answer, pages) = ask(&socket, &Message::Hello { abi_version: ABI_VERSION })?;
        match answer {
            Message::Welcome { abi_version: ABI_VERSION, .. } => {}
            Message::Welcome { .. } => return Err(NotAvailable::Refused(morpheus_abi::protocol::Refusal::Version)),
            Message::Refused { refusal, .. } => return Err(NotAvailable::Refused(refusal)),
            _ => return Err(NotAvailable::OutOfOrder),
        }
        let [kernel, runtime] = <[OwnedFd; 2]>::try_from(pages).map_err(|_| NotAvailable::OutOfOrder)?;
        let mapping = Mapping::new(&kernel, &runtime, &socket)?;
        Ok(Self { socket: Arc::new(socket), mapping })
    }

    /// Asks for a slot.
    pub(crate) fn register(&self, registration: Registration) -> Result<(Slot, u32), NotAvailable> {
        match ask(&self.socket, &Message::Register(registration))?.0 {
            Message::Registered { slot, slot_generation } => Ok((slot, slot_generation)),
            Message::Refused { refusal, .. } => Err(NotAvailable::Refused(refusal)),
            _ => Err(NotAvailable::OutOfOrder),
        }
    }

    /// Gives a slot back.
    pub(crate) fn unregister(&self, slot: Slot, slot_generation: u32) -> Result<(), NotAvailable> {
        match ask(&self.socket, &Message::Unregister { slot, slot_generation })?.0 {
            // That the agent has dropped the slot by itself is all the same.
            Message::Ok | Message::Refused { .. } => Ok(()),
            _ => Err(NotAvailable::OutOfOrder),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The watcher may still poll the socket: this wakes it.
        let _ = shutdown(&*self.socket, Shutdown::Both);
        self.mapping.forget_socket();
    }
}

/// Sends a request and waits for its answer and the descriptors with it.
fn ask(socket: &OwnedFd, request: &Message) -> Result<(Message, Vec<OwnedFd>), NotAvailable> {
    let broken = |error: rustix::io::Errno| NotAvailable::Conversation(error.into());
    let packet = request.encode();
    retry(|| sendmsg(socket, &[IoSlice::new(&packet)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL))
        .map_err(broken)?;
    let mut bytes = [0; MAX_MESSAGE + 1];
    // Room for more than two, so that too many are seen, and closed.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = retry(|| recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))
        .map_err(broken)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.bytes == 0 {
        return Err(NotAvailable::Conversation(io::ErrorKind::UnexpectedEof.into()));
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(NotAvailable::OutOfOrder);
    }
    Ok((Message::decode(&bytes[..received.bytes]).map_err(NotAvailable::Message)?, descriptors))
}

/// Once more after a signal.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result,
        }
    }
}

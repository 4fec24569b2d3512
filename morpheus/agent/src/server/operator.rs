//! The operator's requests: kinds from 0x100 on, over the same socket. The answer is a JSON report in a sealed memory file,
//! since it may be longer than a packet.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use morpheus_abi::protocol::{HEAD_SIZE, Head, MAX_MESSAGE, Message, OPERATOR_KINDS};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, send, sendmsg, socket_with,
};

use crate::report::Report;

/// Operator: what is the agent doing? No body.
pub const STATUS: u16 = OPERATOR_KINDS;
/// Agent: the packet carries a memory file with the [`Report`] as JSON. No body.
pub const REPORT: u16 = OPERATOR_KINDS + 1;
/// Longest report an operator reads, in bytes.
const MAX_REPORT: u64 = 256 << 20;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// A message without a body.
pub fn bare(kind: u16) -> [u8; HEAD_SIZE] {
    // 12 bytes.
    Head { kind, length: HEAD_SIZE as u32 }.encode()
}

/// Puts a report into a memory file that nobody can change any more.
///
/// # Errors
/// When memory is short.
pub fn sealed(report: &Report) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("morpheus-report", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    let mut writer = io::BufWriter::new(&mut file);
    serde_json::to_writer(&mut writer, report)?;
    writer.flush()?;
    drop(writer);
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// Sends a packet with descriptors, without waiting.
///
/// # Errors
/// Those of the connection; `WouldBlock` when the peer does not read.
pub fn send_with(socket: impl AsFd, packet: &[u8], fds: &[&OwnedFd]) -> rustix::io::Result<()> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "a packet carries at most two descriptors");
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Connects to an agent's socket.
///
/// # Errors
/// When nobody listens there.
pub fn dial(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Asks an agent for its report.
///
/// # Errors
/// When there is no agent, or it refuses, or answers something else.
pub fn ask(path: &Path) -> anyhow::Result<Report> {
    let socket = dial(path).with_context(|| format!("no morpheusd answers at {}", path.display()))?;
    send(&socket, &bare(STATUS), SendFlags::NOSIGNAL).context("cannot ask morpheusd")?;
    let mut buffer = [0; MAX_MESSAGE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .context("morpheusd did not answer")?;
    let packet = buffer.get(..received.bytes).context("morpheusd's answer is too long")?;
    let head = Head::decode(packet).context("morpheusd answers in another protocol")?;
    if head.kind != REPORT {
        if let Ok(Message::Refused { refusal, .. }) = Message::decode(packet) {
            anyhow::bail!("morpheusd refuses: {refusal}");
        }
        anyhow::bail!("morpheusd answers with a message of kind {:#x}", head.kind);
    }
    let fd = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .context("morpheusd's answer has no report")?;
    anyhow::ensure!(
        fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(SEALS)),
        "morpheusd's report is not sealed: it may change while it is read"
    );
    let mut file = File::from(fd);
    file.rewind().context("cannot read morpheusd's report")?;
    let mut json = String::new();
    file.take(MAX_REPORT).read_to_string(&mut json).context("cannot read morpheusd's report")?;
    serde_json::from_str(&json).context("morpheusd's report has another shape; are both of one version?")
}

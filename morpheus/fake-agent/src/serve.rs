//! The agent's side of the conversations.

use std::fs::File;
use std::io::IoSlice;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use morpheus_abi::protocol::{DecodeError, MAX_MESSAGE, Message, Refusal};
use morpheus_abi::{ABI_VERSION, Direction, KernelLine, MAX_WORKERS, PAGE_SIZE, PageHeader, Slot, WorkerState, flags};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, listen as listen_at, recv, send, sendmsg, socket_with,
};
use rustix::process::{Pid, Uid};

use crate::{Manner, Seat, State, put};

/// The user a stranger listens as: `nobody`.
const STRANGER: u32 = 65_534;

pub(crate) fn listen(path: &Path, manner: Manner) -> rustix::io::Result<OwnedFd> {
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let _ = std::fs::remove_file(path);
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    if manner == Manner::Stranger {
        // A peer sees the user of the thread that called listen, at that time; this thread is for that alone.
        thread::scope(|scope| {
            let listening = scope.spawn(|| {
                rustix::thread::set_thread_res_uid(None, Uid::from_raw(STRANGER), None)?;
                listen_at(&listener, 16)
            });
            listening.join().expect("the thread does not panic")
        })?;
    } else {
        listen_at(&listener, 16)?;
    }
    Ok(listener)
}

/// Serves until the listener is shut down.
pub(crate) fn accept_all(listener: &OwnedFd, state: &Arc<Mutex<State>>) {
    while let Ok(socket) = accept_with(listener, SocketFlags::CLOEXEC) {
        let socket = Arc::new(socket);
        let Ok(mut shared) = state.lock() else { return };
        shared.sockets.push(Arc::clone(&socket));
        drop(shared);
        let state = Arc::clone(state);
        thread::spawn(move || {
            // Any failure is the end of the conversation, as with an agent that crashes.
            let _ = converse(&socket, &state);
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        });
    }
}

/// A page with this header. Sealed as it should be, unless the agent's manners are otherwise.
fn page(header: &PageHeader, manner: Manner) -> std::io::Result<File> {
    let file = memfd_create("morpheus", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, PAGE_SIZE as u64)?;
    let page = File::from(file);
    for (at, bytes) in [
        (offset_of!(PageHeader, magic), &header.magic.to_le_bytes()[..]),
        (offset_of!(PageHeader, abi_version), &header.abi_version.to_le_bytes()),
        (offset_of!(PageHeader, size), &header.size.to_le_bytes()),
        (offset_of!(PageHeader, flags), &header.flags.to_le_bytes()),
        (offset_of!(PageHeader, direction), &header.direction.to_le_bytes()),
        (offset_of!(PageHeader, generation), &header.generation.to_le_bytes()),
        (offset_of!(PageHeader, heartbeat_ns), &header.heartbeat_ns.to_le_bytes()),
    ] {
        put(&page, at as u64, bytes);
    }
    if manner == Manner::ShortPages {
        ftruncate(&page, PAGE_SIZE as u64 / 2)?;
    }
    if manner != Manner::UnsealedPages {
        fcntl_add_seals(&page, SealFlags::SHRINK | SealFlags::GROW)?;
    }
    Ok(page)
}

fn converse(socket: &OwnedFd, state: &Arc<Mutex<State>>) -> std::io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?.pid;
    let mut process = None;
    loop {
        let mut bytes = [0; MAX_MESSAGE + 1];
        let (length, _) = recv(socket, &mut bytes, RecvFlags::empty())?;
        if length == 0 {
            return Ok(());
        }
        let request = Message::decode(&bytes[..length]);
        let Ok(mut shared) = state.lock() else { return Ok(()) };
        match (request, process) {
            (Ok(Message::Hello { abi_version }), None) => {
                let Some(index) = welcome(socket, &mut shared, abi_version)? else { continue };
                process = Some(index);
            }
            (request, process) => {
                let answer = answer(&mut shared, peer, request, process);
                drop(shared);
                send(socket, &answer.encode(), SendFlags::NOSIGNAL)?;
            }
        }
    }
}

fn refuse(refusal: Refusal) -> Message {
    Message::Refused { refusal, abi_version: ABI_VERSION }
}

/// Answers a HELLO. The conversation's number, if it goes on.
fn welcome(socket: &OwnedFd, state: &mut State, abi_version: u32) -> std::io::Result<Option<usize>> {
    if abi_version != ABI_VERSION {
        send(socket, &refuse(Refusal::Version).encode(), SendFlags::NOSIGNAL)?;
        return Ok(None);
    }
    match state.manner {
        Manner::Gibberish => {
            send(socket, b"HTTP/1.1 400 Bad Request\r\n\r\n", SendFlags::NOSIGNAL)?;
            return Ok(None);
        }
        Manner::HangsUp => return Err(std::io::ErrorKind::ConnectionAborted.into()),
        _ => {}
    }
    let kernel = page(&state.header(Direction::KernelToRuntime), state.manner)?;
    let runtime = page(&state.header(Direction::RuntimeToKernel), state.manner)?;
    let read_only = File::open(format!("/proc/self/fd/{}", kernel.as_raw_fd()))?;
    let welcome = Message::Welcome {
        abi_version: if state.manner == Manner::OldWelcome { ABI_VERSION - 1 } else { ABI_VERSION },
        flags: flags::OBSERVE | flags::RUNQUEUE_WAIT,
        generation: state.generation,
    };
    let descriptors: &[BorrowedFd<'_>] =
        if state.manner == Manner::NoPages { &[] } else { &[read_only.as_fd(), runtime.as_fd()] };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(socket, &[IoSlice::new(&welcome.encode())], &mut control, SendFlags::NOSIGNAL)?;
    state.pages.push((kernel, runtime));
    Ok(Some(state.pages.len() - 1))
}

fn answer(state: &mut State, peer: Pid, request: Result<Message, DecodeError>, process: Option<usize>) -> Message {
    match (request, process) {
        (Err(_), _) => refuse(Refusal::Malformed),
        (Ok(Message::Register(registration)), Some(process)) => {
            if state.seats.iter().any(|seat| seat.registration.tid == registration.tid) {
                return refuse(Refusal::AlreadyRegistered);
            }
            if !Path::new(&format!("/proc/{}/task/{}", peer.as_raw_nonzero(), registration.tid)).exists() {
                return refuse(Refusal::NotYourThread);
            }
            let taken = |slot: &Slot| state.seats.iter().any(|seat| seat.process == process && seat.slot == *slot);
            let Some(slot) = (0..MAX_WORKERS as u32).filter_map(Slot::new).find(|slot| !taken(slot)) else {
                return refuse(Refusal::Full);
            };
            let slot_generation = state.next_slot_generation;
            state.next_slot_generation += 1;
            let page = &state.pages[process].0;
            let at = |offset: usize| (slot.line_offset() + offset) as u64;
            put(page, at(0), &[0; morpheus_abi::LINE_SIZE]);
            put(page, at(offset_of!(KernelLine, slot_generation)), &slot_generation.to_le_bytes());
            put(page, at(offset_of!(KernelLine, state)), &WorkerState::Registered.number().to_le_bytes());
            state.seats.push(Seat { process, slot, slot_generation, registration });
            Message::Registered { slot, slot_generation }
        }
        (Ok(Message::Unregister { slot, slot_generation }), Some(process)) => {
            let mine =
                |seat: &Seat| (seat.process, seat.slot, seat.slot_generation) == (process, slot, slot_generation);
            let Some(index) = state.seats.iter().position(mine) else { return refuse(Refusal::NoSuchSlot) };
            let seat = state.seats.remove(index);
            state.left.push(seat);
            Message::Ok
        }
        (Ok(_), _) => refuse(Refusal::Order),
    }
}

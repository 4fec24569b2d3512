//! The control port: frames in and out of the virtio-serial device, and whether a host is there.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use holm_guest_control::{Decoder, Frame, GuestMessage, Kind, encode_frame, encode_message};
use rustix::event::{Timespec, epoll};
use rustix::fs::OFlags;

/// Unsent bytes above which no logs and no output are added.
const ROOM: usize = 128 * 1024;

/// Unsent bytes above which no more requests are read, so that answers cannot pile up.
const CLOGGED: usize = 1024 * 1024;

/// The port as a device that never blocks.
pub(crate) struct Port {
    device: File,
    /// Edge-triggered: a level-triggered poll would not rest while no host is there.
    edges: OwnedFd,
    decoder: Decoder,
    outbox: Vec<u8>,
    sent: usize,
    /// Reading stopped because of unsent answers; no new edge tells of what is left.
    paused: bool,
}

impl Port {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let device = File::options().read(true).write(true).custom_flags(flags).open(path)?;
        let edges = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::HUP | epoll::EventFlags::ET;
        epoll::add(&edges, &device, epoll::EventData::new_u64(0), interest)?;
        Ok(Self { device, edges, decoder: Decoder::new(), outbox: Vec::new(), sent: 0, paused: false })
    }

    /// Readable when the port wants attention.
    pub(crate) fn attention(&self) -> BorrowedFd<'_> {
        self.edges.as_fd()
    }

    /// Whether logs and output may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() - self.sent < ROOM
    }

    /// Whether so much is unsent that requests must wait.
    pub(crate) fn clogged(&self) -> bool {
        self.outbox.len() - self.sent > CLOGGED
    }

    /// Whether there may be bytes to read that no edge will tell of.
    pub(crate) fn is_due(&self) -> bool {
        self.paused && !self.clogged()
    }

    /// Whether everything was handed to the device.
    pub(crate) fn is_flushed(&self) -> bool {
        self.sent == self.outbox.len()
    }

    /// Reads what is there. The second value tells that the host end is closed at this moment.
    pub(crate) fn receive(&mut self) -> (Vec<Frame>, bool) {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 1];
        // Takes the edge off; what it was shows in the read.
        let _ = epoll::wait(&self.edges, &mut events[..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let mut frames = Vec::new();
        let mut buffer = [0u8; 16 * 1024];
        loop {
            self.paused = self.clogged();
            if self.paused {
                break;
            }
            match self.device.read(&mut buffer) {
                Ok(0) => return (frames, true),
                Ok(n) => self.decoder.feed(&buffer[..n], |frame| frames.push(frame)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        (frames, false)
    }

    /// Forgets unsent bytes of an older session, and ends its last frame with a zero. A frame of the older host that was
    /// cut is ended by the zero that the next host begins with.
    pub(crate) fn begin_session(&mut self) {
        self.outbox.clear();
        self.sent = 0;
        self.outbox.push(0);
    }

    pub(crate) fn queue_message(&mut self, session: u64, message: &GuestMessage) {
        if let Err(error) = encode_message(session, &message.encode(), &mut self.outbox) {
            crate::console::say(format_args!("message not sent: {error}"));
        }
    }

    /// `payload` is at most one frame's: it comes from reads of bounded size.
    pub(crate) fn queue_bytes(&mut self, session: u64, kind: Kind, stream: u32, payload: Vec<u8>) {
        if let Err(error) = encode_frame(&Frame { kind, more: false, session, stream, payload }, &mut self.outbox) {
            crate::console::say(format_args!("frame not sent: {error}"));
        }
    }

    /// Hands over as much as the device takes.
    pub(crate) fn flush(&mut self) {
        while self.sent < self.outbox.len() {
            match self.device.write(&self.outbox[self.sent..]) {
                Ok(0) => break,
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        } else if self.sent > ROOM {
            self.outbox.drain(..self.sent);
            self.sent = 0;
        }
    }
}

//! The pump: bytes both ways between two sockets, half-close included, until both directions end.
//!
//! A direction starts by copying through a scratch buffer of its thread, which an idle connection does not hold.
//! Once it has moved as many bytes as its caller says, it is a bulk transfer, and the kernel moves the pages itself through a
//! pipe (splice(2)). Pipes are pooled per thread and held only while bytes are in them.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes one read may take. Large, since each write wakes its reader: fewer of them cost less.
const SCRATCH: usize = 256 * 1024;
/// Asked-for capacity of a pipe. The kernel may refuse it to a user with many pipes; the default of 64 KiB works too.
const PIPE_CAPACITY: usize = 256 * 1024;
/// Empty pipes a thread keeps for the next bulk transfer.
const POOLED_PIPES: usize = 32;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Lends the thread's scratch buffer.
pub(crate) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// An empty pipe, both ends non-blocking.
#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes inside.
    filled: usize,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Best effort: a smaller pipe only costs more calls.
        let _ = fcntl_setpipe_size(&writer, PIPE_CAPACITY);
        Ok(Self { reader, writer, filled: 0 })
    }

    /// Keeps an empty pipe for later; a pipe with bytes of a dead connection in it is closed.
    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if self.filled == 0 && pipes.len() < POOLED_PIPES {
                pipes.push(self);
            }
        });
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Direction {
    /// Bytes read and not yet written, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    pipe: Option<Pipe>,
    moved: u64,
    /// The kernel cannot splice these sockets; copy on.
    no_splice: bool,
    /// Bytes after which the direction is spliced.
    splice_after: u64,
    end: End,
}

/// How far a direction is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// The source has ended; what is pending is still to be written.
    SourceEnded,
    /// All was written and the end passed on.
    Done,
    /// The destination takes nothing more. What it still has to say is passed on before the connection is reset.
    Refused,
}

/// A failure that ends the whole connection, and whose it is.
#[derive(Debug)]
pub(crate) struct Broken;

/// Two connected sockets with bytes to move between them.
#[derive(Debug)]
pub(crate) struct Pump<'a> {
    client: &'a mut TcpStream,
    backend: &'a mut TcpStream,
    inward: Direction,
    outward: Direction,
    bytes_in: &'a AtomicU64,
    bytes_out: &'a AtomicU64,
}

impl<'a> Pump<'a> {
    /// A pump that first sends `head`, bytes the client sent already, to the backend, and splices a direction once
    /// it has moved `splice_after` bytes.
    pub(crate) fn new(
        client: &'a mut TcpStream,
        backend: &'a mut TcpStream,
        head: Vec<u8>,
        splice_after: u64,
        bytes_in: &'a AtomicU64,
        bytes_out: &'a AtomicU64,
    ) -> Self {
        let inward = Direction { pending: head, splice_after, ..Direction::default() };
        let outward = Direction { splice_after, ..Direction::default() };
        Self { client, backend, inward, outward, bytes_in, bytes_out }
    }

    /// Bytes moved so far, both directions together.
    pub(crate) fn moved(&self) -> u64 {
        self.inward.moved + self.outward.moved
    }

    /// Moves bytes until both directions are done. After `Broken` both sides are to be reset.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // The last direction to end leaves its FIN to the close of the socket.
        let last = self.outward.end == End::Done;
        let inward = self.inward.poll(cx, self.client, self.backend, self.bytes_in, last);
        let last = self.inward.end == End::Done;
        let outward = self.outward.poll(cx, self.backend, self.client, self.bytes_out, last);
        match (inward, outward) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(Err(Broken)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                let refused = [&self.inward, &self.outward].map(|side| side.end == End::Refused);
                Poll::Ready(if refused.contains(&true) { Err(Broken) } else { Ok(()) })
            }
            _ => Poll::Pending,
        }
    }
}

impl Drop for Pump<'_> {
    fn drop(&mut self) {
        for direction in [&mut self.inward, &mut self.outward] {
            if let Some(pipe) = direction.pipe.take() {
                pipe.give_back();
            }
        }
    }
}

impl Direction {
    /// Moves bytes until the direction has ended. An error is one of the source; the destination's ends the direction.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        destination: &mut TcpStream,
        count: &AtomicU64,
        last: bool,
    ) -> Poll<io::Result<()>> {
        loop {
            if matches!(self.end, End::Done | End::Refused) {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_flush(cx, destination, count)).is_err() {
                self.end = End::Refused;
                continue;
            }
            if self.end == End::SourceEnded {
                if !last {
                    // Fails only if the destination is gone already, and then there is nobody to tell.
                    let _ = ready!(Pin::new(&mut *destination).poll_shutdown(cx));
                }
                self.end = End::Done;
                continue;
            }
            let taken = if self.moved < self.splice_after || self.no_splice {
                self.poll_copy(cx, source, destination, count)
            } else {
                self.poll_splice(cx, source)
            };
            match taken {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.rest();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Gives back what an idle direction does not need.
    fn rest(&mut self) {
        if let Some(pipe) = self.pipe.take_if(|pipe| pipe.filled == 0) {
            pipe.give_back();
        }
        if self.sent == self.pending.len() && self.pending.capacity() > 0 {
            (self.pending, self.sent) = (Vec::new(), 0);
        }
    }

    fn wrote(&mut self, bytes: usize, count: &AtomicU64) {
        self.moved += bytes as u64;
        count.fetch_add(bytes as u64, Relaxed);
    }

    /// Writes what was taken before.
    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut TcpStream,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.pending.len() {
            let rest = &self.pending[self.sent..];
            let bytes = ready!(Pin::new(&mut *destination).poll_write(cx, rest))?;
            self.sent += bytes;
            self.wrote(bytes, count);
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.filled > 0) {
            ready!(destination.poll_write_ready(cx))?;
            let out = destination.try_io(Interest::WRITABLE, || {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                Ok(splice(&pipe.reader, None, &*destination, None, pipe.filled, flags)?)
            });
            match out {
                Ok(bytes) => {
                    pipe.filled -= bytes;
                    self.wrote(bytes, count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once into the thread's buffer and writes as much of it as the destination takes.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut TcpStream,
        destination: &mut TcpStream,
        count: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        with_buffer(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(source).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.end = End::SourceEnded;
                return Poll::Ready(Ok(()));
            }
            let sent = match Pin::new(destination).poll_write(cx, bytes) {
                Poll::Ready(Ok(sent)) => sent,
                Poll::Ready(Err(_)) => {
                    self.end = End::Refused;
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => 0,
            };
            self.wrote(sent, count);
            self.pending.clear();
            self.sent = 0;
            self.pending.extend_from_slice(&bytes[sent..]);
            Poll::Ready(Ok(()))
        })
    }

    /// Moves what the source has into an empty pipe.
    fn poll_splice(&mut self, cx: &mut Context<'_>, source: &mut TcpStream) -> Poll<io::Result<()>> {
        ready!(source.poll_read_ready(cx))?;
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => match Pipe::take() {
                Ok(pipe) => pipe,
                // No file descriptors left: slower is better than broken.
                Err(_) => {
                    self.no_splice = true;
                    return Poll::Ready(Ok(()));
                }
            },
        };
        let pipe = self.pipe.insert(pipe);
        // The pipe is empty, so "would block" can only come from the source.
        let taken = source.try_io(Interest::READABLE, || {
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            Ok(splice(&*source, None, &pipe.writer, None, PIPE_CAPACITY, flags)?)
        });
        match taken {
            Ok(0) => self.end = End::SourceEnded,
            Ok(bytes) => pipe.filled = bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::InvalidInput => self.no_splice = true,
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

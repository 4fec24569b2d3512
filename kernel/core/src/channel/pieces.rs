//! Long messages, in pieces: no entry copies more than 8 KiB of a payload, and the capabilities of a message that has more than
//! a few travel in an entry of their own.
//!
//! A thread that sends a long message takes a slot of the inbox, which counts at once. Its system call is made again for each
//! piece ([`Outcome::Again`]), and the message is queued with the last one: nobody sees it before. A thread that receives one
//! leaves it where it is until the last piece is out; what takes the message away meanwhile sends the copy back to its
//! beginning, since a message is known by its number. So it is with calls and replies, which go from memory to memory. When
//! the receiver waits, the work of later entries goes on for it; when the sender waited for room, it gets its slot and makes
//! its system call again.

use holm_abi::Error;

use super::check::Crc;
use super::inbox::{Cursor, Reserved};
use super::request::SendRequest;
use super::{ChannelId, End};
use crate::caller::{Answer, Caller, Outcome};
use crate::cap::transfer::Parcel;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::ThreadId;
use crate::unit::UnitId;

/// Bytes of a payload that one entry copies at most.
pub(super) const PIECE: u32 = 8192;

/// Bytes that are copied in the same entry in which more than [`FEW`] capabilities travel.
const SMALL: u32 = 1024;

/// Capabilities that travel in the same entry with a piece.
const FEW: u32 = 2;

/// A message or call, as [`Progress::Across`] knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// The call whose header has this number.
    Call(u64),
    /// The reply to the call with this token.
    Reply(u64),
}

/// How far the copy of a payload came.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Progress {
    /// No copy goes on.
    #[default]
    None,
    /// Into a slot of the inbox opposite of this end, by the request that the thread keeps.
    In(Sending),
    /// Out of the slot of the message with this number.
    Out { sequence: u64, cursor: Cursor, done: u32, crc: Crc },
    /// From memory to memory.
    Across { mark: Mark, done: u32 },
    /// The payload of the message that the thread wants to send could be read so far.
    Probed(u32),
}

/// A message on its way into the inbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    channel: ChannelId,
    end: End,
    reserved: Reserved,
    /// The last of its blocks.
    last: Option<u32>,
    done: u32,
    /// Where it was sampled.
    crc: Option<Crc>,
}

/// Whether a message is to be copied in pieces, or apart from its capabilities.
#[inline]
pub(super) const fn long(length: u32, caps: u32) -> bool {
    length > if caps > FEW { SMALL } else { PIECE }
}

/// Whether an entry that did this with a message did enough.
#[inline]
pub(super) const fn enough(bytes: u32, caps: u32) -> bool {
    bytes > SMALL || caps > FEW
}

impl<M: Machine> Kernel<M> {
    pub(super) fn progress(&self, thread: ThreadId) -> Progress {
        self.threads.get(thread).map_or(Progress::None, |thread| thread.calls.progress)
    }

    /// How far the copy from memory to memory came that `keeper` notes.
    #[inline]
    pub(super) fn across_done(&self, keeper: ThreadId, mark: Mark) -> u32 {
        match self.threads.get(keeper).map(|thread| &thread.calls.progress) {
            Some(Progress::Across { mark: at, done }) if *at == mark => *done,
            _ => 0,
        }
    }

    /// Notes how far a thread's copy came. One into an inbox that it was at before is given up.
    pub(super) fn progress_is(&mut self, thread: ThreadId, progress: Progress) {
        let Some(entry) = self.threads.get_mut(thread) else { return };
        let before = core::mem::replace(&mut entry.calls.progress, progress);
        let Progress::In(sending) = before else { return };
        if matches!(progress, Progress::In(_)) {
            return;
        }
        let (id, to) = (sending.channel, sending.end.peer());
        let Some(inbox) = self.inbox_mut(id, to) else { return };
        let was_full = !inbox.fits(inbox.made().message);
        inbox.cancel(sending.reserved);
        self.room_came(id, to, was_full);
        // Those who wait for room may fit now; not here, since this may be within such a step.
        self.channel_queue(id);
    }

    /// A system call of a thread is over, or the thread is: what was copied of a message that is not sent is given back.
    #[cold]
    #[inline(never)]
    pub(crate) fn pieces_over(&mut self, thread: ThreadId) {
        self.progress_is(thread, Progress::None);
    }

    /// Begins to send a long message, for which there is room.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::PeerClosed`]; nothing was changed then.
    pub(super) fn send_begin(
        &mut self,
        sender: ThreadId,
        id: ChannelId,
        end: End,
        request: &SendRequest,
    ) -> Result<(), Error> {
        self.progress_is(sender, Progress::None);
        let sampled = self.payload_sampled();
        let inbox = self.inbox_mut(id, end.peer()).ok_or(Error::PeerClosed)?;
        let reserved = inbox.reserve_slot(request.length).ok_or(Error::NoSpace)?;
        if let Some(thread) = self.threads.get_mut(sender) {
            thread.calls.send = *request;
            let crc = sampled.then(Crc::new);
            thread.calls.progress = Progress::In(Sending { channel: id, end, reserved, last: None, done: 0, crc });
        }
        Ok(())
    }

    /// Whether the thread is at sending just this message.
    pub(super) fn send_begun(
        &self,
        sender: ThreadId,
        id: ChannelId,
        end: End,
        request: &SendRequest,
    ) -> Option<Sending> {
        let calls = &self.threads.get(sender)?.calls;
        match calls.progress {
            Progress::In(sending) if (sending.channel, sending.end) == (id, end) && calls.send == *request => {
                Some(sending)
            }
            _ => None,
        }
    }

    /// Goes on with a long message. After an error the progress is to be dropped, as is done when a system call ends.
    ///
    /// # Errors
    /// As [`Kernel::send_decide`] and [`Kernel::send_now`].
    pub(super) fn send_on(
        &mut self,
        caller: Caller,
        id: ChannelId,
        end: End,
        request: &SendRequest,
        mut sending: Sending,
    ) -> Answer {
        let mut parcel = Parcel::new();
        let plain = SendRequest { cap_count: 0, ..*request };
        let piece = (request.length - sending.done).min(PIECE);
        if piece > 0 {
            self.send_decide(caller.unit, id, end, &plain, &mut parcel)?;
            self.piece_in(caller.thread, caller.unit, request, &mut sending, piece)?;
            if sending.done < request.length || enough(piece, request.cap_count) {
                self.progress_is(caller.thread, Progress::In(sending));
                return Ok(Outcome::Again);
            }
        }
        self.send_decide(caller.unit, id, end, request, &mut parcel)?;
        self.message_queue(caller.unit, id, end, request, sending.reserved, &mut parcel, sending.crc)?;
        if let Some(thread) = self.threads.get_mut(caller.thread) {
            thread.calls.progress = Progress::None;
        }
        self.channel_settle(id, end.peer(), None);
        self.raise_readable(id, end.peer());
        Ok(Outcome::OK)
    }

    /// Copies a piece into blocks that the message gets for it.
    fn piece_in(
        &mut self,
        sender: ThreadId,
        unit: UnitId,
        request: &SendRequest,
        sending: &mut Sending,
        piece: u32,
    ) -> Result<(), Error> {
        let (id, to) = (sending.channel, sending.end.peer());
        let inbox = self.inbox_mut(id, to).ok_or(Error::PeerClosed)?;
        let (cursor, last) = inbox.extend(sending.reserved, sending.last, piece as usize).ok_or(Error::NoSpace)?;
        sending.last = Some(last);
        self.payload_into(sender, unit, request, sending.done, (id, to), cursor, sending.crc.as_mut())?;
        sending.done += piece;
        Ok(())
    }

    /// Looks whether the payload of a message can be read, a piece of a long one at a time: whether all of it can.
    ///
    /// # Errors
    /// [`Error::Fault`].
    pub(super) fn payload_probe(
        &mut self,
        sender: ThreadId,
        unit: UnitId,
        request: &SendRequest,
    ) -> Result<bool, Error> {
        let done = match self.threads.get(sender).map(|thread| &thread.calls) {
            Some(calls) if calls.send == *request => match calls.progress {
                Progress::Probed(done) => done,
                _ => 0,
            },
            _ => 0,
        };
        let piece = (request.length - done).min(PIECE);
        self.probe(unit, request, done, piece)?;
        if !long(request.length, request.cap_count) {
            return Ok(true);
        }
        self.progress_is(sender, Progress::Probed(done + piece));
        if let Some(thread) = self.threads.get_mut(sender) {
            thread.calls.send = *request;
        }
        Ok(piece == 0)
    }
}

//! Sending: what is checked, what happens when there is no room, and how a message gets into the inbox.

use holm_abi::{ChanFlags, DropPolicy, Error, EventMask, MsgFlags, MsgIo, TraceKind};

use super::check::{Crc, Header};
use super::inbox::{Inbox, Reserved};
use super::pieces::{enough, long};
use super::request::{Patience, SendRequest};
use super::{ChannelId, ChannelWait, End, Stage, Waiting};
use crate::caller::{Answer, Caller, Outcome};
use crate::cap::grant::Grant;
use crate::cap::transfer::Parcel;
use crate::cap::{Cap, GrantId};
use crate::event::Source;
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};
use crate::object::Object;
use crate::quota::Resource;
use crate::thread::ThreadId;
use crate::unit::UnitId;
use crate::wait::Wait;

/// Messages, and capabilities in them, that one send drops before it lets interrupts in.
const DROPS: u32 = 8;

/// What happens to a message or call that is about to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is queued.
    Now,
    /// It waits for room.
    Wait,
    /// Others are dropped for it.
    DropOthers,
    /// It is dropped.
    Drop,
    /// It is refused.
    Refuse,
}

/// What comes of a thread that waited for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    /// Its call is queued and waits for the reply.
    Waits,
    /// Its long message has its place: it makes its system call again.
    Begun,
    /// Its system call is over.
    Over(Result<u64, Error>),
}

impl<M: Machine> Kernel<M> {
    /// The inbox of an end.
    #[inline]
    pub(super) fn inbox(&self, id: ChannelId, end: End) -> Option<&Inbox> {
        self.channels.get(id)?.side(end).inbox.as_ref()
    }

    /// The inbox of an end, to change.
    #[inline]
    pub(super) fn inbox_mut(&mut self, id: ChannelId, end: End) -> Option<&mut Inbox> {
        self.channels.get_mut(id)?.side_mut(end).inbox.as_mut()
    }

    /// Sends a message with its capabilities; all of it or nothing. Waits for room until the deadline.
    ///
    /// # Errors
    /// Those of the table of calls.
    pub(crate) fn chan_send(&mut self, caller: Caller, channel: Cap, message: MsgIo, deadline: Nanos) -> Answer {
        let request = SendRequest::of(&message, channel)?;
        let nonblock = message.flags.contains(MsgFlags::NONBLOCK);
        self.send(caller, channel, request, Patience { nonblock, deadline })
    }

    pub(super) fn send(&mut self, caller: Caller, cap: Cap, request: SendRequest, patience: Patience) -> Answer {
        let Object::Channel(id, end) = cap.object else { return Err(Error::WrongType) };
        let in_pieces = long(request.length, request.cap_count);
        if in_pieces && let Some(sending) = self.send_begun(caller.thread, id, end, &request) {
            return self.send_on(caller, id, end, &request, sending);
        }
        let mut parcel = Parcel::new();
        self.send_decide(caller.unit, id, end, &request, &mut parcel)?;
        match self.admission(id, end, request.length) {
            Admission::Now if in_pieces => {
                self.send_begin(caller.thread, id, end, &request)?;
                Ok(Outcome::Again)
            }
            Admission::Now => {
                self.send_now(caller.thread, caller.unit, id, end, &request, &mut parcel)?;
                self.channel_settle(id, end.peer(), None);
                self.raise_readable(id, end.peer());
                Ok(Outcome::OK)
            }
            Admission::Wait => {
                if let Some(error) = patience.over(self.now()) {
                    return Err(error);
                }
                let Some(channel) = self.channels.get_mut(id) else { return Err(Error::PeerClosed) };
                channel.side_mut(end).senders.push(&mut self.threads, caller.thread);
                if let Some(thread) = self.threads.get_mut(caller.thread) {
                    thread.calls.send = request;
                }
                let wait = ChannelWait { channel: id, end, what: Waiting::Room };
                self.block(caller, Wait::Channel(wait), patience.deadline);
                Ok(Outcome::Blocked)
            }
            Admission::DropOthers => self.send_dropping(caller, id, end, &request, &mut parcel),
            Admission::Drop => {
                // The message is taken, and its capabilities end with it.
                if !self.payload_probe(caller.thread, caller.unit, &request)? {
                    return Ok(Outcome::Again);
                }
                self.parcel_make_paid(&mut parcel, caller.unit)?;
                self.parcel_take(caller.unit, &parcel);
                for grant in parcel.grants() {
                    self.cap_drop(grant);
                }
                if let Some(inbox) = self.inbox_mut(id, end.peer()) {
                    inbox.dropped += 1;
                }
                self.trace.counts.messages_dropped += 1;
                Ok(Outcome::OK)
            }
            Admission::Refuse => Err(Error::NoSpace),
        }
    }

    /// Drops the oldest messages of the lowest priority until there is room. Whatever can fail is tried first.
    fn send_dropping(
        &mut self,
        caller: Caller,
        id: ChannelId,
        end: End,
        request: &SendRequest,
        parcel: &mut Parcel,
    ) -> Answer {
        if !self.payload_probe(caller.thread, caller.unit, request)? {
            return Ok(Outcome::Again);
        }
        let to = end.peer();
        let mut drops = 0;
        while !self.inbox(id, to).is_some_and(|inbox| inbox.fits(request.length)) {
            let Some(slot) = self.inbox(id, to).and_then(Inbox::droppable) else { return Err(Error::NoSpace) };
            if drops >= DROPS {
                return Ok(Outcome::Again);
            }
            let header = self.inbox_mut(id, to).and_then(|inbox| {
                inbox.dropped += 1;
                inbox.remove(slot)
            });
            self.trace.counts.messages_dropped += 1;
            drops += 1 + header.map_or(0, |header| header.cap_count);
            self.message_drop(header.and_then(|header| header.caps));
        }
        if drops > DROPS || long(request.length, request.cap_count) {
            if drops <= DROPS {
                self.send_begin(caller.thread, id, end, request)?;
            }
            return Ok(Outcome::Again);
        }
        self.send_now(caller.thread, caller.unit, id, end, request, parcel)?;
        self.channel_settle(id, to, None);
        self.raise_readable(id, to);
        Ok(Outcome::OK)
    }

    /// Tells those who watch an end that a message came, unless somebody got it at once.
    pub(super) fn raise_readable(&mut self, id: ChannelId, end: End) {
        if self.inbox(id, end).is_some_and(|inbox| inbox.first().is_some()) {
            self.raise(Source::Channel(id, end), EventMask::READABLE, 0, 0);
        }
    }

    /// Gives up the capabilities of a message that nobody receives.
    pub(super) fn message_drop(&mut self, mut caps: Option<GrantId>) {
        for _ in 0..crate::cap::transfer::MAX {
            let Some(grant) = caps else { break };
            caps = self.caps.grants.get(grant).and_then(|node| node.next_in_message);
            self.cap_drop(grant);
        }
    }

    /// Every reason for which a message is not sent, but room. Changes nothing but the parcel, which was empty.
    pub(super) fn send_decide(
        &mut self,
        unit: UnitId,
        id: ChannelId,
        end: End,
        request: &SendRequest,
        parcel: &mut Parcel,
    ) -> Result<(), Error> {
        let channel = self.channels.get(id).ok_or(Error::PeerClosed)?;
        let peer = channel.side(end.peer());
        let Some(inbox) = &peer.inbox else { return Err(Error::Access) };
        if peer.closed {
            return Err(Error::PeerClosed);
        }
        if request.length > inbox.made().message || u64::from(request.length) > inbox.max_bytes {
            return Err(Error::MessageSize);
        }
        if request.cap_count == 0 {
            return Ok(());
        }
        if channel.flags.contains(ChanFlags::RT_SAFE) {
            return Err(Error::NotPermitted);
        }
        self.records_in(unit, id, request, parcel)
    }

    /// Whether there is room for a message of `length` bytes from `end`, and what happens else.
    pub(super) fn admission(&self, id: ChannelId, end: End, length: u32) -> Admission {
        let Some(channel) = self.channels.get(id) else { return Admission::Refuse };
        let Some(inbox) = &channel.side(end.peer()).inbox else { return Admission::Refuse };
        let queue = inbox.policy == DropPolicy::Block && !channel.side(end).senders.is_empty();
        if inbox.fits(length) && !queue {
            return Admission::Now;
        }
        match inbox.policy {
            DropPolicy::Block => Admission::Wait,
            DropPolicy::DropNewest => Admission::Drop,
            DropPolicy::DropOldest => Admission::DropOthers,
            DropPolicy::Refuse => Admission::Refuse,
        }
    }

    /// [`Kernel::parcel_make`] for capabilities that stay in kernel memory of `unit`.
    fn parcel_make_paid(&mut self, parcel: &mut Parcel, unit: UnitId) -> Result<(), Error> {
        if parcel.len() > 0 && u64::from(parcel.len()) * Grant::BYTES > self.spare(unit, Resource::Kernel) {
            return Err(Error::Quota);
        }
        self.parcel_make(parcel, unit)
    }

    /// Whether the payload of the next message gets a checksum.
    pub(super) fn payload_sampled(&mut self) -> bool {
        let interval = if self.config.payload_crc { self.config.crc_interval } else { 0 };
        let sampled = self.channel_work.sampling.take(interval);
        self.trace.counts.payload_checks += u64::from(sampled);
        sampled
    }

    /// Queues a message for which there is room.
    ///
    /// # Errors
    /// [`Error::Fault`], [`Error::Quota`], [`Error::NoMemory`]; nothing was changed then.
    pub(super) fn send_now(
        &mut self,
        sender: ThreadId,
        unit: UnitId,
        id: ChannelId,
        end: End,
        request: &SendRequest,
        parcel: &mut Parcel,
    ) -> Result<(), Error> {
        let to = end.peer();
        let sampled = self.payload_sampled();
        let inbox = self.inbox_mut(id, to).ok_or(Error::PeerClosed)?;
        let reserved = inbox.reserve(request.length).ok_or(Error::NoSpace)?;
        let cursor = inbox.cursor(reserved.slot, u32::MAX);
        let mut crc = sampled.then(Crc::new);
        let queued = self
            .payload_into(sender, unit, request, 0, (id, to), cursor, crc.as_mut())
            .and_then(|()| self.message_queue(unit, id, end, request, reserved, parcel, crc));
        if queued.is_err()
            && let Some(inbox) = self.inbox_mut(id, to)
        {
            inbox.cancel(reserved);
        }
        queued
    }

    /// Queues a message whose payload is in place. Its capabilities leave the sender.
    ///
    /// # Errors
    /// [`Error::Quota`], [`Error::NoMemory`]; nothing was changed then.
    #[expect(clippy::too_many_arguments, reason = "all of a message")]
    pub(super) fn message_queue(
        &mut self,
        unit: UnitId,
        id: ChannelId,
        end: End,
        request: &SendRequest,
        reserved: Reserved,
        parcel: &mut Parcel,
        crc: Option<Crc>,
    ) -> Result<(), Error> {
        self.parcel_make_paid(parcel, unit)?;
        self.spent |= enough(request.length, request.cap_count);
        let mut caps = None;
        if parcel.len() > 0 {
            self.parcel_take(unit, parcel);
            caps = self.parcel_chain(parcel);
        }
        self.channel_work.sequence += 1;
        let header = Header {
            sequence: self.channel_work.sequence,
            sender: unit.number(),
            badge: request.badge,
            caller: None,
            caps,
            cap_count: parcel.len(),
            length: request.length,
            priority: request.priority,
            crc: crc.map(Crc::value),
            ..Header::default()
        };
        if let Some(inbox) = self.inbox_mut(id, end.peer()) {
            inbox.push(reserved, header.sealed());
        }
        self.trace.counts.messages_sent += 1;
        let data = [id.number(), u64::from(request.length), u64::from(parcel.len()), 0];
        self.trace_event(TraceKind::Send, data);
        Ok(())
    }

    /// A thread that waited for room gets its turn: its message or call is queued, or it is to go on with a long message.
    pub(super) fn send_admitted(&mut self, sender: ThreadId, id: ChannelId, end: End) -> Option<Admitted> {
        let thread = self.threads.get(sender)?;
        let (request, unit, calls) = (thread.calls.send, thread.unit, thread.calls.stage == Stage::Room);
        if request.grant.is_some_and(|grant| !self.caps.grants.alive(grant)) {
            return Some(Admitted::Over(Err(Error::Revoked)));
        }
        if calls {
            self.call_queue(sender, id, end);
            return Some(Admitted::Waits);
        }
        if long(request.length, request.cap_count) {
            let begun = self.send_begin(sender, id, end, &request);
            return Some(begun.map_or_else(|error| Admitted::Over(Err(error)), |()| Admitted::Begun));
        }
        let mut parcel = Parcel::new();
        let sent = self
            .send_decide(unit, id, end, &request, &mut parcel)
            .and_then(|()| self.send_now(sender, unit, id, end, &request, &mut parcel));
        Some(Admitted::Over(sent.map(|()| 0)))
    }
}

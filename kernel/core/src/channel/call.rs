//! Calls: a message whose sender waits for the reply, and the reply by a token that works once.

use holm_abi::{ChanFlags, DropPolicy, Error, MsgFlags, MsgIo, TraceKind};

use super::check::Header;
use super::deliver::{Facts, Undelivered};
use super::inbox::Inbox;
use super::pieces::{Mark, Progress, enough};
use super::request::{Patience, ReceiveRequest, SendRequest};
use super::send::Admission;
use super::{ChannelId, ChannelWait, End, Stage, Waiting};
use crate::caller::{Answer, Caller, InOut, Outcome};
use crate::cap::transfer::{MAX, Parcel};
use crate::cap::{Cap, GrantId};
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};
use crate::object::Object;
use crate::thread::{ThreadId, ThreadState};
use crate::wait::Wait;

impl<M: Machine> Kernel<M> {
    /// Sends a message and waits for its reply; whoever receives it inherits the caller's rank from the send on.
    ///
    /// # Errors
    /// Those of the table of calls.
    pub(crate) fn chan_call(
        &mut self,
        caller: Caller,
        channel: Cap,
        send: MsgIo,
        receive: InOut<MsgIo>,
        deadline: Nanos,
    ) -> Answer {
        let request = SendRequest::of(&send, channel)?;
        if receive.value.flags.contains(MsgFlags::PEEK) {
            return Err(Error::Invalid);
        }
        let nonblock = send.flags.contains(MsgFlags::NONBLOCK);
        self.call(caller, channel, request, ReceiveRequest::of(&receive), Patience { nonblock, deadline })
    }

    pub(super) fn call(
        &mut self,
        caller: Caller,
        cap: Cap,
        send: SendRequest,
        receive: ReceiveRequest,
        patience: Patience,
    ) -> Answer {
        let Object::Channel(id, end) = cap.object else { return Err(Error::WrongType) };
        self.send_decide(caller.unit, id, end, &send, &mut Parcel::new())?;
        if patience.deadline <= self.machine.now() {
            return Err(Error::TimedOut);
        }
        let to = end.peer();
        let channel = self.channels.get(id).ok_or(Error::PeerClosed)?;
        let peer = channel.side(to);
        if let Some(server) = peer.server
            && peer.receivers.is_empty()
            && peer.references == 1
            && self.waits_for_ever(server, caller.thread)
        {
            return Err(Error::Deadlock);
        }
        let room = match self.admission(id, end, 0) {
            Admission::Now => true,
            Admission::Wait if patience.nonblock => return Err(Error::WouldBlock),
            Admission::Wait => false,
            Admission::DropOthers => {
                let inbox = self.inbox_mut(id, to).ok_or(Error::PeerClosed)?;
                let slot = inbox.droppable().ok_or(Error::NoSpace)?;
                inbox.dropped += 1;
                let header = inbox.remove(slot);
                self.message_drop(header.and_then(|header| header.caps));
                true
            }
            Admission::Drop | Admission::Refuse => return Err(Error::NoSpace),
        };
        self.spent |= enough(0, send.cap_count);
        let thread = self.threads.get_mut(caller.thread).ok_or(Error::BadState)?;
        if send.cap_count > 0 {
            thread.calls.loans.try_reserve(MAX).map_err(|_| Error::NoMemory)?;
        }
        self.trace.counts.calls += 1;
        self.trace.counts.messages_sent += 1;
        let data = [id.number(), u64::from(send.length), u64::from(send.cap_count), 0];
        self.trace_event(TraceKind::Send, data);
        self.channel_work.serial = self.channel_work.serial.wrapping_add(1).max(1);
        let thread = self.threads.get_mut(caller.thread).ok_or(Error::BadState)?;
        thread.calls.serial = self.channel_work.serial;
        thread.calls.send = send;
        thread.calls.receive = receive;
        thread.calls.stage = Stage::Room;
        if room {
            let wait = ChannelWait { channel: id, end, what: Waiting::Reply };
            self.block(caller, Wait::Channel(wait), patience.deadline);
            self.call_queue(caller.thread, id, end);
            self.channel_settle(id, to, Some(caller.cpu));
            self.raise_readable(id, to);
        } else {
            if let Some(channel) = self.channels.get_mut(id) {
                channel.side_mut(end).senders.push(&mut self.threads, caller.thread);
            }
            let wait = ChannelWait { channel: id, end, what: Waiting::Room };
            self.block(caller, Wait::Channel(wait), patience.deadline);
        }
        Ok(Outcome::Blocked)
    }

    /// Puts the call of a waiting thread into the inbox, where there is room. Its rank is lent to whoever received there
    /// last.
    pub(super) fn call_queue(&mut self, caller: ThreadId, id: ChannelId, end: End) {
        let Some(thread) = self.threads.get(caller) else { return };
        let (send, unit) = (thread.calls.send, thread.unit);
        let to = end.peer();
        self.channel_work.sequence += 1;
        let header = Header {
            sequence: self.channel_work.sequence,
            sender: unit.number(),
            badge: send.badge,
            caller: Some(caller),
            caps: None,
            cap_count: send.cap_count,
            length: send.length,
            priority: send.priority,
            crc: None,
            ..Header::default()
        }
        .sealed();
        let Some(channel) = self.channels.get_mut(id) else { return };
        let inherits = !channel.flags.contains(ChanFlags::NO_INHERITANCE);
        let side = channel.side_mut(to);
        let Some(inbox) = &mut side.inbox else { return };
        let Some(reserved) = inbox.reserve(0) else { return };
        let slot = inbox.push(reserved, header);
        let server = side.server.filter(|_| side.receivers.is_empty() && inherits);
        if let Some(thread) = self.threads.get_mut(caller) {
            thread.calls.stage = Stage::Queued(slot);
            if let Wait::Channel(wait) = &mut thread.wait {
                wait.what = Waiting::Reply;
            }
        }
        if let Some(server) = server {
            self.caller_link(server, caller, true);
        }
    }

    /// Whether the call of `caller` is in this slot of the inbox of `end`.
    pub(super) fn call_is_queued(&self, caller: ThreadId, id: ChannelId, end: End, slot: u32) -> bool {
        self.threads.get(caller).is_some_and(|thread| {
            thread.calls.stage == Stage::Queued(slot)
                && thread.state == ThreadState::Blocked
                && thread.wait == Wait::Channel(ChannelWait { channel: id, end: end.peer(), what: Waiting::Reply })
        })
    }

    /// `server` received the call of `caller` at `end`.
    pub(super) fn call_served(&mut self, id: ChannelId, end: End, caller: ThreadId, server: ThreadId) {
        let mut inherits = true;
        if let Some(channel) = self.channels.get_mut(id) {
            inherits = !channel.flags.contains(ChanFlags::NO_INHERITANCE);
            let side = channel.side_mut(end);
            side.server = Some(server);
            side.open_calls += 1;
        }
        self.caller_unlink(caller);
        if let Some(thread) = self.threads.get_mut(caller) {
            thread.calls.stage = Stage::Served(server);
        }
        self.caller_link(server, caller, inherits);
    }

    /// The call of `caller` is over, however: loans end, ranks fall.
    pub(super) fn call_over(&mut self, caller: ThreadId, id: ChannelId, end: End) {
        let Some(thread) = self.threads.get_mut(caller) else { return };
        let served = matches!(thread.calls.stage, Stage::Served(_));
        thread.calls.stage = Stage::None;
        if !thread.calls.loans.is_empty() {
            let mut loans: [Option<GrantId>; MAX] = [None; MAX];
            for (to, loan) in loans.iter_mut().zip(thread.calls.loans.drain(..)) {
                *to = Some(loan);
            }
            self.loans_end(loans.into_iter().flatten());
        }
        self.caller_unlink(caller);
        if served && let Some(channel) = self.channels.get_mut(id) {
            channel.side_mut(end).open_calls -= 1;
        }
    }

    /// Answers the caller that the token names and wakes it.
    ///
    /// # Errors
    /// Those of the table of calls.
    pub(crate) fn chan_reply(&mut self, caller: Caller, channel: Cap, token: u64, message: MsgIo) -> Answer {
        let request = SendRequest::of(&message, channel)?;
        let Some(replied) = self.reply(caller, channel, token, request)? else { return Ok(Outcome::Again) };
        self.wake_with_registers(replied);
        Ok(Outcome::OK)
    }

    /// [`Kernel::chan_reply`] unless the token is 0, and then [`Kernel::chan_recv`].
    ///
    /// # Errors
    /// Those of the table of calls.
    pub(crate) fn chan_reply_recv(
        &mut self,
        caller: Caller,
        channel: Cap,
        token: u64,
        reply: MsgIo,
        receive: InOut<MsgIo>,
        deadline: Nanos,
    ) -> Answer {
        let mut replied = None;
        if token != 0 {
            let request = SendRequest::of(&reply, channel)?;
            replied = self.reply(caller, channel, token, request)?;
            if replied.is_none() {
                return Ok(Outcome::Again);
            }
        }
        let nonblock = receive.value.flags.contains(MsgFlags::NONBLOCK);
        let request = ReceiveRequest::of(&receive);
        self.receive(caller, channel, request, Patience { nonblock, deadline }, replied)
    }

    /// The thread whose call `token` names, if `unit` received it at this end and has not replied.
    pub(super) fn call_of_token(
        &self,
        unit: crate::unit::UnitId,
        id: ChannelId,
        end: End,
        token: u64,
    ) -> Result<ThreadId, Error> {
        let (target, thread) = self.threads.at(token as u32).ok_or(Error::NotFound)?;
        let Stage::Served(server) = thread.calls.stage else { return Err(Error::NotFound) };
        let here = Wait::Channel(ChannelWait { channel: id, end: end.peer(), what: Waiting::Reply });
        if thread.calls.serial != (token >> 32) as u32
            || thread.state != ThreadState::Blocked
            || thread.wait != here
            || self.threads.get(server).is_none_or(|server| server.unit != unit)
        {
            return Err(Error::NotFound);
        }
        Ok(target)
    }

    /// Finishes the call that the token names: the caller's registers are written, it is to be woken. `None`: a piece of the
    /// reply was copied, and more is to do.
    pub(super) fn reply(
        &mut self,
        caller: Caller,
        cap: Cap,
        token: u64,
        send: SendRequest,
    ) -> Result<Option<ThreadId>, Error> {
        let Object::Channel(id, end) = cap.object else { return Err(Error::WrongType) };
        let target = self.call_of_token(caller.unit, id, end, token)?;
        let channel = self.channels.get(id).ok_or(Error::NotFound)?;
        let longest = channel.side(end).inbox.as_ref().map_or(0, |inbox| inbox.made().message);
        if send.length > longest {
            return Err(Error::MessageSize);
        }
        if send.cap_count > 0 && channel.flags.contains(ChanFlags::RT_SAFE) {
            return Err(Error::NotPermitted);
        }
        let Some(thread) = self.threads.get(target) else { return Err(Error::NotFound) };
        let (request, unit) = (thread.calls.receive, thread.unit);
        if (send.length > request.room && !request.flags.contains(MsgFlags::TRUNCATE))
            || send.cap_count > request.cap_room
        {
            return Err(Error::MessageSize);
        }
        if let Some(thread) = self.threads.get_mut(caller.thread) {
            let other = thread.calls.copies() && thread.calls.send != send;
            thread.calls.send = send;
            if other {
                self.progress_is(caller.thread, Progress::None);
            }
        }
        let keeper = (caller.thread, Mark::Reply(token));
        let length = send.length.min(request.room);
        let words = match self.payload_across(caller.thread, target, length, send.cap_count, keeper) {
            Ok(words) => words,
            Err(Undelivered::More) => return Ok(None),
            Err(why) => return Err(self.reply_undone(target, why)),
        };
        let mut parcel = Parcel::new();
        if send.cap_count > 0 {
            self.records_in(caller.unit, id, &send, &mut parcel)?;
            self.cap_reserve(unit, parcel.len())?;
            self.parcel_make(&mut parcel, unit)?;
        }
        let facts = Facts {
            length: send.length,
            caps: send.cap_count,
            priority: send.priority,
            token: 0,
            badge: send.badge,
            sender: caller.unit.number(),
        };
        let told =
            self.records_out_parcel(unit, &request, &parcel).and_then(|()| self.facts_out(unit, &request, &facts));
        if let Err(error) = told {
            self.parcel_unmake(&parcel);
            return Err(self.reply_undone(target, Undelivered::Receiver(error)));
        }
        // Nothing fails from here on.
        self.spent |= enough(length, send.cap_count);
        let cap_came = self.parcel_arrive(caller.unit, unit, &parcel);
        self.call_over(target, id, end);
        let value = self.arrived(target, &request, &facts, words, cap_came);
        if let Some(thread) = self.threads.get_mut(target) {
            thread.registers.rax = value;
        }
        Ok(Some(target))
    }

    /// What a reply fails with that did not come through.
    #[cold]
    fn reply_undone(&mut self, target: ThreadId, why: Undelivered) -> Error {
        match why {
            Undelivered::Sender(error) => error,
            // The caller's room is not there: its call fails, and nobody waits for the reply any more.
            Undelivered::Receiver(error) => {
                self.give_up(target, error);
                Error::NotFound
            }
            Undelivered::Damaged | Undelivered::More => Error::NotFound,
        }
    }

    /// Whether a message of any allowed length can be sent from `end` without waiting.
    pub(super) fn may_send(&self, id: ChannelId, end: End) -> bool {
        let Some(channel) = self.channels.get(id) else { return false };
        let peer = channel.side(end.peer());
        let fits = |inbox: &Inbox| inbox.policy != DropPolicy::Block || inbox.fits(inbox.made().message);
        !peer.closed && peer.inbox.as_ref().is_some_and(fits)
    }
}

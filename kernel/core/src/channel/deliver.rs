//! Receiving: a message leaves the inbox for the memory, the registers and the capabilities of a thread; all of it, or
//! nothing and the message stays.

use holm_abi::{CapTransfer, Error, EventMask, Handle, MsgFlags, MsgIo, Short, ShortFlags, TraceKind, TransferMode};

use super::payload::{SHORT, put_words};
use super::pieces::{Mark, Progress, enough};
use super::request::{Into, Patience, ReceiveRequest};
use super::{ChannelId, ChannelWait, End, Waiting};
use crate::caller::{Answer, Caller, InOut, Outcome};
use crate::cap::transfer::{MAX, Parcel, arriving};
use crate::cap::{Cap, GrantId};
use crate::event::Source;
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};
use crate::object::Object;
use crate::thread::ThreadId;
use crate::unit::UnitId;
use crate::wait::Wait;

/// Messages that one receive passes over at most, since they were damaged or their sender failed, before it lets
/// interrupts in.
const PASSED: u32 = 16;

/// Why a message was not delivered, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undelivered {
    /// The receiver's doing; the message stays.
    Receiver(Error),
    /// The caller's, whose call fails.
    Sender(Error),
    /// Header or payload were written over: the message is dropped.
    Damaged,
    /// A piece was copied, more is to do: see [`super::pieces`].
    More,
}

/// What a receiver is told besides payload and capabilities.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facts {
    pub(super) length: u32,
    pub(super) caps: u32,
    pub(super) priority: u8,
    pub(super) token: u64,
    pub(super) badge: u64,
    pub(super) sender: u64,
}

impl<M: Machine> Kernel<M> {
    /// Receives the first message, of the highest priority where the channel knows priorities.
    ///
    /// # Errors
    /// Those of the table of calls.
    pub(crate) fn chan_recv(&mut self, caller: Caller, channel: Cap, message: InOut<MsgIo>, deadline: Nanos) -> Answer {
        let nonblock = message.value.flags.contains(MsgFlags::NONBLOCK);
        let request = ReceiveRequest::of(&message);
        self.receive(caller, channel, request, Patience { nonblock, deadline }, None)
    }

    /// Receives, or waits. `replied` is a thread whose call was answered in the same system call, with its registers
    /// written: it is woken, and runs at once when the caller waits.
    pub(super) fn receive(
        &mut self,
        caller: Caller,
        cap: Cap,
        request: ReceiveRequest,
        patience: Patience,
        replied: Option<ThreadId>,
    ) -> Answer {
        let Object::Channel(id, end) = cap.object else { return Err(Error::WrongType) };
        if let Some(thread) = self.threads.get_mut(caller.thread) {
            let before = (thread.calls.receive.into, thread.calls.receive.room);
            thread.calls.receive = request.through(cap, self.caps.grants.epoch);
            if thread.calls.copies() && before != (request.into, request.room) {
                self.progress_is(caller.thread, Progress::None);
            }
        }
        let answer = match replied {
            // What comes in now may be long, too.
            Some(_) if self.spent => Ok(Outcome::Again),
            _ => self.receive_or_wait(caller, id, end, patience),
        };
        if let Some(replied) = replied {
            if answer == Ok(Outcome::Blocked) {
                self.sched_handoff(caller.cpu, replied);
            } else {
                self.wake_with_registers(replied);
            }
            if answer == Ok(Outcome::Again) {
                // The reply is done; the restarted call only receives.
                if let Some(thread) = self.threads.get_mut(caller.thread) {
                    thread.registers.rsi = 0;
                }
            }
        }
        answer
    }

    fn receive_or_wait(&mut self, caller: Caller, id: ChannelId, end: End, patience: Patience) -> Answer {
        for _ in 0..PASSED {
            let Some(slot) = self.inbox(id, end).ok_or(Error::Access)?.first() else {
                let channel = self.channels.get_mut(id).ok_or(Error::PeerClosed)?;
                if channel.side(end.peer()).closed {
                    return Err(Error::PeerClosed);
                }
                if let Some(error) = patience.over(self.machine.now()) {
                    return Err(error);
                }
                channel.side_mut(end).receivers.push(&mut self.threads, caller.thread);
                let wait = ChannelWait { channel: id, end, what: Waiting::Message };
                self.block(caller, Wait::Channel(wait), patience.deadline);
                return Ok(Outcome::Blocked);
            };
            match self.deliver(id, end, slot, caller.thread) {
                Ok(value) => {
                    self.channel_settle(id, end, None);
                    return Ok(Outcome::Done(value));
                }
                Err(Undelivered::Receiver(error)) => return Err(error),
                Err(Undelivered::More) => return Ok(Outcome::Again),
                Err(why) => self.undeliverable(id, end, slot, why),
            }
        }
        Ok(Outcome::Again)
    }

    /// Takes a message that cannot be delivered to anybody out of the inbox.
    pub(super) fn undeliverable(&mut self, id: ChannelId, end: End, slot: u32, why: Undelivered) {
        let header = self.inbox(id, end).and_then(|inbox| inbox.header(slot)).copied();
        let caller = header.and_then(|header| header.caller);
        match why {
            Undelivered::Receiver(_) | Undelivered::More => {}
            Undelivered::Sender(error) => {
                if let Some(caller) = caller {
                    self.give_up(caller, error);
                }
            }
            Undelivered::Damaged => {
                self.channel_work.damaged += 1;
                self.trace.counts.messages_dropped += 1;
                match caller {
                    Some(caller) if self.call_is_queued(caller, id, end, slot) => self.give_up(caller, Error::Canceled),
                    _ => {
                        if let Some(inbox) = self.inbox_mut(id, end) {
                            inbox.dropped += 1;
                            let _ = inbox.remove(slot);
                        }
                    }
                }
            }
        }
    }

    /// Gives the message in `slot` of the inbox of `end` to `receiver`, by its [`ReceiveRequest`], and answers what goes to
    /// its `rax`. Registers of a short receive are written.
    pub(super) fn deliver(
        &mut self,
        id: ChannelId,
        end: End,
        slot: u32,
        receiver: ThreadId,
    ) -> Result<u64, Undelivered> {
        let Some(header) = self.inbox(id, end).and_then(|inbox| inbox.header(slot)).copied() else {
            return Err(Undelivered::Damaged);
        };
        if !header.is_sound() {
            return Err(Undelivered::Damaged);
        }
        let Some(thread) = self.threads.get(receiver) else { return Err(Undelivered::Receiver(Error::BadState)) };
        let (request, unit) = (thread.calls.receive, thread.unit);
        let peek = request.flags.contains(MsgFlags::PEEK);
        let mut facts = Facts {
            length: header.length,
            caps: header.cap_count,
            priority: header.priority,
            token: 0,
            badge: header.badge,
            sender: header.sender,
        };
        let long = header.length > request.room && !request.flags.contains(MsgFlags::TRUNCATE);
        if long || (header.cap_count > request.cap_room && !peek) {
            self.facts_out(unit, &request, &facts).map_err(Undelivered::Receiver)?;
            return Err(Undelivered::Receiver(Error::MessageSize));
        }
        if let Some(caller) = header.caller {
            return self.deliver_call(id, end, slot, (caller, header.sequence), receiver, &mut facts);
        }
        let moved = header.cap_count > 0 && !peek;
        if moved {
            self.cap_reserve(unit, header.cap_count).map_err(Undelivered::Receiver)?;
        }
        let words = self.payload_out(id, end, slot, &header, receiver, unit, &request)?;
        if moved {
            self.records_out_chain(unit, &request, header.caps).map_err(Undelivered::Receiver)?;
        }
        self.facts_out(unit, &request, &facts).map_err(Undelivered::Receiver)?;
        // Nothing fails from here on.
        self.spent |= enough(header.length.min(request.room), header.cap_count);
        let mut cap = Handle::NONE;
        if moved {
            let mut next = header.caps;
            for _ in 0..header.cap_count {
                let Some(grant) = next else { break };
                next = self.caps.grants.get(grant).and_then(|node| node.next_in_message);
                cap = self.cap_arrive(unit, grant, 0);
                self.trace_grant(grant, header.sender, unit);
            }
        }
        if !peek {
            self.message_leave(id, end, slot);
            if let Some(channel) = self.channels.get_mut(id) {
                channel.side_mut(end).server = Some(receiver);
            }
        }
        Ok(self.arrived(receiver, &request, &facts, words, cap))
    }

    /// Delivers a call: its payload and its capabilities are still the caller's.
    fn deliver_call(
        &mut self,
        id: ChannelId,
        end: End,
        slot: u32,
        (caller, sequence): (ThreadId, u64),
        receiver: ThreadId,
        facts: &mut Facts,
    ) -> Result<u64, Undelivered> {
        if !self.call_is_queued(caller, id, end, slot) {
            return Err(Undelivered::Damaged);
        }
        let (Some(from), Some(to)) = (self.threads.get(caller), self.threads.get(receiver)) else {
            return Err(Undelivered::Damaged);
        };
        let (send, sender, token) = (from.calls.send, from.unit, from.calls.token(caller));
        let (request, unit) = (to.calls.receive, to.unit);
        if send.grant.is_some_and(|grant| !self.caps.grants.alive(grant)) {
            return Err(Undelivered::Sender(Error::Revoked));
        }
        let peek = request.flags.contains(MsgFlags::PEEK);
        let length = send.length.min(request.room);
        let mark = Mark::Call(sequence);
        let words = self.payload_across(caller, receiver, length, send.cap_count, (receiver, mark))?;
        let mut parcel = Parcel::new();
        if send.cap_count > 0 && !peek {
            self.send_decide(sender, id, end.peer(), &send, &mut parcel).map_err(Undelivered::Sender)?;
            self.cap_reserve(unit, parcel.len()).map_err(Undelivered::Receiver)?;
            self.parcel_make(&mut parcel, unit).map_err(Undelivered::Receiver)?;
        }
        if !peek {
            facts.token = token;
        }
        let told =
            self.records_out_parcel(unit, &request, &parcel).and_then(|()| self.facts_out(unit, &request, facts));
        if let Err(error) = told {
            self.parcel_unmake(&parcel);
            return Err(Undelivered::Receiver(error));
        }
        // Nothing fails from here on.
        self.spent |= enough(length, send.cap_count);
        let cap = self.parcel_arrive(sender, unit, &parcel);
        if !peek {
            if parcel.len() > 0
                && let Some(thread) = self.threads.get_mut(caller)
            {
                let lent = parcel.parts().filter(|(mode, ..)| *mode == TransferMode::Borrow);
                thread.calls.loans.extend(lent.map(|(.., grant)| grant));
            }
            self.message_leave(id, end, slot);
            self.call_served(id, end, caller, receiver);
        }
        Ok(self.arrived(receiver, &request, facts, words, cap))
    }

    /// Takes a delivered message out of the inbox, and tells who waits for room.
    fn message_leave(&mut self, id: ChannelId, end: End, slot: u32) {
        let Some(inbox) = self.inbox_mut(id, end) else { return };
        let was_full = !inbox.fits(inbox.made().message);
        let header = inbox.remove(slot);
        inbox.received += 1;
        self.trace.counts.messages_received += 1;
        if let Some(header) = header {
            let data = [id.number(), u64::from(header.length), u64::from(header.cap_count), 0];
            self.trace_event(TraceKind::Receive, data);
        }
        self.room_came(id, end, was_full);
    }

    /// Tells those who watch the other end that a message of any length can be sent again, when that was not so.
    pub(super) fn room_came(&mut self, id: ChannelId, end: End, was_full: bool) {
        let Some(inbox) = self.inbox(id, end) else { return };
        if was_full && inbox.fits(inbox.made().message) {
            self.raise(Source::Channel(id, end.peer()), EventMask::WRITABLE, 0, 0);
        }
    }

    /// What a receiver finds in its registers: answers `rax`, writes the others for a short receive. `cap` is the last
    /// capability that came, if one did: a short receive has room for one.
    pub(super) fn arrived(
        &mut self,
        receiver: ThreadId,
        request: &ReceiveRequest,
        facts: &Facts,
        words: [u8; SHORT],
        cap: Handle,
    ) -> u64 {
        if request.into != Into::Registers {
            return u64::from(facts.length);
        }
        if let Some(thread) = self.threads.get_mut(receiver) {
            put_words(&mut thread.registers, &words, facts.length as usize);
            thread.registers.rdi = facts.token;
            thread.registers.rsi = facts.badge;
        }
        short_result(facts.length as u8, facts.priority, facts.token, cap)
    }

    /// Tells a receiver what it got, in the struct that it gave.
    pub(super) fn facts_out(&mut self, unit: UnitId, request: &ReceiveRequest, facts: &Facts) -> Result<(), Error> {
        let Into::Memory { io, io_bytes, .. } = request.into else { return Ok(()) };
        const FROM: usize = core::mem::offset_of!(MsgIo, out_bytes);
        let mut told = MsgIo::new();
        told.out_bytes = u64::from(facts.length);
        told.out_caps = facts.caps;
        told.out_priority = u32::from(facts.priority);
        told.out_token = facts.token;
        told.out_badge = facts.badge;
        told.out_sender = facts.sender;
        let mut bytes = [0; MsgIo::SIZE];
        told.encode_whole(&mut bytes);
        match bytes.get(FROM..MsgIo::SIZE.min(io_bytes as usize)) {
            Some(part) if !part.is_empty() => {
                self.copy_out(unit, io.checked_add(FROM as u64).ok_or(Error::Fault)?, part)
            }
            _ => Ok(()),
        }
    }

    /// Writes the records of the capabilities of a queued message, which get the next free handles of the unit.
    fn records_out_chain(
        &mut self,
        unit: UnitId,
        request: &ReceiveRequest,
        mut next: Option<GrantId>,
    ) -> Result<(), Error> {
        let Into::Memory { caps, .. } = request.into else { return Ok(()) };
        let mut handles = [Handle::NONE; MAX];
        self.units.get(unit).ok_or(Error::BadState)?.caps.next_free(&mut handles);
        let mut records = Records::to(caps);
        for cap in handles {
            let Some(node) = next.and_then(|grant| self.caps.grants.get(grant)) else { break };
            let record = CapTransfer { cap, rights: node.rights, mode: node.mode };
            next = node.next_in_message;
            self.record_out(unit, &mut records, &record)?;
        }
        self.records_flush(unit, &mut records)
    }

    /// Writes the records of a parcel, as [`Kernel::records_out_chain`].
    pub(super) fn records_out_parcel(
        &mut self,
        unit: UnitId,
        request: &ReceiveRequest,
        parcel: &Parcel,
    ) -> Result<(), Error> {
        let Into::Memory { caps, .. } = request.into else { return Ok(()) };
        if parcel.len() == 0 {
            return Ok(());
        }
        let mut handles = [Handle::NONE; MAX];
        self.units.get(unit).ok_or(Error::BadState)?.caps.next_free(&mut handles[..parcel.len() as usize]);
        let mut records = Records::to(caps);
        for ((mode, rights, _), cap) in parcel.parts().zip(handles) {
            self.record_out(unit, &mut records, &CapTransfer { cap, rights: arriving(mode, rights), mode })?;
        }
        self.records_flush(unit, &mut records)
    }

    fn record_out(&mut self, unit: UnitId, records: &mut Records, record: &CapTransfer) -> Result<(), Error> {
        if records.count == RECORDS {
            self.records_flush(unit, records)?;
        }
        if let Some(place) = records.bytes.get_mut(records.count) {
            record.encode_whole(place);
            records.count += 1;
        }
        Ok(())
    }

    fn records_flush(&mut self, unit: UnitId, records: &mut Records) -> Result<(), Error> {
        let bytes = records.bytes.get(..core::mem::take(&mut records.count)).unwrap_or_default().as_flattened();
        self.copy_out(unit, records.address, bytes)?;
        records.address = records.address.checked_add(bytes.len() as u64).ok_or(Error::Fault)?;
        Ok(())
    }
}

/// Records of capabilities that are written at once.
const RECORDS: usize = 4;

/// Records of capabilities on their way to a program, several at once.
#[derive(Debug)]
struct Records {
    address: u64,
    bytes: [[u8; CapTransfer::SIZE]; RECORDS],
    count: usize,
}

impl Records {
    const fn to(address: u64) -> Self {
        Self { address, bytes: [[0; CapTransfer::SIZE]; RECORDS], count: 0 }
    }
}

/// What a short receive answers in `rax`.
#[inline(always)]
pub(super) const fn short_result(bytes: u8, priority: u8, token: u64, cap: Handle) -> u64 {
    let called = if token != 0 { ShortFlags::CALL } else { ShortFlags::NONE };
    let came = if cap.is_none() { ShortFlags::NONE } else { ShortFlags::CAP };
    Short { channel: cap, bytes, priority, flags: called.or(came) }.register()
}

//! The system calls that make a channel, change it and tell about it.

use holm_abi::{
    ChanAttr, ChanAttrMask, ChanFlags, ChanInfo, ChanMode, ChanSpec, DropPolicy, Error, EventMask, ObjectType, Rights,
};

use super::inbox::{Inbox, Limits};
use super::{Channel, ChannelId, End, Side};
use crate::caller::{Answer, Caller, Out, Outcome};
use crate::cap::Cap;
use crate::event::{Source, Watchers};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;
use crate::quota::Resource;
use crate::unit::UnitId;

/// Bytes of a message at most, and messages, when nothing is said.
const DEFAULT_MESSAGE: u32 = 256;
const DEFAULT_MESSAGES: u32 = 16;

/// Bytes of a message at most of an RT_SAFE channel.
const RT_SAFE_MESSAGE: u32 = 256;

/// What a channel is made with.
///
/// # Errors
/// [`Error::Invalid`] for numbers out of range and for flags that exclude what is asked for.
fn limits(spec: &ChanSpec) -> Result<Limits, Error> {
    let default = |value: u32, default: u32| if value == 0 { default } else { value };
    let message = default(spec.max_message, DEFAULT_MESSAGE);
    let messages = default(spec.max_messages, DEFAULT_MESSAGES);
    let most = holm_abi::limits::MAX_QUEUE_BYTES;
    let bytes = match spec.max_bytes {
        0 => (u64::from(message) * u64::from(messages)).min(most),
        bytes => bytes,
    };
    let dropping = matches!(spec.drop_policy, DropPolicy::DropNewest | DropPolicy::DropOldest);
    if u64::from(message) > holm_abi::limits::MAX_MESSAGE
        || u64::from(messages) > holm_abi::limits::MAX_QUEUE_MESSAGES
        || bytes > most
        || bytes < u64::from(message)
        || (spec.flags.contains(ChanFlags::RELIABLE) && dropping)
        || (spec.flags.contains(ChanFlags::RT_SAFE) && message > RT_SAFE_MESSAGE)
    {
        return Err(Error::Invalid);
    }
    Ok(Limits { message, messages, bytes })
}

impl<M: Machine> Kernel<M> {
    /// Makes a channel; its ends go to `rax` and `rdx` of the caller. UNI: the first receives, the second sends.
    ///
    /// # Errors
    /// [`Error::Invalid`], and those of the caller's quotas.
    pub(crate) fn chan_create(&mut self, caller: Caller, spec: ChanSpec) -> Answer {
        let id = self.channel_new(caller.unit, &spec)?;
        let all = ObjectType::Channel.rights();
        let (first, second) = match spec.mode {
            ChanMode::Bidi => (all, all),
            ChanMode::Uni => (all.without(Rights::SEND), all.without(Rights::RECEIVE)),
        };
        let policy = ObjectType::Channel.transfer_flags();
        // Both fit, so the installs do not fail.
        let ends = self
            .cap_install(caller.unit, Object::Channel(id, End::A), first, policy)
            .and_then(|a| Ok((a, self.cap_install(caller.unit, Object::Channel(id, End::B), second, policy)?)));
        let (first, second) = match ends {
            Ok(ends) => ends,
            Err(error) => {
                debug_assert!(false, "room for two handles was reserved");
                for end in [End::A, End::B] {
                    self.channel_end_released(id, end);
                }
                return Err(error);
            }
        };
        if let Some(thread) = self.threads.get_mut(caller.thread) {
            thread.registers.rdx = second.raw() as u64;
        }
        Ok(Outcome::Done(first.raw() as u64))
    }

    /// Makes a channel without handles, charged to `unit`, which has room for two handles afterwards.
    fn channel_new(&mut self, unit: UnitId, spec: &ChanSpec) -> Result<ChannelId, Error> {
        let made = limits(spec)?;
        let by_priority = spec.flags.contains(ChanFlags::PRIORITY_AWARE);
        let inboxes = if spec.mode == ChanMode::Bidi { 2 } else { 1 };
        let bytes = size_of::<Channel>() as u64 + inboxes * made.kernel_bytes(by_priority);
        self.cap_reserve(unit, 2)?;
        self.charge(unit, Resource::Kernel, bytes)?;
        let channel = self.cap_reserve(unit, 2).and_then(|()| {
            let inbox = || Inbox::new(made, spec.drop_policy, by_priority);
            let first = Side::new(Some(inbox()?));
            let second = Side::new(if spec.mode == ChanMode::Bidi { Some(inbox()?) } else { None });
            let channel = Channel {
                mode: spec.mode,
                flags: spec.flags,
                payer: unit,
                bytes,
                sides: [first, second],
                queued: false,
                next_queued: None,
                recheck: None,
                orphans: None,
            };
            self.channels.insert(channel).map_err(|_| Error::NoMemory)
        });
        match channel {
            Ok(_) => self.unit_hold(unit),
            Err(_) => self.refund(unit, Resource::Kernel, bytes),
        }
        channel
    }

    /// Changes limits and drop policy of the queue that this end receives from.
    ///
    /// # Errors
    /// [`Error::Invalid`] for limits beyond those it was made with, or less than one message; [`Error::NotPermitted`] at the
    /// sending end of a UNI channel and for dropping on a RELIABLE one.
    pub(crate) fn chan_set_attr(&mut self, _caller: Caller, channel: Cap, attr: ChanAttr) -> Answer {
        let Object::Channel(id, end) = channel.object else { return Err(Error::WrongType) };
        let entry = self.channels.get_mut(id).ok_or(Error::BadHandle)?;
        let reliable = entry.flags.contains(ChanFlags::RELIABLE);
        let Some(inbox) = &mut entry.side_mut(end).inbox else { return Err(Error::NotPermitted) };
        let made = inbox.made();
        let sets = |mask| attr.mask.contains(mask);
        if sets(ChanAttrMask::MAX_MESSAGES) && !(1..=made.messages).contains(&attr.max_messages)
            || sets(ChanAttrMask::MAX_BYTES) && !(u64::from(made.message)..=made.bytes).contains(&attr.max_bytes)
        {
            return Err(Error::Invalid);
        }
        let dropping = matches!(attr.drop_policy, DropPolicy::DropNewest | DropPolicy::DropOldest);
        if sets(ChanAttrMask::DROP_POLICY) && reliable && dropping {
            return Err(Error::NotPermitted);
        }
        if sets(ChanAttrMask::MAX_MESSAGES) {
            inbox.max_messages = attr.max_messages;
        }
        if sets(ChanAttrMask::MAX_BYTES) {
            inbox.max_bytes = attr.max_bytes;
        }
        if sets(ChanAttrMask::DROP_POLICY) {
            inbox.policy = attr.drop_policy;
        }
        self.channel_settle(id, end, None);
        if self.may_send(id, end.peer()) {
            self.raise(Source::Channel(id, end.peer()), EventMask::WRITABLE, 0, 0);
        }
        Ok(Outcome::OK)
    }

    /// Tells limits, fill and figures of a channel, seen from one end.
    ///
    /// # Errors
    /// What writing the answer can fail with.
    pub(crate) fn chan_get_info(&mut self, caller: Caller, channel: Cap, info: Out<ChanInfo>) -> Answer {
        let Object::Channel(id, end) = channel.object else { return Err(Error::WrongType) };
        let entry = self.channels.get(id).ok_or(Error::BadHandle)?;
        let (side, peer) = (entry.side(end), entry.side(end.peer()));
        let mut answer = ChanInfo::new();
        answer.id = id.number();
        answer.mode = entry.mode;
        answer.flags = entry.flags;
        answer.receivers = side.receivers.len();
        answer.senders = peer.senders.len();
        answer.open_calls = side.open_calls;
        answer.peer_closed = u32::from(peer.closed);
        answer.payload_crc = u32::from(self.config.payload_crc);
        // The sending end of a UNI channel has no queue; its limits are those of the other end.
        if let Some(inbox) = side.inbox.as_ref().or(peer.inbox.as_ref()) {
            answer.drop_policy = inbox.policy;
            answer.max_message = inbox.made().message;
            answer.max_messages = inbox.max_messages;
            answer.max_bytes = inbox.max_bytes;
        }
        if let Some(inbox) = &side.inbox {
            answer.queued_messages = inbox.messages;
            answer.queued_bytes = inbox.bytes;
            answer.sent = inbox.sent;
            answer.received = inbox.received;
            answer.dropped = inbox.dropped;
        }
        let mut bytes = [0; ChanInfo::SIZE];
        let length = answer.encode(&mut bytes[..info.bytes.min(ChanInfo::SIZE)]);
        self.copy_out(caller.unit, info.address, &bytes[..length])?;
        Ok(Outcome::OK)
    }

    /// What is true of an end: something can be received, a message of any allowed length can be sent, the peer is gone.
    pub(crate) fn channel_ready(&self, id: ChannelId, end: End) -> EventMask {
        let Some(channel) = self.channels.get(id) else { return EventMask::CLOSED };
        let mut ready = EventMask::NONE;
        if channel.side(end).inbox.as_ref().is_some_and(|inbox| inbox.first().is_some()) {
            ready = ready | EventMask::READABLE;
        }
        if self.may_send(id, end) {
            ready = ready | EventMask::WRITABLE;
        }
        if channel.side(end.peer()).closed {
            ready = ready | EventMask::CLOSED;
        }
        ready
    }

    /// Who watches an end.
    pub(crate) fn channel_watchers(&mut self, id: ChannelId, end: End) -> Option<&mut Watchers> {
        self.channels.get_mut(id).map(|channel| &mut channel.side_mut(end).watchers)
    }
}

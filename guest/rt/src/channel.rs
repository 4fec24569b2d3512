//! Channels: sending, receiving, calling, replying.

use alloc::vec::Vec;

use holm_abi::{
    CapTransfer, ChanAttr, ChanInfo, ChanMode, ChanSpec, Error, MsgFlags, MsgIo, Short, ShortFlags, limits,
};

use crate::object::{Channel, Object, Owned};
use crate::sys::{self, CapSlots, Parcel, Room, ShortAnswer};
use crate::time::Deadline;

/// A message received. Its capabilities are closed when it is dropped, unless they are taken out.
#[derive(Debug)]
pub struct Received {
    /// The payload.
    pub payload: Vec<u8>,
    /// The capabilities with the rights they came with.
    pub caps: Vec<ReceivedCap>,
    /// The priority.
    pub priority: u32,
    /// Names the caller that waits for a reply.
    pub reply: Option<ReplyToken>,
    /// The badge of the capability it was sent through.
    pub badge: u64,
    /// The id of the unit that sent it.
    pub sender: u64,
}

/// A capability received.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceivedCap {
    /// The handle.
    pub owned: Owned,
    /// How and with which rights it came.
    pub transfer: CapTransfer,
}

/// Names a caller that waits for a reply. Whoever drops it lets the caller wait until its deadline.
#[derive(Debug, PartialEq, Eq)]
pub struct ReplyToken(u64);

impl ReplyToken {
    /// The token of a short message; `None` when nobody waits.
    #[must_use]
    pub const fn of(answer: &ShortAnswer) -> Option<Self> {
        if answer.token == 0 { None } else { Some(Self(answer.token)) }
    }

    /// The number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.0
    }
}

/// What to send besides the payload.
#[derive(Debug, Default)]
pub struct Sending<'a> {
    /// Capabilities.
    pub caps: &'a [CapTransfer],
    /// The priority, 0 to 31.
    pub priority: u8,
    /// Flags.
    pub flags: MsgFlags,
}

fn received(mut payload: Vec<u8>, slots: &CapSlots, message: &MsgIo) -> Result<Received, Error> {
    payload.truncate(message.out_bytes as usize);
    let caps = slots.iter().take(message.out_caps as usize).map(|slot| {
        let transfer = CapTransfer::decode_whole(slot)?;
        Ok(ReceivedCap { owned: Owned::new(transfer.cap), transfer })
    });
    Ok(Received {
        payload,
        caps: caps.collect::<Result<_, Error>>()?,
        priority: message.out_priority,
        reply: (message.out_token != 0).then_some(ReplyToken(message.out_token)),
        badge: message.out_badge,
        sender: message.out_sender,
    })
}

impl Channel {
    /// A channel of its own for a queue: the end that receives and the end that sends.
    ///
    /// # Errors
    /// Those of chan_create.
    pub fn queue(max_message: u32, max_messages: u32) -> Result<(Self, Self), Error> {
        Self::with(&ChanSpec { mode: ChanMode::Uni, max_message, max_messages, ..ChanSpec::new() })
    }

    /// Both ends of a channel.
    ///
    /// # Errors
    /// Those of chan_create.
    pub fn pair(max_message: u32, max_messages: u32) -> Result<(Self, Self), Error> {
        Self::with(&ChanSpec { mode: ChanMode::Bidi, max_message, max_messages, ..ChanSpec::new() })
    }

    /// Both ends of a channel made as `spec` says.
    ///
    /// # Errors
    /// Those of chan_create.
    pub fn with(spec: &ChanSpec) -> Result<(Self, Self), Error> {
        let (first, second) = sys::chan_create(spec)?;
        Ok((Self::from_owned(Owned::new(first)), Self::from_owned(Owned::new(second))))
    }

    /// Sends a message; waits for room.
    ///
    /// # Errors
    /// Those of chan_send.
    pub fn send(&self, payload: &[u8], deadline: Deadline) -> Result<(), Error> {
        self.send_with(payload, &Sending::default(), deadline)
    }

    /// Sends a message with capabilities, priority and flags.
    ///
    /// # Errors
    /// Those of chan_send.
    pub fn send_with(&self, payload: &[u8], sending: &Sending<'_>, deadline: Deadline) -> Result<(), Error> {
        sys::chan_send(self.handle(), &parcel(payload, sending).describe(), deadline.nanos())
    }

    /// Receives a message of up to `max_bytes`.
    ///
    /// # Errors
    /// Those of chan_recv.
    pub fn receive(&self, max_bytes: usize, deadline: Deadline) -> Result<Received, Error> {
        self.receive_with(max_bytes, MsgFlags::NONE, deadline)
    }

    /// Receives a message of up to `max_bytes` with flags.
    ///
    /// # Errors
    /// Those of chan_recv.
    pub fn receive_with(&self, max_bytes: usize, flags: MsgFlags, deadline: Deadline) -> Result<Received, Error> {
        let mut payload = alloc::vec![0; max_bytes];
        let mut caps = [[0; CapTransfer::SIZE]; limits::MAX_MESSAGE_CAPS as usize];
        let message =
            sys::receive(self.handle(), &mut Room { payload: &mut payload, caps: &mut caps, flags }, deadline.nanos())?;
        let peeked = flags.contains(MsgFlags::PEEK);
        received(payload, &caps, &MsgIo { out_caps: if peeked { 0 } else { message.out_caps }, ..message })
    }

    /// Sends a message and waits for its reply of up to `max_bytes`.
    ///
    /// # Errors
    /// Those of chan_call.
    pub fn call(&self, payload: &[u8], max_bytes: usize, deadline: Deadline) -> Result<Received, Error> {
        self.call_with(payload, &Sending::default(), max_bytes, deadline)
    }

    /// Sends a message with capabilities, priority and flags and waits for its reply.
    ///
    /// # Errors
    /// Those of chan_call.
    pub fn call_with(
        &self,
        payload: &[u8],
        sending: &Sending<'_>,
        max_bytes: usize,
        deadline: Deadline,
    ) -> Result<Received, Error> {
        let mut room = alloc::vec![0; max_bytes];
        let mut caps = [[0; CapTransfer::SIZE]; limits::MAX_MESSAGE_CAPS as usize];
        let message = sys::call(
            self.handle(),
            &parcel(payload, sending),
            &mut Room { payload: &mut room, caps: &mut caps, flags: MsgFlags::NONE },
            deadline.nanos(),
        )?;
        received(room, &caps, &message)
    }

    /// Answers a caller.
    ///
    /// # Errors
    /// Those of chan_reply.
    pub fn reply(&self, token: ReplyToken, payload: &[u8], caps: &[CapTransfer]) -> Result<(), Error> {
        let sending = Sending { caps, ..Sending::default() };
        sys::chan_reply(self.handle(), token.0, &parcel(payload, &sending).describe())
    }

    /// Answers a caller, if there is one, and receives the next message.
    ///
    /// # Errors
    /// Those of chan_reply_recv.
    pub fn reply_receive(
        &self,
        token: Option<ReplyToken>,
        payload: &[u8],
        max_bytes: usize,
        deadline: Deadline,
    ) -> Result<Received, Error> {
        let mut room = alloc::vec![0; max_bytes];
        let mut caps = [[0; CapTransfer::SIZE]; limits::MAX_MESSAGE_CAPS as usize];
        let message = sys::reply_receive(
            self.handle(),
            token.map_or(0, |token| token.0),
            &parcel(payload, &Sending::default()),
            &mut Room { payload: &mut room, caps: &mut caps, flags: MsgFlags::NONE },
            deadline.nanos(),
        )?;
        received(room, &caps, &message)
    }

    fn short(&self, bytes: u8) -> Short {
        Short { channel: self.handle(), bytes, priority: 0, flags: ShortFlags::NONE }
    }

    /// Sends 32 bytes in registers.
    ///
    /// # Errors
    /// Those of chan_send_short.
    #[inline]
    pub fn send_words(&self, words: [u64; 4], deadline: Deadline) -> Result<(), Error> {
        let [a, b, c, d] = words;
        sys::chan_send_short(self.short(32), deadline.nanos(), a, b, c, d)
    }

    /// Receives up to 32 bytes in registers.
    ///
    /// # Errors
    /// Those of chan_recv_short.
    #[inline]
    pub fn receive_words(&self, deadline: Deadline) -> Result<ShortAnswer, Error> {
        sys::chan_recv_short(self.short(0), deadline.nanos())
    }

    /// Calls with 32 bytes in registers.
    ///
    /// # Errors
    /// Those of chan_call_short.
    #[inline]
    pub fn call_words(&self, words: [u64; 4], deadline: Deadline) -> Result<ShortAnswer, Error> {
        let [a, b, c, d] = words;
        sys::chan_call_short(self.short(32), deadline.nanos(), a, b, c, d)
    }

    /// Answers with 32 bytes in registers.
    ///
    /// # Errors
    /// Those of chan_reply_short.
    #[inline]
    pub fn reply_words(&self, token: ReplyToken, words: [u64; 4]) -> Result<(), Error> {
        let [a, b, c, d] = words;
        sys::chan_reply_short(self.short(32), token.0, a, b, c, d)
    }

    /// Answers with 32 bytes in registers, if there is a caller, and receives the next message.
    ///
    /// # Errors
    /// Those of chan_reply_recv_short.
    #[inline]
    pub fn reply_receive_words(&self, token: Option<ReplyToken>, words: [u64; 4]) -> Result<ShortAnswer, Error> {
        let [a, b, c, d] = words;
        sys::chan_reply_recv_short(self.short(32), token.map_or(0, |token| token.0), a, b, c, d)
    }

    /// Calls with 32 bytes and a capability in registers. What is moved is gone when the call succeeded.
    ///
    /// # Errors
    /// Those of chan_call_cap.
    #[inline]
    pub fn call_words_with(&self, words: [u64; 4], cap: CapTransfer) -> Result<ShortAnswer, Error> {
        let [a, b, c, d] = words;
        sys::chan_call_cap(self.short(32), cap.register(), a, b, c, d)
    }

    /// As [`Channel::reply_receive_words`], with room for a capability.
    ///
    /// # Errors
    /// Those of chan_reply_recv_short.
    #[inline]
    pub fn reply_receive_words_with(
        &self,
        token: Option<ReplyToken>,
        words: [u64; 4],
    ) -> Result<(ShortAnswer, Option<Owned>), Error> {
        let [a, b, c, d] = words;
        let short = Short { flags: ShortFlags::CAP, ..self.short(32) };
        let answer = sys::chan_reply_recv_short(short, token.map_or(0, |token| token.0), a, b, c, d)?;
        Ok((answer, (!answer.short.channel.is_none()).then(|| Owned::new(answer.short.channel))))
    }

    /// What the kernel tells about it.
    ///
    /// # Errors
    /// Those of chan_get_info.
    pub fn info(&self) -> Result<ChanInfo, Error> {
        let mut info = ChanInfo::new();
        sys::chan_get_info(self.handle(), &mut info)?;
        Ok(info)
    }

    /// Changes limits and drop policy of the queue this end receives from.
    ///
    /// # Errors
    /// Those of chan_set_attr.
    pub fn set(&self, attributes: &ChanAttr) -> Result<(), Error> {
        sys::chan_set_attr(self.handle(), attributes)
    }
}

fn parcel<'a>(payload: &'a [u8], sending: &Sending<'a>) -> Parcel<'a> {
    Parcel { payload, caps: sending.caps, flags: sending.flags, priority: sending.priority }
}

//! Messages of up to 32 bytes that travel in registers: no user memory is touched. The payload is taken from the caller's
//! saved registers; the words among the arguments of the calls are the same ones.

use holm_abi::{Error, ObjectType, Rights, Short, ShortFlags};

use super::request::{Patience, ReceiveRequest, SendRequest};
use crate::caller::{Answer, Caller, Outcome};
use crate::cap::{Cap, Types};
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};

pub(super) const CHANNEL: Types = Types::of(ObjectType::Channel);

impl<M: Machine> Kernel<M> {
    #[inline]
    pub(super) fn short_channel(&mut self, caller: Caller, short: Short, right: Rights) -> Result<Cap, Error> {
        // CALL is an answer, not a wish.
        if short.flags.contains(ShortFlags::CALL) {
            return Err(Error::Invalid);
        }
        self.resolve(caller.unit, short.channel, CHANNEL, right)
    }

    /// What is only sent needs no room for a capability.
    fn sending(short: Short) -> Result<Short, Error> {
        if short.flags.contains(ShortFlags::CAP) { Err(Error::Invalid) } else { Ok(short) }
    }

    /// [`Kernel::chan_send`] of up to 32 bytes, which stand in the caller's registers.
    ///
    /// # Errors
    /// Those of the table of calls.
    #[expect(clippy::too_many_arguments, reason = "one for each register of the call")]
    pub(crate) fn chan_send_short(
        &mut self,
        caller: Caller,
        short: Short,
        deadline: Nanos,
        _: u64,
        _: u64,
        _: u64,
        _: u64,
    ) -> Answer {
        let cap = self.short_channel(caller, Self::sending(short)?, Rights::SEND)?;
        let nonblock = short.flags.contains(ShortFlags::NONBLOCK);
        self.send(caller, cap, SendRequest::short(short, cap), Patience { nonblock, deadline })
    }

    /// [`Kernel::chan_recv`] into the registers. A message that is longer or carries capabilities stays queued.
    ///
    /// # Errors
    /// Those of the table of calls.
    pub(crate) fn chan_recv_short(&mut self, caller: Caller, short: Short, deadline: Nanos) -> Answer {
        let cap = self.short_channel(caller, short, Rights::RECEIVE)?;
        let nonblock = short.flags.contains(ShortFlags::NONBLOCK);
        self.receive(caller, cap, ReceiveRequest::short(short), Patience { nonblock, deadline }, None)
    }

    /// [`Kernel::chan_call`] with up to 32 bytes each way in registers.
    ///
    /// # Errors
    /// Those of the table of calls.
    #[expect(clippy::too_many_arguments, reason = "one for each register of the call")]
    #[inline]
    pub(crate) fn chan_call_short(
        &mut self,
        caller: Caller,
        short: Short,
        deadline: Nanos,
        _: u64,
        _: u64,
        _: u64,
        _: u64,
    ) -> Answer {
        if self.fast_call(caller, short, deadline).is_some() {
            return Ok(Outcome::Blocked);
        }
        self.slow_call_short(caller, short, deadline)
    }

    #[inline(never)]
    pub(super) fn slow_call_short(&mut self, caller: Caller, short: Short, deadline: Nanos) -> Answer {
        let cap = self.short_channel(caller, short, Rights::SEND)?;
        let nonblock = short.flags.contains(ShortFlags::NONBLOCK);
        let patience = Patience { nonblock, deadline };
        self.call(caller, cap, SendRequest::short(short, cap), ReceiveRequest::short(short), patience)
    }

    /// [`Kernel::chan_call_short`] with one capability and without a deadline.
    ///
    /// # Errors
    /// Those of the table of calls.
    #[expect(clippy::too_many_arguments, reason = "one for each register of the call")]
    pub(crate) fn chan_call_cap(
        &mut self,
        caller: Caller,
        short: Short,
        transfer: u64,
        _: u64,
        _: u64,
        _: u64,
        _: u64,
    ) -> Answer {
        let cap = self.short_channel(caller, short, Rights::SEND)?;
        let patience = Patience { nonblock: short.flags.contains(ShortFlags::NONBLOCK), deadline: Nanos::NEVER };
        let send = SendRequest::short_with(short, cap, transfer);
        self.call(caller, cap, send, ReceiveRequest::short(short), patience)
    }

    /// [`Kernel::chan_reply`] of up to 32 bytes; also to a [`Kernel::chan_call`].
    ///
    /// # Errors
    /// Those of the table of calls.
    #[expect(clippy::too_many_arguments, reason = "one for each register of the call")]
    pub(crate) fn chan_reply_short(
        &mut self,
        caller: Caller,
        short: Short,
        token: u64,
        _: u64,
        _: u64,
        _: u64,
        _: u64,
    ) -> Answer {
        let cap = self.short_channel(caller, Self::sending(short)?, Rights::RECEIVE)?;
        if let Some(replied) = self.reply(caller, cap, token, SendRequest::short(short, cap))? {
            self.wake_with_registers(replied);
        }
        Ok(Outcome::OK)
    }

    /// [`Kernel::chan_reply_short`] unless the token is 0, and then [`Kernel::chan_recv_short`] without a deadline.
    ///
    /// # Errors
    /// Those of the table of calls.
    #[expect(clippy::too_many_arguments, reason = "one for each register of the call")]
    #[inline]
    pub(crate) fn chan_reply_recv_short(
        &mut self,
        caller: Caller,
        short: Short,
        token: u64,
        _: u64,
        _: u64,
        _: u64,
        _: u64,
    ) -> Answer {
        if self.fast_reply_recv(caller, short, token).is_some() {
            return Ok(Outcome::Blocked);
        }
        self.slow_reply_recv_short(caller, short, token)
    }

    #[inline(never)]
    pub(super) fn slow_reply_recv_short(&mut self, caller: Caller, short: Short, token: u64) -> Answer {
        let cap = self.short_channel(caller, short, Rights::RECEIVE)?;
        let mut replied = None;
        if token != 0 {
            replied = self.reply(caller, cap, token, SendRequest::short(short, cap))?;
        }
        let patience = Patience { nonblock: short.flags.contains(ShortFlags::NONBLOCK), deadline: Nanos::NEVER };
        self.receive(caller, cap, ReceiveRequest::short(short), patience, replied)
    }
}

//! The fast path of short calls: every reason to leave it is looked at first; then it commits and cannot fail. The slow path
//! is its specification: from the same state both lead to the same one.

use holm_abi::{Handle, Rights, Short, ShortFlags, TraceKind};

use super::deliver::short_result;
use super::payload::cut;
use super::request::{Into, ReceiveRequest};
use super::{ChannelWait, Stage, Waiting};
use crate::caller::Caller;
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};
use crate::object::Object;
use crate::thread::{Registers, ThreadState};
use crate::wait::Wait;

/// The payload of a short message as it arrives: bytes beyond its length are zero.
#[inline(always)]
pub(super) const fn arriving(from: &Registers, bytes: u8) -> [u64; 4] {
    cut_all([from.rdx, from.r10, from.r8, from.r9], bytes)
}

/// The words of a payload of so many bytes.
#[inline(always)]
pub(super) const fn cut_all(words: [u64; 4], bytes: u8) -> [u64; 4] {
    if bytes == 32 {
        return words;
    }
    let bytes = bytes as usize;
    [
        cut(words[0], bytes),
        cut(words[1], bytes.saturating_sub(8)),
        cut(words[2], bytes.saturating_sub(16)),
        cut(words[3], bytes.saturating_sub(24)),
    ]
}

#[inline(always)]
pub(super) const fn put(to: &mut Registers, words: [u64; 4], rax: u64, token: u64, badge: u64) {
    [to.rdx, to.r10, to.r8, to.r9] = words;
    (to.rax, to.rdi, to.rsi) = (rax, token, badge);
}

impl<M: Machine> Kernel<M> {
    #[inline(always)]
    fn fast_allowed(&self) -> bool {
        #[cfg(test)]
        if self.channel_work.slow_only {
            return false;
        }
        // The slow path records messages.
        !self.trace.wants(TraceKind::Send) && !self.trace.wants(TraceKind::Receive)
    }

    /// A call to a thread that waits in a short receive. `None`: nothing was done.
    #[inline]
    pub(super) fn fast_call(&mut self, caller: Caller, short: Short, deadline: Nanos) -> Option<()> {
        // Every reason to leave.
        if deadline != Nanos::NEVER || short.flags != ShortFlags::NONE || !self.fast_allowed() {
            return None;
        }
        let cap = self.short_channel(caller, short, Rights::SEND).ok()?;
        let Object::Channel(id, end) = cap.object else { return None };
        let channel = self.channels.get_mut(id)?;
        let inherits = !channel.flags.contains(holm_abi::ChanFlags::NO_INHERITANCE);
        let peer = channel.side_mut(end.peer());
        let inbox = peer.inbox.as_mut()?;
        if inbox.first().is_some() || u32::from(short.bytes) > inbox.made().message {
            return None;
        }
        let server = peer.receivers.first()?;
        let (from, to) = self.threads.pair_mut(caller.thread, server)?;
        let request = &to.calls.receive;
        if request.into != Into::Registers
            || request.epoch != self.caps.grants.epoch
            || request.flags != holm_abi::MsgFlags::NONE
        {
            return None;
        }
        // Nothing fails from here on.
        inbox.sent += 1;
        inbox.received += 1;
        self.channel_work.sequence += 1;
        self.trace.counts.calls += 1;
        self.trace.counts.messages_sent += 1;
        self.trace.counts.messages_received += 1;
        self.channel_work.serial = self.channel_work.serial.wrapping_add(1).max(1);
        from.calls.serial = self.channel_work.serial;
        from.calls.receive = ReceiveRequest::SHORT;
        from.calls.stage = Stage::Served(server);
        let token = from.calls.token(caller.thread);
        let rax = short_result(short.bytes, short.priority, token, Handle::NONE);
        put(&mut to.registers, arriving(&from.registers, short.bytes), rax, token, cap.badge);
        peer.server = Some(server);
        peer.open_calls += 1;
        peer.receivers.remove(&mut self.threads, server);
        let wait = ChannelWait { channel: id, end, what: Waiting::Reply };
        self.block(caller, Wait::Channel(wait), Nanos::NEVER);
        self.caller_link(server, caller.thread, inherits);
        self.sched_handoff(caller.cpu, server);
        Some(())
    }

    /// A reply to a short call and then a wait for the next message. `None`: nothing was done.
    #[inline]
    pub(super) fn fast_reply_recv(&mut self, caller: Caller, short: Short, token: u64) -> Option<()> {
        // Every reason to leave.
        if token == 0 || short.flags != ShortFlags::NONE || !self.fast_allowed() {
            return None;
        }
        let cap = self.short_channel(caller, short, Rights::RECEIVE).ok()?;
        let Object::Channel(id, end) = cap.object else { return None };
        let channel = self.channels.get(id)?;
        let (side, peer) = (channel.side(end), channel.side(end.peer()));
        let inbox = side.inbox.as_ref()?;
        if inbox.first().is_some()
            || u32::from(short.bytes) > inbox.made().message
            || peer.closed
            || !peer.senders.is_empty()
        {
            return None;
        }
        let target = self.call_of_token(caller.unit, id, end, token).ok()?;
        let epoch = self.caps.grants.epoch;
        let (from, to) = self.threads.pair_mut(caller.thread, target)?;
        if to.calls.receive.into != Into::Registers || !to.calls.loans.is_empty() || to.state != ThreadState::Blocked {
            return None;
        }
        // Nothing fails from here on.
        let rax = short_result(short.bytes, short.priority, 0, Handle::NONE);
        put(&mut to.registers, arriving(&from.registers, short.bytes), rax, 0, cap.badge);
        from.calls.receive = ReceiveRequest::SHORT.through(cap, epoch);
        self.call_over(target, id, end);
        if let Some(channel) = self.channels.get_mut(id) {
            channel.side_mut(end).receivers.push(&mut self.threads, caller.thread);
        }
        let wait = ChannelWait { channel: id, end, what: Waiting::Message };
        self.block(caller, Wait::Channel(wait), Nanos::NEVER);
        self.sched_handoff(caller.cpu, target);
        Some(())
    }
}

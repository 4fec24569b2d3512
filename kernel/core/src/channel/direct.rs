//! The short ways of messages in registers: a call to a thread that waits for it and the reply to that thread's caller, each
//! with the switch to the other; a message into an inbox and out of it.

use holm_abi::{ChanFlags, Handle, Rights, Short, ShortFlags};

use super::check::Header;
use super::deliver::short_result;
use super::fast::{arriving, cut_all, put};
use super::line::{Line, RECEIVE, REPLY, SEND};
use super::request::{Into, ReceiveRequest};
use super::{ChannelId, ChannelWait, End, Stage, Waiting};
use crate::cap::GrantId;
use crate::cap::short::{Moved, move_one};
use crate::cap::table::Content;
use crate::direct::{Way, Ways};
use crate::machine::{Machine, Nanos};
use crate::object::Object;
use crate::thread::ThreadState;
use crate::unit::Unit;
use crate::wait::Wait;

/// A channel that a short message is for, by a capability that holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Through {
    id: ChannelId,
    end: End,
    badge: u64,
    grant: GrantId,
}

impl Through {
    /// No channel.
    pub(super) const NOWHERE: Self =
        Self { id: ChannelId::from_number(0), end: End::A, badge: 0, grant: GrantId::from_number(0) };
}

/// The channel that a handle, the low half of `word`, names, if that is certain at once.
#[inline(always)]
fn through(unit: &mut Unit, word: u64, right: Rights, epoch: u64) -> Option<Through> {
    let slot = unit.caps.slot_by(word as u16, (word >> 16) as u16)?;
    let (Content::Held(grant), Object::Channel(id, end)) = (slot.content, slot.object) else { return None };
    if slot.checked != epoch || !slot.rights.contains(right) {
        return None;
    }
    Some(Through { id, end, badge: slot.badge, grant })
}

/// In the first argument of a receive: there is room for a capability.
const CAP_ROOM: u64 = ShortFlags::CAP.bits() << 48;

/// All that a short message can carry.
pub(super) const FULL: u8 = holm_abi::limits::SHORT_BYTES as u8;

/// Bytes and priority of a short message, by its first argument; nearly all have `usual` bytes and no priority.
#[inline(always)]
fn shape(word: u64, usual: u8, wait: bool) -> Option<(u8, u8)> {
    if word >> 32 == u64::from(usual) {
        return Some((usual, 0));
    }
    let short = Short::from_register(word).ok()?;
    (short.flags == ShortFlags::NONE || (!wait && short.flags == ShortFlags::NONBLOCK))
        .then_some((short.bytes, short.priority))
}

impl<M: Machine> Ways<'_, M> {
    /// A call without a deadline to a thread that waits in a short receive, which goes on with it at once. With `CAP` a
    /// capability is moved to it. `KNOWN`: only when it goes the way of the last one (see [`super::Line`]).
    #[inline(always)]
    pub(crate) fn call<const CAP: bool, const KNOWN: bool>(self) -> Option<Way> {
        let Self { machine, threads, units, channels, work, counts, config, epoch, cpu, entry, alone, .. } = self;
        let (current, waiting_fixed, grants, stamp) = (self.current, self.waiting_fixed, self.grants, self.stamp);
        let from = threads.get(current)?;
        let second = from.registers.rsi;
        if !CAP && second != Nanos::NEVER.0 {
            return None;
        }
        let word = from.registers.rdi;
        let unit = units.get_mut(from.unit)?;
        let (found, bytes, priority, partner) = if KNOWN {
            let line = &from.calls.line;
            if !line.holds(*stamp, word) {
                return None;
            }
            (line.through, FULL, 0, Some(line.peer))
        } else {
            let (bytes, priority) = shape(word, FULL, true)?;
            (through(unit, word, Rights::SEND, epoch)?, bytes, priority, None)
        };
        let Through { id, end, badge, .. } = found;
        let channel = channels.get_mut(id)?;
        let inherits = !channel.flags.contains(ChanFlags::NO_INHERITANCE);
        let rt_safe = CAP && channel.flags.contains(ChanFlags::RT_SAFE);
        let peer = channel.side_mut(end.peer());
        let inbox = peer.inbox.as_mut()?;
        if inbox.messages != 0 || (!KNOWN && u32::from(bytes) > inbox.made().message) {
            return None;
        }
        // More than one come by other entries only.
        let server = if KNOWN { peer.receivers.first()? } else { peer.receivers.only()? };
        if KNOWN && partner != Some(server) {
            return None;
        }
        let (from, to) = threads.pair_mut(current, server)?;
        let request = &to.calls.receive;
        if !KNOWN
            && (request.into != Into::Registers
                || request.epoch != epoch
                || request.flags != holm_abi::MsgFlags::NONE
                || to.state != ThreadState::Blocked
                || to.calls.lends_to.is_some()
                || to.calls.callers.is_some()
                || !entry.is_direct((cpu, alone, waiting_fixed), &from.sched, &to.sched)
                // A better caller lends its rank.
                || (inherits && !from.sched.is_at_most(&to.sched)))
        {
            return None;
        }
        let (unit, cap) = if CAP {
            if request.cap_room == 0 || rt_safe {
                return None;
            }
            let (giver, taker) = (from.unit, to.unit);
            let Moved { handle, channel } = move_one(units, grants, second, (giver, taker), id)?;
            // Nothing fails from here on.
            if channel {
                // The handle may be one that is known.
                stamp.count();
            }
            (units.get_mut(giver)?, handle)
        } else {
            (unit, Handle::NONE)
        };
        // Nothing fails from here on.
        inbox.sent += 1;
        inbox.received += 1;
        work.sequence += 1;
        counts.calls += 1;
        counts.messages_sent += 1;
        counts.messages_received += 1;
        work.serial = work.serial.wrapping_add(1).max(1);
        from.calls.serial = work.serial;
        if !KNOWN {
            from.calls.receive = ReceiveRequest::SHORT;
            from.calls.line = Line::of(*stamp, word, found, server);
        }
        from.calls.stage = Stage::Served(server);
        let token = from.calls.token(current);
        let rax = short_result(bytes, priority, token, cap);
        put(&mut to.registers, arriving(&from.registers, bytes), rax, token, badge);
        peer.server = Some(server);
        peer.open_calls += 1;
        peer.receivers.take_only(&mut to.wait_link);
        to.calls.callers = Some(current);
        (from.calls.lends_to, from.calls.lends) = (Some(server), inherits);
        if !KNOWN {
            (from.calls.newer, from.calls.older) = (None, None);
        }
        from.syscalls += 1;
        entry.syscalls += 1;
        let now = machine.now();
        let wait = Wait::Channel(ChannelWait { channel: id, end, what: Waiting::Reply });
        let timed = entry.hand_over::<KNOWN>(from, unit, wait, server, to, now, config.turn);
        Some(Self::switched(machine, timed, from, (server, to), now))
    }

    /// A reply to the short call of the one caller of this thread, which goes on at once, and then a wait for the next
    /// message. `KNOWN` as for [`Ways::call`].
    #[inline(always)]
    pub(crate) fn reply_recv<const KNOWN: bool>(self) -> Option<Way> {
        let Self { machine, threads, units, channels, config, epoch, cpu, entry, alone, .. } = self;
        let (current, waiting_fixed, stamp) = (self.current, self.waiting_fixed, self.stamp);
        let from = threads.get(current)?;
        let token = from.registers.rsi;
        let word = from.registers.rdi;
        let line = &from.calls.line;
        let target = if KNOWN {
            if !line.holds(*stamp, word | REPLY) || from.calls.callers != Some(line.peer) {
                return None;
            }
            line.peer
        } else {
            from.calls.callers?
        };
        if token as u32 != target.index() {
            return None;
        }
        let unit = units.get_mut(from.unit)?;
        let (found, bytes, priority) = if KNOWN {
            (line.through, FULL, 0)
        } else {
            let (bytes, priority) = shape(word & !CAP_ROOM, FULL, true)?;
            (through(unit, word, Rights::RECEIVE, epoch)?, bytes, priority)
        };
        let Through { id, end, badge, grant } = found;
        let channel = channels.get_mut(id)?;
        let peer = channel.side(end.peer());
        if !KNOWN && (peer.closed || !peer.senders.is_empty()) {
            return None;
        }
        let side = channel.side_mut(end);
        if !side.receivers.is_empty() {
            return None;
        }
        let inbox = side.inbox.as_ref()?;
        if inbox.messages != 0 || (!KNOWN && u32::from(bytes) > inbox.made().message) {
            return None;
        }
        let (from, to) = threads.pair_mut(current, target)?;
        let calls = &to.calls;
        if calls.serial != (token >> 32) as u32
            || !matches!(to.wait, Wait::Channel(ChannelWait { channel, end: other, what: Waiting::Reply })
                if channel == id && other as u8 != end as u8)
            || (!KNOWN
                && (!matches!(calls.stage, Stage::Served(by) if by == current)
                    || to.state != ThreadState::Blocked
                    || calls.receive.into != Into::Registers
                    || calls.older.is_some()
                    || !calls.loans.is_empty()
                    || !entry.is_direct((cpu, alone, waiting_fixed), &from.sched, &to.sched)))
        {
            return None;
        }
        // Nothing fails from here on. Who is replied to lent nothing that counted: the rank of `from` is its own.
        let rax = short_result(bytes, priority, 0, Handle::NONE);
        put(&mut to.registers, arriving(&from.registers, bytes), rax, 0, badge);
        if !KNOWN {
            let cap_room = (word & CAP_ROOM != 0) as u32;
            from.calls.receive = ReceiveRequest { grant: Some(grant), epoch, cap_room, ..ReceiveRequest::SHORT };
            from.calls.line = Line::of(*stamp, word | REPLY, found, target);
        }
        from.calls.callers = None;
        to.calls.stage = Stage::None;
        (to.calls.lends_to, to.calls.lends, to.calls.newer) = (None, false, None);
        side.open_calls -= 1;
        side.receivers.put_only(current, &mut from.wait_link);
        from.syscalls += 1;
        entry.syscalls += 1;
        let now = machine.now();
        let wait = Wait::Channel(ChannelWait { channel: id, end, what: Waiting::Message });
        let timed = entry.hand_over::<KNOWN>(from, unit, wait, target, to, now, config.turn);
        Some(Self::switched(machine, timed, from, (target, to), now))
    }

    /// A message for which there is room, and for which nobody waits. `KNOWN` as for [`Ways::call`].
    #[inline(always)]
    pub(crate) fn send<const KNOWN: bool>(self) -> Option<Way> {
        let Self { threads, units, channels, work, counts, config, epoch, entry, current, stamp, .. } = self;
        if !KNOWN && config.payload_crc {
            return None;
        }
        let from = threads.get_mut(current)?;
        let word = from.registers.rdi;
        let (found, bytes, priority) = if KNOWN {
            if !from.calls.sent.holds(*stamp, word | SEND) {
                return None;
            }
            (from.calls.sent.through, FULL, 0)
        } else {
            let (bytes, priority) = shape(word, FULL, false)?;
            let unit = units.get_mut(from.unit)?;
            (through(unit, word, Rights::SEND, epoch)?, bytes, priority)
        };
        let Through { id, end, badge, .. } = found;
        let channel = channels.get_mut(id)?;
        if !KNOWN && !channel.side(end).senders.is_empty() {
            return None;
        }
        let peer = channel.side_mut(end.peer());
        let length = u32::from(bytes);
        if !peer.receivers.is_empty() || (!KNOWN && (peer.closed || peer.watchers.count != 0)) {
            return None;
        }
        let inbox = peer.inbox.as_mut()?;
        if !KNOWN && (length > inbox.made().message || u64::from(length) > inbox.max_bytes) {
            return None;
        }
        let words = [from.registers.rdx, from.registers.r10, from.registers.r8, from.registers.r9];
        let sequence = work.sequence + 1;
        let header = Header { sequence, sender: from.unit.number(), badge, length, priority, ..Header::default() };
        inbox.push_short(header.sealed(), words)?;
        // Nothing failed.
        if !KNOWN {
            from.calls.sent = Line::of(*stamp, word | SEND, found, current);
        }
        work.sequence = sequence;
        counts.messages_sent += 1;
        from.registers.rax = 0;
        from.syscalls += 1;
        entry.syscalls += 1;
        Some(Way::Same)
    }

    /// The message that is first in the inbox, when it is short and nobody waits for its room. `KNOWN` as for [`Ways::call`].
    #[inline(always)]
    pub(crate) fn recv<const KNOWN: bool>(self) -> Option<Way> {
        let Self { threads, units, channels, counts, epoch, entry, current, stamp, .. } = self;
        let to = threads.get_mut(current)?;
        let word = to.registers.rdi;
        let found = if KNOWN {
            if !to.calls.line.holds(*stamp, word | RECEIVE) {
                return None;
            }
            to.calls.line.through
        } else {
            shape(word, 0, false)?;
            let unit = units.get_mut(to.unit)?;
            through(unit, word, Rights::RECEIVE, epoch)?
        };
        let Through { id, end, grant, .. } = found;
        let channel = channels.get_mut(id)?;
        let peer = channel.side(end.peer());
        if !KNOWN && (!peer.senders.is_empty() || peer.watchers.count != 0) {
            return None;
        }
        let side = channel.side_mut(end);
        let inbox = side.inbox.as_mut()?;
        if !KNOWN && side.closed {
            return None;
        }
        let (header, words) = inbox.take_short()?;
        // Nothing fails from here on.
        inbox.received += 1;
        counts.messages_received += 1;
        side.server = Some(current);
        if !KNOWN {
            to.calls.receive = ReceiveRequest { grant: Some(grant), epoch, ..ReceiveRequest::SHORT };
            to.calls.line = Line::of(*stamp, word | RECEIVE, found, current);
        }
        let rax = short_result(header.length as u8, header.priority, 0, Handle::NONE);
        put(&mut to.registers, cut_all(words, header.length as u8), rax, 0, header.badge);
        to.syscalls += 1;
        entry.syscalls += 1;
        Some(Way::Same)
    }
}

//! Ends that go away, waits that end early, threads that end with callers: all in bounded steps.

use holm_abi::{Error, EventMask};

use super::inbox::Inbox;
use super::{ChannelId, ChannelWait, End, Recheck, Stage, Waiting};
use crate::cap::Progress;
use crate::event::Source;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::object::Object;
use crate::queue::Queue;
use crate::quota::Resource;
use crate::thread::{ThreadId, ThreadState};
use crate::wait::Wait;

/// Threads and messages that one step deals with at most.
const STEP: u32 = 6;

/// Threads that one step looks at to find calls that nobody can reply to any more.
const LOOK: u32 = 64;

impl<M: Machine> Kernel<M> {
    /// Takes a waiting thread out of a channel's queues, with the rank that it lent.
    pub(crate) fn channel_give_up(&mut self, thread: ThreadId, wait: ChannelWait) {
        let (id, end) = (wait.channel, wait.end);
        match wait.what {
            Waiting::Message => {
                if let Some(channel) = self.channels.get_mut(id) {
                    channel.side_mut(end).receivers.remove(&mut self.threads, thread);
                }
                return;
            }
            Waiting::Room => {
                if let Some(channel) = self.channels.get_mut(id) {
                    channel.side_mut(end).senders.remove(&mut self.threads, thread);
                }
                if let Some(thread) = self.threads.get_mut(thread) {
                    thread.calls.stage = Stage::None;
                }
            }
            Waiting::Reply => {
                if let Some(Stage::Queued(slot)) = self.threads.get(thread).map(|thread| thread.calls.stage) {
                    let was = self.may_send(id, end);
                    if let Some(inbox) = self.inbox_mut(id, end.peer()) {
                        let _ = inbox.remove(slot);
                    }
                    if !was && self.may_send(id, end) {
                        self.raise(Source::Channel(id, end), EventMask::WRITABLE, 0, 0);
                    }
                }
                self.call_over(thread, id, end.peer());
            }
        }
        // Those behind it may fit now; not here, since this may be within such a step.
        self.channel_queue(id);
    }

    /// The last capability of an end is gone: nobody receives there, or sends from there, any more.
    pub(crate) fn channel_end_released(&mut self, id: ChannelId, end: End) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        let side = channel.side_mut(end);
        side.closed = true;
        side.server = None;
        if side.open_calls > 0 {
            channel.orphans = Some(0);
        }
        self.raise(Source::Channel(id, end.peer()), EventMask::CLOSED, 0, 0);
        self.channel_queue(id);
    }

    /// A capability of the channel was revoked: threads that wait through it are to be found.
    pub(crate) fn channel_recheck(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(id) {
            channel.recheck = Some(Recheck::default());
            self.channel_queue(id);
        }
    }

    /// Some of the work that waits at a channel: at most 16 threads are woken or messages dropped.
    pub(super) fn channel_step(&mut self, id: ChannelId) -> Progress {
        let mut budget = STEP;
        for end in [End::A, End::B] {
            if self.close_step(id, end, &mut budget) == Progress::More {
                return Progress::More;
            }
        }
        if self.orphans_step(id) == Progress::More || self.recheck_step(id) == Progress::More {
            return Progress::More;
        }
        let Some(channel) = self.channels.get(id) else { return Progress::Done };
        if channel.sides.iter().all(|side| side.closed) {
            if channel.queued {
                // A wait that ended in this step queued it again: it goes in the next one, when the queue does not name it.
                return Progress::Done;
            }
            for end in [End::A, End::B] {
                self.watchers_gone(Source::Channel(id, end));
            }
            if let Some(channel) = self.channels.remove(id) {
                self.refund(channel.payer, Resource::Kernel, channel.bytes);
                self.unit_unhold(channel.payer);
            }
            return Progress::Done;
        }
        // These queue the channel again when they come to their bound.
        self.channel_settle(id, End::A, None);
        self.channel_settle(id, End::B, None);
        Progress::Done
    }

    /// Empties what hangs at a closed end.
    fn close_step(&mut self, id: ChannelId, end: End, budget: &mut u32) -> Progress {
        while *budget > 0 {
            let Some(channel) = self.channels.get(id) else { return Progress::Done };
            let (side, peer) = (channel.side(end), channel.side(end.peer()));
            if !side.closed {
                return Progress::Done;
            }
            *budget -= 1;
            let own = side.receivers.first().or(side.senders.first());
            let deserted = peer.inbox.as_ref().is_none_or(|inbox| inbox.first().is_none());
            let others = peer.senders.first().or(peer.receivers.first().filter(|_| deserted));
            if let Some(thread) = own {
                self.give_up(thread, Error::Canceled);
            } else if let Some(thread) = others {
                self.give_up(thread, Error::PeerClosed);
            } else if let Some(slot) = side.inbox.as_ref().and_then(Inbox::first) {
                let header = side.inbox.as_ref().and_then(|inbox| inbox.header(slot)).copied();
                match header.and_then(|header| header.caller) {
                    Some(caller) if self.call_is_queued(caller, id, end, slot) => {
                        self.give_up(caller, Error::PeerClosed);
                    }
                    _ => {
                        let header = self.inbox_mut(id, end).and_then(|inbox| inbox.remove(slot));
                        let caps = header.filter(|header| header.is_sound()).and_then(|header| header.caps);
                        if caps.is_some() {
                            // It may have many.
                            *budget = 0;
                        }
                        self.message_drop(caps);
                    }
                }
            } else {
                return Progress::Done;
            }
        }
        Progress::More
    }

    /// Wakes those whose calls were received at an end that is closed now, where nobody can reply: looks at 64 threads.
    fn orphans_step(&mut self, id: ChannelId) -> Progress {
        let Some(mut at) = self.channels.get(id).and_then(|channel| channel.orphans) else { return Progress::Done };
        for _ in 0..LOOK {
            let Some((thread, entry)) = self.threads.next_from(at) else {
                if let Some(channel) = self.channels.get_mut(id) {
                    channel.orphans = None;
                }
                return Progress::Done;
            };
            at = thread.index() + 1;
            let Wait::Channel(wait) = entry.wait else { continue };
            let served = matches!(entry.calls.stage, Stage::Served(_)) && wait.what == Waiting::Reply;
            let closed = self.channels.get(id).is_some_and(|channel| channel.side(wait.end.peer()).closed);
            if entry.state == ThreadState::Blocked && served && wait.channel == id && closed {
                self.give_up(thread, Error::PeerClosed);
            }
        }
        if let Some(channel) = self.channels.get_mut(id) {
            channel.orphans = Some(at);
        }
        Progress::More
    }

    /// Wakes those who wait through a capability that was revoked: looks at 16 threads.
    fn recheck_step(&mut self, id: ChannelId) -> Progress {
        for _ in 0..STEP {
            let Some(channel) = self.channels.get_mut(id) else { return Progress::Done };
            let Some(at) = channel.recheck else { return Progress::Done };
            let queue: &Queue = match at.queue {
                0 => &channel.sides[0].receivers,
                1 => &channel.sides[1].receivers,
                2 => &channel.sides[0].senders,
                3 => &channel.sides[1].senders,
                _ => {
                    channel.recheck = None;
                    return Progress::Done;
                }
            };
            // Whoever left the queue meanwhile sends the look back to its beginning.
            let after = at.after.filter(|thread| {
                self.threads.get(*thread).is_some_and(|entry| {
                    matches!(entry.wait, Wait::Channel(wait) if wait.channel == id) && entry.wait_link.queued()
                })
            });
            let next = match after {
                Some(after) => queue.after(&self.threads, after),
                None => queue.first(),
            };
            channel.recheck = Some(match next {
                Some(_) => Recheck { after: next, ..at },
                None => Recheck { queue: at.queue + 1, after: None },
            });
            let Some(thread) = next else { continue };
            let Some(calls) = self.threads.get(thread).map(|thread| &thread.calls) else { continue };
            let grant = if at.queue < 2 { calls.receive.grant } else { calls.send.grant };
            if grant.is_some_and(|grant| !self.caps.grants.alive(grant)) {
                if let Some(channel) = self.channels.get_mut(id) {
                    channel.recheck = Some(Recheck { after: None, ..at });
                }
                self.give_up(thread, Error::Revoked);
            }
        }
        Progress::More
    }

    /// A thread ends: those whose calls it received are told, in bounded steps; it is kept until then.
    pub(crate) fn calls_thread_ended(&mut self, thread: ThreadId) {
        let Some(entry) = self.threads.get_mut(thread) else { return };
        if entry.calls.callers.is_none() || entry.calls.ending {
            return;
        }
        entry.calls.ending = true;
        entry.calls.next_ended = self.channel_work.ended.replace(thread);
        self.retain(Object::Thread(thread));
    }

    /// Tells some of the callers of a thread that ended.
    pub(super) fn ended_callers_step(&mut self) -> Progress {
        let Some(ended) = self.channel_work.ended else { return Progress::Done };
        for _ in 0..STEP {
            let Some(thread) = self.threads.get(ended) else { break };
            let Some(caller) = thread.calls.callers else {
                self.channel_work.ended = thread.calls.next_ended;
                self.release(Object::Thread(ended));
                return if self.channel_work.ended.is_some() { Progress::More } else { Progress::Done };
            };
            match self.threads.get(caller).map(|caller| caller.calls.stage) {
                Some(Stage::Served(_)) => self.give_up(caller, Error::PeerClosed),
                // It waits in an inbox for whoever receives it: it only takes its rank back.
                _ => {
                    let _ = self.caller_cut(caller);
                }
            }
        }
        Progress::More
    }
}

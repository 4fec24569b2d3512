//! Bringing together what waits at a channel: messages and receivers, room and senders; in bounded steps.

use holm_abi::Error;

use super::deliver::Undelivered;
use super::inbox::Inbox;
use super::pieces::Progress as Copied;
use super::send::Admitted;
use super::{ChannelId, End, Stage};
use crate::cap::Progress;
use crate::kernel::Kernel;
use crate::machine::{CpuId, Machine};
use crate::thread::ThreadId;

/// Threads that one entry finishes system calls for at most; the rest is left to the next one.
const STEPS: u32 = 6;

/// What is to be done at an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// This receiver gets the message in this slot.
    Deliver(ThreadId, u32),
    /// This sender gets room.
    Admit(ThreadId),
}

impl<M: Machine> Kernel<M> {
    /// Serves receivers and senders that wait at the inbox of `end` until nothing fits together any more. The first
    /// receiver that is served runs next on `direct`, whose thread blocked in a call.
    #[inline]
    pub(super) fn channel_settle(&mut self, id: ChannelId, end: End, direct: Option<CpuId>) {
        if self.next_step(id, end).is_some() {
            self.settle_steps(id, end, direct);
        }
    }

    fn settle_steps(&mut self, id: ChannelId, end: End, mut direct: Option<CpuId>) {
        for _ in 0..STEPS {
            if self.spent {
                break;
            }
            let Some(step) = self.next_step(id, end) else { return };
            match step {
                Step::Deliver(receiver, slot) => {
                    let result = if self.receiver_may(receiver) {
                        self.deliver(id, end, slot, receiver)
                    } else {
                        Err(Undelivered::Receiver(Error::Revoked))
                    };
                    let result = match result {
                        Ok(value) => Ok(value),
                        Err(Undelivered::Receiver(error)) => Err(error),
                        Err(Undelivered::More) => break,
                        Err(why) => {
                            self.undeliverable(id, end, slot, why);
                            continue;
                        }
                    };
                    if let Some(channel) = self.channels.get_mut(id) {
                        channel.side_mut(end).receivers.remove(&mut self.threads, receiver);
                    }
                    if let Some(thread) = self.threads.get_mut(receiver) {
                        thread.registers.rax = match result {
                            Ok(value) => value,
                            Err(error) => error.register(),
                        };
                        thread.calls.progress = Copied::None;
                    }
                    match direct.take_if(|_| result.is_ok()) {
                        Some(cpu) => self.sched_handoff(cpu, receiver),
                        None => self.wake_with_registers(receiver),
                    }
                }
                Step::Admit(sender) => {
                    if let Some(channel) = self.channels.get_mut(id) {
                        channel.side_mut(end.peer()).senders.remove(&mut self.threads, sender);
                    }
                    match self.send_admitted(sender, id, end.peer()) {
                        Some(Admitted::Over(result)) => {
                            if let Some(thread) = self.threads.get_mut(sender) {
                                thread.calls.stage = Stage::None;
                            }
                            self.wake(sender, result);
                        }
                        Some(Admitted::Begun) => {
                            self.call_again(sender, holm_abi::number::chan_send);
                            self.wake_with_registers(sender);
                        }
                        Some(Admitted::Waits) | None => {}
                    }
                    self.raise_readable(id, end);
                }
            }
        }
        if self.next_step(id, end).is_some() {
            self.channel_queue(id);
        }
    }

    fn next_step(&self, id: ChannelId, end: End) -> Option<Step> {
        let channel = self.channels.get(id)?;
        let side = channel.side(end);
        let inbox = side.inbox.as_ref()?;
        if side.closed {
            return None;
        }
        if let Some(receiver) = side.receivers.first()
            && let Some(slot) = inbox.first()
        {
            return Some(Step::Deliver(receiver, slot));
        }
        let sender = channel.side(end.peer()).senders.first()?;
        self.sender_fits(inbox, sender).then_some(Step::Admit(sender))
    }

    fn sender_fits(&self, inbox: &Inbox, sender: ThreadId) -> bool {
        self.threads.get(sender).is_none_or(|thread| {
            inbox.fits(if thread.calls.stage == Stage::Room { 0 } else { thread.calls.send.length })
        })
    }

    /// Whether the capability that a waiting receiver receives through still holds.
    pub(super) fn receiver_may(&self, receiver: ThreadId) -> bool {
        self.threads.get(receiver).is_some_and(|thread| {
            let request = &thread.calls.receive;
            request.epoch == self.caps.grants.epoch || request.grant.is_none_or(|grant| self.caps.grants.alive(grant))
        })
    }

    /// A channel needs more steps than one entry does: the next ones go on.
    pub(super) fn channel_queue(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(id) else { return };
        if channel.queued {
            return;
        }
        channel.queued = true;
        match self.channel_work.last.replace(id).and_then(|last| self.channels.get_mut(last)) {
            Some(last) => last.next_queued = Some(id),
            None => self.channel_work.first = Some(id),
        }
    }

    /// Does some of the work that waits at channels and for threads that ended.
    pub(crate) fn channels_drain_step(&mut self) -> Progress {
        if self.ended_callers_step() == Progress::More {
            return Progress::More;
        }
        let Some(id) = self.channel_work.first else { return Progress::Done };
        let Some(channel) = self.channels.get_mut(id) else { return Progress::Done };
        channel.queued = false;
        self.channel_work.first = channel.next_queued.take();
        if self.channel_work.first.is_none() {
            self.channel_work.last = None;
        }
        if self.channel_step(id) == Progress::More {
            self.channel_queue(id);
        }
        if self.channel_work.first.is_some() { Progress::More } else { Progress::Done }
    }
}

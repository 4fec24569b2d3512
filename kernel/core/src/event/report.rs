//! What happens, and how it is told: raising, merging, reporting to who waits.

use holm_abi::{Error, EventFlags, EventMask, EventRecord, limits};

use crate::event::{EventId, EventWait, Source, SubscriptionId};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::ThreadId;

/// Reported whether it was asked for or not.
const ALWAYS: EventMask = EventMask::CLOSED.or(EventMask::REVOKED);

impl<M: Machine> Kernel<M> {
    /// Something happened at `source`, or came true: everyone who watches it is told. A constant number of steps for each of
    /// at most [`crate::event::MAX_WATCHERS`].
    pub(crate) fn raise(&mut self, source: Source, mask: EventMask, data0: u64, data1: u64) {
        let Some(mut next) = self.watchers(source).and_then(|watchers| watchers.list.first) else { return };
        let now = self.clock();
        for _ in 0..crate::event::MAX_WATCHERS {
            let Some(entry) = self.events.subscriptions.get_mut(next) else { return };
            let following = entry.watch_link.next;
            let hit = mask.and(entry.mask.or(ALWAYS));
            if !hit.is_none() {
                entry.happened = entry.happened.or(hit);
                entry.timestamp = now;
                entry.sequence += 1;
                // Expirations add up until they are told; everything else is told as it was last.
                entry.data0 =
                    if hit.contains(EventMask::EXPIRED) { entry.data0.saturating_add(data0) } else { data0 };
                entry.data1 = data1;
                if !entry.silent {
                    let event = entry.event;
                    self.make_pending(next);
                    self.tell_waiter(event);
                }
            }
            let Some(following) = following else { return };
            next = following;
        }
    }

    /// What happened at `source` and was not yet told is dropped.
    pub(crate) fn forget(&mut self, source: Source) {
        let mut next = self.watchers(source).and_then(|watchers| watchers.list.first);
        for _ in 0..crate::event::MAX_WATCHERS {
            let Some(subscription) = next else { return };
            let Some(entry) = self.events.subscriptions.get_mut(subscription) else { return };
            next = entry.watch_link.next;
            entry.happened = EventMask::NONE;
            entry.data0 = 0;
            self.unmake_pending(subscription);
        }
    }

    /// A source goes away: its subscriptions stay until what they have to tell is told.
    pub(crate) fn watchers_gone(&mut self, source: Source) {
        for _ in 0..crate::event::MAX_WATCHERS {
            let Some(subscription) = self.watchers(source).and_then(|watchers| watchers.list.first) else { return };
            self.unwatch(subscription);
        }
    }

    /// What is true of a source that lasts.
    fn true_now(&mut self, source: Source) -> EventMask {
        match source {
            Source::Channel(id, end) => self.channel_ready(id, end),
            Source::Trace(id) => {
                if self.trace_has_more(id) { EventMask::READABLE } else { EventMask::NONE }
            }
            Source::Console => {
                if self.console_has_input() { EventMask::READABLE } else { EventMask::NONE }
            }
            Source::Timer(_) | Source::Unit(_) | Source::Thread(_) => EventMask::NONE,
        }
    }

    /// Takes the record of a pending subscription, if there is something to tell, and leaves it as its flags say.
    fn take_record(&mut self, subscription: SubscriptionId) -> Option<EventRecord> {
        self.unmake_pending(subscription);
        let entry = self.events.subscriptions.get(subscription)?;
        let (source, grant) = (entry.source, entry.grant);
        let revoked = grant.is_some_and(|grant| !self.grant_live(grant));
        let lasting = match source {
            Some(source) if source.lasts() && !revoked => Some(self.true_now(source)),
            _ => None,
        };
        let entry = self.events.subscriptions.get_mut(subscription)?;
        let edge = entry.flags.contains(EventFlags::EDGE);
        let mask = if revoked {
            EventMask::REVOKED
        } else {
            match lasting {
                // What came true may have ended; what is reported is true now.
                Some(now) if edge => entry.happened.and(now),
                Some(now) => now.and(entry.mask.or(ALWAYS)),
                None => entry.happened,
            }
        };
        let record = EventRecord {
            version: 1,
            source_type: entry.kind,
            source_id: entry.number,
            token: entry.token,
            mask,
            timestamp: entry.timestamp.0,
            data0: entry.data0,
            data1: entry.data1,
            sequence: entry.sequence,
        };
        entry.happened = EventMask::NONE;
        entry.data0 = 0;
        let over = entry.source.is_none();
        if mask.is_none() {
            if over {
                self.remove_subscription(subscription);
            }
            return None;
        }
        let again = lasting.is_some() && !edge;
        if entry.flags.contains(EventFlags::ONESHOT) || revoked || over {
            self.remove_subscription(subscription);
        } else if entry.flags.contains(EventFlags::NEEDS_ACK) {
            entry.silent = true;
        } else if again {
            // Still true: looked at again by the next wait.
            self.make_pending(subscription);
        }
        self.trace.counts.events += 1;
        Some(record)
    }

    /// Gives up to `count` records to the unit of `thread`, at `address`. Says how many; `None` when there may be more to
    /// look at than one call looks at.
    pub(crate) fn report(&mut self, thread: ThreadId, wait: EventWait) -> Result<Option<u64>, Error> {
        let Some(unit) = self.threads.get(thread).map(|thread| thread.unit) else { return Ok(Some(0)) };
        let wanted = wait.count.min(limits::MAX_RECORDS);
        let there = self.events.queues.get(wait.event).map_or(0, |queue| queue.pending_count);
        let look = u64::from(there).min(limits::MAX_RECORDS);
        let mut given = 0;
        for _ in 0..look {
            if given == wanted {
                break;
            }
            let Some(next) = self.events.queues.get(wait.event).and_then(|queue| queue.pending.first) else { break };
            let place = wait.address.wrapping_add(given * EventRecord::SIZE as u64);
            // A bad address must not cost a record: it is tried before the record is taken.
            let mut bytes = [0; EventRecord::SIZE];
            if let Err(error) = self.copy_in(unit, place, &mut bytes) {
                return if given == 0 { Err(error) } else { Ok(Some(given)) };
            }
            let Some(record) = self.take_record(next) else { continue };
            record.encode(&mut bytes);
            self.copy_out(unit, place, &bytes)?;
            given += 1;
        }
        if given == 0 && u64::from(there) > look {
            return Ok(None);
        }
        Ok(Some(given))
    }

    /// Something is pending in `event`: the first thread that waits there gets it.
    pub(crate) fn tell_waiter(&mut self, event: EventId) {
        let Some(queue) = self.events.queues.get_mut(event) else { return };
        let Some(thread) = queue.waiters.first() else { return };
        let Some(crate::wait::Wait::Event(wait)) = self.threads.get(thread).map(|thread| thread.wait) else { return };
        let result = match self.report(thread, wait) {
            Ok(Some(0)) => return,
            Ok(Some(given)) => Ok(given),
            Ok(None) => Ok(0),
            Err(error) => Err(error),
        };
        self.event_give_up(thread, wait);
        self.wake(thread, result);
    }

    /// Takes a waiting thread out of a queue of events.
    pub(crate) fn event_give_up(&mut self, thread: ThreadId, wait: EventWait) {
        if let Some(queue) = self.events.queues.get_mut(wait.event) {
            queue.waiters.remove(&mut self.threads, thread);
        }
    }

    /// Ends a subscription and forgets it.
    pub(crate) fn remove_subscription(&mut self, subscription: SubscriptionId) {
        self.unmake_pending(subscription);
        self.unwatch(subscription);
        let Some(entry) = self.events.subscriptions.get(subscription) else { return };
        let (event, token) = (entry.event, entry.token);
        self.unfile_token(event, token, subscription);
        if self.events.subscriptions.remove(subscription).is_none() {
            return;
        }
        let Some(queue) = self.events.queues.get_mut(event) else { return };
        queue.subscriptions -= 1;
        let owner = queue.unit;
        if let Some(unit) = self.units.get_mut(owner) {
            unit.quotas.kernel.refund(crate::event::calls::SUBSCRIPTION_COST);
        }
    }
}

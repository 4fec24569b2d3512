//! What happens, and how it is told: raising, merging, reporting to who waits.

use holm_abi::{Error, EventFlags, EventMask, EventRecord, limits};

use crate::cap::GrantId;
use crate::event::calls::SUBSCRIPTION_COST;
use crate::event::{EventId, EventWait, MAX_WATCHERS, Source, SubscriptionId};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::quota::Resource;
use crate::thread::ThreadId;

/// Reported whether it was asked for or not.
const ALWAYS: EventMask = EventMask::CLOSED.or(EventMask::REVOKED);

impl<M: Machine> Kernel<M> {
    /// Something happened at `source`, or came true: everyone who watches it is told. A constant number of steps for each of
    /// at most [`MAX_WATCHERS`].
    pub(crate) fn raise(&mut self, source: Source, mask: EventMask, data0: u64, data1: u64) {
        let Some(first) = self.watchers(source).and_then(|watchers| watchers.list.first) else { return };
        let alone = self.events.subscriptions.get(first).is_none_or(|entry| entry.watch_link.next.is_none());
        if alone {
            if let Some(event) = self.note(first, mask, data0, data1) {
                self.tell_waiter(event);
            }
        } else {
            self.raise_to_all(first, mask, data0, data1);
        }
    }

    /// Notes it with every watcher before anyone is told: telling may end subscriptions.
    #[inline(never)]
    fn raise_to_all(&mut self, first: SubscriptionId, mask: EventMask, data0: u64, data1: u64) {
        let mut told = [None; MAX_WATCHERS as usize];
        let mut next = Some(first);
        for event in &mut told {
            let Some(subscription) = next else { break };
            next = self.events.subscriptions.get(subscription).and_then(|entry| entry.watch_link.next);
            *event = self.note(subscription, mask, data0, data1);
        }
        for event in told.into_iter().flatten() {
            self.tell_waiter(event);
        }
    }

    /// Notes what happened with one subscription; the queue that is to be told, if any.
    pub(super) fn note(
        &mut self,
        subscription: SubscriptionId,
        mask: EventMask,
        data0: u64,
        data1: u64,
    ) -> Option<EventId> {
        let now = self.clock();
        let entry = self.events.subscriptions.get_mut(subscription)?;
        let hit = mask.and(entry.mask.or(ALWAYS));
        if hit.is_none() {
            return None;
        }
        entry.happened = entry.happened.or(hit);
        entry.timestamp = now;
        entry.sequence += 1;
        // Expirations add up until they are told; everything else is told as it was last.
        entry.data0 = if hit.contains(EventMask::EXPIRED) { entry.data0.saturating_add(data0) } else { data0 };
        entry.data1 = data1;
        if entry.silent {
            return None;
        }
        let event = entry.event;
        self.make_pending(subscription);
        Some(event)
    }

    /// What happened at `source` and was not yet told is dropped.
    pub(crate) fn forget(&mut self, source: Source) {
        let mut next = self.watchers(source).and_then(|watchers| watchers.list.first);
        for _ in 0..MAX_WATCHERS {
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
        for _ in 0..MAX_WATCHERS {
            let Some(subscription) = self.watchers(source).and_then(|watchers| watchers.list.first) else { return };
            self.unwatch(subscription);
        }
    }

    /// What is true of a source that lasts.
    pub(super) fn true_now(&mut self, source: Source) -> EventMask {
        match source {
            Source::Channel(id, end) => self.channel_ready(id, end),
            Source::Trace(id) => {
                if self.trace_has_more(id) {
                    EventMask::READABLE
                } else {
                    EventMask::NONE
                }
            }
            Source::Console => {
                if self.console_has_input() {
                    EventMask::READABLE
                } else {
                    EventMask::NONE
                }
            }
            Source::Timer(_) | Source::Unit(_) | Source::Thread(_) => EventMask::NONE,
        }
    }

    /// What a pending subscription has to tell: nothing when what came true has ended.
    fn record_of(&mut self, subscription: SubscriptionId) -> Option<EventRecord> {
        let source = self.events.subscriptions.get(subscription)?.source;
        let lasting = source.filter(|source| source.lasts()).map(|source| self.true_now(source));
        let entry = self.events.subscriptions.get(subscription)?;
        let edge = entry.flags.contains(EventFlags::EDGE);
        let mask = match lasting {
            _ if entry.happened.contains(EventMask::REVOKED) => EventMask::REVOKED,
            // What came true may have ended; what is reported is true now.
            Some(now) if edge => entry.happened.and(now),
            Some(now) => now.and(entry.mask.or(ALWAYS)),
            None => entry.happened,
        };
        if mask.is_none() {
            return None;
        }
        Some(EventRecord {
            version: 1,
            source_type: entry.kind,
            source_id: entry.number,
            token: entry.token,
            mask,
            timestamp: entry.timestamp.0,
            data0: entry.data0,
            data1: entry.data1,
            sequence: entry.sequence,
        })
    }

    /// A pending subscription told what it had to tell, or had nothing: leaves it as its flags say.
    fn told(&mut self, subscription: SubscriptionId, record: bool) {
        self.unmake_pending(subscription);
        let Some(entry) = self.events.subscriptions.get_mut(subscription) else { return };
        entry.happened = EventMask::NONE;
        entry.data0 = 0;
        let again = entry.source.is_some_and(Source::lasts) && !entry.flags.contains(EventFlags::EDGE);
        if entry.source.is_none() {
            return self.remove_subscription(subscription);
        }
        if !record {
            return;
        }
        if entry.flags.contains(EventFlags::ONESHOT) {
            self.remove_subscription(subscription);
        } else if entry.flags.contains(EventFlags::NEEDS_ACK) {
            entry.silent = true;
        } else if again {
            // Perhaps still true: looked at again by the next wait.
            self.make_pending(subscription);
        }
        self.trace.counts.events += 1;
    }

    /// A grant ended: what was subscribed through it tells so, and is over.
    pub(crate) fn events_grant_gone(&mut self, source: Source, grant: GrantId) {
        let mut next = self.watchers(source).and_then(|watchers| watchers.list.first);
        for _ in 0..MAX_WATCHERS {
            let Some(subscription) = next else { return };
            let Some(entry) = self.events.subscriptions.get_mut(subscription) else { return };
            next = entry.watch_link.next;
            if entry.grant != Some(grant) {
                continue;
            }
            entry.silent = false;
            let event = self.note(subscription, EventMask::REVOKED, 0, 0);
            self.unwatch(subscription);
            if let Some(event) = event {
                self.tell_waiter(event);
            }
        }
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
            let Some(record) = self.record_of(next) else {
                self.told(next, false);
                continue;
            };
            let mut bytes = [0; EventRecord::SIZE];
            record.encode(&mut bytes);
            // A bad address must not cost a record.
            let place = wait.address.wrapping_add(given * EventRecord::SIZE as u64);
            if let Err(error) = self.copy_out(unit, place, &bytes) {
                return if given == 0 { Err(error) } else { Ok(Some(given)) };
            }
            self.told(next, true);
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
            // It waits only while nothing is pending, so that one look sees everything.
            Ok(None | Some(0)) => return,
            Ok(Some(given)) => Ok(given),
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
        self.refund(owner, Resource::Kernel, SUBSCRIPTION_COST);
    }
}

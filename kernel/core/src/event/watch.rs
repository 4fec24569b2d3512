//! Lists of subscriptions: those of a source, and those of a queue that have something to report.

use crate::event::{EventId, Source, SubscriptionId, Watchers};
use crate::kernel::Kernel;
use crate::machine::Machine;

impl<M: Machine> Kernel<M> {
    /// Who watches `source`; `None` when it is gone.
    pub(crate) fn watchers(&mut self, source: Source) -> Option<&mut Watchers> {
        match source {
            Source::Channel(id, end) => self.channel_watchers(id, end),
            Source::Timer(id) => self.timers.all.get_mut(id).map(|timer| &mut timer.watchers),
            Source::Unit(id) => self.units.get_mut(id).map(|unit| &mut unit.watchers),
            Source::Thread(id) => self.threads.get_mut(id).map(|thread| &mut thread.watchers),
            Source::Trace(id) => self.trace.readers.get_mut(id).map(|reader| &mut reader.watchers),
            Source::Console => Some(&mut self.events.console),
        }
    }

    /// Puts a subscription among the watchers of its source.
    pub(crate) fn watch(&mut self, source: Source, subscription: SubscriptionId) {
        let Some(watchers) = self.watchers(source) else { return };
        let last = watchers.list.last.replace(subscription);
        if last.is_none() {
            watchers.list.first = Some(subscription);
        }
        watchers.count += 1;
        if let Some(last) = last.and_then(|last| self.events.subscriptions.get_mut(last)) {
            last.watch_link.next = Some(subscription);
        }
        if let Some(entry) = self.events.subscriptions.get_mut(subscription) {
            entry.watch_link.previous = last;
            entry.watch_link.next = None;
        }
    }

    /// Takes a subscription out of the watchers of its source.
    pub(crate) fn unwatch(&mut self, subscription: SubscriptionId) {
        let Some(entry) = self.events.subscriptions.get_mut(subscription) else { return };
        let Some(source) = entry.source.take() else { return };
        let link = core::mem::take(&mut entry.watch_link);
        let grant = entry.grant.take();
        if let Some(previous) = link.previous.and_then(|previous| self.events.subscriptions.get_mut(previous)) {
            previous.watch_link.next = link.next;
        }
        if let Some(next) = link.next.and_then(|next| self.events.subscriptions.get_mut(next)) {
            next.watch_link.previous = link.previous;
        }
        if let Some(watchers) = self.watchers(source) {
            if link.previous.is_none() {
                watchers.list.first = link.next;
            }
            if link.next.is_none() {
                watchers.list.last = link.previous;
            }
            watchers.count -= 1;
        }
        if let Some(grant) = grant {
            self.grant_unwatch(grant);
        }
    }

    /// Puts a subscription at the end of its queue's pending ones.
    pub(crate) fn make_pending(&mut self, subscription: SubscriptionId) {
        let Some(entry) = self.events.subscriptions.get_mut(subscription) else { return };
        if entry.pending {
            return;
        }
        entry.pending = true;
        let event = entry.event;
        let Some(queue) = self.events.queues.get_mut(event) else { return };
        let last = queue.pending.last.replace(subscription);
        if last.is_none() {
            queue.pending.first = Some(subscription);
        }
        queue.pending_count += 1;
        entry.pending_link.previous = last;
        entry.pending_link.next = None;
        if let Some(last) = last.and_then(|last| self.events.subscriptions.get_mut(last)) {
            last.pending_link.next = Some(subscription);
        }
    }

    /// Takes a subscription out of its queue's pending ones.
    pub(crate) fn unmake_pending(&mut self, subscription: SubscriptionId) {
        let Some(entry) = self.events.subscriptions.get_mut(subscription) else { return };
        if !core::mem::take(&mut entry.pending) {
            return;
        }
        let event = entry.event;
        let link = core::mem::take(&mut entry.pending_link);
        if let Some(previous) = link.previous.and_then(|previous| self.events.subscriptions.get_mut(previous)) {
            previous.pending_link.next = link.next;
        }
        if let Some(next) = link.next.and_then(|next| self.events.subscriptions.get_mut(next)) {
            next.pending_link.previous = link.previous;
        }
        let Some(queue) = self.events.queues.get_mut(event) else { return };
        if link.previous.is_none() {
            queue.pending.first = link.next;
        }
        if link.next.is_none() {
            queue.pending.last = link.previous;
        }
        queue.pending_count -= 1;
    }

    /// The subscription of `event` that `token` names.
    pub(crate) fn find_token(&self, event: EventId, token: u64) -> Option<SubscriptionId> {
        let queue = self.events.queues.get(event)?;
        let mut next = *queue.table.get(slot(token, queue.table.len())?)?;
        while let Some(subscription) = next {
            let entry = self.events.subscriptions.get(subscription)?;
            if entry.token == token {
                return Some(subscription);
            }
            next = entry.chain;
        }
        None
    }

    /// Puts a subscription into its queue's table, which has room.
    pub(crate) fn file_token(&mut self, event: EventId, token: u64, subscription: SubscriptionId) {
        let Some(queue) = self.events.queues.get_mut(event) else { return };
        let Some(head) = slot(token, queue.table.len()).and_then(|at| queue.table.get_mut(at)) else { return };
        let next = head.replace(subscription);
        if let Some(entry) = self.events.subscriptions.get_mut(subscription) {
            entry.chain = next;
        }
    }

    /// Takes a subscription out of its queue's table.
    pub(crate) fn unfile_token(&mut self, event: EventId, token: u64, subscription: SubscriptionId) {
        let Some(queue) = self.events.queues.get_mut(event) else { return };
        let Some(head) = slot(token, queue.table.len()).and_then(|at| queue.table.get_mut(at)) else { return };
        let after = self.events.subscriptions.get(subscription).and_then(|entry| entry.chain);
        if *head == Some(subscription) {
            *head = after;
            return;
        }
        let mut next = *head;
        while let Some(before) = next.and_then(|next| self.events.subscriptions.get_mut(next)) {
            if before.chain == Some(subscription) {
                before.chain = after;
                return;
            }
            next = before.chain;
        }
    }

    /// Makes the table of a queue fit for one subscription more: chains stay shorter than two on average.
    pub(crate) fn widen_table(&mut self, event: EventId) -> Result<(), holm_abi::Error> {
        let Some(queue) = self.events.queues.get_mut(event) else { return Ok(()) };
        let size = queue.table.len();
        if (queue.subscriptions as usize) < 2 * size {
            return Ok(());
        }
        let wider = (4 * size).max(4);
        let mut table = alloc::vec::Vec::new();
        table.try_reserve_exact(wider).map_err(|_| holm_abi::Error::NoMemory)?;
        table.resize(wider, None);
        for head in core::mem::replace(&mut queue.table, table) {
            let mut next = head;
            while let Some(subscription) = next {
                let Some(entry) = self.events.subscriptions.get(subscription) else { break };
                let token = entry.token;
                next = entry.chain;
                self.file_token(event, token, subscription);
            }
        }
        Ok(())
    }
}

/// The chain that a token belongs to, of `size`, a power of two.
fn slot(token: u64, size: usize) -> Option<usize> {
    let bits = size.checked_ilog2()?;
    if bits == 0 {
        return Some(0);
    }
    Some((token.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize)
}

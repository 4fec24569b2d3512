//! The system calls on events.

use holm_abi::{Error, EventFlags, EventMask, EventRecord, EventSource, EventSpec, ObjectType, Rights, limits};

use crate::caller::{Answer, Caller, Outcome};
use crate::cap::{Cap, Progress, Types};
use crate::dispatch::Records;
use crate::event::{Event, EventId, EventWait, MAX_WATCHERS, Neighbours, Source, Subscription};
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos};
use crate::object::Object;
use crate::quota::Resource;
use crate::thread::ThreadState;
use crate::thread_life::how_it_ended;
use crate::unit::{UnitId, UnitState};
use crate::wait::Wait;

/// Bytes of kernel memory that a subscription is charged for, with its part of the queue's table.
pub(crate) const SUBSCRIPTION_COST: u64 = size_of::<Subscription>() as u64 + 32;
const EVENT_COST: u64 = size_of::<Event>() as u64;

impl Source {
    /// What can be watched of an object.
    pub(crate) const fn of(object: Object) -> Option<Self> {
        match object {
            Object::Channel(id, end) => Some(Self::Channel(id, end)),
            Object::Timer(id) => Some(Self::Timer(id)),
            Object::Unit(id) => Some(Self::Unit(id)),
            Object::Thread(id) => Some(Self::Thread(id)),
            Object::Trace(id) => Some(Self::Trace(id)),
            Object::Console => Some(Self::Console),
            _ => None,
        }
    }
}

const fn source_type(kind: EventSource) -> Result<ObjectType, Error> {
    match kind {
        EventSource::Channel => Ok(ObjectType::Channel),
        EventSource::Timer => Ok(ObjectType::Timer),
        EventSource::Unit => Ok(ObjectType::Unit),
        EventSource::Thread => Ok(ObjectType::Thread),
        EventSource::Trace => Ok(ObjectType::Trace),
        EventSource::Console => Ok(ObjectType::Console),
        EventSource::None | EventSource::Cluster => Err(Error::Invalid),
    }
}

impl<M: Machine> Kernel<M> {
    /// Subscribes a queue of events to a source; makes the queue where none is given.
    pub(crate) fn event_subscribe(&mut self, caller: Caller, spec: EventSpec) -> Answer {
        let mut source = None;
        if spec.source_type == EventSource::None {
            if !spec.source.is_none() || !spec.mask.is_none() || !spec.flags.is_none() || !spec.event.is_none() {
                return Err(Error::Invalid);
            }
        } else {
            let types = Types::of(source_type(spec.source_type)?);
            let cap = self.resolve(caller.unit, spec.source, types, Rights::WAIT)?;
            let found = Source::of(cap.object).ok_or(Error::WrongType)?;
            if !found.mask().contains(spec.mask) {
                return Err(Error::Invalid);
            }
            source = Some((found, cap));
        }
        if !spec.event.is_none() {
            let cap = self.resolve(caller.unit, spec.event, Types::of(ObjectType::Event), Rights::ADMIN)?;
            let Object::Event(event) = cap.object else { return Err(Error::WrongType) };
            if let Some((source, cap)) = source {
                self.subscribe(event, source, cap, &spec)?;
            }
            return Ok(Outcome::Done(spec.event.raw() as u64));
        }
        let event = self.event_new(caller.unit)?;
        let handle = self.install_or(caller.unit, Object::Event(event), ObjectType::Event, |kernel| {
            kernel.event_released(event);
        })?;
        if let Some((source, cap)) = source
            && let Err(error) = self.subscribe(event, source, cap, &spec)
        {
            self.cap_close_handle(caller.unit, handle)?;
            return Err(error);
        }
        Ok(Outcome::Done(handle.raw() as u64))
    }

    pub(crate) fn event_new(&mut self, unit: UnitId) -> Result<EventId, Error> {
        self.charge(unit, Resource::Kernel, EVENT_COST)?;
        self.events.queues.insert(Event::new(unit)).map_err(|_| {
            self.refund(unit, Resource::Kernel, EVENT_COST);
            Error::NoMemory
        })
    }

    fn subscribe(&mut self, event: EventId, source: Source, cap: Cap, spec: &EventSpec) -> Result<(), Error> {
        let queue = self.events.queues.get(event).ok_or(Error::BadHandle)?;
        let unit = queue.unit;
        if u64::from(queue.subscriptions) >= limits::MAX_SUBSCRIPTIONS {
            return Err(Error::NoSpace);
        }
        if self.find_token(event, spec.token).is_some() {
            return Err(Error::Exists);
        }
        if self.watchers(source).is_none_or(|watchers| watchers.count >= MAX_WATCHERS) {
            return Err(Error::NoSpace);
        }
        self.widen_table(event)?;
        self.charge(unit, Resource::Kernel, SUBSCRIPTION_COST)?;
        let made = self.events.subscriptions.insert(Subscription {
            event,
            source: Some(source),
            kind: source.kind(),
            number: source.number(),
            grant: Some(cap.grant),
            mask: spec.mask,
            flags: spec.flags,
            token: spec.token,
            silent: false,
            pending: false,
            happened: EventMask::NONE,
            timestamp: Nanos(0),
            data0: 0,
            data1: 0,
            sequence: 0,
            pending_link: Neighbours::default(),
            watch_link: Neighbours::default(),
            chain: None,
        });
        let Ok(subscription) = made else {
            self.refund(unit, Resource::Kernel, SUBSCRIPTION_COST);
            return Err(Error::NoMemory);
        };
        self.grant_watch(cap.grant);
        if let Some(queue) = self.events.queues.get_mut(event) {
            queue.subscriptions += 1;
        }
        self.file_token(event, spec.token, subscription);
        self.watch(source, subscription);
        // What has happened already, and what is true already, is told like what comes.
        let (mask, data0, data1) = self.already(source);
        if let Some(event) = self.note(subscription, mask, data0, data1) {
            self.tell_waiter(event);
        }
        Ok(())
    }

    fn already(&mut self, source: Source) -> (EventMask, u64, u64) {
        match source {
            Source::Unit(id) => match self.units.get(id) {
                Some(unit) if matches!(unit.state, UnitState::Stopped | UnitState::Failed) => self.unit_end_event(id),
                _ => (EventMask::NONE, 0, 0),
            },
            Source::Thread(id) => match self.threads.get(id) {
                Some(thread) if thread.state == ThreadState::Ended => {
                    (how_it_ended(thread.exit_reason), thread.exit_code as u64, thread.exit_reason as u64)
                }
                _ => (EventMask::NONE, 0, 0),
            },
            Source::Timer(_) => (EventMask::NONE, 0, 0),
            Source::Channel(..) | Source::Trace(_) | Source::Console => (self.true_now(source), 0, 0),
        }
    }

    /// Gives the events that are there, or waits for the first.
    pub(crate) fn event_wait(
        &mut self,
        caller: Caller,
        event: Cap,
        records: Records<EventRecord>,
        deadline: Nanos,
    ) -> Answer {
        let Object::Event(event) = event.object else { return Err(Error::WrongType) };
        if records.count == 0 {
            return Err(Error::Invalid);
        }
        let wait = EventWait { event, address: records.address, count: records.count };
        match self.report(caller.thread, wait)? {
            None => return Ok(Outcome::Again),
            Some(0) => {}
            Some(given) => return Ok(Outcome::Done(given)),
        }
        if deadline <= self.clock() {
            return Err(Error::TimedOut);
        }
        if let Some(queue) = self.events.queues.get_mut(event) {
            queue.waiters.push(&mut self.threads, caller.thread);
        }
        self.block(caller, Wait::Event(wait), deadline);
        Ok(Outcome::Blocked)
    }

    /// Lets a subscription report again.
    pub(crate) fn event_ack(&mut self, _caller: Caller, event: Cap, token: u64) -> Answer {
        let Object::Event(event) = event.object else { return Err(Error::WrongType) };
        let subscription = self.find_token(event, token).ok_or(Error::NotFound)?;
        let entry = self.events.subscriptions.get_mut(subscription).ok_or(Error::NotFound)?;
        if !core::mem::take(&mut entry.silent) {
            return Err(Error::BadState);
        }
        let lasts = entry.source.is_some_and(Source::lasts) && !entry.flags.contains(EventFlags::EDGE);
        if lasts || !entry.happened.is_none() {
            self.make_pending(subscription);
            self.tell_waiter(event);
        }
        Ok(Outcome::OK)
    }

    /// Ends a subscription.
    pub(crate) fn event_unsubscribe(&mut self, _caller: Caller, event: Cap, token: u64) -> Answer {
        let Object::Event(event) = event.object else { return Err(Error::WrongType) };
        let subscription = self.find_token(event, token).ok_or(Error::NotFound)?;
        self.remove_subscription(subscription);
        Ok(Outcome::OK)
    }

    pub(crate) fn event_references(&mut self, event: EventId) -> Option<&mut u32> {
        self.events.queues.get_mut(event).map(|queue| &mut queue.references)
    }

    /// Nothing names a queue of events any more: who waits there gives up; its subscriptions end in the background.
    pub(crate) fn event_released(&mut self, event: EventId) {
        if let Some(queue) = self.events.queues.get_mut(event) {
            queue.next_dying = self.events.dying.replace(event);
        }
        // Most queues are small: one step ends them.
        let _ = self.dying_events_step();
    }

    /// Ends some waits and subscriptions of queues that nothing names any more.
    pub(crate) fn dying_events_step(&mut self) -> Progress {
        for _ in 0..STEP {
            let Some(event) = self.events.dying else { return Progress::Done };
            let Some(queue) = self.events.queues.get_mut(event) else {
                self.events.dying = None;
                return Progress::Done;
            };
            if let Some(thread) = queue.waiters.pop(&mut self.threads) {
                self.give_up(thread, Error::Canceled);
                continue;
            }
            match queue.table.get(queue.drained) {
                Some(Some(subscription)) => {
                    let subscription = *subscription;
                    self.remove_subscription(subscription);
                }
                Some(None) => queue.drained += 1,
                None => {
                    self.events.dying = queue.next_dying;
                    let unit = queue.unit;
                    self.events.queues.remove(event);
                    self.refund(unit, Resource::Kernel, EVENT_COST);
                }
            }
        }
        if self.events.dying.is_some() { Progress::More } else { Progress::Done }
    }
}

/// Subscriptions and empty chains that one step looks at.
const STEP: u32 = 12;

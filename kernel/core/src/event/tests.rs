//! Events and timers against what they promise.

use std::vec::Vec;

use holm_abi::{ClockId, EventFlags, EventMask, EventRecord, EventSource, EventSpec, Handle, ObjectType};
use proptest::prelude::*;

use crate::caller::{Caller, Outcome};
use crate::cap::{Cap, Types};
use crate::dispatch::Records;
use crate::event::{EventId, Source};
use crate::kernel::Kernel;
use crate::machine::Nanos;
use crate::object::Object;
use crate::sim::SimMachine;
use crate::testing::ipc::{self, PAGE};
use crate::time::TimerId;

/// A kernel with a unit of two threads, and a queue of events.
struct Bench {
    kernel: Kernel<SimMachine>,
    caller: Caller,
    other: Caller,
    queue: Handle,
}

impl Bench {
    fn new() -> Self {
        let (mut kernel, _, callers) = ipc::kernel(1, 2);
        let (caller, other) = (callers[0][0], callers[0][1]);
        let Ok(Outcome::Done(queue)) = kernel.event_subscribe(caller, EventSpec::new()) else { panic!("no queue") };
        Self { kernel, caller, other, queue: Handle::from_register(queue).unwrap() }
    }

    fn cap(&mut self, handle: Handle) -> Cap {
        self.kernel.resolve(self.caller.unit, handle, Types::ANY, holm_abi::Rights::NONE).unwrap()
    }

    fn queue_id(&mut self) -> EventId {
        let queue = self.queue;
        match self.cap(queue).object {
            Object::Event(id) => id,
            other => panic!("{other:?} is no queue"),
        }
    }

    fn timer(&mut self) -> (Handle, TimerId) {
        let timer = self.kernel.timer_new(self.caller.unit, ClockId::Monotonic, false, Nanos(0)).unwrap();
        let handle = self
            .kernel
            .cap_install(
                self.caller.unit,
                Object::Timer(timer),
                ObjectType::Timer.rights(),
                ObjectType::Timer.transfer_flags(),
            )
            .unwrap();
        (handle, timer)
    }

    fn subscribe(&mut self, source: Handle, kind: EventSource, mask: EventMask, flags: EventFlags, token: u64) {
        let spec = EventSpec { event: self.queue, source, source_type: kind, mask, flags, token, ..EventSpec::new() };
        self.kernel.event_subscribe(self.caller, spec).unwrap();
    }

    /// The records that are there.
    fn take(&mut self, most: u64) -> Vec<EventRecord> {
        let queue = self.queue;
        let queue = self.cap(queue);
        match self.kernel.event_wait(self.caller, queue, Records::new(PAGE, most), Nanos(0)) {
            Ok(Outcome::Done(count)) => (0..count).map(|number| self.record(number)).collect(),
            Err(holm_abi::Error::TimedOut) => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    fn record(&mut self, number: u64) -> EventRecord {
        let mut bytes = [0; EventRecord::SIZE];
        let at = PAGE + number * EventRecord::SIZE as u64;
        self.kernel.copy_in(self.caller.unit, at, &mut bytes).unwrap();
        EventRecord::decode(&bytes).unwrap()
    }

    fn tick(&mut self, until: u64) {
        let now = self.kernel.now();
        self.kernel.machine.advance(Nanos(until.saturating_sub(now.0)));
        self.kernel.arrive(crate::CpuId(0));
        while self.kernel.sched.cpus[0].deadlines.next() <= Nanos(until) {
            self.kernel.expire(crate::CpuId(0));
        }
    }
}

#[test]
fn one_wait_sees_several_sources_in_the_order_in_which_they_happened() {
    let mut bench = Bench::new();
    let (first, one) = bench.timer();
    let (second, two) = bench.timer();
    bench.subscribe(first, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, 1);
    bench.subscribe(second, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, 2);
    bench.kernel.timer_set(one, Nanos(2_000), Nanos(0));
    bench.kernel.timer_set(two, Nanos(1_000), Nanos(0));
    bench.tick(1_500);
    bench.tick(5_000);
    let tokens: Vec<_> = bench.take(8).iter().map(|record| (record.token, record.data0, record.data1)).collect();
    assert_eq!(tokens, [(2, 1, 1_000), (1, 1, 2_000)]);
    assert!(bench.take(8).is_empty());
}

#[test]
fn a_periodic_timer_does_not_drift_and_counts_what_it_missed() {
    let mut bench = Bench::new();
    let (handle, timer) = bench.timer();
    bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, 7);
    bench.kernel.timer_set(timer, Nanos(10_000), Nanos(10_000));
    let mut total = 0;
    for late in [10_003, 20_900, 57_000, 60_000, 1_000_001] {
        bench.tick(late);
        let records = bench.take(4);
        assert_eq!(records.len(), 1);
        total += records[0].data0;
        assert_eq!(total, late / 10_000, "at {late}");
        assert_eq!(records[0].data1, late / 10_000 * 10_000, "the last deadline is a multiple of the period");
    }
}

#[test]
fn expirations_that_were_not_read_are_merged_into_one_record() {
    let mut bench = Bench::new();
    let (handle, timer) = bench.timer();
    bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, 7);
    bench.kernel.timer_set(timer, Nanos(10_000), Nanos(10_000));
    for until in 1..=5 {
        bench.tick(until * 10_000);
    }
    let records = bench.take(4);
    assert_eq!((records.len(), records[0].data0, records[0].sequence), (1, 5, 5));
}

#[test]
fn a_thread_that_waits_gets_the_record_itself() {
    let mut bench = Bench::new();
    let (handle, timer) = bench.timer();
    bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, 9);
    bench.kernel.timer_set(timer, Nanos(1_000), Nanos(0));
    let queue = bench.queue;
    let queue = bench.cap(queue);
    let answer = bench.kernel.event_wait(bench.other, queue, Records::new(PAGE, 4), Nanos::NEVER);
    assert_eq!(answer, Ok(Outcome::Blocked));
    bench.tick(1_000);
    let thread = bench.kernel.threads.get(bench.other.thread).unwrap();
    assert_eq!(thread.registers.rax, 1);
    assert_eq!(bench.record(0).token, 9);
    assert!(bench.take(4).is_empty(), "it is told once");
}

#[test]
fn a_record_that_cannot_be_written_is_kept() {
    let mut bench = Bench::new();
    let (handle, timer) = bench.timer();
    bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, 9);
    bench.kernel.timer_set(timer, Nanos(1_000), Nanos(0));
    bench.tick(1_000);
    let queue = bench.queue;
    let queue = bench.cap(queue);
    let answer = bench.kernel.event_wait(bench.caller, queue, Records::new(0x10, 4), Nanos::NEVER);
    assert_eq!(answer, Err(holm_abi::Error::Fault));
    assert_eq!(bench.take(4).len(), 1);
}

#[test]
fn after_a_report_a_subscription_with_needs_ack_is_silent_until_it_is_acknowledged() {
    let mut bench = Bench::new();
    let (handle, timer) = bench.timer();
    bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, EventFlags::NEEDS_ACK, 3);
    let queue = bench.queue;
    let cap = bench.cap(queue);
    assert_eq!(bench.kernel.event_ack(bench.caller, cap, 3), Err(holm_abi::Error::BadState));
    assert_eq!(bench.kernel.event_ack(bench.caller, cap, 4), Err(holm_abi::Error::NotFound));
    bench.kernel.timer_set(timer, Nanos(1_000), Nanos(1_000_000));
    bench.tick(1_000);
    assert_eq!(bench.take(4).len(), 1);
    bench.tick(3_100_000);
    assert!(bench.take(4).is_empty());
    bench.kernel.event_ack(bench.caller, cap, 3).unwrap();
    let records = bench.take(4);
    assert_eq!((records.len(), records[0].data0), (1, 3));
}

#[test]
fn the_end_of_a_thread_is_told_also_to_who_comes_later() {
    let mut bench = Bench::new();
    let start = crate::thread_life::ThreadStart { entry: 0, stack: 0, arguments: [0; 3], space: crate::SpaceId(0) };
    let params = crate::sched::Params::default();
    let thread = bench.kernel.thread_new(bench.caller.unit, start, params, u64::MAX).unwrap();
    let handle = bench
        .kernel
        .cap_install(
            bench.caller.unit,
            Object::Thread(thread),
            ObjectType::Thread.rights(),
            ObjectType::Thread.transfer_flags(),
        )
        .unwrap();
    let mask = EventMask::EXIT | EventMask::CRASH;
    bench.subscribe(handle, EventSource::Thread, mask, EventFlags::NONE, 1);
    bench.kernel.thread_end(thread, -5, holm_abi::ExitReason::Exited);
    bench.subscribe(handle, EventSource::Thread, mask, EventFlags::NONE, 2);
    let records = bench.take(4);
    let told: Vec<_> = records.iter().map(|record| (record.token, record.mask, record.data0 as i64)).collect();
    assert_eq!(told, [(1, EventMask::EXIT, -5), (2, EventMask::EXIT, -5)]);
    assert!(bench.take(4).is_empty());
}

#[test]
fn revoking_the_capability_ends_the_subscription_and_says_so() {
    let mut bench = Bench::new();
    let (handle, timer) = bench.timer();
    bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, 3);
    bench.kernel.retain(Object::Timer(timer));
    let _ = bench.kernel.cap_revoke(bench.caller, handle, holm_abi::RevokeFlags::NONE);
    for _ in 0..100 {
        bench.kernel.work_step();
    }
    let records = bench.take(4);
    assert_eq!(records.iter().map(|record| (record.token, record.mask)).collect::<Vec<_>>(), [(3, EventMask::REVOKED)]);
    bench.kernel.timer_set(timer, Nanos(1_000), Nanos(0));
    bench.tick(1_000);
    assert!(bench.take(4).is_empty());
    assert_eq!(bench.kernel.events.subscriptions.len(), 0);
}

#[test]
fn closing_the_queue_ends_everything_it_held() {
    let mut bench = Bench::new();
    let used = |bench: &Bench| bench.kernel.units.get(bench.caller.unit).unwrap().quotas.kernel.used;
    let mut timers = Vec::new();
    for token in 0..40 {
        let (handle, timer) = bench.timer();
        bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, EventFlags::NONE, token);
        timers.push(timer);
    }
    let before = used(&bench);
    let queue = bench.queue;
    bench.kernel.cap_close_handle(bench.caller.unit, queue).unwrap();
    for _ in 0..100 {
        bench.kernel.work_step();
    }
    assert_eq!((bench.kernel.events.queues.len(), bench.kernel.events.subscriptions.len()), (0, 0));
    assert!(used(&bench) < before);
    for timer in timers {
        assert!(bench.kernel.watchers(Source::Timer(timer)).unwrap().list.first.is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The model keeps, for each subscription, how many expirations it owes; nothing is lost and nothing is made up.
    #[test]
    fn expirations_are_told_exactly_once(
        steps in prop::collection::vec((0u8..7, 0usize..5, 1u64..50), 1..120),
    ) {
        let mut bench = Bench::new();
        let timers: Vec<_> = (0..5).map(|_| bench.timer()).collect();
        let mut owed = [None::<u64>; 5];
        let mut silent = [false; 5];
        let mut now = 0;
        for (what, which, amount) in steps {
            let (handle, timer) = timers[which];
            let token = which as u64;
            let queue = bench.queue;
            let cap = bench.cap(queue);
            match what {
                0 if owed[which].is_none() => {
                    let flags = if which.is_multiple_of(2) { EventFlags::NEEDS_ACK } else { EventFlags::NONE };
                    bench.subscribe(handle, EventSource::Timer, EventMask::EXPIRED, flags, token);
                    owed[which] = Some(0);
                    silent[which] = false;
                }
                1 if owed[which].is_some() => {
                    bench.kernel.event_unsubscribe(bench.caller, cap, token).unwrap();
                    owed[which] = None;
                }
                2 => {
                    let acked = bench.kernel.event_ack(bench.caller, cap, token);
                    let expected = match owed[which] {
                        None => Err(holm_abi::Error::NotFound),
                        Some(_) if !silent[which] => Err(holm_abi::Error::BadState),
                        Some(_) => Ok(Outcome::OK),
                    };
                    prop_assert_eq!(acked, expected);
                    silent[which] = false;
                }
                3 | 4 => {
                    // Fires `amount` periods of 10 µs late.
                    let first = now + 10_000;
                    bench.kernel.timer_set(timer, Nanos(first), Nanos(10_000));
                    now = first + (amount - 1) * 10_000 + amount;
                    bench.tick(now);
                    // Expirations of a periodic timer that is stopped are dropped: stop it only after they were taken over.
                    if let Some(place) = bench.kernel.timers.all.get(timer).unwrap().place {
                        bench.kernel.clear_deadline(Some(place));
                    }
                    bench.kernel.timers.all.get_mut(timer).unwrap().deadline = Nanos::NEVER;
                    if let Some(owed) = &mut owed[which] {
                        *owed += amount;
                    }
                }
                _ => {
                    let most = amount % 4 + 1;
                    let records = bench.take(most);
                    prop_assert!(records.len() as u64 <= most);
                    for record in &records {
                        let which = record.token as usize;
                        prop_assert!(!silent[which]);
                        prop_assert!(record.data0 > 0);
                        prop_assert_eq!(owed[which], Some(record.data0));
                        owed[which] = Some(0);
                        silent[which] = which.is_multiple_of(2);
                    }
                    let left = (0..5).filter(|which| owed[*which].unwrap_or(0) > 0 && !silent[*which]).count();
                    if (records.len() as u64) < most {
                        prop_assert_eq!(left, 0, "what is there is told");
                    }
                }
            }
        }
        let id = bench.queue_id();
        let queue = bench.kernel.events.queues.get(id).unwrap();
        prop_assert_eq!(queue.subscriptions as usize, owed.iter().flatten().count());
    }
}

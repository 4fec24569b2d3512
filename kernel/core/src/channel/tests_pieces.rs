//! Long messages against what they promise: whole or not at all, and once, whatever
//! happens between two pieces.

use std::collections::BTreeSet;
use std::vec::Vec;

use holm_abi::{
    Backing, CapTransfer, ChanMode, ChanSpec, DropPolicy, Error, Handle, MsgIo, Protection, Rights, TransferMode,
};
use proptest::prelude::*;

use super::End;
use super::tests::{Sim, blocked, channel, pass, recv, send};
use crate::caller::{Answer, Caller, InOut, Outcome};
use crate::memory::space::Placement;

use crate::testing::ipc::{self, PAGE};

const MOST: u32 = 65_536;
/// Where the long buffers of a unit begin: one to send from and one to receive into for each of its two threads.
const LONG: u64 = PAGE + 0x1_0000;

fn out_area(thread: usize) -> u64 {
    LONG + thread as u64 * 0x2_0000
}
fn in_area(thread: usize) -> u64 {
    out_area(thread) + u64::from(MOST)
}
fn io_area(thread: usize) -> u64 {
    PAGE + thread as u64 * 0x1000
}

/// What the byte at a place of a message is.
fn byte(id: u64, at: usize) -> u8 {
    (at as u64 / 3).wrapping_mul(7).wrapping_add(id) as u8
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Nothing,
    Sends { id: u64, length: u32, caps: u32 },
    Receives,
}

struct Bench {
    kernel: Sim,
    /// Two threads that send, two that receive.
    threads: [Caller; 4],
    doing: [Doing; 4],
    sender: Handle,
    receiver: Handle,
    /// A capability that travels as a clone.
    travels: Handle,
    next: u64,
    sent: BTreeSet<u64>,
    got: Vec<u64>,
}

impl Bench {
    fn new(policy: DropPolicy) -> Self {
        let (mut kernel, units, callers) = ipc::kernel(2, 2);
        for unit in &units {
            let region = kernel.region_new(None, 64, Backing::Anonymous, &[]).unwrap();
            let space = kernel.units.get(*unit).unwrap().memory.space.unwrap();
            let rights = Protection::READ | Protection::WRITE;
            kernel.map_step(space, region, 0, 64 * 4096, Placement::Free(LONG), rights, rights, None).unwrap();
        }
        let spec = ChanSpec {
            mode: ChanMode::Uni,
            max_message: MOST,
            max_messages: 4,
            max_bytes: 2 * u64::from(MOST),
            drop_policy: policy,
            ..ChanSpec::new()
        };
        let [receiver, sender] = channel(&mut kernel, callers[0][0], &spec);
        let receiver = pass(&mut kernel, callers[0][0], units[1], receiver);
        let [_, travels] = channel(&mut kernel, callers[0][0], &ChanSpec::new());
        Self {
            kernel,
            threads: [callers[0][0], callers[0][1], callers[1][0], callers[1][1]],
            doing: [Doing::Nothing; 4],
            sender,
            receiver,
            travels,
            next: 0,
            sent: BTreeSet::new(),
            got: Vec::new(),
        }
    }

    /// Begins what an idle thread does next.
    fn begin(&mut self, thread: usize, length: u32, caps: u32) {
        let caller = self.threads[thread];
        if thread >= 2 {
            self.doing[thread] = Doing::Receives;
            return;
        }
        let id = self.next;
        self.next += 1;
        let mut payload: Vec<u8> = (0..length as usize).map(|at| byte(id, at)).collect();
        payload[..8].copy_from_slice(&id.to_le_bytes());
        self.kernel.copy_out(caller.unit, out_area(thread), &payload).unwrap();
        let record = CapTransfer { cap: self.travels, mode: TransferMode::Clone, rights: Rights::SEND };
        let mut bytes = [0; CapTransfer::SIZE];
        record.encode(&mut bytes);
        for at in 0..caps as usize {
            let address = io_area(thread) + 0x100 + (at * CapTransfer::SIZE) as u64;
            self.kernel.copy_out(caller.unit, address, &bytes).unwrap();
        }
        self.doing[thread] = Doing::Sends { id, length, caps };
    }

    /// One entry of the thread's system call.
    fn enter(&mut self, thread: usize) {
        let caller = self.threads[thread];
        if blocked(&self.kernel, caller) {
            return;
        }
        let answer: Answer = match self.doing[thread] {
            Doing::Nothing => return,
            Doing::Sends { length, caps, .. } => {
                let message = MsgIo {
                    buffer: out_area(thread),
                    buffer_bytes: u64::from(length),
                    caps: io_area(thread) + 0x100,
                    cap_count: caps,
                    ..MsgIo::new()
                };
                send(&mut self.kernel, caller, self.sender, message)
            }
            Doing::Receives => {
                let value = MsgIo {
                    buffer: in_area(thread - 2),
                    buffer_bytes: u64::from(MOST),
                    caps: io_area(thread) + 0x200,
                    cap_count: 16,
                    ..MsgIo::new()
                };
                recv(&mut self.kernel, caller, self.receiver, InOut { address: io_area(thread), value })
            }
        };
        self.kernel.spent = false;
        match answer {
            Ok(Outcome::Again | Outcome::Blocked) => {}
            Ok(Outcome::Done(_)) => self.done(thread),
            other => panic!("thread {thread}: {other:?}"),
        }
    }

    /// A system call is over, well.
    fn done(&mut self, thread: usize) {
        let caller = self.threads[thread];
        self.kernel.pieces_over(caller.thread);
        match core::mem::replace(&mut self.doing[thread], Doing::Nothing) {
            Doing::Sends { id, .. } => assert!(self.sent.insert(id)),
            Doing::Receives => {
                let mut io = [0; MsgIo::SIZE];
                self.kernel.copy_in(caller.unit, io_area(thread), &mut io).unwrap();
                let word = |at: usize| u64::from_le_bytes(io[at..at + 8].try_into().unwrap());
                let length = word(core::mem::offset_of!(MsgIo, out_bytes)) as usize;
                let caps = word(core::mem::offset_of!(MsgIo, out_caps)) as u32;
                let mut payload = std::vec![0; length];
                self.kernel.copy_in(caller.unit, in_area(thread - 2), &mut payload).unwrap();
                let id = u64::from_le_bytes(payload[..8].try_into().unwrap());
                assert!((8..length).all(|at| payload[at] == byte(id, at)), "message {id} came torn");
                assert_eq!(caps, (id % 17) as u32, "message {id} came with other capabilities");
                for at in 0..u64::from(caps) {
                    let mut record = [0; CapTransfer::SIZE];
                    let address = io_area(thread) + 0x200 + at * CapTransfer::SIZE as u64;
                    self.kernel.copy_in(caller.unit, address, &mut record).unwrap();
                    let record = CapTransfer::decode(&record).unwrap();
                    self.kernel.cap_close_handle(caller.unit, record.cap).unwrap();
                }
                self.got.push(id);
            }
            Doing::Nothing => panic!("nothing ended"),
        }
    }

    /// A thread that waited was woken: with its call at its end, or to make it again.
    fn woken(&mut self, waited: [bool; 4]) {
        for (thread, waited) in waited.into_iter().enumerate() {
            let caller = self.threads[thread];
            if !waited || blocked(&self.kernel, caller) || self.doing[thread] == Doing::Nothing {
                continue;
            }
            let entry = self.kernel.threads.get(caller.thread).unwrap();
            if entry.calls.copies() {
                assert_eq!(entry.registers.rax, holm_abi::number::chan_send);
                continue;
            }
            match Error::from_register(entry.registers.rax) {
                Ok(_) => self.done(thread),
                Err(error) => panic!("thread {thread}: {error:?}"),
            }
        }
    }

    fn waiting(&self) -> [bool; 4] {
        self.threads.map(|caller| blocked(&self.kernel, caller))
    }

    /// The work that waits, one step.
    fn work(&mut self) {
        let _ = self.kernel.channels_drain_step();
        self.kernel.spent = false;
    }

    /// The call ends early: its deadline passed, or the thread is diverted.
    fn stop(&mut self, thread: usize) {
        let caller = self.threads[thread];
        if blocked(&self.kernel, caller) {
            self.kernel.give_up(caller.thread, Error::TimedOut);
        }
        self.kernel.pieces_over(caller.thread);
        self.doing[thread] = Doing::Nothing;
    }
}

proptest! {
    // Each copies megabytes.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]
    #[test]
    fn long_messages_come_whole_and_once(
        policy in prop_oneof![Just(DropPolicy::Block), Just(DropPolicy::DropOldest)],
        steps in proptest::collection::vec((0usize..6, 0u32..20, prop_oneof![8u32..2000, 8u32..=MOST]), 1..100),
    ) {
        let mut bench = Bench::new(policy);
        for (thread, choice, length) in steps {
            let waited = bench.waiting();
            if thread >= 4 {
                bench.work();
            } else if bench.doing[thread] == Doing::Nothing {
                let caps = (bench.next % 17) as u32;
                bench.begin(thread, length, caps);
                bench.enter(thread);
            } else if choice == 0 {
                bench.stop(thread);
            } else {
                bench.enter(thread);
            }
            let others = core::array::from_fn(|at| waited[at] && !(at == thread && choice == 0));
            bench.woken(others);
        }
        // Everything that was begun ends, and the queue runs dry.
        for round in 0.. {
            prop_assert!(round < 1000, "the queue does not run dry: {:?}", bench.doing);
            for thread in 0..4 {
                if thread >= 2 && bench.doing[thread] == Doing::Nothing {
                    bench.begin(thread, 0, 0);
                }
                // Who is woken has its answer before it calls again.
                let waited = bench.waiting();
                bench.enter(thread);
                bench.woken(waited);
            }
            let waited = bench.waiting();
            bench.work();
            bench.woken(waited);
            let (id, _) = bench.kernel.channels.iter().next().unwrap();
            let inbox = bench.kernel.inbox(id, End::A).unwrap();
            let idle = bench.doing[..2].iter().all(|doing| *doing == Doing::Nothing);
            if idle && inbox.messages == 0 && bench.waiting()[2..] == [true, true] {
                prop_assert_eq!(inbox.bytes, 0);
                break;
            }
        }
        let once: BTreeSet<u64> = bench.got.iter().copied().collect();
        prop_assert_eq!(once.len(), bench.got.len(), "a message came twice");
        if policy == DropPolicy::Block {
            prop_assert_eq!(once, bench.sent.clone());
        } else {
            prop_assert!(once.is_subset(&bench.sent));
        }
    }
}

#[test]
fn a_long_message_of_a_thread_that_ends_leaves_its_place() {
    let mut bench = Bench::new(DropPolicy::Block);
    let (id, _) = bench.kernel.channels.iter().next().unwrap();
    bench.begin(0, MOST, 0);
    bench.enter(0);
    bench.enter(0);
    let inbox = bench.kernel.inbox(id, End::A).unwrap();
    assert_eq!((inbox.messages, inbox.bytes, inbox.first()), (1, u64::from(MOST), None));
    let Caller { thread, unit, .. } = bench.threads[0];
    // The bench's threads were made without a charge.
    let cost = bench.kernel.thread_cost();
    let owner = bench.kernel.units.get_mut(unit).unwrap();
    owner.quotas.threads.charge(1).unwrap();
    owner.quotas.kernel.charge(cost).unwrap();
    bench.kernel.thread_end(thread, 0, holm_abi::ExitReason::Killed);
    let inbox = bench.kernel.inbox(id, End::A).unwrap();
    assert_eq!((inbox.messages, inbox.bytes, inbox.first()), (0, 0, None));
}

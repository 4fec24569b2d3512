//! Revocation against use, transfer and teardown in every order: small programs on several processors, all interleavings of
//! their system calls, of the steps of calls that go on in steps, and of the work that waits.
//!
//! The kernel is entered under one lock, so what can be interleaved are its entries. Each order is played from the beginning:
//! on as many processors as there are programs, where any one enters next; on two; and on one, where the timer takes the
//! processor from one program for another. A kick arrives at once, or when its processor enters the next time. After every
//! step the kernel is compared with a model ([`super::tree`]); in the end everything ends and nothing may be left.

mod world;

use std::vec::Vec;

use holm_abi::TransferMode;

use world::World;

/// Names a capability of a scenario: 0 receives from a channel, 1 sends to it, 2 is a region, all of unit 0. Unit 1 got 3, 4
/// and 5 of them.
type Name = usize;

/// One system call of a program, or one access to memory. Those that name a capability that is not there yet are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// Sends through it, if there is room.
    Send(Name),
    /// Receives through it, or waits.
    Receive(Name),
    /// Derives a capability.
    Derive(Name, Name),
    /// Gives it, or one made of it, to a unit.
    Grant(Name, usize, TransferMode, Name),
    /// Unit 1 queues it, or one made of it, in a message for unit 2.
    Post(Name, TransferMode, Name),
    /// Unit 2 takes a message, if there is one.
    Fetch,
    /// Unit 1 calls unit 2, with it or one made of it in registers.
    Call(Name, TransferMode, Name),
    /// Unit 2 replies, when it has received a call, and waits for the next.
    Serve,
    /// Unit 2 replies.
    Reply,
    /// Revokes it.
    Revoke(Name),
    /// Revokes all that came from it.
    RevokeChildren(Name),
    /// Closes it.
    Close(Name),
    /// Ends a unit.
    Kill(usize),
    /// Maps the region.
    Map(Name),
    /// Reads what was mapped.
    Touch,
}

impl Op {
    /// The capability that it goes through.
    const fn name(self) -> Option<Name> {
        match self {
            Self::Send(name)
            | Self::Receive(name)
            | Self::Derive(name, _)
            | Self::Grant(name, ..)
            | Self::Post(name, ..)
            | Self::Call(name, ..)
            | Self::Revoke(name)
            | Self::RevokeChildren(name)
            | Self::Close(name)
            | Self::Map(name) => Some(name),
            Self::Fetch | Self::Serve | Self::Reply | Self::Kill(_) | Self::Touch => None,
        }
    }
}

/// When a processor hears that it was kicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kicks {
    AtOnce,
    /// When its own program is to go on, but not before the call that it was about to make when it runs.
    Late,
}

/// Programs that run beside each other.
struct Scenario {
    /// How unit 1 got its capabilities.
    given: [TransferMode; 3],
    /// The unit of each program, and what it does.
    programs: Vec<(usize, Vec<Op>)>,
    /// Steps of calls that go on in steps, beside the first one, and of the work that waits.
    more: Vec<usize>,
}

/// Plays a scenario in every order, and says how many there were.
fn play(scenario: &Scenario, cpus: u32, kicks: Kicks) -> u32 {
    let mut left: Vec<usize> = scenario.programs.iter().map(|(_, program)| program.len()).collect();
    left.push(0);
    for actor in &scenario.more {
        left[*actor] += 1;
    }
    let mut order = Vec::new();
    let mut orders = 0;
    every_order(&mut left, &mut order, &mut |order| {
        orders += 1;
        let played = std::panic::catch_unwind(|| {
            let mut world = World::new(scenario, cpus, kicks);
            order.iter().for_each(|actor| world.step(*actor));
            world.finish();
        });
        if let Err(why) = played {
            std::eprintln!("{:?} on {cpus} processors, kicks {kicks:?}, in the order {order:?}", scenario.programs);
            std::panic::resume_unwind(why);
        }
    });
    orders
}

/// Gives all orders in which each actor has as many steps as are left of it.
fn every_order(left: &mut [usize], order: &mut Vec<usize>, each: &mut impl FnMut(&[usize])) {
    if left.iter().all(|left| *left == 0) {
        return each(order);
    }
    for actor in 0..left.len() {
        if left[actor] == 0 {
            continue;
        }
        left[actor] -= 1;
        order.push(actor);
        every_order(left, order, each);
        order.pop();
        left[actor] += 1;
    }
}

/// On every machine that the module tells of.
fn play_everywhere(scenario: &Scenario) -> u32 {
    let own = scenario.programs.len() as u32 + 1;
    [(1, Kicks::AtOnce), (2, Kicks::AtOnce), (2, Kicks::Late), (own, Kicks::AtOnce), (own, Kicks::Late)]
        .into_iter()
        .map(|(cpus, kicks)| play(scenario, cpus, kicks))
        .sum()
}

use Op::*;
use TransferMode::{Borrow, Clone as Copied, Move};

#[test]
fn all_orders_are_different_and_none_is_missing() {
    let mut orders = std::collections::BTreeSet::new();
    every_order(&mut [2, 1, 2], &mut Vec::new(), &mut |order| assert!(orders.insert(order.to_vec())));
    assert_eq!(orders.len(), 30);
}

#[test]
fn revoke_against_use() {
    for given in [[Copied; 3], [Borrow, Borrow, Copied]] {
        let scenario = Scenario {
            given,
            programs: std::vec![
                (0, std::vec![Revoke(1), Send(1)]),
                (1, std::vec![Send(4), Send(4)]),
                (1, std::vec![Derive(4, 6), Send(6)]),
            ],
            more: std::vec![3],
        };
        play_everywhere(&scenario);
    }
}

#[test]
fn revoke_against_waiting() {
    let scenario = Scenario {
        given: [Copied; 3],
        programs: std::vec![
            (0, std::vec![RevokeChildren(0), Send(1), Send(1)]),
            (1, std::vec![Receive(3), Receive(3)]),
            (1, std::vec![Close(3)]),
        ],
        more: std::vec![3],
    };
    play_everywhere(&scenario);
}

#[test]
fn revoke_against_memory() {
    let scenario = Scenario {
        given: [Copied; 3],
        programs: std::vec![
            (0, std::vec![Revoke(2)]),
            (1, std::vec![Map(5), Touch, Touch]),
            (1, std::vec![Grant(5, 2, Move, 5)]),
        ],
        more: std::vec![0, 3],
    };
    play_everywhere(&scenario);
}

#[test]
fn revoke_against_transfer() {
    for mode in [Move, Borrow, Copied] {
        let granted = Scenario {
            given: [Copied; 3],
            programs: std::vec![
                (0, std::vec![RevokeChildren(1)]),
                (1, std::vec![Grant(4, 2, mode, 6), Send(4)]),
                (2, std::vec![Send(if mode == Move { 4 } else { 6 }), Send(6)]),
                (1, std::vec![Close(4)]),
            ],
            more: std::vec![],
        };
        play_everywhere(&granted);
        let queued = Scenario {
            given: [Copied; 3],
            programs: std::vec![
                (0, std::vec![Revoke(1)]),
                (1, std::vec![Post(4, mode, 6), Send(4)]),
                (2, std::vec![Fetch, Send(if mode == Move { 4 } else { 6 })]),
            ],
            more: std::vec![3],
        };
        play_everywhere(&queued);
        let called = Scenario {
            given: [Copied; 3],
            programs: std::vec![
                (0, std::vec![Revoke(1)]),
                (1, std::vec![Call(4, mode, 6), Send(4)]),
                (2, std::vec![Serve, Send(if mode == Move { 4 } else { 6 }), Reply, Send(6)]),
            ],
            more: std::vec![],
        };
        play_everywhere(&called);
    }
}

#[test]
fn revoke_against_teardown() {
    for mode in [Move, Borrow, Copied] {
        for victim in [1, 2] {
            let queued = Scenario {
                given: [Copied; 3],
                programs: std::vec![
                    (0, std::vec![Kill(victim), Revoke(1)]),
                    (1, std::vec![Post(4, mode, 6)]),
                    (2, std::vec![Fetch, Send(if mode == Move { 4 } else { 6 })]),
                ],
                more: std::vec![3],
            };
            play_everywhere(&queued);
            let called = Scenario {
                given: [Copied; 3],
                programs: std::vec![
                    (0, std::vec![Revoke(1), Kill(victim)]),
                    (1, std::vec![Call(4, mode, 6)]),
                    (2, std::vec![Serve, Serve]),
                ],
                more: std::vec![3],
            };
            play_everywhere(&called);
        }
        let mapped = Scenario {
            given: [Copied; 3],
            programs: std::vec![(0, std::vec![Revoke(2)]), (1, std::vec![Map(5), Touch]), (2, std::vec![Kill(1)]),],
            more: std::vec![0, 3],
        };
        play_everywhere(&mapped);
    }
}

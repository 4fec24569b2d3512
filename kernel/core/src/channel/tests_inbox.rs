//! The queue of an inbox against a model.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn header(priority: u8, length: u32, sequence: u64) -> Header {
    Header { priority, length, sequence, ..Header::default() }.sealed()
}

proptest! {
    #[test]
    fn messages_come_out_whole_in_order_of_priority_and_age(
        by_priority: bool,
        message in 1u32..5000,
        messages in 1u32..9,
        bytes in 1u64..20_000,
        steps in proptest::collection::vec((0u8..6, any::<u16>(), 0u8..32), 0..200),
    ) {
        let limits = Limits { message, messages, bytes };
        let mut inbox = Inbox::new(limits, DropPolicy::Block, by_priority).unwrap();
        let mut model: Vec<VecDeque<(u64, Vec<u8>)>> = std::vec![VecDeque::new(); 32];
        for (number, (step, which, priority)) in steps.into_iter().enumerate() {
            let sequence = number as u64;
            let queued: usize = model.iter().map(VecDeque::len).sum();
            let size: usize = model.iter().flatten().map(|(_, bytes)| bytes.len()).sum();
            prop_assert_eq!((inbox.messages as usize, inbox.bytes as usize), (queued, size));
            let lane = if by_priority { usize::from(priority) } else { 0 };
            match step {
                0..=2 => {
                    let length = u32::from(which) % (message + 1);
                    let fits = queued < messages as usize && size as u64 + u64::from(length) <= bytes;
                    let reserved = inbox.reserve(length);
                    prop_assert_eq!(reserved.is_some(), fits);
                    let Some(reserved) = reserved else { continue };
                    let payload: Vec<u8> = (0..length).map(|at| (at as u64 * 7 + sequence) as u8).collect();
                    let mut cursor = inbox.cursor(reserved.slot, u32::MAX);
                    let mut blocks = inbox.lend();
                    let mut at = 0;
                    while let Some(piece) = inbox.advance(&mut cursor) {
                        let length = piece.len();
                        blocks[piece].copy_from_slice(&payload[at..at + length]);
                        at += length;
                    }
                    prop_assert_eq!(at, payload.len());
                    inbox.give_back(blocks);
                    if step == 2 {
                        inbox.cancel(reserved);
                    } else {
                        inbox.push(reserved, header(priority, length, sequence));
                        model[lane].push_back((sequence, payload));
                    }
                }
                3..=4 => {
                    let expected = model.iter_mut().rev().find_map(VecDeque::pop_front);
                    let first = inbox.first();
                    prop_assert_eq!(first.is_some(), expected.is_some());
                    let (Some(first), Some((sequence, payload))) = (first, expected) else { continue };
                    let mut got = Vec::new();
                    let mut cursor = inbox.cursor(first, u32::MAX);
                    let blocks = inbox.lend();
                    while let Some(piece) = inbox.advance(&mut cursor) {
                        got.extend_from_slice(&blocks[piece]);
                    }
                    inbox.give_back(blocks);
                    prop_assert_eq!(got, payload);
                    prop_assert_eq!(inbox.remove(first).unwrap().sequence, sequence);
                }
                _ => {
                    let expected = model.iter_mut().find_map(VecDeque::pop_front);
                    let dropped = inbox.droppable().map(|slot| inbox.remove(slot).unwrap().sequence);
                    prop_assert_eq!(dropped, expected.map(|(sequence, _)| sequence));
                }
            }
        }
    }
}

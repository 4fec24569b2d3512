//! Frames survive cuts, garbage and reconnects; nothing an app writes passes for a frame.

#![allow(clippy::unwrap_used, reason = "the frames made here are within the limits")]

use holm_guest_control::{
    Decoder, Frame, Kind, MAX_MESSAGE, MAX_PAYLOAD, MessageAssembler, decode_arbitrary, encode_frame, encode_message,
};
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Message), Just(Kind::Log), Just(Kind::Stdin), Just(Kind::Stdout), Just(Kind::Stderr)]
}

prop_compose! {
    fn frame()(kind in kind(), more: bool, session: u64, stream: u32, payload in prop::collection::vec(any::<u8>(), 0..700)) -> Frame {
        Frame { kind, more, session, stream, payload }
    }
}

fn wire(frames: &[Frame]) -> Vec<u8> {
    let mut out = vec![0];
    for frame in frames {
        encode_frame(frame, &mut out).unwrap();
    }
    out
}

fn decode(bytes: &[u8], chunk: usize) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for part in bytes.chunks(chunk) {
        decoder.feed(part, |frame| frames.push(frame));
    }
    frames
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_however_the_bytes_are_cut(frames in prop::collection::vec(frame(), 0..8), chunk in 1usize..2000) {
        prop_assert_eq!(decode(&wire(&frames), chunk), frames);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        decode_arbitrary(&bytes);
    }

    #[test]
    fn a_lost_stretch_costs_only_the_frames_it_touches(frames in prop::collection::vec(frame(), 1..8), from: prop::sample::Index, length in 1usize..900) {
        let bytes = wire(&frames);
        let from = from.index(bytes.len());
        let to = (from + length).min(bytes.len());
        let mut cut = bytes[..from].to_vec();
        cut.extend_from_slice(&bytes[to..]);
        let found = decode(&cut, 64);
        // What comes out is a subsequence of what went in: nothing is invented or reordered.
        let mut rest = frames.iter();
        for frame in &found {
            prop_assert!(rest.any(|sent| sent == frame));
        }
        // Every frame that lies wholly after the cut, and after one more zero, is found.
        let mut start = 1;
        let mut whole_after = 0;
        for frame in &frames {
            if start >= to && bytes[start - 1] == 0 && start > to { whole_after += 1; }
            start += wire(std::slice::from_ref(frame)).len() - 1;
        }
        prop_assert!(found.len() >= whole_after, "{} of {} found", found.len(), whole_after);
    }

    #[test]
    fn a_new_session_is_understood_after_any_half_sent_frame(old in frame(), cut: prop::sample::Index, new in frame()) {
        let mut bytes = wire(&[old]);
        bytes.truncate(cut.index(bytes.len()));
        bytes.extend_from_slice(&wire(std::slice::from_ref(&new)));
        prop_assert_eq!(decode(&bytes, 4096).pop(), Some(new));
    }

    #[test]
    fn a_flipped_bit_is_never_taken(sent in frame(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = wire(std::slice::from_ref(&sent));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        for frame in decode(&bytes, 4096) {
            prop_assert_eq!(&frame, &sent);
        }
    }

    #[test]
    fn payload_bytes_never_pass_for_a_frame(inner in frame(), cut: prop::sample::Index) {
        // An app prints a whole frame; the host joins in the middle of the frame that carries it.
        let forged = wire(&[inner]);
        let outer = Frame { kind: Kind::Log, more: false, session: 7, stream: 0, payload: forged };
        let mut bytes = wire(&[outer]);
        bytes.remove(0);
        let tail = &bytes[cut.index(bytes.len() - 1) + 1..];
        prop_assert_eq!(decode(tail, 4096), vec![]);
    }

    #[test]
    fn messages_of_any_length_are_joined_again(length in 0usize..300_000) {
        let json: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        let mut bytes = vec![0];
        encode_message(9, &json, &mut bytes).unwrap();
        let mut assembler = MessageAssembler::default();
        let whole: Vec<_> = decode(&bytes, 4096).into_iter().filter_map(|f| assembler.push(f)).collect();
        prop_assert_eq!(whole, vec![json]);
    }
}

#[test]
fn limits_are_kept_by_the_sender() {
    let frame = Frame { kind: Kind::Stdin, more: false, session: 1, stream: 1, payload: vec![1; MAX_PAYLOAD + 1] };
    let mut out = vec![9];
    assert!(encode_frame(&frame, &mut out).is_err());
    assert!(encode_message(1, &vec![b' '; MAX_MESSAGE + 1], &mut out).is_err());
    assert_eq!(out, [9]);
}

#[test]
fn a_message_that_never_ends_is_dropped_and_the_next_one_is_read() {
    let mut assembler = MessageAssembler::default();
    let part = |more, payload| Frame { kind: Kind::Message, more, session: 1, stream: 0, payload };
    for _ in 0..40 {
        assert_eq!(assembler.push(part(true, vec![b'x'; MAX_PAYLOAD])), None);
    }
    assert_eq!(assembler.push(part(false, vec![])), None);
    assert_eq!(assembler.push(part(false, b"{}".to_vec())), Some(b"{}".to_vec()));
}

#[test]
fn a_run_without_zero_is_bounded_and_then_skipped() {
    let mut decoder = Decoder::new();
    decoder.feed(&[0], |_| panic!("no frame"));
    for _ in 0..10 {
        decoder.feed(&[1; 60_000], |_| panic!("no frame"));
    }
    let frame = Frame { kind: Kind::Log, more: false, session: 1, stream: 0, payload: vec![0; MAX_PAYLOAD] };
    let mut found = 0;
    decoder.feed(&wire(&[frame]), |_| found += 1);
    assert_eq!((found, decoder.stats().rejected), (1, 1));
}

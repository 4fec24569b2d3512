//! Structs obey the rules for versions and sizes, and no bytes make them panic.

#![allow(clippy::unwrap_used, reason = "test code, also outside of test functions")]

use holm_abi::field::{HEADER, MAX_STRUCT};
use holm_abi::{Error, Handle, MsgIo, STRUCTS, SchedClass, SchedParams, Short, ShortFlags, StructInfo, UnitSpec};
use proptest::prelude::*;

/// Any struct of the interface.
fn any_struct() -> impl Strategy<Value = &'static StructInfo> {
    (0..STRUCTS.len()).prop_map(|index| STRUCTS[index])
}

/// Bytes of a struct with a correct header and small values, so that enumerations and flags are often valid.
fn filled(info: &StructInfo, seed: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..info.size).map(|at| if at % 4 == 0 { seed[at % seed.len()] & 1 } else { 0 }).collect();
    if info.version > 0 {
        bytes[..4].copy_from_slice(&info.version.to_le_bytes());
        bytes[4..8].copy_from_slice(&u32::try_from(info.size).unwrap().to_le_bytes());
    }
    bytes
}

proptest! {
    #[test]
    fn what_decodes_encodes_to_the_same_bytes(info in any_struct(), seed in prop::collection::vec(any::<u8>(), 1..64)) {
        let bytes = filled(info, &seed);
        let mut out = vec![0xaa; info.size];
        if let Ok(length) = (info.recode)(&bytes, &mut out) {
            prop_assert_eq!(length, info.size);
            prop_assert_eq!(bytes, out);
        }
    }

    #[test]
    fn any_bytes_decode_or_answer_an_error(info in any_struct(), bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let mut out = vec![0; info.size];
        if let Err(error) = (info.recode)(&bytes, &mut out) {
            prop_assert!(matches!(error, Error::Invalid | Error::TooBig));
        }
    }

    #[test]
    fn any_body_behind_a_good_header_decodes_or_is_invalid(info in any_struct(), body in prop::collection::vec(any::<u8>(), 600)) {
        let mut bytes = body;
        bytes.truncate(info.size);
        if info.version > 0 {
            bytes[..4].copy_from_slice(&info.version.to_le_bytes());
            bytes[4..8].copy_from_slice(&u32::try_from(info.size).unwrap().to_le_bytes());
        }
        let mut out = vec![0; info.size];
        match (info.recode)(&bytes, &mut out) {
            Ok(_) => prop_assert_eq!(bytes, out),
            Err(error) => prop_assert_eq!(error, Error::Invalid),
        }
    }

    #[test]
    fn missing_tail_reads_as_zero(info in any_struct(), cut in HEADER..700) {
        prop_assume!(info.version > 0);
        let cut = cut.min(info.size);
        let mut bytes = filled(info, &[0]);
        bytes.truncate(cut);
        bytes[4..8].copy_from_slice(&u32::try_from(cut).unwrap().to_le_bytes());
        let mut out = vec![0xaa; info.size];
        prop_assert_eq!((info.recode)(&bytes, &mut out), Ok(info.size));
        prop_assert!(out[HEADER..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn zero_tail_is_taken_and_any_other_is_too_big(info in any_struct(), extra in 1usize..64, at in 0usize..64, byte: u8) {
        prop_assume!(info.version > 0);
        let mut bytes = filled(info, &[0]);
        bytes.resize(info.size + extra, 0);
        bytes[info.size + at % extra] = byte;
        let size = bytes.len();
        bytes[4..8].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        let mut out = vec![0; info.size];
        let wanted = if byte == 0 { Ok(info.size) } else { Err(Error::TooBig) };
        prop_assert_eq!((info.recode)(&bytes, &mut out), wanted);
    }

    #[test]
    fn encode_writes_no_more_than_it_is_given(info in any_struct(), room in 0usize..700) {
        prop_assume!(info.version > 0);
        let bytes = filled(info, &[0]);
        let mut out = vec![0xaa; room + 8];
        let length = (info.recode)(&bytes, &mut out[..room]).unwrap();
        prop_assert_eq!(length, room.min(info.size));
        prop_assert!(out[length..].iter().all(|byte| *byte == 0xaa));
        if length >= HEADER {
            prop_assert_eq!(&out[4..8], &u32::try_from(length).unwrap().to_le_bytes()[..]);
        }
    }

    #[test]
    fn handles_survive_registers_and_structs(index: u16, generation in 1..=Handle::LAST_GENERATION) {
        let handle = Handle::new(index, generation).unwrap();
        prop_assert!(handle.raw() > 0);
        prop_assert_eq!(handle.split(), Ok((index, generation)));
        prop_assert_eq!(Handle::from_register(handle.raw() as u64), Ok(handle));
    }

    #[test]
    fn registers_that_hold_no_handle_answer_bad_handle(word: u64) {
        match Handle::from_register(word) {
            Ok(handle) => {
                let (index, generation) = handle.split().unwrap();
                prop_assert_eq!(u64::from(generation) << 16 | u64::from(index), word);
            }
            Err(error) => {
                prop_assert_eq!(error, Error::BadHandle);
                prop_assert!(!(0x1_0000..=0x7fff_ffff).contains(&word));
            }
        }
    }

    #[test]
    fn short_messages_survive_the_register(index: u16, generation in 1u16..0x7fff, bytes in 0u8..=32, priority in 0u8..32, nonblock: bool) {
        let flags = if nonblock { ShortFlags::NONBLOCK } else { ShortFlags::NONE };
        let short = Short { channel: Handle::new(index, generation).unwrap(), bytes, priority, flags };
        prop_assert_eq!(Short::from_register(short.register()), Ok(short));
        let result = Short { channel: Handle::NONE, ..short };
        prop_assert_eq!(Short::from_result(result.register()), Ok(result));
    }

    #[test]
    fn any_register_is_a_short_message_or_an_error(word: u64) {
        if let Ok(short) = Short::from_register(word) {
            prop_assert_eq!(short.register(), word);
        }
    }

    #[test]
    fn any_result_register_reads(word: u64) {
        match Error::from_register(word) {
            Ok(value) => prop_assert_eq!(value, word),
            Err(error) => prop_assert!(error == Error::NotSupported || error.register() == word),
        }
    }
}

#[test]
fn headers_that_break_the_rules_are_refused() {
    let header = |version: u32, size: u32| [version.to_le_bytes(), size.to_le_bytes()].concat();
    assert_eq!(UnitSpec::check_header(&header(1, 8)), Ok(8));
    assert_eq!(UnitSpec::check_header(&header(0, 8)), Err(Error::Invalid));
    assert_eq!(UnitSpec::check_header(&header(2, 8)), Err(Error::Invalid));
    assert_eq!(UnitSpec::check_header(&header(1, 7)), Err(Error::Invalid));
    assert_eq!(UnitSpec::check_header(&header(1, MAX_STRUCT as u32)), Ok(MAX_STRUCT));
    assert_eq!(UnitSpec::check_header(&header(1, MAX_STRUCT as u32 + 1)), Err(Error::TooBig));
    assert_eq!(UnitSpec::check_header(&[1, 0, 0]), Err(Error::Invalid));
    assert_eq!(UnitSpec::decode(&header(1, 9)), Err(Error::Invalid), "the header promises more than there is");
}

#[test]
fn unknown_flags_and_enumerators_are_invalid() {
    let mut bytes = [0; MsgIo::SIZE];
    MsgIo::new().encode(&mut bytes);
    assert!(MsgIo::decode(&bytes).is_ok());
    bytes[31] = 0x80;
    assert_eq!(MsgIo::decode(&bytes), Err(Error::Invalid));

    let mut bytes = [0; SchedParams::SIZE];
    SchedParams { class: SchedClass::RtFixed, ..SchedParams::new() }.encode(&mut bytes);
    assert_eq!(SchedParams::decode(&bytes).map(|params| params.class), Ok(SchedClass::RtFixed));
    bytes[8] = 5;
    assert_eq!(SchedParams::decode(&bytes), Err(Error::Invalid));
}

#[test]
fn error_codes_come_back_from_the_register() {
    for error in Error::ALL {
        assert_eq!(Error::from_register(error.register()), Err(*error));
        assert!(error.code() > 0 && error.code() < 4096);
    }
}

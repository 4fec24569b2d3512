//! Messages: whatever arrives is read without panic, what is written is read back, and each defect is named.

use morpheus_abi::protocol::{
    DecodeError, HEAD_SIZE, Head, MAX_MESSAGE, Message, NAME_SIZE, OPERATOR_KINDS, Refusal, Registration, WorkerName,
    kind,
};
use morpheus_abi::{ABI_VERSION, EscalationPolicy, Slot};
use proptest::prelude::*;

fn name() -> impl Strategy<Value = WorkerName> {
    any::<String>().prop_map(|name| WorkerName::new(&name.replace('\0', "")))
}

fn message() -> impl Strategy<Value = Message> {
    let slot =
        || (0u32..63, any::<u32>()).prop_map(|(slot, generation)| (Slot::new(slot).expect("below 63"), generation));
    prop_oneof![
        any::<u32>().prop_map(|abi_version| Message::Hello { abi_version }),
        (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(abi_version, flags, generation)| Message::Welcome {
            abi_version,
            flags,
            generation
        }),
        (prop::sample::select(&Refusal::ALL[..]), any::<u32>())
            .prop_map(|(refusal, abi_version)| Message::Refused { refusal, abi_version }),
        (any::<u32>(), any::<bool>(), prop::sample::select(EscalationPolicy::ALL), any::<[u32; 2]>(), name()).prop_map(
            |(tid, escapable, policy, [grace_ns, rotation_ns], name)| {
                Message::Register(Registration { tid, escapable, policy, grace_ns, rotation_ns, name })
            }
        ),
        slot().prop_map(|(slot, slot_generation)| Message::Registered { slot, slot_generation }),
        slot().prop_map(|(slot, slot_generation)| Message::Unregister { slot, slot_generation }),
        Just(Message::Ok),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_read_writes_back(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Head::decode(&bytes);
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(&message.encode()[..], &bytes[..]);
        }
    }

    /// Random bytes never get past the magic: this starts from a right head.
    #[test]
    fn arbitrary_bodies_never_panic_and_what_is_read_writes_back(
        kind in prop_oneof![1u16..10, any::<u16>()],
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            prop::collection::vec(0u8..3, 0..60),
        ],
    ) {
        let length = (HEAD_SIZE + body.len()) as u32;
        let bytes = [&Head { kind, length }.encode()[..], &body].concat();
        prop_assert_eq!(Head::decode(&bytes), Ok(Head { kind, length }));
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(&message.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn every_message_survives_the_wire(message in message()) {
        let packet = message.encode();
        prop_assert!(packet.len() <= MAX_MESSAGE);
        prop_assert_eq!(Message::decode(&packet), Ok(message));
    }

    #[test]
    fn a_message_cut_or_lengthened_is_refused(message in message(), cut in 0usize..MAX_MESSAGE, extra in 1usize..4) {
        let packet = message.encode();
        prop_assert!(Message::decode(&packet[..cut % packet.len()]).is_err());
        let longer = [&packet[..], &vec![0; extra]].concat();
        prop_assert_eq!(Message::decode(&longer), Err(DecodeError::Length(packet.len() as u32)));
        // Even when the head admits to the length.
        let mut admitted = longer.clone();
        admitted[8..12].copy_from_slice(&(longer.len() as u32).to_le_bytes());
        prop_assert_eq!(Message::decode(&admitted), Err(DecodeError::Length(longer.len() as u32)));
    }

    #[test]
    fn a_name_keeps_whole_characters_and_no_control_character(name in any::<String>()) {
        let kept = WorkerName::new(&name);
        prop_assert!(kept.as_str().len() <= NAME_SIZE);
        prop_assert!(!kept.as_str().chars().any(char::is_control));
        let clean: String = name.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
        prop_assert!(clean.starts_with(kept.as_str()));
        // Nothing that fits is cut.
        let next = clean[kept.as_str().len()..].chars().next();
        prop_assert!(next.is_none_or(|letter| kept.as_str().len() + letter.len_utf8() > NAME_SIZE));
    }
}

#[test]
fn each_defect_has_its_error() {
    let hello = Message::Hello { abi_version: ABI_VERSION }.encode();
    let register = Message::Register(Registration {
        tid: 7,
        escapable: false,
        policy: EscalationPolicy::None,
        grace_ns: 1,
        rotation_ns: 2,
        name: WorkerName::new("worker"),
    })
    .encode();
    let registered = Message::Registered { slot: Slot::new(62).unwrap(), slot_generation: 1 }.encode();
    let refused = Message::Refused { refusal: Refusal::Full, abi_version: ABI_VERSION }.encode();
    let with = |packet: &[u8], at: usize, byte: u8| {
        let mut bytes = packet.to_vec();
        bytes[at] = byte;
        Message::decode(&bytes)
    };
    assert_eq!(Message::decode(&hello[..11]), Err(DecodeError::Short(11)));
    assert!(matches!(with(&hello, 0, b'X'), Err(DecodeError::Magic(_))));
    assert_eq!(with(&hello, 4, 1), Err(DecodeError::Version(1)));
    assert_eq!(with(&hello, 8, 15), Err(DecodeError::Length(15)));
    assert_eq!(with(&hello, 7, 1), Err(DecodeError::Kind(OPERATOR_KINDS | kind::HELLO)));
    // Consent is yes or no, never "some other number".
    assert_eq!(with(&register, HEAD_SIZE + 4, 2), Err(DecodeError::Field(kind::REGISTER)));
    assert_eq!(with(&register, HEAD_SIZE + 8, 9), Err(DecodeError::Field(kind::REGISTER)));
    // An escape sequence in a name, a byte that is no UTF-8, and text after the end.
    for (at, byte) in [(0, 0x1b), (0, 0xff), (31, b'x')] {
        assert_eq!(with(&register, HEAD_SIZE + 20 + at, byte), Err(DecodeError::Field(kind::REGISTER)));
    }
    assert_eq!(with(&registered, HEAD_SIZE, 63), Err(DecodeError::Field(kind::REGISTERED)));
    assert_eq!(with(&refused, HEAD_SIZE, 0), Err(DecodeError::Field(kind::REFUSED)));
}

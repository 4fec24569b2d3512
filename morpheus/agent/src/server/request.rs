//! What a packet asks for, or why it is refused. Pure: bytes, the sender and the connection's stage in, a request out.

use morpheus_abi::protocol::{DecodeError, HEAD_SIZE, Head, MAX_MESSAGE, Message, Refusal, Registration};
use morpheus_abi::{ABI_VERSION, Slot};

use super::operator;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connected.
    New,
    /// It said HELLO and has its pages.
    Served,
}

/// What a peer may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Its pages.
    Hello,
    /// A thread as a worker.
    Register(Registration),
    /// A worker no more.
    Unregister(Slot, u32),
    /// The report, for the operator.
    Status,
}

/// Who sent a packet, and whether that is somebody who may ask what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    /// The kernel says that the process which connected also sent this packet: no child that inherited the socket.
    pub(super) is_peer: bool,
    /// The peer's user is root or the agent's own.
    pub(super) is_operator: bool,
}

/// Reads a packet. `length` is its whole length, which may be above that of the bytes that were kept.
///
/// # Errors
/// What the peer is told.
pub(super) fn read(packet: &[u8], length: usize, sender: Sender, stage: Stage) -> Result<Request, Refusal> {
    if !sender.is_peer {
        return Err(Refusal::Permission);
    }
    if length > MAX_MESSAGE || length != packet.len() {
        return Err(Refusal::Malformed);
    }
    let refusal = |error| match error {
        DecodeError::Version(_) => Refusal::Version,
        _ => Refusal::Malformed,
    };
    let head = Head::decode(packet).map_err(refusal)?;
    if head.kind == operator::STATUS {
        return match (packet.len() == HEAD_SIZE, sender.is_operator) {
            (false, _) => Err(Refusal::Malformed),
            (true, false) => Err(Refusal::Permission),
            (true, true) => Ok(Request::Status),
        };
    }
    match (Message::decode(packet).map_err(refusal)?, stage) {
        (Message::Hello { abi_version }, _) if abi_version != ABI_VERSION => Err(Refusal::Version),
        (Message::Hello { .. }, Stage::New) => Ok(Request::Hello),
        (Message::Register(registration), Stage::Served) => Ok(Request::Register(registration)),
        (Message::Unregister { slot, slot_generation }, Stage::Served) => {
            Ok(Request::Unregister(slot, slot_generation))
        }
        (Message::Hello { .. } | Message::Register(_) | Message::Unregister { .. }, _) => Err(Refusal::Order),
        // An agent's message, sent by a client.
        _ => Err(Refusal::Malformed),
    }
}

/// Whether the connection goes on after this refusal. A peer that speaks another language or is not who it was does not.
pub(super) fn goes_on(refusal: Refusal) -> bool {
    !matches!(refusal, Refusal::Version | Refusal::Malformed | Refusal::Permission)
}

#[cfg(test)]
mod tests {
    use super::*;
    use morpheus_abi::EscalationPolicy;
    use morpheus_abi::protocol::WorkerName;
    use proptest::prelude::*;

    const PEER: Sender = Sender { is_peer: true, is_operator: false };
    const OPERATOR: Sender = Sender { is_peer: true, is_operator: true };

    fn of(packet: &[u8], sender: Sender, stage: Stage) -> Result<Request, Refusal> {
        read(packet, packet.len(), sender, stage)
    }

    fn registration() -> Registration {
        Registration {
            tid: 7,
            escapable: false,
            policy: EscalationPolicy::None,
            grace_ns: 0,
            rotation_ns: 0,
            name: WorkerName::new("w"),
        }
    }

    fn messages() -> [Message; 7] {
        let slot = Slot::new(3).unwrap();
        [
            Message::Hello { abi_version: ABI_VERSION },
            Message::Register(registration()),
            Message::Unregister { slot, slot_generation: 5 },
            Message::Welcome { abi_version: 1, flags: 0, generation: 1 },
            Message::Refused { refusal: Refusal::Full, abi_version: 1 },
            Message::Registered { slot, slot_generation: 5 },
            Message::Ok,
        ]
    }

    #[test]
    fn requests_are_accepted_in_their_order_only() {
        let [hello, register, unregister, ..] = messages().map(|message| message.encode());
        assert_eq!(of(&hello, PEER, Stage::New), Ok(Request::Hello));
        assert_eq!(of(&hello, PEER, Stage::Served), Err(Refusal::Order));
        assert_eq!(of(&register, PEER, Stage::New), Err(Refusal::Order));
        assert_eq!(of(&register, PEER, Stage::Served), Ok(Request::Register(registration())));
        assert_eq!(of(&unregister, PEER, Stage::New), Err(Refusal::Order));
        assert_eq!(of(&unregister, PEER, Stage::Served), Ok(Request::Unregister(Slot::new(3).unwrap(), 5)));
    }

    #[test]
    fn an_agents_message_from_a_client_is_malformed() {
        for message in &messages()[3..] {
            for stage in [Stage::New, Stage::Served] {
                assert_eq!(of(&message.encode(), PEER, stage), Err(Refusal::Malformed), "{message:?}");
            }
        }
    }

    #[test]
    fn an_old_version_is_refused_as_such() {
        let mut packet = Message::Hello { abi_version: ABI_VERSION }.encode().to_vec();
        packet[4] = 0;
        assert_eq!(of(&packet, PEER, Stage::New), Err(Refusal::Version));
        let old = Message::Hello { abi_version: ABI_VERSION - 1 }.encode();
        assert_eq!(of(&old, PEER, Stage::New), Err(Refusal::Version));
    }

    #[test]
    fn a_child_that_inherited_the_socket_is_nobody() {
        let child = Sender { is_peer: false, is_operator: true };
        for message in messages() {
            assert_eq!(of(&message.encode(), child, Stage::Served), Err(Refusal::Permission));
        }
        assert_eq!(of(&operator::bare(operator::STATUS), child, Stage::New), Err(Refusal::Permission));
    }

    #[test]
    fn the_report_is_for_the_operator() {
        let status = operator::bare(operator::STATUS);
        assert_eq!(of(&status, OPERATOR, Stage::New), Ok(Request::Status));
        assert_eq!(of(&status, PEER, Stage::New), Err(Refusal::Permission));
        let long = [&Head { kind: operator::STATUS, length: 13 }.encode()[..], &[0]].concat();
        assert_eq!(of(&long, OPERATOR, Stage::New), Err(Refusal::Malformed));
    }

    #[test]
    fn what_did_not_fit_the_buffer_is_malformed() {
        let hello = Message::Hello { abi_version: ABI_VERSION }.encode();
        assert_eq!(read(&hello, MAX_MESSAGE + 1, PEER, Stage::New), Err(Refusal::Malformed));
        assert_eq!(read(&hello, 4096, PEER, Stage::New), Err(Refusal::Malformed));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_more(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            // Eight random bytes are no magic, version and kind but by a chance of one in 2^48.
            for stage in [Stage::New, Stage::Served] {
                prop_assert!(of(&bytes, OPERATOR, stage).is_err());
            }
        }

        #[test]
        fn a_message_with_one_wrong_byte_is_refused_or_another_message(
            which in 0usize..3, at in 0usize..64, bits in 1u8..,
        ) {
            let message = messages()[which];
            let mut packet = message.encode().to_vec();
            let at = at % packet.len();
            packet[at] ^= bits;
            // The head is checked byte for byte but for the kind.
            let accepted = of(&packet, PEER, if which == 0 { Stage::New } else { Stage::Served });
            if at < HEAD_SIZE && !(6..8).contains(&at) {
                prop_assert!(accepted.is_err());
            }
            prop_assert_ne!(accepted.ok().map(|request| format!("{request:?}")), Some(format!("{:?}",
                of(&message.encode(), PEER, if which == 0 { Stage::New } else { Stage::Served }).unwrap())));
        }
    }
}

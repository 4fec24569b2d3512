//! The names of an app's own instances: a DNS server on loopback for `PROCESS.process.internal`, and for nothing else.
//!
//! Whatever else is asked is refused, so that resolvers go on to the next server of `/etc/resolv.conf`. The sources are RFC
//! 1035 sections 4.1 and 4.2.1 and RFC 3596. What is asked comes from the app, so any bytes may come.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use crate::console::say;

/// Addresses by process type.
pub(crate) type Names = BTreeMap<String, Vec<IpAddr>>;

/// What the server answers from; the host changes it.
pub(crate) type Shared = Arc<Mutex<Names>>;

/// Where the server listens.
pub(crate) const SERVER: Ipv6Addr = Ipv6Addr::LOCALHOST;

const PORT: u16 = 53;
const ZONE: &str = ".process.internal";
const HEADER: usize = 12;
/// Longest name on the wire, in bytes.
const MAX_NAME: usize = 255;
/// Most addresses in an answer: as many as fit into the 512 bytes that every client takes.
const MAX_ANSWERS: usize = 8;
/// Seconds an answer may be kept. Short, since instances come and go.
const TTL: u32 = 1;
const CLASS_INTERNET: u16 = 1;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// What became of a question (RFC 1035 section 4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    Found = 0,
    FormatError = 1,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// Starts the server. Without it the app lives on, and does not know its own instances by name.
pub(crate) fn serve(names: Shared) {
    let socket = match UdpSocket::bind((SERVER, PORT)) {
        Ok(socket) => socket,
        Err(error) => return say(format_args!("cannot serve names: {error}")),
    };
    let server = move || {
        let mut query = [0; 1232];
        loop {
            match socket.recv_from(&mut query) {
                Ok((length, client)) => {
                    let known = names.lock().unwrap_or_else(PoisonError::into_inner);
                    let answer = answer(query.get(..length).unwrap_or_default(), &known);
                    drop(known);
                    if let Some(answer) = answer {
                        // A client that is gone asks no more.
                        let _ = socket.send_to(&answer, client);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return say(format_args!("names are served no longer: {error}")),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("names".to_owned()).spawn(server) {
        say(format_args!("cannot serve names: {error}"));
    }
}

/// The one question of a query.
struct Question<'q> {
    /// As it came, to be repeated in the answer.
    bytes: &'q [u8],
    /// In lower case, without the last dot.
    name: String,
    kind: u16,
    class: u16,
}

/// The answer to a query; `None` for what is no query.
fn answer(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let (header, rest) = query.split_first_chunk::<HEADER>()?;
    let [id_high, id_low, flags, _, questions_high, questions_low, ..] = *header;
    if flags & 0x80 != 0 {
        return None;
    }
    let recursion_desired = flags & 1;
    let reply = |outcome: Outcome, question: &[u8], addresses: &[IpAddr]| {
        let counts = [u16::from(!question.is_empty()), u16::try_from(addresses.len()).unwrap_or(0), 0, 0];
        // A response, authoritative.
        let mut bytes = vec![id_high, id_low, 0x84 | recursion_desired, outcome as u8];
        counts.iter().for_each(|count| bytes.extend(count.to_be_bytes()));
        bytes.extend(question);
        for address in addresses {
            let (kind, data) = match address {
                IpAddr::V4(v4) => (TYPE_A, v4.octets().to_vec()),
                IpAddr::V6(v6) => (TYPE_AAAA, v6.octets().to_vec()),
            };
            // The name is where the question has it.
            bytes.extend([0xc0, HEADER as u8]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend(CLASS_INTERNET.to_be_bytes());
            bytes.extend(TTL.to_be_bytes());
            bytes.extend([0, data.len() as u8]);
            bytes.extend(data);
        }
        Some(bytes)
    };
    if flags & 0x78 != 0 {
        return reply(Outcome::NotImplemented, &[], &[]);
    }
    let Some(question) =
        (u16::from_be_bytes([questions_high, questions_low]) == 1).then(|| read_question(rest)).flatten()
    else {
        return reply(Outcome::FormatError, &[], &[]);
    };
    let Some(process) = question.name.strip_suffix(ZONE).filter(|_| question.class == CLASS_INTERNET) else {
        return reply(Outcome::Refused, question.bytes, &[]);
    };
    let Some(addresses) = names.get(process) else {
        return reply(Outcome::NoSuchName, question.bytes, &[]);
    };
    let wanted = |address: &&IpAddr| question.kind == if address.is_ipv6() { TYPE_AAAA } else { TYPE_A };
    let mut found: Vec<IpAddr> = addresses.iter().filter(wanted).copied().collect();
    if !found.is_empty() {
        // Clients take the first: let it be another one each time.
        let turn = usize::from(u16::from_be_bytes([id_high, id_low])) % found.len();
        found.rotate_left(turn);
    }
    found.truncate(MAX_ANSWERS);
    reply(Outcome::Found, question.bytes, &found)
}

fn read_question(bytes: &[u8]) -> Option<Question<'_>> {
    let mut name = String::new();
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // A pointer has nothing to point to in the first question.
        let label = (length <= 63).then(|| bytes.get(at..at + length)).flatten()?;
        at += length;
        if at > MAX_NAME {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        // A label with other bytes than those of host names matches nothing.
        name.extend(
            label.iter().map(|byte| if *byte == b'.' { '\u{fffd}' } else { char::from(byte.to_ascii_lowercase()) }),
        );
    }
    let &[kind_high, kind_low, class_high, class_low] = bytes.get(at..)?.first_chunk()?;
    Some(Question {
        bytes: bytes.get(..at + 4)?,
        name,
        kind: u16::from_be_bytes([kind_high, kind_low]),
        class: u16::from_be_bytes([class_high, class_low]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend([kind.to_be_bytes(), CLASS_INTERNET.to_be_bytes()].concat());
        // What clients add of EDNS (RFC 6891).
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    fn names() -> Names {
        let addresses = ["fd00::1", "fd00::2", "192.0.2.1"].map(|address| address.parse().unwrap());
        [("web".to_owned(), addresses.to_vec()), ("idle".to_owned(), Vec::new())].into()
    }

    /// The outcome, the number of answers, and the last answer's data.
    fn ask(name: &str, kind: u16) -> (u8, u8, Vec<u8>) {
        let answer = answer(&query(name, kind), &names()).unwrap();
        assert_eq!(answer[..3], [0x12, 0x34, 0x85]);
        let data = if kind == TYPE_AAAA { 16 } else { 4 };
        (answer[3], answer[7], answer[answer.len() - data..].to_vec())
    }

    #[test]
    fn a_process_type_has_the_addresses_of_its_instances() {
        let (outcome, count, last) = ask("web.process.internal", TYPE_AAAA);
        assert_eq!((outcome, count), (0, 2));
        // The id is even, so the turn begins with the first.
        assert_eq!(last, "fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        let (outcome, count, last) = ask("WEB.Process.Internal", TYPE_A);
        assert_eq!((outcome, count, last), (0, 1, vec![192, 0, 2, 1]));
    }

    #[test]
    fn what_is_not_there_and_what_is_not_ours_are_told_apart() {
        let outcome = |name: &str, kind| {
            let (outcome, count, _) = ask(name, kind);
            (outcome, count)
        };
        assert_eq!(outcome("idle.process.internal", TYPE_AAAA), (Outcome::Found as u8, 0));
        assert_eq!(outcome("web.process.internal", 16), (Outcome::Found as u8, 0));
        assert_eq!(outcome("none.process.internal", TYPE_AAAA), (Outcome::NoSuchName as u8, 0));
        assert_eq!(outcome("a.web.process.internal", TYPE_AAAA), (Outcome::NoSuchName as u8, 0));
        for other in ["example.com", "internal", "process.internal", ""] {
            assert_eq!(outcome(other, TYPE_AAAA), (Outcome::Refused as u8, 0), "{other}");
        }
    }

    #[test]
    fn an_answer_fits_the_smallest_datagram() {
        let many = (1..100).map(|host| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host])).collect();
        let label = "w".repeat(63);
        let names = [(label.clone(), many)].into();
        let answer = answer(&query(&format!("{label}.process.internal"), TYPE_AAAA), &names).unwrap();
        assert_eq!(usize::from(answer[7]), MAX_ANSWERS);
        assert!(answer.len() <= 512, "{}", answer.len());
    }

    #[test]
    fn malformed_questions_are_told_and_answers_are_ignored() {
        let good = query("web.process.internal", TYPE_A);
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            answer(&bytes, &names()).map(|answer| answer[3])
        };
        assert_eq!(changed(2, 0x81), None);
        assert_eq!(changed(2, 0x11), Some(Outcome::NotImplemented as u8));
        assert_eq!(changed(5, 2), Some(Outcome::FormatError as u8));
        assert_eq!(changed(12, 0xc0), Some(Outcome::FormatError as u8));
        assert_eq!(answer(&good[..20], &names()).unwrap()[3], Outcome::FormatError as u8);
        assert_eq!(answer(&good[..11], &names()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_get_a_small_answer_or_none(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            for query in [std::mem::take(&mut bytes), query("web.process.internal", TYPE_AAAA)] {
                let mut query = query;
                for (at, byte) in changes.iter().filter(|_| !query.is_empty()).cloned().collect::<Vec<_>>() {
                    let at = at.index(query.len());
                    query[at] = byte;
                }
                if let Some(answer) = answer(&query, &names()) {
                    prop_assert!(answer.len() <= 512 && answer[..2] == query[..2] && answer[2] & 0x80 != 0);
                }
            }
        }
    }
}

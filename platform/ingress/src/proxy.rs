//! The PROXY protocol, version 2: who connected, told in a header before the first byte of a connection.
//!
//! The source is HAProxy's `doc/proxy-protocol.txt`, section 2.2. Headers are written for apps that ask for them and read
//! from trusted proxies in front of this ingress. No socket is touched here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses: signature, version and command, family and transport, length.
pub const FIXED: usize = 16;
/// Most bytes after the fixed part that are read. Senders stay below 536 with everything, so this is generous.
pub const MAX_VARIABLE: usize = 2048;
/// Longest authority that is kept and passed on, in bytes: that of a DNS name.
const MAX_AUTHORITY: usize = 255;
/// Longest unique id, in bytes (section 2.2.5).
const MAX_UNIQUE_ID: usize = 128;

const VERSION: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const STREAM: u8 = 1;
const INET: u8 = 1;
const INET6: u8 = 2;
const LAST_FAMILY: u8 = 3;
const LAST_TRANSPORT: u8 = 2;
const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_UNIQUE_ID: u8 = 0x05;

/// What a header tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The client's address, and the address it connected to. `None`: the proxy speaks for itself (a health check), or
    /// of a connection without Internet addresses; then those of the connection itself count.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The host name the client asked for: TLV 0x02, at most 255 bytes.
    pub authority: Option<Vec<u8>>,
    /// What the connection is called in logs along the way: TLV 0x05, at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
}

/// Why bytes are not a header this ingress accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The signature of version 2 is not there.
    #[error("not a PROXY protocol header of version 2")]
    Signature,
    /// A version, command, family or transport that does not exist.
    #[error("a version, command, family or transport that does not exist")]
    Unknown,
    /// More than [`MAX_VARIABLE`] bytes follow the fixed part.
    #[error("the header is longer than {MAX_VARIABLE} bytes")]
    TooLong,
    /// A length does not fit.
    #[error("the header's lengths do not fit")]
    Malformed,
    /// The checksum is wrong.
    #[error("the header's checksum is wrong")]
    Checksum,
}

/// Checks the fixed part and answers how many bytes follow it.
///
/// # Errors
/// When it cannot be the beginning of a header; nothing more of it should be read then.
pub fn variable_length(fixed: &[u8; FIXED]) -> Result<usize, ProxyError> {
    if fixed[..SIGNATURE.len()] != SIGNATURE {
        return Err(ProxyError::Signature);
    }
    let [version, command] = nibbles(fixed[12]);
    let [family, transport] = nibbles(fixed[13]);
    if version != VERSION || command > PROXY || family > LAST_FAMILY || transport > LAST_TRANSPORT {
        return Err(ProxyError::Unknown);
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > MAX_VARIABLE { Err(ProxyError::TooLong) } else { Ok(length) }
}

/// Reads a whole header: the fixed part and as many bytes as [`variable_length`] said, no more.
///
/// # Errors
/// When it is not one. The connection must be dropped then: guessing would let clients forge addresses.
pub fn parse(header: &[u8]) -> Result<Header, ProxyError> {
    let (fixed, variable) = header.split_first_chunk::<FIXED>().ok_or(ProxyError::Malformed)?;
    if variable_length(fixed)? != variable.len() {
        return Err(ProxyError::Malformed);
    }
    let [_, command] = nibbles(fixed[12]);
    if command == LOCAL {
        // The rest is skipped without assuming anything of it (section 2.2).
        return Ok(Header::default());
    }
    let [family, transport] = nibbles(fixed[13]);
    let address_length = match family {
        INET => 12,
        INET6 => 36,
        LAST_FAMILY => 216,
        _ => 0,
    };
    let (addresses, tlvs) = variable.split_at_checked(address_length).ok_or(ProxyError::Malformed)?;
    let mut read = Header {
        // Datagrams and Unix sockets are no clients of ours: their addresses are passed over, as the text asks.
        addresses: (transport == STREAM).then(|| endpoints(addresses)).flatten(),
        ..Header::default()
    };
    read_tlvs(header, tlvs, &mut read)?;
    Ok(read)
}

const fn nibbles(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf]
}

/// The two endpoints, when `bytes` are those of IPv4 or IPv6.
fn endpoints(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| bytes.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let v4 = |at: usize| bytes.get(at..)?.first_chunk::<4>().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets)));
    let v6 = |at: usize| bytes.get(at..)?.first_chunk::<16>().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)));
    let (source, destination, ports) = match bytes.len() {
        12 => (v4(0)?, v4(4)?, 8),
        36 => (v6(0)?, v6(16)?, 32),
        _ => return None,
    };
    Some((SocketAddr::new(source, port(ports)?), SocketAddr::new(destination, port(ports + 2)?)))
}

/// Reads the type-length-value fields, which are the end of `header`.
fn read_tlvs(header: &[u8], mut rest: &[u8], read: &mut Header) -> Result<(), ProxyError> {
    while !rest.is_empty() {
        let &[kind, high, low, ref more @ ..] = rest else { return Err(ProxyError::Malformed) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, after) = more.split_at_checked(length).ok_or(ProxyError::Malformed)?;
        match kind {
            TLV_AUTHORITY if length <= MAX_AUTHORITY => read.authority = Some(value.to_vec()),
            TLV_UNIQUE_ID if length <= MAX_UNIQUE_ID => read.unique_id = Some(value.to_vec()),
            TLV_UNIQUE_ID => return Err(ProxyError::Malformed),
            TLV_CRC32C => {
                let at = header.len() - more.len();
                let told = <[u8; 4]>::try_from(value).map_err(|_| ProxyError::Malformed)?;
                if checksum(header, at) != u32::from_be_bytes(told) {
                    return Err(ProxyError::Checksum);
                }
            }
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

/// CRC-32C of `header`, the checksum itself at `at` taken as zeros (section 2.2.3).
fn checksum(header: &[u8], at: usize) -> u32 {
    let (before, after) = (&header[..at], &header[at + 4..]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after)
}

/// Writes a header for a stream. Both addresses are written as IPv4 only if both are; else IPv4 becomes IPv4-mapped IPv6.
/// An authority or unique id that is too long is left out, so that a header has at most 455 bytes.
pub fn write(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend(SIGNATURE);
    let Some((source, destination)) = header.addresses else {
        bytes.extend([VERSION << 4 | LOCAL, 0, 0, 0]);
        return bytes;
    };
    bytes.push(VERSION << 4 | PROXY);
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([INET << 4 | STREAM, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (source, destination) => {
            bytes.extend([INET6 << 4 | STREAM, 0, 0]);
            for address in [source, destination] {
                let address = match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                bytes.extend(address.octets());
            }
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    let fields = [(TLV_AUTHORITY, &header.authority, MAX_AUTHORITY), (TLV_UNIQUE_ID, &header.unique_id, MAX_UNIQUE_ID)];
    for (kind, value, longest) in fields {
        if let Some(value) = value.as_ref().filter(|value| value.len() <= longest) {
            bytes.push(kind);
            bytes.extend(sixteen_bits(value.len()));
            bytes.extend(value);
        }
    }
    let length = sixteen_bits(bytes.len() - FIXED);
    bytes[FIXED - 2..FIXED].copy_from_slice(&length);
    bytes
}

fn sixteen_bits(length: usize) -> [u8; 2] {
    u16::try_from(length).expect("a header has at most 455 bytes").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    const SIGNATURE_HEX: &str = "0d0a0d0a000d0a515549540a";

    #[test]
    fn a_header_is_written_as_the_text_says() {
        let header = Header {
            addresses: Some(("192.0.2.1:4660".parse().unwrap(), "198.51.100.2:443".parse().unwrap())),
            authority: Some(b"a.example".to_vec()),
            unique_id: Some(b"id".to_vec()),
        };
        let expected =
            format!("{SIGNATURE_HEX} 21 11 001d c0000201 c6336402 1234 01bb 02 0009 612e6578616d706c65 05 0002 6964");
        assert_eq!(write(&header), bytes(&expected));
        assert_eq!(write(&Header::default()), bytes(&format!("{SIGNATURE_HEX} 20 00 0000")));
    }

    #[test]
    fn one_ipv6_end_makes_both_ipv6() {
        let header = Header {
            addresses: Some(("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap())),
            ..Header::default()
        };
        let read = parse(&write(&header)).unwrap().addresses.unwrap();
        assert_eq!(read, ("[::ffff:192.0.2.1]:1".parse().unwrap(), "[2001:db8::1]:2".parse().unwrap()));
        let mapped = Header {
            addresses: Some(("[::ffff:192.0.2.1]:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap())),
            ..Header::default()
        };
        assert_eq!(parse(&write(&mapped)).unwrap().addresses.unwrap().0, "192.0.2.1:1".parse().unwrap());
    }

    #[test]
    fn headers_of_others_are_read_or_refused() {
        let v4 = "c0000201 c6336402 1234 01bb";
        let addresses = Some(("192.0.2.1:4660".parse().unwrap(), "198.51.100.2:443".parse().unwrap()));
        let known = Header { addresses, ..Header::default() };
        let table = [
            ("local with something in it", "20 11 0003 ffffff".to_owned(), Ok(Header::default())),
            ("TCP over IPv4", format!("21 11 000c {v4}"), Ok(known.clone())),
            ("an unknown field and padding", format!("21 11 0013 {v4} e0 0001 00 04 0000"), Ok(known.clone())),
            ("without family", "21 00 0000".to_owned(), Ok(Header::default())),
            ("datagrams", format!("21 12 000c {v4}"), Ok(Header::default())),
            ("a Unix socket", format!("21 31 00d8 {}", "00".repeat(216)), Ok(Header::default())),
            ("version 1 nibble", format!("11 11 000c {v4}"), Err(ProxyError::Unknown)),
            ("a third command", format!("22 11 000c {v4}"), Err(ProxyError::Unknown)),
            ("a fifth family", format!("21 41 000c {v4}"), Err(ProxyError::Unknown)),
            ("a fourth transport", format!("21 13 000c {v4}"), Err(ProxyError::Unknown)),
            ("addresses cut", "21 11 0004 c0000201".to_owned(), Err(ProxyError::Malformed)),
            ("a field cut", format!("21 11 000e {v4} 04 00"), Err(ProxyError::Malformed)),
            ("a field too long", format!("21 11 0010 {v4} 02 0002 61"), Err(ProxyError::Malformed)),
            ("a short checksum", format!("21 11 0010 {v4} 03 0001 00"), Err(ProxyError::Malformed)),
            ("a wrong checksum", format!("21 11 0013 {v4} 03 0004 00000000"), Err(ProxyError::Checksum)),
            ("bytes after the header", format!("21 11 000c {v4} 00"), Err(ProxyError::Malformed)),
            ("absurd length", "21 11 ffff".to_owned(), Err(ProxyError::TooLong)),
        ];
        for (name, rest, expected) in table {
            assert_eq!(parse(&bytes(&format!("{SIGNATURE_HEX}{rest}"))), expected, "{name}");
        }
        assert_eq!(parse(b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"), Err(ProxyError::Signature));
    }

    #[test]
    fn a_right_checksum_covers_the_whole_header() {
        let mut header = bytes(&format!("{SIGNATURE_HEX} 21 11 0013 c0000201 c6336402 1234 01bb 03 0004 00000000"));
        let at = header.len() - 4;
        let sum = checksum(&header, at);
        header[at..].copy_from_slice(&sum.to_be_bytes());
        assert!(parse(&header).is_ok());
        header[20] ^= 1;
        assert_eq!(parse(&header), Err(ProxyError::Checksum));
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<(Ipv4Addr, u16)>().prop_map(SocketAddr::from);
        // An address that is IPv4 in other clothes is written as IPv4: not what this test is about.
        let v6 = any::<(Ipv6Addr, u16)>().prop_map(|(address, port)| SocketAddr::from((address, port)));
        prop_oneof![v4, v6.prop_filter("really IPv6", |address| address.ip().to_canonical().is_ipv6())]
    }

    fn arbitrary_header() -> impl Strategy<Value = Vec<u8>> {
        let fixed = (any::<u8>(), any::<u8>(), 0_u16..300);
        (fixed, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|((command, family, length), rest)| {
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend([command & 0x23, family & 0x33]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(rest);
            bytes
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            ends in (address(), address()),
            authority in prop::option::of(prop::collection::vec(any::<u8>(), 0..=MAX_AUTHORITY)),
            unique_id in prop::option::of(prop::collection::vec(any::<u8>(), 0..=MAX_UNIQUE_ID)),
        ) {
            let header = Header { addresses: Some(ends), authority, unique_id };
            let written = write(&header);
            prop_assert!(written.len() < 536, "section 2.2: a header fits the first segment");
            let mut read = parse(&written).unwrap();
            let addresses = read.addresses.unwrap();
            read.addresses = Some((addresses.0, addresses.1));
            let same = |a: SocketAddr, b: SocketAddr| (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port());
            prop_assert!(same(addresses.0, ends.0) && same(addresses.1, ends.1));
            prop_assert_eq!((read.authority, read.unique_id), (header.authority, header.unique_id));
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in arbitrary_header()) {
            let _ = parse(&bytes);
            let _ = bytes.first_chunk().map(variable_length);
        }
    }
}

//! The ClientHello parser against rustls: hellos of rustls clients, mutated and split in every way.

#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use holm_ingress::hello::{Assembler, ClientHello, HelloError};
use proptest::prelude::*;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

const LIMIT: usize = 16 * 1024;

/// The first flight of a rustls client.
fn client_hello(name: &str, sni: bool, alpn: usize, fragment: Option<usize>) -> Vec<u8> {
    static BASE: OnceLock<ClientConfig> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let roots = RootCertStore::empty();
        ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
    });
    let mut config = base.clone();
    config.enable_sni = sni;
    // Protocol names make a hello as long as one with ML-KEM key shares, or longer.
    config.alpn_protocols = (0..alpn).map(|n| format!("{n:0>200}").into_bytes()).collect();
    config.max_fragment_size = fragment;
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// The bytes in pieces that end at the given places.
fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn assemble(pieces: &[&[u8]], limit: usize) -> Result<Option<ClientHello>, HelloError> {
    let mut assembler = Assembler::new(limit);
    for piece in pieces {
        if let Some(hello) = assembler.push(piece)? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

/// What rustls reads: the server name, if it accepts the hello.
fn rustls_reads(bytes: &[u8]) -> Result<Option<Option<String>>, rustls::Error> {
    let mut acceptor = Acceptor::default();
    let mut rest = Cursor::new(bytes);
    while acceptor.read_tls(&mut rest).is_ok_and(|read| read > 0) {
        if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error)? {
            return Ok(Some(accepted.client_hello().server_name().map(str::to_owned)));
        }
    }
    Ok(None)
}

/// Our reading in the same shape.
fn names(read: Option<ClientHello>) -> Option<Option<String>> {
    read.map(|hello| hello.server_name.map(String::from))
}

/// Puts the payloads of all records into records of `size` bytes.
fn refragment(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut rest = bytes;
    while let [_, _, _, high, low, more @ ..] = rest {
        let (this, next) = more.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        payload.extend_from_slice(this);
        rest = next;
    }
    let mut out = Vec::new();
    for piece in payload.chunks(size) {
        out.extend_from_slice(&[22, 3, 1]);
        out.extend_from_slice(&u16::try_from(piece.len()).unwrap().to_be_bytes());
        out.extend_from_slice(piece);
    }
    out
}

fn hello() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec!["a.example", "XN--BCHER-KVA.example", "a-b.c.d.example", "::1"]);
    let fragment = prop::option::of(32_usize..2000);
    (name, any::<bool>(), 0_usize..12, fragment)
        .prop_map(|(name, sni, alpn, fragment)| client_hello(name, sni, alpn, fragment))
}

proptest! {
    #[test]
    fn hellos_of_clients_are_read_as_rustls_reads_them(
        bytes in hello(),
        size in 1_usize..3000,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let expected = rustls_reads(&bytes).unwrap();
        prop_assert!(expected.is_some());
        prop_assert_eq!(names(assemble(&pieces(&bytes, &cuts), LIMIT).unwrap()), expected.clone());
        // Down to one byte per record, which is past rustls's own patience but not past the limit.
        let fine = refragment(&bytes, size);
        if fine.len() < LIMIT {
            prop_assert_eq!(names(assemble(&pieces(&fine, &cuts), LIMIT).unwrap()), expected);
        } else {
            prop_assert_eq!(assemble(&pieces(&fine, &cuts), LIMIT), Err(HelloError::TooLarge));
        }
    }

    #[test]
    fn what_both_accept_of_a_damaged_hello_has_the_same_name(
        mut bytes in hello(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let (Ok(Some(ours)), Ok(Some(theirs))) = (assemble(&[&bytes], LIMIT), rustls_reads(&bytes)) {
            prop_assert_eq!(names(Some(ours)), Some(theirs.map(|name| name.to_lowercase())));
        }
    }

    #[test]
    fn any_split_reads_the_same(
        bytes in prop_oneof![hello(), prop::collection::vec(any::<u8>(), 0..600)],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        prop_assert_eq!(assemble(&pieces(&bytes, &cuts), LIMIT), assemble(&[&bytes], LIMIT));
    }

    #[test]
    fn no_bytes_panic_and_every_byte_is_kept(
        start in prop::sample::select(vec![&[][..], &[22, 3, 1], &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]]),
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let bytes = [start, &bytes].concat();
        let mut assembler = Assembler::new(512);
        let mut pushed = 0;
        for piece in bytes.chunks(100) {
            pushed += piece.len();
            match assembler.push(piece) {
                Ok(None) => prop_assert!(pushed < 512),
                Ok(Some(_)) | Err(_) => break,
            }
        }
        prop_assert_eq!(assembler.into_raw(), &bytes[..pushed]);
    }
}

#[test]
fn a_hello_is_whole_only_with_its_last_byte() {
    let bytes = client_hello("a.example", true, 6, None);
    assert!(bytes.len() > 1200, "as long as with ML-KEM: {}", bytes.len());
    for end in 0..bytes.len() {
        assert_eq!(assemble(&[&bytes[..end]], LIMIT), Ok(None), "{end}");
    }
    assert!(assemble(&[&bytes], LIMIT).unwrap().is_some());
}

/// A minimal hello with the given extensions block.
fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (kind, content) in extensions {
        block.extend_from_slice(&kind.to_be_bytes());
        block.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        block.extend_from_slice(content);
    }
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    body.extend_from_slice(&u16::try_from(block.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&block);
    let mut message = vec![1, 0];
    message.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend_from_slice(&body);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend_from_slice(&message);
    record
}

fn names_list(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, name) in names {
        list.push(*kind);
        list.extend_from_slice(&u16::try_from(name.len()).unwrap().to_be_bytes());
        list.extend_from_slice(name);
    }
    let mut content = u16::try_from(list.len()).unwrap().to_be_bytes().to_vec();
    content.extend_from_slice(&list);
    content
}

#[test]
fn only_one_well_formed_name_is_accepted() {
    let one = names_list(&[(0, b"a.example")]);
    let read = |extensions: &[(u16, &[u8])]| assemble(&[&with_extensions(extensions)], LIMIT);
    assert_eq!(names(read(&[(0, &one)]).unwrap()), Some(Some("a.example".to_owned())));
    assert_eq!(names(read(&[]).unwrap()), Some(None));
    assert_eq!(read(&[(0, &one), (0, &one)]), Err(HelloError::DuplicateExtension));
    assert_eq!(read(&[(9, b""), (0, &one), (9, b"")]), Err(HelloError::DuplicateExtension));
    for bad in [
        names_list(&[]),
        names_list(&[(1, b"a.example")]),
        names_list(&[(0, b"a.example"), (0, b"b.example")]),
        [&one[..], b"x"].concat(),
        one[..one.len() - 1].to_vec(),
    ] {
        assert_eq!(read(&[(0, &bad)]), Err(HelloError::Malformed), "{bad:?}");
    }
    for bad in [&b"a.example."[..], b"", b"10.0.0.1", b"::1", b"a b", b"a\0b"] {
        let read = read(&[(0, &names_list(&[(0, bad)]))]);
        assert!(matches!(read, Err(HelloError::ServerName(_))), "{bad:?}: {read:?}");
    }
}

#[test]
fn records_that_are_no_hello_are_refused_at_once() {
    let whole = with_extensions(&[]);
    let change = |place: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[place] = value;
        assemble(&[&bytes], LIMIT)
    };
    assert_eq!(assemble(&[b"G"], LIMIT), Err(HelloError::Record));
    assert_eq!(change(1, 2), Err(HelloError::Record));
    assert_eq!(assemble(&[&[22, 3, 1, 0, 0]], LIMIT), Err(HelloError::Record));
    assert_eq!(assemble(&[&[22, 3, 1, 0x40, 1]], 1 << 20), Err(HelloError::Record));
    assert_eq!(change(5, 2), Err(HelloError::NotClientHello));
    assert_eq!(change(6, 1), Err(HelloError::TooLarge));
    let mut trailing = whole.clone();
    trailing[4] += 1;
    trailing.push(0);
    assert_eq!(assemble(&[&trailing], LIMIT), Err(HelloError::Malformed));
}

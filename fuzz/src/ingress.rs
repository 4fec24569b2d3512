//! What strangers send to the ingress.

use holm_ingress::hello::{Assembler, ClientHello, HelloError};
use holm_ingress::proxy;

const LIMIT: usize = 16 * 1024;

/// A ClientHello is read the same however it is cut into segments, and forwarded as it came.
pub(crate) fn client_hello(bytes: &[u8]) {
    let whole = assemble(bytes, bytes.len().max(1));
    for piece in [1, 7] {
        let in_pieces = assemble(bytes, piece);
        match (&whole, &in_pieces) {
            // Bytes after the hello are seen only by those who take them along.
            (Ok(Some(_)), Ok(Some(_))) | (Err(_), _) => {}
            _ => assert_eq!(whole, in_pieces, "cut into pieces of {piece}"),
        }
        if let (Ok(Some(whole)), Ok(Some(in_pieces))) = (&whole, &in_pieces) {
            assert_eq!(whole, in_pieces, "cut into pieces of {piece}");
        }
    }
}

fn assemble(bytes: &[u8], piece: usize) -> Result<Option<ClientHello>, HelloError> {
    let mut assembler = Assembler::new(LIMIT);
    let mut taken = 0;
    for piece in bytes.chunks(piece) {
        taken += piece.len();
        if let Some(hello) = assembler.push(piece)? {
            assert_eq!(assembler.into_raw(), bytes[..taken]);
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

/// A PROXY header that is read and has addresses can be written, and is read back as the same.
pub(crate) fn proxy_header(bytes: &[u8]) {
    // Without the signature and a length that fits nothing would get past the door.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let (kinds, rest) = bytes.split_at(bytes.len().min(2));
    header.extend([kinds.first().copied().unwrap_or(0x21), kinds.get(1).copied().unwrap_or(0x11)]);
    header.extend(u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend(rest);
    for header in [&header[..], bytes] {
        let Ok(read) = proxy::parse(header) else { continue };
        if read.addresses.is_none() {
            continue;
        }
        let written = proxy::write(&read);
        assert!(written.len() < 536);
        let again = proxy::parse(&written).expect("what is written can be read");
        let ends = |header: &proxy::Header| {
            header.addresses.map(|(from, to)| [from, to].map(|end| (end.ip().to_canonical(), end.port())))
        };
        assert_eq!(ends(&again), ends(&read));
        assert_eq!((again.authority, again.unique_id), (read.authority, read.unique_id));
    }
}

//! The TLS ClientHello: reassembled from any split into TCP segments and TLS records, then read strictly.
//!
//! The sources are RFC 8446 sections 4.1.2, 4.2 and 5.1 and RFC 6066 section 3. Only what routing needs is kept: the
//! server name. Everything else is checked for its shape, so that what this parser accepts a TLS server can read too.

use crate::table::{ServerName, ServerNameError};

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const CONTENT_TYPE_HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;
const MAX_RECORD: usize = 1 << 14;
const TYPE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// Why bytes are not a ClientHello this ingress accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Larger than the limit, record headers included.
    #[error("the ClientHello is larger than the limit")]
    TooLarge,
    /// A record is not a TLS handshake record of 1 to 2^14 bytes.
    #[error("not a TLS handshake record")]
    Record,
    /// The first handshake message is not a ClientHello.
    #[error("the first message is not a ClientHello")]
    NotClientHello,
    /// A length does not fit, a field is out of range, or bytes are left over.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// The same extension occurs twice.
    #[error("the ClientHello has an extension twice")]
    DuplicateExtension,
    /// The server name extension does not hold exactly one valid host name.
    #[error("the ClientHello has a bad server name: {0}")]
    ServerName(#[source] ServerNameError),
}

/// What routing needs of a ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name of the server name extension, if there is one.
    pub server_name: Option<ServerName>,
}

/// Collects bytes as they arrive until the ClientHello is whole. Work and memory are linear in the bytes received.
#[derive(Debug)]
pub struct Assembler {
    /// Every byte received, to be forwarded unchanged.
    raw: Vec<u8>,
    /// Offset in `raw` of the first record not yet taken into `message`.
    next_record: usize,
    /// Payloads of the complete records so far.
    message: Vec<u8>,
    limit: usize,
}

impl Assembler {
    /// An assembler that refuses a hello of more than `limit` bytes, record headers included.
    pub fn new(limit: usize) -> Self {
        Self { raw: Vec::new(), next_record: 0, message: Vec::new(), limit }
    }

    /// Takes the next bytes of the stream. `None` means more are needed.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        self.raw.extend_from_slice(bytes);
        while let Some(payload) = self.next_payload()? {
            let record_end = payload.end;
            self.message.extend_from_slice(&self.raw[payload]);
            self.next_record = record_end;
            if let Some(body) = whole_message(&self.message, self.limit)? {
                return parse_body(body).map(Some);
            }
        }
        if self.raw.len() >= self.limit {
            return Err(HelloError::TooLarge);
        }
        Ok(None)
    }

    /// Every byte received so far, to be forwarded to the backend.
    pub fn into_raw(self) -> Vec<u8> {
        self.raw
    }

    /// Range of the next complete record's payload in `raw`. A bad header is refused before its payload arrives.
    fn next_payload(&self) -> Result<Option<std::ops::Range<usize>>, HelloError> {
        let rest = &self.raw[self.next_record..];
        let bad_type = rest.first().is_some_and(|byte| *byte != CONTENT_TYPE_HANDSHAKE);
        let bad_version = rest.get(1).is_some_and(|byte| *byte != MAJOR_VERSION);
        if bad_type || bad_version {
            return Err(HelloError::Record);
        }
        let [_, _, _, high, low, ..] = rest else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > MAX_RECORD {
            return Err(HelloError::Record);
        }
        let start = self.next_record + RECORD_HEADER;
        if start + length > self.limit {
            return Err(HelloError::TooLarge);
        }
        Ok((self.raw.len() >= start + length).then_some(start..start + length))
    }
}

/// The body of the ClientHello once all of it is in `message`.
fn whole_message(message: &[u8], limit: usize) -> Result<Option<&[u8]>, HelloError> {
    if message.first().is_some_and(|kind| *kind != TYPE_CLIENT_HELLO) {
        return Err(HelloError::NotClientHello);
    }
    let [_, a, b, c, body @ ..] = message else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    if length + MESSAGE_HEADER > limit {
        return Err(HelloError::TooLarge);
    }
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(body)),
        // A client must wait for the server after its hello, so nothing may follow it in its last record.
        std::cmp::Ordering::Greater => Err(HelloError::Malformed),
    }
}

fn parse_body(body: &[u8]) -> Result<ClientHello, HelloError> {
    let mut hello = Cursor(body);
    hello.take(2 + 32)?; // legacy_version, random
    if hello.vector8()?.0.len() > 32 {
        return Err(HelloError::Malformed); // legacy_session_id
    }
    let suites = hello.vector16()?.0.len();
    if suites < 2 || !suites.is_multiple_of(2) || hello.vector8()?.0.is_empty() {
        return Err(HelloError::Malformed); // cipher_suites, legacy_compression_methods
    }
    if hello.0.is_empty() {
        return Ok(ClientHello { server_name: None }); // TLS 1.2 without extensions
    }
    let mut extensions = hello.vector16()?;
    hello.finish()?;

    let mut server_name = None;
    let mut seen = Vec::with_capacity(24);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.vector16()?;
        seen.push(kind);
        if kind == EXTENSION_SERVER_NAME {
            server_name = Some(parse_server_name(content)?);
        }
    }
    seen.sort_unstable();
    if seen.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(HelloError::DuplicateExtension);
    }
    Ok(ClientHello { server_name })
}

fn parse_server_name(mut extension: Cursor<'_>) -> Result<ServerName, HelloError> {
    let mut list = extension.vector16()?;
    extension.finish()?;
    if list.take(1)? != [NAME_TYPE_HOST] {
        return Err(HelloError::Malformed);
    }
    let name = list.vector16()?;
    list.finish()?;
    ServerName::parse(name.0).map_err(HelloError::ServerName)
}

/// Bytes still to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(HelloError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector with a one-byte length.
    fn vector8(&mut self) -> Result<Cursor<'a>, HelloError> {
        let length = self.take(1)?[0];
        self.take(usize::from(length)).map(Cursor)
    }

    /// A vector with a two-byte length.
    fn vector16(&mut self) -> Result<Cursor<'a>, HelloError> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Cursor)
    }

    fn finish(&self) -> Result<(), HelloError> {
        if self.0.is_empty() { Ok(()) } else { Err(HelloError::Malformed) }
    }
}

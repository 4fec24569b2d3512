//! Frames: how messages and raw bytes are cut, checked and found again on a pipe that may lose bytes.
//!
//! On the wire a frame is its header and payload, encoded with COBS (so that no zero byte is inside) and closed
//! by one zero byte. A zero byte is therefore always the end of a frame: whatever was cut, the decoder is in step
//! again at the next zero, never waits for bytes that will not come, and payload bytes chosen by an app can never
//! pass for a frame. A sender starts each session with a zero byte, which ends what a predecessor left half-sent.
//!
//! ```text
//! offset 0  magic "HM"        2  frame format (1)   3  kind
//!        4  flags (1 = more)  5  reserved, 3 bytes
//!        8  session u64      16  stream u32        20  payload length u32
//!       24  crc32 u32 of bytes 0..24 and the payload    28  payload          (all little-endian)
//! ```

use alloc::vec;
use alloc::vec::Vec;

/// Most payload bytes in one frame.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Most bytes of one JSON message, which may span several frames.
pub const MAX_MESSAGE: usize = 1024 * 1024;

const MAGIC: [u8; 2] = *b"HM";
const FORMAT: u8 = 1;
const HEADER: usize = 28;
const FLAG_MORE: u8 = 1;
/// Longest encoded frame without its closing zero: COBS adds one byte per 254.
const MAX_ENCODED: usize = HEADER + MAX_PAYLOAD + (HEADER + MAX_PAYLOAD) / 254 + 1;

/// What a frame's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A JSON message, or a part of one.
    Message = 0,
    /// One log record, see [`crate::LogRecord`].
    Log = 1,
    /// Bytes for an exec'd command's standard input.
    Stdin = 2,
    /// Bytes of an exec'd command's standard output, or of its terminal.
    Stdout = 3,
    /// Bytes of an exec'd command's standard error.
    Stderr = 4,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Message,
            1 => Self::Log,
            2 => Self::Stdin,
            3 => Self::Stdout,
            4 => Self::Stderr,
            _ => return None,
        })
    }
}

/// One frame as received or to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// More frames of the same message follow. Only for [`Kind::Message`].
    pub more: bool,
    /// Session the frame belongs to.
    pub session: u64,
    /// Exec stream the payload belongs to; 0 for messages and logs.
    pub stream: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// Why bytes could not be made into a frame or message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload of one frame is above [`MAX_PAYLOAD`].
    #[error("frame payload of {0} bytes is above the limit of 65536")]
    PayloadTooLong(usize),
    /// A JSON message is above [`MAX_MESSAGE`].
    #[error("message of {0} bytes is above the limit of 1048576")]
    MessageTooLong(usize),
}

/// Appends the encoded `frame` with its closing zero to `out`.
///
/// # Errors
/// [`FrameError::PayloadTooLong`]; `out` is then unchanged.
pub fn encode_frame(frame: &Frame, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let length = frame.payload.len();
    let wire_length = match u32::try_from(length) {
        Ok(n) if length <= MAX_PAYLOAD => n,
        _ => return Err(FrameError::PayloadTooLong(length)),
    };
    let mut raw = Vec::with_capacity(HEADER + length);
    raw.extend_from_slice(&MAGIC);
    raw.extend_from_slice(&[FORMAT, frame.kind as u8, if frame.more { FLAG_MORE } else { 0 }, 0, 0, 0]);
    raw.extend_from_slice(&frame.session.to_le_bytes());
    raw.extend_from_slice(&frame.stream.to_le_bytes());
    raw.extend_from_slice(&wire_length.to_le_bytes());
    let crc = checksum(&raw, &frame.payload);
    raw.extend_from_slice(&crc.to_le_bytes());
    raw.extend_from_slice(&frame.payload);

    let start = out.len();
    out.resize(start + cobs::max_encoding_length(raw.len()) + 1, 0);
    let written = cobs::encode(&raw, &mut out[start..]);
    out.truncate(start + written);
    out.push(0);
    Ok(())
}

/// Appends a JSON message to `out`, split into as many frames as it needs.
///
/// # Errors
/// [`FrameError::MessageTooLong`]; `out` is then unchanged.
pub fn encode_message(session: u64, json: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
    if json.len() > MAX_MESSAGE {
        return Err(FrameError::MessageTooLong(json.len()));
    }
    let mut rest = json;
    loop {
        let (part, after) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        let more = !after.is_empty();
        encode_frame(&Frame { kind: Kind::Message, more, session, stream: 0, payload: part.to_vec() }, out)?;
        if !more {
            return Ok(());
        }
        rest = after;
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// What a decoder has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderStats {
    /// Frames that were whole and correct.
    pub frames: u64,
    /// Runs of bytes between two zeros that were no frame: cut, damaged or foreign.
    pub rejected: u64,
}

/// Finds frames in a stream of bytes. Holds at most one encoded frame.
#[derive(Debug)]
pub struct Decoder {
    pending: Vec<u8>,
    /// Skip to the next zero: at the start (a tail of a predecessor's frame) or after an over-long run.
    skipping: bool,
    stats: DecoderStats,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that waits for the first zero byte before it takes anything as a frame.
    pub fn new() -> Self {
        Self { pending: Vec::new(), skipping: true, stats: DecoderStats::default() }
    }

    /// Counters since the decoder was made.
    pub fn stats(&self) -> DecoderStats {
        self.stats
    }

    /// Takes `bytes` and hands every whole frame in them to `sink`, in order.
    pub fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Frame)) {
        while let Some(end) = bytes.iter().position(|&b| b == 0) {
            self.hold(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if core::mem::take(&mut self.skipping) {
                self.stats.rejected += u64::from(!self.pending.is_empty());
            } else if !self.pending.is_empty() {
                match decode_one(&mut self.pending) {
                    Some(frame) => {
                        self.stats.frames += 1;
                        sink(frame);
                    }
                    None => self.stats.rejected += 1,
                }
            }
            self.pending.clear();
        }
        self.hold(bytes);
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if self.pending.len() + bytes.len() > MAX_ENCODED {
            self.pending.clear();
            self.skipping = true;
            self.stats.rejected += 1;
            return;
        }
        self.pending.extend_from_slice(bytes);
    }
}

fn decode_one(encoded: &mut [u8]) -> Option<Frame> {
    let length = cobs::decode_in_place(encoded).ok()?;
    let raw = encoded.get(..length)?;
    let (header, payload) = raw.split_at_checked(HEADER)?;
    let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    if header[..2] != MAGIC || header[2] != FORMAT || payload.len() > MAX_PAYLOAD {
        return None;
    }
    if word(20)? as usize != payload.len() || word(24)? != checksum(&header[..24], payload) {
        return None;
    }
    Some(Frame {
        kind: Kind::from_wire(header[3])?,
        more: header[4] & FLAG_MORE != 0,
        session: u64::from_le_bytes(header.get(8..16)?.try_into().ok()?),
        stream: word(16)?,
        payload: payload.to_vec(),
    })
}

/// Joins the frames of JSON messages that span several.
///
/// Holds at most [`MAX_MESSAGE`] bytes of one session; a message above that, or one whose session changed midway,
/// is dropped.
#[derive(Debug, Default)]
pub struct MessageAssembler {
    session: u64,
    parts: Vec<u8>,
    overflow: bool,
}

impl MessageAssembler {
    /// Adds a [`Kind::Message`] frame; gives the JSON text once it is whole.
    pub fn push(&mut self, frame: Frame) -> Option<Vec<u8>> {
        if frame.session != self.session {
            self.parts.clear();
            self.overflow = false;
            self.session = frame.session;
        }
        if self.parts.is_empty() && !self.overflow && !frame.more {
            return Some(frame.payload);
        }
        if self.parts.len() + frame.payload.len() > MAX_MESSAGE {
            self.overflow = true;
            self.parts = vec![];
        }
        if !self.overflow {
            self.parts.extend_from_slice(&frame.payload);
        }
        if frame.more {
            return None;
        }
        let whole = core::mem::take(&mut self.parts);
        if core::mem::take(&mut self.overflow) { None } else { Some(whole) }
    }
}

/// Feeds arbitrary bytes through everything that parses bytes from the other side: the entry of the fuzz target.
///
/// Gives the number of frames found. Must never panic.
pub fn decode_arbitrary(bytes: &[u8]) -> u64 {
    let mut decoder = Decoder::new();
    let mut assembler = MessageAssembler::default();
    let mut seen = 0;
    for chunk in bytes.chunks(17) {
        decoder.feed(chunk, |frame| {
            seen += 1;
            match frame.kind {
                Kind::Log => drop(crate::LogRecord::decode(&frame.payload)),
                Kind::Message => {
                    if let Some(json) = assembler.push(frame) {
                        drop(crate::HostMessage::decode(&json));
                        drop(crate::GuestMessage::decode(&json));
                    }
                }
                Kind::Stdin | Kind::Stdout | Kind::Stderr => {}
            }
        });
    }
    seen
}

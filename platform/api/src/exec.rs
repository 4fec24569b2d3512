//! Running a command inside an instance: the request, and the frames that follow the HTTP upgrade.
//!
//! A frame is one byte of kind, four bytes of length (big-endian, at most 64 KiB) and the payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holm_manifest::ProcessName;
use holm_model::id::{AppKey, InstanceName};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::codec::{Decoder, Encoder};

use crate::problem::Problem;

/// The protocol's name in the `Upgrade` header.
pub const PROTOCOL: &str = "holm-exec/1";
/// Largest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Frames that may wait in each direction before the sender has to wait.
pub const QUEUE: usize = 16;

/// A command to run inside an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Where.
    pub target: ExecTarget,
    /// The program and its arguments: 1 to 256 words, 64 KiB in all.
    pub command: Vec<String>,
    /// Whether there is standard input.
    pub stdin: bool,
    /// The size of the terminal; `None`: no terminal, and standard error apart from standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tty: Option<Tty>,
}

/// Where to run a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecTarget {
    /// In this instance.
    Instance(InstanceName),
    /// In some instance of an app, a healthy one where there is one.
    App {
        /// The app and environment.
        app: AppKey,
        /// The process type; `None`: any.
        process: Option<ProcessName>,
    },
}

/// A terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tty {
    /// Its size now.
    pub size: TtySize,
    /// `TERM`, such as `xterm-256color`.
    pub term: String,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// What the user sends to the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// The end of its standard input.
    StdinEnd,
    /// The terminal's new size.
    Resize(TtySize),
    /// A signal by number, 1 to 64.
    Signal(u8),
}

/// What comes back from the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// Bytes from its standard output, or from its terminal.
    Stdout(Bytes),
    /// Bytes from its standard error.
    Stderr(Bytes),
    /// The last frame: it ended.
    Exit(ExecExit),
    /// The last frame: it could not be run, or the instance went away.
    Failed(Problem),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecExit {
    /// With this status, 0 to 255.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl ExecExit {
    /// The status a shell would show: the code, or 128 and the signal's number.
    #[must_use]
    pub const fn status(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// Both ends of a running command. Dropping `input` tells the server that the user went away.
#[derive(Debug)]
pub struct ExecSession {
    /// To the command; full means wait.
    pub input: mpsc::Sender<ExecInput>,
    /// From the command; ends after [`ExecOutput::Exit`] or [`ExecOutput::Failed`].
    pub output: mpsc::Receiver<ExecOutput>,
}

/// Bytes that are not the protocol.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The kind is not one of this direction.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// The length is over the limit.
    #[error("a frame of {0} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLong(usize),
    /// The payload does not fit the kind.
    #[error("a frame of kind {0} has the wrong content")]
    Payload(u8),
    /// The connection.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
}

const STDIN: u8 = 0;
const STDIN_END: u8 = 1;
const RESIZE: u8 = 2;
const SIGNAL: u8 = 3;
const STDOUT: u8 = 16;
const STDERR: u8 = 17;
const EXIT: u8 = 18;
const FAILED: u8 = 19;

/// The codec of the user's side: writes [`ExecInput`], reads [`ExecOutput`].
#[derive(Debug, Default)]
pub struct UserSide;

/// The codec of the server's side: writes [`ExecOutput`], reads [`ExecInput`].
#[derive(Debug, Default)]
pub struct ServerSide;

fn split_frame(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, FrameError> {
    let Some(&[kind, a, b, c, d]) = buffer.first_chunk::<5>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD {
        return Err(FrameError::TooLong(length));
    }
    if buffer.len() < 5 + length {
        buffer.reserve(5 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some((kind, buffer.split_to(length).freeze())))
}

fn put_frame(buffer: &mut BytesMut, kind: u8, payload: &[u8]) -> Result<(), FrameError> {
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MAX_PAYLOAD);
    let length = length.ok_or(FrameError::TooLong(payload.len()))?;
    buffer.reserve(5 + payload.len());
    buffer.put_u8(kind);
    buffer.put_u32(length);
    buffer.put_slice(payload);
    Ok(())
}

impl Encoder<ExecInput> for UserSide {
    type Error = FrameError;
    fn encode(&mut self, item: ExecInput, buffer: &mut BytesMut) -> Result<(), FrameError> {
        match item {
            ExecInput::Stdin(bytes) => put_frame(buffer, STDIN, &bytes),
            ExecInput::StdinEnd => put_frame(buffer, STDIN_END, &[]),
            ExecInput::Resize(TtySize { rows, columns }) => {
                let ([a, b], [c, d]) = (rows.to_be_bytes(), columns.to_be_bytes());
                put_frame(buffer, RESIZE, &[a, b, c, d])
            }
            ExecInput::Signal(number) => put_frame(buffer, SIGNAL, &[number]),
        }
    }
}

impl Decoder for ServerSide {
    type Item = ExecInput;
    type Error = FrameError;
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<ExecInput>, FrameError> {
        let Some((kind, payload)) = split_frame(buffer)? else { return Ok(None) };
        let input = match (kind, &payload[..]) {
            (STDIN, _) => ExecInput::Stdin(payload),
            (STDIN_END, []) => ExecInput::StdinEnd,
            (RESIZE, &[a, b, c, d]) => {
                ExecInput::Resize(TtySize { rows: u16::from_be_bytes([a, b]), columns: u16::from_be_bytes([c, d]) })
            }
            (SIGNAL, &[number @ 1..=64]) => ExecInput::Signal(number),
            (STDIN_END | RESIZE | SIGNAL, _) => return Err(FrameError::Payload(kind)),
            _ => return Err(FrameError::Kind(kind)),
        };
        Ok(Some(input))
    }
}

impl Encoder<ExecOutput> for ServerSide {
    type Error = FrameError;
    fn encode(&mut self, item: ExecOutput, buffer: &mut BytesMut) -> Result<(), FrameError> {
        let json = |kind, json: serde_json::Result<Vec<u8>>| json.map_err(|_| FrameError::Payload(kind));
        match item {
            ExecOutput::Stdout(bytes) => put_frame(buffer, STDOUT, &bytes),
            ExecOutput::Stderr(bytes) => put_frame(buffer, STDERR, &bytes),
            ExecOutput::Exit(exit) => put_frame(buffer, EXIT, &json(EXIT, serde_json::to_vec(&exit))?),
            ExecOutput::Failed(problem) => put_frame(buffer, FAILED, &json(FAILED, serde_json::to_vec(&problem))?),
        }
    }
}

impl Decoder for UserSide {
    type Item = ExecOutput;
    type Error = FrameError;
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<ExecOutput>, FrameError> {
        let Some((kind, payload)) = split_frame(buffer)? else { return Ok(None) };
        let output = match kind {
            STDOUT => ExecOutput::Stdout(payload),
            STDERR => ExecOutput::Stderr(payload),
            EXIT => ExecOutput::Exit(serde_json::from_slice(&payload).map_err(|_| FrameError::Payload(kind))?),
            FAILED => ExecOutput::Failed(serde_json::from_slice(&payload).map_err(|_| FrameError::Payload(kind))?),
            _ => return Err(FrameError::Kind(kind)),
        };
        Ok(Some(output))
    }
}

impl ExecRequest {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self) -> Result<(), String> {
        let bytes: usize = self.command.iter().map(String::len).sum();
        if self.command.first().is_none_or(String::is_empty) {
            return Err("the command is empty".to_owned());
        }
        if self.command.len() > 256 || bytes > 64 << 10 || self.command.iter().any(|word| word.contains('\0')) {
            return Err("the command is over 256 words or 64 KiB, or contains a NUL character".to_owned());
        }
        if self.tty.as_ref().is_some_and(|tty| tty.term.len() > 64 || !tty.term.bytes().all(|b| b.is_ascii_graphic())) {
            return Err("the terminal's name is too long or not printable".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn input() -> impl Strategy<Value = ExecInput> {
        prop_oneof![
            vec(any::<u8>(), 0..200).prop_map(|bytes| ExecInput::Stdin(bytes.into())),
            Just(ExecInput::StdinEnd),
            any::<(u16, u16)>().prop_map(|(rows, columns)| ExecInput::Resize(TtySize { rows, columns })),
            (1u8..=64).prop_map(ExecInput::Signal),
        ]
    }

    fn output() -> impl Strategy<Value = ExecOutput> {
        prop_oneof![
            vec(any::<u8>(), 0..200).prop_map(|bytes| ExecOutput::Stdout(bytes.into())),
            vec(any::<u8>(), 0..200).prop_map(|bytes| ExecOutput::Stderr(bytes.into())),
            any::<u8>().prop_map(|code| ExecOutput::Exit(ExecExit::Code(code))),
            (1u8..=64).prop_map(|signal| ExecOutput::Exit(ExecExit::Signal(signal))),
            ".{0,40}".prop_map(|text| ExecOutput::Failed(Problem::failed(text))),
        ]
    }

    /// Feeds `bytes` in pieces of `piece` bytes, as a connection does.
    fn decode_all<D: Decoder>(codec: &mut D, bytes: &[u8], piece: usize) -> Result<Vec<D::Item>, D::Error> {
        let (mut buffer, mut items) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(item) = codec.decode(&mut buffer)? {
                items.push(item);
            }
        }
        Ok(items)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(inputs in vec(input(), 0..8), outputs in vec(output(), 0..8), piece in 1usize..64) {
            let mut bytes = BytesMut::new();
            for item in &inputs {
                UserSide.encode(item.clone(), &mut bytes).unwrap();
            }
            prop_assert_eq!(decode_all(&mut ServerSide, &bytes, piece).unwrap(), inputs);
            let mut bytes = BytesMut::new();
            for item in &outputs {
                ServerSide.encode(item.clone(), &mut bytes).unwrap();
            }
            prop_assert_eq!(decode_all(&mut UserSide, &bytes, piece).unwrap(), outputs);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
            let _ = decode_all(&mut ServerSide, &bytes, 7);
            let _ = decode_all(&mut UserSide, &bytes, 7);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_from_its_head_alone() {
        let mut buffer = BytesMut::from(&[STDIN, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(ServerSide.decode(&mut buffer), Err(FrameError::TooLong(_))));
        let long = ExecInput::Stdin(vec![0; MAX_PAYLOAD + 1].into());
        assert!(matches!(UserSide.encode(long, &mut BytesMut::new()), Err(FrameError::TooLong(_))));
    }
}

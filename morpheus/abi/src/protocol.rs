//! The messages between a client and the agent over a Unix socket of packets (`SOCK_SEQPACKET`), one message per packet.
//!
//! A message is 12 bytes of head (magic `u32`, version `u16`, kind `u16`, length of the whole message `u32`) and a body
//! whose size its kind fixes; all numbers are little-endian. A client sends HELLO and gets WELCOME with two descriptors
//! (`SCM_RIGHTS`: page 0, frozen: no process can write it; then page 1, writable) or REFUSED. Then, one request at a time, it sends REGISTER
//! for each worker thread (REGISTERED or REFUSED) and UNREGISTER (OK or REFUSED). The agent takes the process from the
//! socket's credentials, never from a message, and checks that a thread belongs to it. Closing the socket unregisters all;
//! since a forked child may hold the socket open for a moment, the end of the process itself does so too.
//!
//! The descriptors are mappable BPF arrays, or memory files sealed against shrinking (a client refuses an unsealed regular
//! file: cut short, it would kill its reader). A client takes them only from root or from its own user.
//!
//! Kinds from [`OPERATOR_KINDS`] on belong to the operator's requests to the agent.

use core::fmt;

use crate::{EscalationPolicy, Slot};

/// Where the agent listens unless [`SOCKET_VARIABLE`] names another path.
pub const SOCKET_PATH: &str = "/run/morpheus/morpheus.sock";
/// The environment variable with the socket's path. Set and empty: do not look for an agent.
pub const SOCKET_VARIABLE: &str = "MORPHEUS_SOCKET";
/// First four bytes of each message: `MRPH`.
pub const PROTOCOL_MAGIC: u32 = u32::from_le_bytes(*b"MRPH");
/// Version of these messages.
pub const PROTOCOL_VERSION: u16 = 2;
/// Bytes before the body.
pub const HEAD_SIZE: usize = 12;
/// Longest message of a client or to one. A receiver's buffer should be one byte longer, to see what is too long.
pub const MAX_MESSAGE: usize = 64;
/// Longest worker name in bytes.
pub const NAME_SIZE: usize = 32;
/// First kind of the operator's messages.
pub const OPERATOR_KINDS: u16 = 0x100;

/// The kinds' numbers.
pub mod kind {
    /// Client: begin.
    pub const HELLO: u16 = 1;
    /// Agent: here are your pages.
    pub const WELCOME: u16 = 2;
    /// Agent: no.
    pub const REFUSED: u16 = 3;
    /// Client: this thread is a worker.
    pub const REGISTER: u16 = 4;
    /// Agent: it has this slot.
    pub const REGISTERED: u16 = 5;
    /// Client: this worker is none any more.
    pub const UNREGISTER: u16 = 6;
    /// Agent: done.
    pub const OK: u16 = 7;
}

/// Why the agent refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// The agent speaks another ABI version.
    Version = 1,
    /// The peer may not use this agent.
    Permission = 2,
    /// The request makes no sense now: REGISTER before HELLO, HELLO twice.
    Order = 3,
    /// The thread is not one of the peer's process.
    NotYourThread = 4,
    /// The thread is registered already.
    AlreadyRegistered = 5,
    /// All slots of the process are taken, or the agent serves as many processes as it can.
    Full = 6,
    /// No such slot of this generation.
    NoSuchSlot = 7,
    /// The message could not be read.
    Malformed = 8,
    /// The agent failed; its log says how.
    Internal = 9,
}

impl Refusal {
    /// Every refusal, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Version,
        Self::Permission,
        Self::Order,
        Self::NotYourThread,
        Self::AlreadyRegistered,
        Self::Full,
        Self::NoSuchSlot,
        Self::Malformed,
        Self::Internal,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| *refusal as u32 == number)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "the agent speaks another ABI version",
            Self::Permission => "this user may not use the agent",
            Self::Order => "the request came out of order",
            Self::NotYourThread => "the thread is not one of this process",
            Self::AlreadyRegistered => "the thread is registered already",
            Self::Full => "no slot is free",
            Self::NoSuchSlot => "no such slot",
            Self::Malformed => "the agent could not read the request",
            Self::Internal => "the agent failed; see its log",
        })
    }
}

/// A worker's name for people: UTF-8 without control characters, at most [`NAME_SIZE`] bytes, padded with NUL on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerName {
    bytes: [u8; NAME_SIZE],
    length: u8,
}

impl WorkerName {
    /// The name, cut at the last character that fits; control characters become `?`, since names end on terminals.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; NAME_SIZE];
        let mut length = 0;
        for letter in name.chars().map(|letter| if letter.is_control() { '?' } else { letter }) {
            let end = length + letter.len_utf8();
            let Some(place) = bytes.get_mut(length..end) else { break };
            letter.encode_utf8(place);
            length = end;
        }
        // NAME_SIZE fits a byte.
        Self { bytes, length: length as u8 }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)])
            .expect("both constructors take whole characters only")
    }

    fn from_wire(bytes: [u8; NAME_SIZE]) -> Option<Self> {
        let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
        let (name, padding) = bytes.split_at(length);
        let clean = core::str::from_utf8(name).ok()?.chars().all(|letter| !letter.is_control());
        (clean && padding.iter().all(|byte| *byte == 0)).then_some(Self { bytes, length: length as u8 })
    }
}

impl fmt::Debug for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a thread registers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// The thread, in the peer's PID namespace: above 0.
    pub tid: u32,
    /// Consent to escalation outside critical sections.
    pub escapable: bool,
    /// What escalation may do.
    pub policy: EscalationPolicy,
    /// ns between an unanswered hint and the earliest escalation.
    pub grace_ns: u32,
    /// ns of its own CPU time without a hint after which the worker wants LOCAL, whether or not anybody waits for the CPU:
    /// what waits for this thread alone no kernel sees. 0: it has no tasks of its own, and gets no LOCAL at all.
    pub rotation_ns: u32,
    /// For people.
    pub name: WorkerName,
}

/// A message of a client or to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Client: begin.
    Hello {
        /// The client's [`ABI_VERSION`](crate::ABI_VERSION).
        abi_version: u32,
    },
    /// Agent: the packet carries the pages' descriptors.
    Welcome {
        /// The agent's [`ABI_VERSION`](crate::ABI_VERSION).
        abi_version: u32,
        /// [`flags`](crate::flags), as in the pages' header.
        flags: u32,
        /// The agent's run, as in the pages' header.
        generation: u64,
    },
    /// Agent: no.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The agent's [`ABI_VERSION`](crate::ABI_VERSION).
        abi_version: u32,
    },
    /// Client: a thread is a worker from now on.
    Register(Registration),
    /// Agent: the worker's place.
    Registered {
        /// The slot in both pages.
        slot: Slot,
        /// The slot's generation, as in the kernel line.
        slot_generation: u32,
    },
    /// Client: the worker is none any more.
    Unregister {
        /// Its slot.
        slot: Slot,
        /// The generation it was registered with.
        slot_generation: u32,
    },
    /// Agent: done.
    Ok,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than a head.
    Short(usize),
    /// Another protocol.
    Magic(u32),
    /// Another version of this protocol.
    Version(u16),
    /// The length in the head, the packet and the kind do not agree.
    Length(u32),
    /// No such kind here; operator's messages are decoded by the agent.
    Kind(u16),
    /// A field of a message of this kind has a value it cannot have.
    Field(u16),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(length) => write!(f, "a message of {length} bytes is too short"),
            Self::Magic(found) => write!(f, "not a Morpheus message (it starts with {found:#x})"),
            Self::Version(found) => {
                write!(f, "the message has protocol version {found}, this side speaks {PROTOCOL_VERSION}")
            }
            Self::Length(length) => write!(f, "a message with the wrong length {length}"),
            Self::Kind(found) => write!(f, "unknown message kind {found:#x}"),
            Self::Field(kind) => write!(f, "a field of a message of kind {kind:#x} has an impossible value"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// The first 12 bytes of every message, operator's included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the body is.
    pub kind: u16,
    /// Bytes of the whole message.
    pub length: u32,
}

impl Head {
    /// Reads the head of a packet and checks it against the packet's length.
    ///
    /// # Errors
    /// When the packet is too short, of another protocol or version, or not as long as it says.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(packet);
        let short = DecodeError::Short(packet.len());
        let magic = reader.u32().ok_or(short)?;
        let version = reader.u16().ok_or(short)?;
        let kind = reader.u16().ok_or(short)?;
        let length = reader.u32().ok_or(short)?;
        if magic != PROTOCOL_MAGIC {
            Err(DecodeError::Magic(magic))
        } else if version != PROTOCOL_VERSION {
            Err(DecodeError::Version(version))
        } else if usize::try_from(length) != Ok(packet.len()) {
            Err(DecodeError::Length(length))
        } else {
            Ok(Self { kind, length })
        }
    }

    /// The head's bytes.
    pub fn encode(self) -> [u8; HEAD_SIZE] {
        let mut bytes = [0; HEAD_SIZE];
        bytes[..4].copy_from_slice(&PROTOCOL_MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }
}

/// Takes little-endian numbers from the front of bytes.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
    fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }
}

/// A message's bytes, ready to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    bytes: [u8; MAX_MESSAGE],
    length: usize,
}

impl Packet {
    fn put(&mut self, field: &[u8]) {
        let end = self.length + field.len();
        self.bytes[self.length..end].copy_from_slice(field);
        self.length = end;
    }
}

impl core::ops::Deref for Packet {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Message {
    /// The message's kind.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Hello { .. } => kind::HELLO,
            Self::Welcome { .. } => kind::WELCOME,
            Self::Refused { .. } => kind::REFUSED,
            Self::Register(_) => kind::REGISTER,
            Self::Registered { .. } => kind::REGISTERED,
            Self::Unregister { .. } => kind::UNREGISTER,
            Self::Ok => kind::OK,
        }
    }

    /// The message's bytes.
    pub fn encode(&self) -> Packet {
        let mut packet = Packet { bytes: [0; MAX_MESSAGE], length: HEAD_SIZE };
        match self {
            Self::Hello { abi_version } => packet.put(&abi_version.to_le_bytes()),
            Self::Welcome { abi_version, flags, generation } => {
                packet.put(&abi_version.to_le_bytes());
                packet.put(&flags.to_le_bytes());
                packet.put(&generation.to_le_bytes());
            }
            Self::Refused { refusal, abi_version } => {
                packet.put(&(*refusal as u32).to_le_bytes());
                packet.put(&abi_version.to_le_bytes());
            }
            Self::Register(registration) => {
                packet.put(&registration.tid.to_le_bytes());
                packet.put(&u32::from(registration.escapable).to_le_bytes());
                packet.put(&registration.policy.number().to_le_bytes());
                packet.put(&registration.grace_ns.to_le_bytes());
                packet.put(&registration.rotation_ns.to_le_bytes());
                packet.put(&registration.name.bytes);
            }
            Self::Registered { slot, slot_generation } | Self::Unregister { slot, slot_generation } => {
                packet.put(&(slot.index() as u32).to_le_bytes());
                packet.put(&slot_generation.to_le_bytes());
            }
            Self::Ok => {}
        }
        // The length is at most MAX_MESSAGE.
        let head = Head { kind: self.kind(), length: packet.length as u32 };
        packet.bytes[..HEAD_SIZE].copy_from_slice(&head.encode());
        packet
    }

    /// Reads a packet. Total: any bytes give a message or an error.
    ///
    /// # Errors
    /// What is wrong with the first thing that is.
    pub fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        let head = Head::decode(packet)?;
        let mut body = Reader(&packet[HEAD_SIZE..]);
        let message = Self::body(head.kind, &mut body, DecodeError::Length(head.length))?;
        if body.0.is_empty() { Ok(message) } else { Err(DecodeError::Length(head.length)) }
    }

    fn body(kind: u16, body: &mut Reader<'_>, length: DecodeError) -> Result<Self, DecodeError> {
        let field = DecodeError::Field(kind);
        let slot = |body: &mut Reader<'_>| -> Result<(Slot, u32), DecodeError> {
            let slot = body.u32().ok_or(length)?;
            let slot_generation = body.u32().ok_or(length)?;
            Ok((Slot::new(slot).ok_or(field)?, slot_generation))
        };
        Ok(match kind {
            kind::HELLO => Self::Hello { abi_version: body.u32().ok_or(length)? },
            kind::WELCOME => Self::Welcome {
                abi_version: body.u32().ok_or(length)?,
                flags: body.u32().ok_or(length)?,
                generation: body.u64().ok_or(length)?,
            },
            kind::REFUSED => Self::Refused {
                refusal: Refusal::from_number(body.u32().ok_or(length)?).ok_or(field)?,
                abi_version: body.u32().ok_or(length)?,
            },
            kind::REGISTER => Self::Register(Registration {
                tid: body.u32().ok_or(length)?,
                escapable: match body.u32().ok_or(length)? {
                    0 => false,
                    1 => true,
                    _ => return Err(field),
                },
                policy: EscalationPolicy::from_number(body.u32().ok_or(length)?).ok_or(field)?,
                grace_ns: body.u32().ok_or(length)?,
                rotation_ns: body.u32().ok_or(length)?,
                name: WorkerName::from_wire(body.bytes().ok_or(length)?).ok_or(field)?,
            }),
            kind::REGISTERED => {
                let (slot, slot_generation) = slot(body)?;
                Self::Registered { slot, slot_generation }
            }
            kind::UNREGISTER => {
                let (slot, slot_generation) = slot(body)?;
                Self::Unregister { slot, slot_generation }
            }
            kind::OK => Self::Ok,
            unknown => return Err(DecodeError::Kind(unknown)),
        })
    }
}

//! Messages with typed headers: a kind, an id that pairs answers with questions, and a body.

use alloc::vec::Vec;

use holm_abi::{Error, Field};

use crate::channel::{Received, Sending};
use crate::object::Channel;
use crate::time::Deadline;

/// What stands before every body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub kind: u32,
    /// Bytes of the body.
    pub bytes: u32,
    /// Chosen by the sender; an answer carries that of its question.
    pub id: u64,
}

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = 16;

    /// Reads the header in front of `message` and gives the body behind it; `None` when the lengths do not agree.
    #[must_use]
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let kind = u32::get(message.get(0..4)?).ok()?;
        let bytes = u32::get(message.get(4..8)?).ok()?;
        let id = u64::get(message.get(8..16)?).ok()?;
        let body = message.get(Self::SIZE..)?;
        (body.len() == bytes as usize).then_some((Self { kind, bytes, id }, body))
    }

    /// The header and a body as one message.
    #[must_use]
    pub fn join(kind: u32, id: u64, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(Self::SIZE + body.len());
        message.extend(kind.to_le_bytes());
        message.extend((body.len() as u32).to_le_bytes());
        message.extend(id.to_le_bytes());
        message.extend(body);
        message
    }
}

/// A body of one kind.
pub trait Body: Sized {
    /// The kind: unique within a protocol.
    const KIND: u32;

    /// Writes the body.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads a body; `None` when the bytes are none.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// A message received, taken apart.
#[derive(Debug)]
pub struct Incoming {
    /// Its header.
    pub header: Header,
    /// The whole message.
    pub received: Received,
}

impl Incoming {
    /// The body, when it is of this kind.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is of this kind and cannot be read.
    pub fn body<T: Body>(&self) -> Result<Option<T>, Error> {
        if self.header.kind != T::KIND {
            return Ok(None);
        }
        let body = self.received.payload.get(Header::SIZE..).unwrap_or_default();
        T::read(body).map(Some).ok_or(Error::Invalid)
    }
}

fn message<T: Body>(id: u64, body: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.write(&mut bytes);
    Header::join(T::KIND, id, &bytes)
}

fn incoming(received: Received) -> Result<Incoming, Error> {
    let (header, _) = Header::split(&received.payload).ok_or(Error::Invalid)?;
    Ok(Incoming { header, received })
}

impl Channel {
    /// Sends a typed message.
    ///
    /// # Errors
    /// Those of chan_send.
    pub fn send_message<T: Body>(&self, id: u64, body: &T, deadline: Deadline) -> Result<(), Error> {
        self.send_with(&message(id, body), &Sending::default(), deadline)
    }

    /// Receives a typed message.
    ///
    /// # Errors
    /// Those of chan_recv; [`Error::Invalid`] for a message without a header.
    pub fn receive_message(&self, max_bytes: usize, deadline: Deadline) -> Result<Incoming, Error> {
        incoming(self.receive(max_bytes, deadline)?)
    }

    /// Calls with a typed message and reads the answer, which must be of kind `A` and carry the same id.
    ///
    /// # Errors
    /// Those of chan_call; [`Error::Invalid`] for another answer.
    pub fn ask<Q: Body, A: Body>(
        &self,
        id: u64,
        question: &Q,
        max_bytes: usize,
        deadline: Deadline,
    ) -> Result<A, Error> {
        let answer = incoming(self.call(&message(id, question), max_bytes, deadline)?)?;
        if answer.header.id != id {
            return Err(Error::Invalid);
        }
        answer.body()?.ok_or(Error::Invalid)
    }

    /// Answers a typed message.
    ///
    /// # Errors
    /// Those of chan_reply; [`Error::NotFound`] when nobody waits for an answer.
    pub fn answer<T: Body>(&self, question: &mut Incoming, body: &T) -> Result<(), Error> {
        let token = question.received.reply.take().ok_or(Error::NotFound)?;
        self.reply(token, &message(question.header.id, body), &[])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn joined_messages_split_into_the_same_parts(kind: u32, id: u64, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let message = Header::join(kind, id, &body);
            let (header, back) = Header::split(&message).expect("it was joined");
            prop_assert_eq!((header.kind, header.id, back), (kind, id, &body[..]));
        }

        #[test]
        fn any_bytes_split_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some((header, body)) = Header::split(&bytes) {
                prop_assert_eq!(Header::join(header.kind, header.id, body), bytes);
            }
        }
    }
}

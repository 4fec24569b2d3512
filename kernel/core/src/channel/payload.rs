//! Copying payloads between registers, user memory and the blocks of an inbox.

use holm_abi::{CapTransfer, Error};

use super::check::{Crc, Header};
use super::deliver::Undelivered;
use super::inbox::{Cursor, Inbox};
use super::pieces::{Mark, PIECE, Progress, enough, long};
use super::request::{From, Into, ReceiveRequest, SendRequest};
use super::{ChannelId, End};
use crate::cap::transfer::Parcel;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::thread::{Registers, ThreadId};
use crate::unit::UnitId;

/// Bytes of a short message.
pub(super) const SHORT: usize = holm_abi::limits::SHORT_BYTES as usize;

/// The argument words of a short message as bytes.
#[inline]
pub(super) fn words_of(registers: &Registers) -> [u8; SHORT] {
    let mut bytes = [0; SHORT];
    let words = [registers.rdx, registers.r10, registers.r8, registers.r9];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Puts the first `length` bytes into the registers; the rest is zero.
#[inline]
pub(super) fn put_words(registers: &mut Registers, bytes: &[u8; SHORT], length: usize) {
    let mut words = [0u64; 4];
    for (at, (word, from)) in words.iter_mut().zip(bytes.chunks_exact(8)).enumerate() {
        let word_bytes: [u8; 8] = from.try_into().unwrap_or_default();
        *word = cut(u64::from_le_bytes(word_bytes), length.saturating_sub(at * 8));
    }
    [registers.rdx, registers.r10, registers.r8, registers.r9] = words;
}

/// A word of which only the first `bytes` bytes count.
#[inline]
pub(super) const fn cut(word: u64, bytes: usize) -> u64 {
    if bytes >= 8 { word } else { word & !(u64::MAX << (8 * bytes)) }
}

impl<M: Machine> Kernel<M> {
    /// Copies a part of what a thread sends into kernel memory.
    ///
    /// # Errors
    /// [`Error::Fault`].
    pub(super) fn payload_in(
        &mut self,
        sender: ThreadId,
        unit: UnitId,
        from: From,
        offset: usize,
        to: &mut [u8],
    ) -> Result<(), Error> {
        match from {
            From::Memory(address) => self.copy_in(unit, address.checked_add(offset as u64).ok_or(Error::Fault)?, to),
            From::Registers => {
                let words = self.threads.get(sender).map_or([0; SHORT], |thread| words_of(&thread.registers));
                let part = words.get(offset..offset + to.len()).ok_or(Error::Invalid)?;
                to.copy_from_slice(part);
                Ok(())
            }
        }
    }

    /// Reads the records of the capabilities of a message, and decides whether they may travel over the channel `id`.
    ///
    /// # Errors
    /// [`Error::Fault`], [`Error::Invalid`] for an unknown mode or right, and those of [`Kernel::parcel_add`].
    pub(super) fn records_in(
        &mut self,
        unit: UnitId,
        id: ChannelId,
        request: &SendRequest,
        parcel: &mut Parcel,
    ) -> Result<(), Error> {
        let From::Memory(_) = request.from else {
            return match request.cap_count {
                0 => Ok(()),
                _ => self.parcel_add(unit, &CapTransfer::from_register(request.caps)?, Some(id), parcel),
            };
        };
        match request.cap_count {
            1 => self.records_read::<1>(unit, id, request, parcel),
            _ => self.records_read::<8>(unit, id, request, parcel),
        }
    }

    fn records_read<const AT_ONCE: usize>(
        &mut self,
        unit: UnitId,
        id: ChannelId,
        request: &SendRequest,
        parcel: &mut Parcel,
    ) -> Result<(), Error> {
        let (mut at, mut left) = (request.caps, request.cap_count as usize);
        while left > 0 {
            let mut bytes = [[0; CapTransfer::SIZE]; AT_ONCE];
            let bytes = bytes.get_mut(..left.min(AT_ONCE)).unwrap_or_default();
            self.copy_in(unit, at, bytes.as_flattened_mut())?;
            for record in &*bytes {
                self.parcel_add(unit, &CapTransfer::decode_whole(record)?, Some(id), parcel)?;
            }
            at = at.checked_add(bytes.as_flattened().len() as u64).ok_or(Error::Fault)?;
            left -= bytes.len();
        }
        Ok(())
    }

    /// Copies what a thread sends, from the byte `offset` of it on, to where `cursor` says in an inbox.
    ///
    /// # Errors
    /// [`Error::Fault`].
    #[expect(clippy::too_many_arguments, reason = "what is copied, from where, and to where")]
    pub(super) fn payload_into(
        &mut self,
        sender: ThreadId,
        unit: UnitId,
        request: &SendRequest,
        offset: u32,
        (id, to): (ChannelId, End),
        mut cursor: Cursor,
        mut crc: Option<&mut Crc>,
    ) -> Result<(), Error> {
        let Some(mut blocks) = self.inbox_mut(id, to).map(Inbox::lend) else { return Err(Error::PeerClosed) };
        let (mut offset, mut result) = (offset as usize, Ok(()));
        while let Some(piece) = self.inbox(id, to).and_then(|inbox| inbox.advance(&mut cursor)) {
            let Some(place) = blocks.get_mut(piece) else { break };
            result = self.payload_in(sender, unit, request.from, offset, place);
            if result.is_err() {
                break;
            }
            if let Some(crc) = &mut crc {
                crc.add(place);
            }
            offset += place.len();
        }
        if let Some(inbox) = self.inbox_mut(id, to) {
            inbox.give_back(blocks);
        }
        result
    }

    /// Whether `length` bytes of a payload from `offset` on can be read: touches each of their pages.
    ///
    /// # Errors
    /// [`Error::Fault`].
    pub(super) fn probe(&mut self, unit: UnitId, request: &SendRequest, offset: u32, length: u32) -> Result<(), Error> {
        let From::Memory(address) = request.from else { return Ok(()) };
        let Some(last) = u64::from(length).checked_sub(1) else { return Ok(()) };
        let mut at = address.checked_add(u64::from(offset)).ok_or(Error::Fault)?;
        let end = at.checked_add(last).ok_or(Error::Fault)?;
        loop {
            self.copy_in(unit, at, &mut [0])?;
            if at == end {
                return Ok(());
            }
            at = ((at | (crate::machine::PAGE_SIZE as u64 - 1)) + 1).min(end);
        }
    }

    /// Copies a piece of the payload of a queued message out, and says when there is more to do before its capabilities
    /// arrive. Of a short receive it answers the bytes instead.
    #[expect(clippy::too_many_arguments, reason = "the message, and who receives it how")]
    pub(super) fn payload_out(
        &mut self,
        id: ChannelId,
        end: End,
        slot: u32,
        header: &Header,
        receiver: ThreadId,
        unit: UnitId,
        request: &ReceiveRequest,
    ) -> Result<[u8; SHORT], Undelivered> {
        let mut words = [0; SHORT];
        let Some(inbox) = self.inbox(id, end) else { return Err(Undelivered::Damaged) };
        let (mut cursor, mut crc) = (inbox.cursor(slot, request.room), Crc::new());
        let mut offset = 0;
        if let Progress::Out { sequence, cursor: left, done, crc: sum } = self.progress(receiver)
            && sequence == header.sequence
        {
            (cursor, offset, crc) = (left, done as usize, sum);
        }
        let Some(blocks) = self.inbox_mut(id, end).map(Inbox::lend) else { return Err(Undelivered::Damaged) };
        let (begin, mut result) = (offset, Ok(()));
        while let Some(piece) = self.inbox(id, end).and_then(|inbox| inbox.advance(&mut cursor)) {
            let Some(bytes) = blocks.get(piece) else { break };
            if header.crc.is_some() {
                crc.add(bytes);
            }
            result = match request.into {
                Into::Memory { buffer, .. } => match buffer.checked_add(offset as u64) {
                    Some(address) => self.copy_out(unit, address, bytes),
                    None => Err(Error::Fault),
                },
                Into::Registers => {
                    if let Some(place) = words.get_mut(offset..offset + bytes.len()) {
                        place.copy_from_slice(bytes);
                    }
                    Ok(())
                }
            };
            if result.is_err() {
                break;
            }
            offset += bytes.len();
            if offset - begin >= PIECE as usize {
                break;
            }
        }
        if let Some(inbox) = self.inbox_mut(id, end) {
            inbox.give_back(blocks);
        }
        result.map_err(Undelivered::Receiver)?;
        let copied = (offset - begin) as u32;
        if cursor.left() > 0 || (long(header.length, header.cap_count) && enough(copied, 0)) {
            let done = offset as u32;
            self.progress_is(receiver, Progress::Out { sequence: header.sequence, cursor, done, crc });
            return Err(Undelivered::More);
        }
        // A payload that was cut cannot be checked.
        if offset == header.length as usize && header.crc.is_some_and(|sent| sent != crc.value()) {
            return Err(Undelivered::Damaged);
        }
        Ok(words)
    }

    /// Copies a piece of what `from` sends to where `to` receives, from thread to thread, and says when there is more to do
    /// before `caps` capabilities arrive; `keeper` notes how far it came. Of a short receive it answers the bytes.
    pub(super) fn payload_across(
        &mut self,
        from: ThreadId,
        to: ThreadId,
        length: u32,
        caps: u32,
        (keeper, mark): (ThreadId, Mark),
    ) -> Result<[u8; SHORT], Undelivered> {
        let mut words = [0; SHORT];
        let (Some(sender), Some(receiver)) = (self.threads.get(from), self.threads.get(to)) else {
            return Err(Undelivered::Damaged);
        };
        let (source, sender_unit) = (sender.calls.send.from, sender.unit);
        let (into, receiver_unit) = (receiver.calls.receive.into, receiver.unit);
        match into {
            Into::Registers => {
                let part = words.get_mut(..length as usize).ok_or(Undelivered::Receiver(Error::MessageSize))?;
                self.payload_in(from, sender_unit, source, 0, part).map_err(Undelivered::Sender)?;
            }
            // Most are short: then most of what the copy costs would be the bytes between.
            Into::Memory { buffer, .. } if length <= 64 => {
                self.chunks_across::<64>((from, sender_unit, source), (receiver_unit, buffer), 0, length)?;
            }
            Into::Memory { buffer, .. } => {
                let begin = self.across_done(keeper, mark).min(length);
                let end = length.min(begin + PIECE);
                self.chunks_across::<1024>((from, sender_unit, source), (receiver_unit, buffer), begin, end)?;
                if end < length || (long(length, caps) && enough(end - begin, 0)) {
                    self.progress_is(keeper, Progress::Across { mark, done: end });
                    return Err(Undelivered::More);
                }
            }
        }
        Ok(words)
    }

    fn chunks_across<const BYTES: usize>(
        &mut self,
        (from, sender_unit, source): (ThreadId, UnitId, From),
        (receiver_unit, buffer): (UnitId, u64),
        begin: u32,
        end: u32,
    ) -> Result<(), Undelivered> {
        let mut chunk = [0; BYTES];
        let (mut offset, end) = (begin as usize, end as usize);
        while offset < end {
            let size = BYTES.min(end - offset);
            let Some(part) = chunk.get_mut(..size) else { break };
            self.payload_in(from, sender_unit, source, offset, part).map_err(Undelivered::Sender)?;
            let address = buffer.checked_add(offset as u64).ok_or(Undelivered::Receiver(Error::Fault))?;
            self.copy_out(receiver_unit, address, part).map_err(Undelivered::Receiver)?;
            offset += size;
        }
        Ok(())
    }
}

//! Copying payloads between registers, user memory and the blocks of an inbox.

use holm_abi::{CapTransfer, Error};

use super::ChannelId;
use super::request::{From, SendRequest};
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
        for at in 0..u64::from(request.cap_count) {
            let transfer = match request.from {
                From::Registers => CapTransfer::from_register(request.caps)?,
                From::Memory(_) => {
                    let mut bytes = [0; CapTransfer::SIZE];
                    let address = request.caps.checked_add(at * CapTransfer::SIZE as u64).ok_or(Error::Fault)?;
                    self.copy_in(unit, address, &mut bytes)?;
                    CapTransfer::decode_whole(&bytes)?
                }
            };
            self.parcel_add(unit, &transfer, Some(id), parcel)?;
        }
        Ok(())
    }

    /// Whether all of a payload can be read: touches each of its pages.
    ///
    /// # Errors
    /// [`Error::Fault`].
    pub(super) fn payload_probe(&mut self, unit: UnitId, request: &SendRequest) -> Result<(), Error> {
        let From::Memory(address) = request.from else { return Ok(()) };
        let Some(last) = u64::from(request.length).checked_sub(1) else { return Ok(()) };
        let end = address.checked_add(last).ok_or(Error::Fault)?;
        let mut at = address;
        loop {
            self.copy_in(unit, at, &mut [0])?;
            if at == end {
                return Ok(());
            }
            at = ((at | (crate::machine::PAGE_SIZE as u64 - 1)) + 1).min(end);
        }
    }
}

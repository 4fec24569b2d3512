//! Access to the memory of user programs: the kernel walks their tables itself and never follows their pointers.
//!
//! A page that is not in the tables is brought there as a fault would do. Any address may be asked for; one that leads
//! nowhere answers `Fault`.

use holm_abi::Error;

use super::{Access, AddressSpaceId};
use crate::kernel::Kernel;
use crate::machine::{FrameNumber, Machine, PAGE_SIZE, USER_END};
use crate::unit::UnitId;

/// The longest part of a user's range that lies in one page.
const fn part(address: u64, left: usize) -> usize {
    let room = PAGE_SIZE - address as usize % PAGE_SIZE;
    if left < room { left } else { room }
}

impl<M: Machine> Kernel<M> {
    /// The space of a unit.
    #[inline]
    fn space_of_unit(&self, unit: UnitId) -> Result<AddressSpaceId, Error> {
        self.units.get(unit).and_then(|unit| unit.memory.space).ok_or(Error::Fault)
    }

    /// The frame behind an address, for an access.
    #[inline]
    fn user_frame(&mut self, space: AddressSpaceId, address: u64, access: Access) -> Result<FrameNumber, Error> {
        if address >= USER_END {
            return Err(Error::Fault);
        }
        let root = self.spaces.get(space).ok_or(Error::Fault)?.root;
        match self.machine.translate(root, address & !(PAGE_SIZE as u64 - 1)) {
            Some((frame, rights)) if rights.write || access == Access::Read => Ok(frame),
            _ => loop {
                match self.space_fault(space, address, access) {
                    Err(Error::Interrupted) => {}
                    done => return done,
                }
            },
        }
    }

    /// Copies bytes out of a space.
    ///
    /// # Errors
    /// `Fault` when a byte is not readable; `Quota`, `NoMemory` when a page is due and cannot be had. `to` may be changed.
    pub(crate) fn space_read(&mut self, space: AddressSpaceId, address: u64, to: &mut [u8]) -> Result<(), Error> {
        let (mut address, mut to) = (address, to);
        while !to.is_empty() {
            let length = part(address, to.len());
            let frame = self.user_frame(space, address, Access::Read)?;
            let Some((now, rest)) = to.split_at_mut_checked(length) else { return Err(Error::Fault) };
            self.machine.frame_read(frame, address as usize % PAGE_SIZE, now);
            to = rest;
            address = address.wrapping_add(length as u64);
        }
        Ok(())
    }

    /// Copies bytes into a space.
    ///
    /// # Errors
    /// As [`Kernel::space_read`]; bytes before the one that failed are written.
    pub(crate) fn space_write(&mut self, space: AddressSpaceId, address: u64, from: &[u8]) -> Result<(), Error> {
        let (mut address, mut from) = (address, from);
        while !from.is_empty() {
            let length = part(address, from.len());
            let frame = self.user_frame(space, address, Access::Write)?;
            let Some((now, rest)) = from.split_at_checked(length) else { return Err(Error::Fault) };
            self.machine.frame_write(frame, address as usize % PAGE_SIZE, now);
            from = rest;
            address = address.wrapping_add(length as u64);
        }
        Ok(())
    }

    /// Copies bytes from the memory of a unit. See [`Kernel::space_read`].
    pub(crate) fn copy_in(&mut self, unit: UnitId, address: u64, to: &mut [u8]) -> Result<(), Error> {
        let space = self.space_of_unit(unit)?;
        self.space_read(space, address, to)
    }

    /// Copies bytes into the memory of a unit. See [`Kernel::space_write`].
    pub(crate) fn copy_out(&mut self, unit: UnitId, address: u64, from: &[u8]) -> Result<(), Error> {
        let space = self.space_of_unit(unit)?;
        self.space_write(space, address, from)
    }

    /// Copies bytes from the memory of one unit into that of another, or of the same (where ranges that overlap are copied
    /// page part by page part, from the start).
    ///
    /// # Errors
    /// As [`Kernel::space_read`] and [`Kernel::space_write`]; bytes before the one that failed are written.
    pub(crate) fn copy_between(
        &mut self,
        from_unit: UnitId,
        from: u64,
        to_unit: UnitId,
        to: u64,
        length: u64,
    ) -> Result<(), Error> {
        let (source, target) = (self.space_of_unit(from_unit)?, self.space_of_unit(to_unit)?);
        let mut done = 0;
        while done < length {
            let (at, into) = (from.wrapping_add(done), to.wrapping_add(done));
            let left = usize::try_from(length - done).unwrap_or(usize::MAX);
            let now = part(at, part(into, left));
            // The target first: its fault may replace a shared frame, which the source then reads from its new place.
            let target = self.user_frame(target, into, Access::Write)?;
            let source = self.user_frame(source, at, Access::Read)?;
            let (at, into) = (at as usize % PAGE_SIZE, into as usize % PAGE_SIZE);
            if source == target {
                let mut bytes = [0; PAGE_SIZE];
                let bytes = bytes.get_mut(..now).ok_or(Error::Fault)?;
                self.machine.frame_read(source, at, bytes);
                self.machine.frame_write(target, into, bytes);
            } else {
                self.machine.frame_move(source, at, target, into, now);
            }
            done += now as u64;
        }
        Ok(())
    }
}

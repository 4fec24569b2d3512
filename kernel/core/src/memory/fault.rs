//! Page faults: a page that is due comes into the tables, or the access is refused.

use holm_abi::{Error, Protection};

use super::AddressSpaceId;
use crate::kernel::Kernel;
use crate::machine::{Flush, FrameNumber, Machine, PAGE_SIZE, PageRights, SpaceId};

const PAGE: u64 = PAGE_SIZE as u64;

/// What is done with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl Access {
    /// What a page fault says of it.
    #[must_use]
    pub const fn of(write: bool, execute: bool) -> Self {
        match (write, execute) {
            (true, _) => Self::Write,
            (false, true) => Self::Execute,
            (false, false) => Self::Read,
        }
    }

    /// What a mapping must allow.
    const fn needs(self) -> Protection {
        match self {
            Self::Read => Protection::NONE,
            Self::Write => Protection::WRITE,
            Self::Execute => Protection::EXECUTE,
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// Brings the page of `address` into a space's tables so that `access` succeeds, and says its frame.
    ///
    /// # Errors
    /// `Fault` when nothing is mapped there or not for this; `Quota`, `NoMemory` when a page is due and cannot be had;
    /// `Interrupted` when it takes another step.
    pub(crate) fn space_fault(
        &mut self,
        id: AddressSpaceId,
        address: u64,
        access: Access,
    ) -> Result<FrameNumber, Error> {
        let (root, frame, rights) = self.page_due(id, address, access)?;
        let page = address & !(PAGE - 1);
        let shown = self.machine.translate(root, page);
        if shown == Some((frame, rights)) {
            // Another processor was faster.
            return Ok(frame);
        }
        self.table_set(id, page, frame, rights)?;
        if shown.is_some() {
            self.machine.flush(root, Flush::Range { address: page, pages: 1 });
        }
        Ok(frame)
    }

    /// As [`Kernel::space_fault`], for an address that the tables show nothing at. When another processor was faster they do
    /// now: the very same, since everything that changes what is due takes it out of the tables.
    ///
    /// # Errors
    /// As [`Kernel::space_fault`].
    #[inline]
    pub(crate) fn space_fault_absent(
        &mut self,
        id: AddressSpaceId,
        address: u64,
        access: Access,
    ) -> Result<FrameNumber, Error> {
        let (root, frame, rights) = self.page_due(id, address, access)?;
        let page = address & !(PAGE - 1);
        debug_assert!(self.machine.translate(root, page).is_none_or(|shown| shown == (frame, rights)));
        self.table_set(id, page, frame, rights)?;
        Ok(frame)
    }

    /// What the tables are to show at `address` for an access: in which space, which frame, with which rights.
    #[inline]
    fn page_due(
        &mut self,
        id: AddressSpaceId,
        address: u64,
        access: Access,
    ) -> Result<(SpaceId, FrameNumber, PageRights), Error> {
        let space = self.spaces.get(id).ok_or(Error::Fault)?;
        let root = space.root;
        let mapping = space.mappings.find(address).ok_or(Error::Fault)?;
        let rights = mapping.rights;
        // A mapping without any right shows nothing.
        if rights.is_none() || !rights.contains(access.needs()) {
            return Err(Error::Fault);
        }
        let (region, offset) = (mapping.region, address.wrapping_sub(mapping.delta()));
        let (frame, own) = self.region_page_step(region, offset / PAGE, access == Access::Write)?;
        let rights = PageRights {
            write: own && rights.contains(Protection::WRITE),
            execute: rights.contains(Protection::EXECUTE),
        };
        Ok((root, frame, rights))
    }
}

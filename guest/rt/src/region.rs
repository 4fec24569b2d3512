//! Regions of memory and guest spaces.

use holm_abi::{Error, Handle, MapFlags, MapSpec, Protection, RegionFlags, RegionInfo, RegionSpec, Rights};

use crate::object::{Object, Owned, Region, Space, Unit};
use crate::sys::{self, Guest, Mapping};

impl Region {
    /// A region of zero pages, given when they are first touched.
    ///
    /// # Errors
    /// Those of vm_region_create.
    pub fn new(bytes: u64) -> Result<Self, Error> {
        Self::with(bytes, RegionFlags::NONE)
    }

    /// A region with flags.
    ///
    /// # Errors
    /// Those of vm_region_create.
    pub fn with(bytes: u64, flags: RegionFlags) -> Result<Self, Error> {
        sys::vm_region_create(&RegionSpec { bytes, flags, ..RegionSpec::new() })
            .map(|handle| Self::from_owned(Owned::new(handle)))
    }

    /// What the kernel tells about it.
    ///
    /// # Errors
    /// Those of vm_region_get_info.
    pub fn info(&self) -> Result<RegionInfo, Error> {
        let mut info = RegionInfo::new();
        sys::vm_region_get_info(self.handle(), &mut info)?;
        Ok(info)
    }

    /// Maps all of it into this unit.
    ///
    /// # Errors
    /// Those of vm_map.
    pub fn map(&self, protection: Protection) -> Result<Mapping, Error> {
        self.map_with(&MapSpec { protection, flags: MapFlags::NONE, ..MapSpec::new() })
    }

    /// Maps a part of it into this unit.
    ///
    /// # Errors
    /// Those of [`Mapping::new`].
    pub fn map_with(&self, spec: &MapSpec) -> Result<Mapping, Error> {
        Mapping::new(self.handle(), self.info()?.bytes, spec)
    }

    /// A region with the same content; pages are shared until either side writes.
    ///
    /// # Errors
    /// Those of vm_snapshot.
    pub fn snapshot(&self) -> Result<Self, Error> {
        sys::vm_snapshot(self.handle()).map(|handle| Self::from_owned(Owned::new(handle)))
    }

    /// Gives pages back; they read as zero afterwards.
    ///
    /// # Errors
    /// Those of vm_decommit.
    pub fn decommit(&self, offset: u64, bytes: u64) -> Result<(), Error> {
        sys::vm_decommit(self.handle(), offset, bytes)
    }

    /// Gives another unit a capability of it and says under which handle it has it there.
    ///
    /// # Errors
    /// Those of vm_share.
    pub fn share(&self, unit: &Unit, rights: Rights) -> Result<Handle, Error> {
        let raw = sys::vm_share(self.handle(), unit.handle(), rights)?;
        Handle::from_register(raw)
    }

    /// Copies out of it without mapping; says how many bytes there were.
    ///
    /// # Errors
    /// Those of vm_region_read.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, Error> {
        sys::vm_region_read(self.handle(), offset, to).map(|bytes| bytes as usize)
    }

    /// Copies into it without mapping; says how many bytes were taken.
    ///
    /// # Errors
    /// Those of vm_region_write.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<usize, Error> {
        sys::vm_region_write(self.handle(), offset, from).map(|bytes| bytes as usize)
    }
}

impl Space {
    /// An empty guest space.
    ///
    /// # Errors
    /// Those of space_create.
    pub fn new() -> Result<Self, Error> {
        sys::space_create().map(|handle| Self::from_owned(Owned::new(handle)))
    }

    /// Maps a part of a region for the guest; says where.
    ///
    /// # Errors
    /// Those of vm_map.
    pub fn map(&self, region: &Region, spec: &MapSpec) -> Result<u64, Error> {
        sys::map_guest(self.handle(), region.handle(), spec)
    }

    /// Removes what the guest has in a range.
    ///
    /// # Errors
    /// Those of vm_unmap.
    pub fn unmap(&self, address: u64, bytes: u64) -> Result<(), Error> {
        sys::unmap_guest(self.handle(), address, bytes)
    }

    /// Changes what the guest may do with a range.
    ///
    /// # Errors
    /// Those of vm_protect.
    pub fn protect(&self, address: u64, bytes: u64, protection: Protection) -> Result<(), Error> {
        sys::protect_guest(self.handle(), address, bytes, protection)
    }

    /// Binds the calling thread to it.
    ///
    /// # Errors
    /// Those of vm_region_create, vm_map and restricted_bind.
    pub fn bind(&self) -> Result<Guest, Error> {
        Guest::with_own_state(self.handle())
    }
}

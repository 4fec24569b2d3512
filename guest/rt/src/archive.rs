//! The boot archive and its files; the system as a whole.

use alloc::string::String;
use alloc::vec::Vec;

use holm_abi::{
    ArchiveEntry, Error, KernelConfig, LogRange, Metrics, PowerAction, TraceFilter, TraceRecord, UnitFilter,
    UnitListEntry, limits,
};

use crate::object::{Archive, Image, Object, Owned, Region, System, Trace};
use crate::sys;

impl Archive {
    /// Its files in their order.
    ///
    /// # Errors
    /// Those of archive_list.
    pub fn list(&self) -> Result<Vec<ArchiveEntry>, Error> {
        let mut entries = Vec::new();
        loop {
            let mut slots = [[0; ArchiveEntry::SIZE]; 8];
            let count = sys::archive_list(self.handle(), entries.len() as u64, &mut slots)?;
            if count == 0 {
                return Ok(entries);
            }
            for slot in slots.iter().take(count as usize) {
                entries.push(ArchiveEntry::decode_whole(slot)?);
            }
        }
    }

    /// Opens a file.
    ///
    /// # Errors
    /// Those of archive_open.
    pub fn open(&self, name: &str) -> Result<Image, Error> {
        sys::archive_open(self.handle(), name.as_bytes()).map(|handle| Image::from_owned(Owned::new(handle)))
    }
}

impl Image {
    /// Reads from an offset; 0 at the end.
    ///
    /// # Errors
    /// Those of image_read.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, Error> {
        sys::image_read(self.handle(), offset, to).map(|bytes| bytes as usize)
    }

    /// The whole file as text; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// Those of image_read; [`Error::TooBig`] above 1 MiB.
    pub fn text(&self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        let mut piece = [0; 512];
        loop {
            match self.read(bytes.len() as u64, &mut piece)? {
                0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                _ if bytes.len() > 1 << 20 => return Err(Error::TooBig),
                count => bytes.extend(piece.iter().take(count)),
            }
        }
    }

    /// A region with the content of the file.
    ///
    /// # Errors
    /// Those of image_map_region.
    pub fn region(&self) -> Result<Region, Error> {
        sys::image_map_region(self.handle()).map(|handle| Region::from_owned(Owned::new(handle)))
    }
}

impl System {
    /// Every unit by ascending id.
    ///
    /// # Errors
    /// Those of sys_list_units.
    pub fn units(&self) -> Result<Vec<UnitListEntry>, Error> {
        self.units_that(&UnitFilter::new())
    }

    /// The units that pass a filter, by ascending id.
    ///
    /// # Errors
    /// Those of sys_list_units.
    pub fn units_that(&self, filter: &UnitFilter) -> Result<Vec<UnitListEntry>, Error> {
        let mut filter = *filter;
        let mut units: Vec<UnitListEntry> = Vec::new();
        loop {
            let mut slots = [[0; UnitListEntry::SIZE]; 8];
            let count = sys::sys_list_units(self.handle(), &filter, &mut slots)?;
            if count == 0 {
                return Ok(units);
            }
            for slot in slots.iter().take(count as usize) {
                units.push(UnitListEntry::decode_whole(slot)?);
            }
            filter.after = units.last().map_or(filter.after, |unit| unit.id);
        }
    }

    /// The log from a record on, and the record after it.
    ///
    /// # Errors
    /// Those of sys_get_logs.
    pub fn log(&self, from: u64) -> Result<(String, LogRange), Error> {
        let mut range = LogRange { sequence: from, ..LogRange::new() };
        let mut text = Vec::new();
        let mut piece = [0; 1024];
        loop {
            let count = sys::sys_get_logs(self.handle(), &mut range, &mut piece)?;
            if count == 0 {
                return Ok((String::from_utf8_lossy(&text).into_owned(), range));
            }
            text.extend(piece.iter().take(count as usize));
        }
    }

    /// The figures of the whole system.
    ///
    /// # Errors
    /// Those of metrics_get.
    pub fn metrics(&self) -> Result<Metrics, Error> {
        let mut metrics = Metrics::new();
        sys::metrics_get(self.handle(), &mut metrics)?;
        Ok(metrics)
    }

    /// The kernel's knobs.
    ///
    /// # Errors
    /// Those of kernel_config_get.
    pub fn config(&self) -> Result<KernelConfig, Error> {
        let mut config = KernelConfig::new();
        sys::kernel_config_get(self.handle(), &mut config)?;
        Ok(config)
    }

    /// Sets the kernel's knobs.
    ///
    /// # Errors
    /// Those of kernel_config_set.
    pub fn configure(&self, config: &KernelConfig) -> Result<(), Error> {
        sys::kernel_config_set(self.handle(), config)
    }

    /// A reader of the trace that begins now.
    ///
    /// # Errors
    /// Those of trace_subscribe.
    pub fn trace(&self, filter: &TraceFilter) -> Result<Trace, Error> {
        sys::trace_subscribe(self.handle(), filter).map(|handle| Trace::from_owned(Owned::new(handle)))
    }

    /// Adds a record to the trace.
    ///
    /// # Errors
    /// Those of trace_emit.
    pub fn emit(&self, event: u32, data: &[u8]) -> Result<(), Error> {
        sys::trace_emit(self.handle(), u64::from(event), data)
    }

    /// Ends the machine. Returns only when that is refused.
    ///
    /// # Errors
    /// Those of system_power.
    pub fn power(&self, action: PowerAction, status: u8) -> Result<(), Error> {
        sys::system_power(self.handle(), action, u64::from(status))
    }
}

impl Trace {
    /// The records that are there, oldest first.
    ///
    /// # Errors
    /// Those of trace_read.
    pub fn read(&self) -> Result<Vec<TraceRecord>, Error> {
        let mut slots = [[0; TraceRecord::SIZE]; limits::MAX_RECORDS as usize];
        let count = sys::trace_read(self.handle(), &mut slots)?;
        slots.iter().take(count as usize).map(TraceRecord::decode_whole).collect()
    }
}

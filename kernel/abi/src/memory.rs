//! Memory: regions and mappings (seed 2).

use crate::ObjectType;
use crate::field::abi_struct;
use crate::words::{abi_enum, abi_flags};

abi_enum! {
    /// Where the content of a region comes from.
    pub enum Backing {
        /// Zero pages, given when they are first touched.
        Anonymous = 0,
        /// A snapshot of another region: pages are shared until either writes.
        Snapshot = 1,
        /// A file of the boot archive.
        Image = 2,
        /// Pages of the kernel, such as the time page.
        Kernel = 3,
    }
}

abi_flags! {
    /// Flags of a region.
    pub flags RegionFlags {
        /// Give every page at once, so that no fault and no shortage comes later (for RT threads).
        COMMIT = 0,
    }
}

abi_struct! {
    /// How a region is to be made.
    pub struct RegionSpec version 1 {
        /// Bytes, a multiple of PAGE_SIZE up to MAX_REGION. Untouched pages cost nothing: sparse regions are the rule.
        bytes: u64,
        /// Flags.
        flags: RegionFlags,
    }
}

abi_struct! {
    /// What the kernel tells about a region.
    pub struct RegionInfo version 1 {
        /// Its id, unique on this node since boot.
        id: u64,
        /// Bytes.
        bytes: u64,
        /// Bytes of pages that are there and its own.
        committed_bytes: u64,
        /// Bytes of pages that are there and shared with a snapshot.
        shared_bytes: u64,
        /// Where the content comes from.
        backing: Backing,
        /// Mappings of it, in all units.
        mappings: u32,
        /// Flags.
        flags: RegionFlags,
    }
}

abi_flags! {
    /// What may be done with mapped pages. WRITE and EXECUTE together are refused.
    pub flags Protection {
        /// Load. Pages that can be written or run can always be read.
        READ = 0,
        /// Store.
        WRITE = 1,
        /// Run.
        EXECUTE = 2,
    }
}

abi_flags! {
    /// Flags of a mapping.
    pub flags MapFlags {
        /// Exactly at `address`; what is mapped there is replaced. Without it `address` is only a wish.
        FIXED = 0,
        /// With FIXED: refuse with Exists when something is mapped there.
        NO_REPLACE = 1,
        /// Map every page now instead of when it is touched.
        POPULATE = 2,
        /// In the upper half of the addresses (see USER_HALF), for personalities; not with FIXED.
        UPPER_HALF = 3,
    }
}

abi_struct! {
    /// How a region is to be mapped.
    pub struct MapSpec version 1 {
        /// The address: a multiple of PAGE_SIZE; 0 lets the kernel choose.
        address: u64,
        /// Where in the region the mapping begins: a multiple of PAGE_SIZE.
        offset: u64,
        /// Bytes, a multiple of PAGE_SIZE; 0 for the rest of the region.
        bytes: u64,
        /// What may be done; needs the same rights on the region.
        protection: Protection,
        /// Flags.
        flags: MapFlags,
    }
}

abi_struct! {
    /// What is mapped at an address.
    pub struct MappingInfo version 1 {
        /// Where the mapping, or the hole, begins.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// The id of the region; 0 for a hole.
        region: u64,
        /// Where in the region it begins.
        offset: u64,
        /// What may be done.
        protection: Protection,
        /// Bytes of it whose pages are there.
        resident_bytes: u64,
        /// Region when something is mapped here, Invalid for a hole.
        object_type: ObjectType,
        /// Where the content comes from.
        backing: Backing,
    }
}

//! The handle: a number by which a unit names one of its capabilities.

use crate::{Error, Field};

/// Names a capability of the calling unit: the index of a slot of its table and the slot's generation.
///
/// Valid handles are positive: bits 0..=15 are the index, bits 16..=30 the generation, which starts at 1 and counts the
/// uses of the slot; a slot whose generation would wrap is never used again. So a stale handle never names a newer
/// capability. [`Handle::NONE`] (0) is no handle: optional fields hold it, and arguments that accept it take it for "myself".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Handle(i32);

impl Handle {
    /// No handle; where an argument accepts it, the calling unit or thread itself.
    pub const NONE: Self = Self(0);
    /// The highest generation of a slot.
    pub const LAST_GENERATION: u16 = 0x7fff;

    /// The handle of a slot at a generation; `None` for generation 0 and above [`Handle::LAST_GENERATION`].
    #[must_use]
    pub const fn new(index: u16, generation: u16) -> Option<Self> {
        if generation == 0 || generation > Self::LAST_GENERATION {
            return None;
        }
        Some(Self((generation as i32) << 16 | index as i32))
    }

    /// The handle of the `index`th initial capability of a unit, counted from 0: slots 0, 1, 2 … at generation 1.
    #[must_use]
    pub const fn initial(index: u16) -> Self {
        Self(1 << 16 | index as i32)
    }

    /// The handle in an argument register. The register must hold exactly the 32-bit number, zero or sign extended.
    ///
    /// # Errors
    /// [`Error::BadHandle`] for anything that is not a positive 32-bit number with a generation.
    pub const fn from_register(word: u64) -> Result<Self, Error> {
        if word <= i32::MAX as u64 && word >> 16 != 0 { Ok(Self(word as i32)) } else { Err(Error::BadHandle) }
    }

    /// A handle from its number as it stands in a struct; any number is taken and checked when it is used.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Whether this is [`Handle::NONE`].
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The slot and the generation.
    ///
    /// # Errors
    /// [`Error::BadHandle`] when it is not positive or has generation 0.
    pub const fn split(self) -> Result<(u16, u16), Error> {
        if self.0 < 1 << 16 {
            return Err(Error::BadHandle);
        }
        Ok(((self.0 & 0xffff) as u16, (self.0 >> 16) as u16))
    }
}

impl Field for Handle {
    const ZERO: Self = Self::NONE;
    const BYTES: usize = 4;
    const C_TYPE: &'static str = "holm_handle_t";
    const NAME: &'static str = "Handle";

    fn get(bytes: &[u8]) -> Result<Self, Error> {
        i32::get(bytes).map(Self)
    }

    fn put(self, bytes: &mut [u8]) {
        self.0.put(bytes);
    }
}

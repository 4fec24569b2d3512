//! Values that fit a register: enumerations and sets of flags, each with the table of its names.

/// Makes an enumeration of the interface: 32 bits wide in structs, a whole register as an argument; 0 must be a value.
macro_rules! abi_enum {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident { $( $(#[doc = $vdoc:literal])+ $variant:ident = $value:literal ),+ $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $( $(#[doc = $vdoc])+ $variant = $value, )+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What the header and the reference page know of it.
            pub const INFO: $crate::EnumInfo = $crate::EnumInfo {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                values: &[$( $crate::ValueInfo {
                    name: stringify!($variant), value: $value, doc: concat!($($vdoc),+),
                }, )+],
            };

            /// The value of a register.
            ///
            /// # Errors
            /// [`crate::Error::Invalid`] for an unknown number.
            #[inline]
            pub const fn from_register(word: u64) -> Result<Self, $crate::Error> {
                match word { $($value => Ok(Self::$variant),)+ _ => Err($crate::Error::Invalid) }
            }

            /// The name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }
        }

        impl $crate::Field for $name {
            const ZERO: Self = match Self::from_register(0) { Ok(zero) => zero, Err(_) => panic!("0 must be a value") };
            const BYTES: usize = 4;
            const C_TYPE: &'static str = "uint32_t";
            const NAME: &'static str = stringify!($name);

            #[inline]
            fn get(bytes: &[u8]) -> Result<Self, $crate::Error> {
                Self::from_register(u64::from(u32::get(bytes)?))
            }

            #[inline]
            fn put(self, bytes: &mut [u8]) {
                (self as u32).put(bytes);
            }
        }
    };
}
pub(crate) use abi_enum;

/// Makes a set of flags of the interface: 64 bits; a bit without a name is refused.
macro_rules! abi_flags {
    (
        $(#[doc = $doc:literal])+
        pub flags $name:ident { $( $(#[doc = $fdoc:literal])+ $flag:ident = $bit:literal ),* $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            $( $(#[doc = $fdoc])+ pub const $flag: Self = Self(1 << $bit); )*

            /// No flag.
            pub const NONE: Self = Self(0);
            /// Every flag.
            pub const ALL: Self = Self(0 $(| 1 << $bit)*);

            /// What the header and the reference page know of it.
            pub const INFO: $crate::FlagsInfo = $crate::FlagsInfo {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                mask: Self::ALL.0,
                values: &[$( $crate::ValueInfo {
                    name: stringify!($flag), value: 1 << $bit, doc: concat!($($fdoc),+),
                }, )*],
            };

            /// The flags in a register.
            ///
            /// # Errors
            /// [`crate::Error::Invalid`] when a bit has no name.
            #[inline]
            pub const fn from_register(word: u64) -> Result<Self, $crate::Error> {
                if word & !Self::ALL.0 == 0 { Ok(Self(word)) } else { Err($crate::Error::Invalid) }
            }

            /// The bits.
            #[inline]
            #[must_use]
            pub const fn bits(self) -> u64 {
                self.0
            }

            /// Whether no flag is set.
            #[inline]
            #[must_use]
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }

            /// Whether every flag of `other` is set.
            #[inline]
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether a flag of `other` is set.
            #[inline]
            #[must_use]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The flags of both.
            #[inline]
            #[must_use]
            pub const fn and(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// The flags of either.
            #[inline]
            #[must_use]
            pub const fn or(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// These flags without those of `other`.
            #[inline]
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }

        impl core::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.or(other)
            }
        }

        impl core::ops::BitAnd for $name {
            type Output = Self;

            fn bitand(self, other: Self) -> Self {
                self.and(other)
            }
        }

        impl $crate::Field for $name {
            const ZERO: Self = Self(0);
            const BYTES: usize = 8;
            const C_TYPE: &'static str = "uint64_t";
            const NAME: &'static str = stringify!($name);

            #[inline]
            fn get(bytes: &[u8]) -> Result<Self, $crate::Error> {
                Self::from_register(u64::get(bytes)?)
            }

            #[inline]
            fn put(self, bytes: &mut [u8]) {
                self.0.put(bytes);
            }
        }
    };
}
pub(crate) use abi_flags;

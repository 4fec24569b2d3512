//! How values stand in memory: fields of fixed size, and the macros that make structs, enumerations and flags of them.

use crate::Error;

/// A value that may be a field of a struct: fixed size, little endian, no padding.
pub trait Field: Copy {
    /// The value of a field that the caller's shorter struct does not have.
    const ZERO: Self;
    /// Bytes it takes.
    const BYTES: usize;
    /// Its type in C.
    const C_TYPE: &'static str;
    /// Its name in the reference page.
    const NAME: &'static str = Self::C_TYPE;
    /// The number of elements when it is an array, else 0.
    const LENGTH: usize = 0;

    /// Reads it from exactly [`Field::BYTES`] bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the bytes are no value of the type: unknown enumerator, unknown flag, reserved not zero.
    fn get(bytes: &[u8]) -> Result<Self, Error>;

    /// Writes it to exactly [`Field::BYTES`] bytes.
    fn put(self, bytes: &mut [u8]);
}

macro_rules! number_fields {
    ($($ty:ty = $c:literal),+) => {$(
        impl Field for $ty {
            const ZERO: Self = 0;
            const BYTES: usize = size_of::<Self>();
            const C_TYPE: &'static str = $c;
            const NAME: &'static str = stringify!($ty);

            #[inline]
            fn get(bytes: &[u8]) -> Result<Self, Error> {
                bytes.try_into().map(Self::from_le_bytes).map_err(|_| Error::Invalid)
            }

            #[inline]
            fn put(self, bytes: &mut [u8]) {
                if let Some(to) = bytes.first_chunk_mut() {
                    *to = self.to_le_bytes();
                }
            }
        }
    )+};
}

number_fields!(
    u8 = "uint8_t",
    u16 = "uint16_t",
    u32 = "uint32_t",
    u64 = "uint64_t",
    i8 = "int8_t",
    i16 = "int16_t",
    i32 = "int32_t",
    i64 = "int64_t"
);

impl<T: Field, const N: usize> Field for [T; N] {
    const ZERO: Self = [T::ZERO; N];
    const BYTES: usize = N * T::BYTES;
    const C_TYPE: &'static str = T::C_TYPE;
    const NAME: &'static str = T::NAME;
    const LENGTH: usize = N;

    fn get(bytes: &[u8]) -> Result<Self, Error> {
        let mut value = Self::ZERO;
        for (to, from) in value.iter_mut().zip(bytes.chunks_exact(T::BYTES)) {
            *to = T::get(from)?;
        }
        Ok(value)
    }

    fn put(self, bytes: &mut [u8]) {
        for (from, to) in self.into_iter().zip(bytes.chunks_exact_mut(T::BYTES)) {
            from.put(to);
        }
    }
}

/// Room for later: always zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Reserved(u32);

impl Field for Reserved {
    const ZERO: Self = Self(0);
    const BYTES: usize = 4;
    const C_TYPE: &'static str = "uint32_t";
    const NAME: &'static str = "zero";

    fn get(bytes: &[u8]) -> Result<Self, Error> {
        match u32::get(bytes)? {
            0 => Ok(Self(0)),
            _ => Err(Error::Invalid),
        }
    }

    fn put(self, bytes: &mut [u8]) {
        0u32.put(bytes);
    }
}

/// What is known of one field of a struct.
#[derive(Debug, Clone, Copy)]
pub struct FieldInfo {
    /// Its name.
    pub name: &'static str,
    /// The name of its type.
    pub type_name: &'static str,
    /// The name of its type in C.
    pub c_type: &'static str,
    /// Elements of an array, 0 for one value.
    pub length: usize,
    /// Bytes before it.
    pub offset: usize,
    /// Bytes it takes.
    pub size: usize,
    /// What it means.
    pub doc: &'static str,
}

/// What is known of a struct of the interface.
#[derive(Debug, Clone, Copy)]
pub struct StructInfo {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its newest version; 0 for a record, which has no `version` and `size` and never changes its layout.
    pub version: u32,
    /// Its size in this version, in bytes.
    pub size: usize,
    /// Its fields in their order.
    pub fields: &'static [FieldInfo],
    /// Decodes and encodes again: what the kernel would understand of the bytes. For tests and fuzzers.
    pub recode: fn(&[u8], &mut [u8]) -> Result<usize, Error>,
}

/// What is known of one named value.
#[derive(Debug, Clone, Copy)]
pub struct ValueInfo {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub value: u64,
    /// What it means.
    pub doc: &'static str,
}

/// What is known of an enumeration.
#[derive(Debug, Clone, Copy)]
pub struct EnumInfo {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its values.
    pub values: &'static [ValueInfo],
}

/// What is known of a set of flags.
#[derive(Debug, Clone, Copy)]
pub struct FlagsInfo {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Every bit that may be set.
    pub mask: u64,
    /// Its flags.
    pub values: &'static [ValueInfo],
}

/// Bytes of the two fields every versioned struct begins with: `version: u32, size: u32`.
pub const HEADER: usize = 8;

/// A versioned struct longer than this is refused, whatever its tail holds.
pub const MAX_STRUCT: usize = 4096;

/// Checks the first eight bytes of a versioned struct and says how many bytes the caller says it has.
///
/// # Errors
/// [`Error::Invalid`] for version 0 or above `newest`, and for a size below [`HEADER`]; [`Error::TooBig`] for one above
/// [`MAX_STRUCT`].
pub fn check_header(header: &[u8], newest: u32) -> Result<usize, Error> {
    let version = header.get(0..4).ok_or(Error::Invalid).and_then(u32::get)?;
    let size = header.get(4..8).ok_or(Error::Invalid).and_then(u32::get)? as usize;
    if version == 0 || version > newest || size < HEADER {
        return Err(Error::Invalid);
    }
    if size > MAX_STRUCT { Err(Error::TooBig) } else { Ok(size) }
}

/// Takes the caller's bytes of a versioned struct into one of the kernel's size: what is missing reads as zero.
///
/// # Errors
/// Those of [`check_header`]; [`Error::Invalid`] when there are fewer bytes than the header says; [`Error::TooBig`] when
/// bytes beyond the kernel's size are not zero.
pub fn take_struct<const SIZE: usize>(bytes: &[u8], newest: u32) -> Result<[u8; SIZE], Error> {
    let size = check_header(bytes, newest)?;
    let bytes = bytes.get(..size).ok_or(Error::Invalid)?;
    let known = match bytes.split_at_checked(SIZE) {
        Some((known, tail)) if tail.iter().all(|byte| *byte == 0) => known,
        Some(_) => return Err(Error::TooBig),
        None => bytes,
    };
    let mut whole = [0; SIZE];
    for (to, from) in whole.iter_mut().zip(known) {
        *to = *from;
    }
    Ok(whole)
}

/// Makes a struct of the interface: `pub struct` with `version` and `size` in front, or `pub record` without.
macro_rules! abi_struct {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident version $version:literal {
            $( $(#[doc = $fdoc:literal])+ $field:ident : $ty:ty ),+ $(,)?
        }
    ) => {
        $crate::field::abi_struct! { @type $name [$($doc)+] $version
            { version: u32 ["The version of the struct; see the rules for structs."],
              size: u32 ["The size of the caller's struct in bytes; out: the bytes filled in."],
              $( $field: $ty [$($fdoc)+], )+ } }

        impl $name {
            /// The newest version.
            pub const VERSION: u32 = $version;

            /// A struct of the newest version with every other field zero.
            #[must_use]
            pub const fn new() -> Self {
                let mut value = Self::ZERO;
                value.version = $version;
                value.size = Self::SIZE as u32;
                value
            }

            /// Checks a header; see [`crate::field::check_header`].
            ///
            /// # Errors
            /// Those of [`crate::field::check_header`].
            pub fn check_header(header: &[u8]) -> Result<usize, $crate::Error> {
                $crate::field::check_header(header, Self::VERSION)
            }

            /// Reads a struct from the caller's bytes by the rules for versions and sizes. `size` stays the caller's.
            ///
            /// # Errors
            /// Those of [`crate::field::take_struct`], and [`crate::Error::Invalid`] for an unknown enumerator or flag.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::Error> {
                Self::decode_whole(&$crate::field::take_struct(bytes, Self::VERSION)?)
            }

            /// Writes as much of the struct as `out` takes and says how many bytes that is; `size` becomes this number.
            pub fn encode(&self, out: &mut [u8]) -> usize {
                let length = out.len().min(Self::SIZE);
                let mut whole = [0; Self::SIZE];
                Self { size: length as u32, ..*self }.encode_whole(&mut whole);
                for (to, from) in out.iter_mut().zip(whole) {
                    *to = from;
                }
                length
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }
    };
    (
        $(#[doc = $doc:literal])+
        pub record $name:ident {
            $( $(#[doc = $fdoc:literal])+ $field:ident : $ty:ty ),+ $(,)?
        }
    ) => {
        $crate::field::abi_struct! { @type $name [$($doc)+] 0 { $( $field: $ty [$($fdoc)+], )+ } }

        impl $name {
            /// A record with every field zero.
            #[must_use]
            pub const fn new() -> Self {
                Self::ZERO
            }

            /// Reads a record from exactly [`Self::SIZE`] bytes.
            ///
            /// # Errors
            /// [`crate::Error::Invalid`] for another length, an unknown enumerator or flag.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::Error> {
                Self::decode_whole(bytes.try_into().map_err(|_| $crate::Error::Invalid)?)
            }

            /// Writes the record when `out` has room for it; says how many bytes it wrote, 0 when it had not.
            pub fn encode(&self, out: &mut [u8]) -> usize {
                match out.first_chunk_mut() {
                    Some(whole) => {
                        self.encode_whole(whole);
                        Self::SIZE
                    }
                    None => 0,
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ZERO
            }
        }
    };
    (@type $name:ident [$($doc:literal)+] $version:literal { $( $field:ident : $ty:ty [$($fdoc:literal)+], )+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name { $( $(#[doc = $fdoc])+ pub $field: $ty, )+ }

        const _: () = assert!(
            size_of::<$name>() == 0 $(+ <$ty as $crate::Field>::BYTES)+,
            concat!(stringify!($name), " has implicit padding")
        );

        impl $name {
            /// Its size in bytes.
            pub const SIZE: usize = size_of::<Self>();

            const ZERO: Self = Self { $( $field: <$ty as $crate::Field>::ZERO, )+ };

            /// What the header and the reference page know of it.
            pub const INFO: $crate::StructInfo = $crate::StructInfo {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                version: $version,
                size: Self::SIZE,
                fields: &[$( $crate::FieldInfo {
                    name: stringify!($field),
                    type_name: <$ty as $crate::Field>::NAME,
                    c_type: <$ty as $crate::Field>::C_TYPE,
                    length: <$ty as $crate::Field>::LENGTH,
                    offset: core::mem::offset_of!(Self, $field),
                    size: <$ty as $crate::Field>::BYTES,
                    doc: concat!($($fdoc),+),
                }, )+],
                recode: |bytes, out| Ok(Self::decode(bytes)?.encode(out)),
            };

            /// Reads every field from bytes of the kernel's own size.
            ///
            /// # Errors
            /// [`crate::Error::Invalid`] for an unknown enumerator or flag.
            #[inline]
            pub fn decode_whole(bytes: &[u8; Self::SIZE]) -> Result<Self, $crate::Error> {
                Ok(Self { $( $field: {
                    const AT: usize = core::mem::offset_of!($name, $field);
                    const END: usize = AT + <$ty as $crate::Field>::BYTES;
                    <$ty as $crate::Field>::get(&bytes[AT..END])?
                }, )+ })
            }

            /// Writes every field to bytes of the kernel's own size.
            #[inline]
            pub fn encode_whole(&self, bytes: &mut [u8; Self::SIZE]) {
                $( {
                    const AT: usize = core::mem::offset_of!($name, $field);
                    const END: usize = AT + <$ty as $crate::Field>::BYTES;
                    $crate::Field::put(self.$field, &mut bytes[AT..END]);
                } )+
            }
        }
    };
}
pub(crate) use abi_struct;

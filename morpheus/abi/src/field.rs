//! A field of a shared structure: its plain and its atomic form, its C type, and the table all forms are made from.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
    impl<const N: usize> Sealed for [u32; N] {}
}

/// A type a field of a shared page may have. Every such type is naturally aligned and valid for all bit patterns.
pub trait Field: sealed::Sealed + Copy {
    /// The form for memory that another thread, process or the kernel changes. Same size and alignment as `Self`.
    type Atomic;
    /// The atomic form of zero.
    const ZERO: Self::Atomic;
    /// The C type of one element.
    const C_TYPE: &'static str;
    /// The number of elements if the field is an array.
    const C_COUNT: Option<usize>;
    /// Reads the field with relaxed ordering, element by element.
    fn load(shared: &Self::Atomic) -> Self;
    /// Writes the field with relaxed ordering, element by element.
    fn store(shared: &Self::Atomic, value: Self);
}

impl Field for u32 {
    type Atomic = AtomicU32;
    const ZERO: AtomicU32 = AtomicU32::new(0);
    const C_TYPE: &'static str = "__u32";
    const C_COUNT: Option<usize> = None;
    fn load(shared: &AtomicU32) -> Self {
        shared.load(Ordering::Relaxed)
    }
    fn store(shared: &AtomicU32, value: Self) {
        shared.store(value, Ordering::Relaxed);
    }
}

impl Field for u64 {
    type Atomic = AtomicU64;
    const ZERO: AtomicU64 = AtomicU64::new(0);
    const C_TYPE: &'static str = "__u64";
    const C_COUNT: Option<usize> = None;
    fn load(shared: &AtomicU64) -> Self {
        shared.load(Ordering::Relaxed)
    }
    fn store(shared: &AtomicU64, value: Self) {
        shared.store(value, Ordering::Relaxed);
    }
}

impl<const N: usize> Field for [u32; N] {
    type Atomic = [AtomicU32; N];
    const ZERO: [AtomicU32; N] = [const { AtomicU32::new(0) }; N];
    const C_TYPE: &'static str = "__u32";
    const C_COUNT: Option<usize> = Some(N);
    fn load(shared: &[AtomicU32; N]) -> Self {
        core::array::from_fn(|index| shared[index].load(Ordering::Relaxed))
    }
    fn store(shared: &[AtomicU32; N], value: Self) {
        for (shared, value) in shared.iter().zip(value) {
            shared.store(value, Ordering::Relaxed);
        }
    }
}

/// What the C header says of one field.
pub(crate) struct FieldTable {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) offset: usize,
    pub(crate) c_type: &'static str,
    pub(crate) c_count: Option<usize>,
}

/// What the C header says of one structure.
pub(crate) struct StructTable {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) size: usize,
    pub(crate) fields: &'static [FieldTable],
}

/// Makes one structure of a shared page: the plain form, the form with atomics, the checks of offsets and size, and the
/// table of the C header.
macro_rules! layout {
    (
        $(#[doc = $doc:literal])*
        struct $name:ident, shared $shared:ident, c $c_name:literal, size $size:literal {
            $( $(#[doc = $field_doc:literal])* $field:ident: $ty:ty = $offset:literal, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[repr(C, align(64))]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $( $(#[doc = $field_doc])* pub $field: $ty, )* }

        #[doc = concat!("[`", stringify!($name), "`] as it lies in shared memory, where the other side changes it.")]
        #[repr(C, align(64))]
        #[derive(Debug)]
        pub struct $shared { $( $(#[doc = $field_doc])* pub $field: <$ty as $crate::Field>::Atomic, )* }

        const _: () = {
            assert!(size_of::<$name>() == $size && size_of::<$shared>() == $size);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )*
            $( assert!(core::mem::offset_of!($shared, $field) == $offset); )*
            $( assert!(size_of::<$ty>() == size_of::<<$ty as $crate::Field>::Atomic>()); )*
            // No byte is padding: the other side reads them all.
            assert!(0 $( + size_of::<$ty>() )* == $size);
        };

        impl $shared {
            /// All zero: what a fresh page holds.
            pub const fn zeroed() -> Self {
                Self { $( $field: <$ty as $crate::Field>::ZERO, )* }
            }
            /// Reads every field, each for itself: the fields of a line that is being written may be of two moments.
            pub fn snapshot(&self) -> $name {
                $name { $( $field: <$ty as $crate::Field>::load(&self.$field), )* }
            }
            /// Writes every field, each for itself, with relaxed ordering.
            pub fn write(&self, value: &$name) {
                $( <$ty as $crate::Field>::store(&self.$field, value.$field); )*
            }
        }

        impl $name {
            pub(crate) const TABLE: $crate::field::StructTable = $crate::field::StructTable {
                name: $c_name,
                doc: &[$($doc),*],
                size: $size,
                fields: &[$( $crate::field::FieldTable {
                    name: stringify!($field),
                    doc: &[$($field_doc),*],
                    offset: $offset,
                    c_type: <$ty as $crate::Field>::C_TYPE,
                    c_count: <$ty as $crate::Field>::C_COUNT,
                } ),*],
            };
        }

        impl Default for $name {
            fn default() -> Self {
                $shared::zeroed().snapshot()
            }
        }
    };
}
pub(crate) use layout;

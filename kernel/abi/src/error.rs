//! Errors: what a system call answers when it did nothing.

use crate::{EnumInfo, ValueInfo};

/// The kind of an error (seed 14.6): what a program may do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// The caller lacks a capability or a right.
    Permission,
    /// Something is used up; it may be there later.
    Resource,
    /// The call itself is wrong; it will always be.
    Invalid,
    /// The deadline passed.
    Timeout,
    /// There is no such thing.
    NotFound,
    /// The object is not in a state that allows this.
    State,
}

impl Category {
    /// The name, as the reference page shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Resource => "resource",
            Self::Invalid => "invalid",
            Self::Timeout => "timeout",
            Self::NotFound => "not found",
            Self::State => "state",
        }
    }
}

macro_rules! errors {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $code:literal, $category:ident; )+) => {
        /// Why a system call did nothing. The result register holds the negated code.
        ///
        /// Codes below 512 are those of Linux for the same meaning; from 512 on they are Holm's own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum Error { $( $(#[doc = $doc])+ $variant = $code, )+ }

        impl Error {
            /// Every error, by code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What the header and the reference page know of the errors.
            pub const INFO: EnumInfo = EnumInfo {
                name: "Error",
                doc: "Why a system call did nothing; the result register holds the negated code.",
                values: &[$(ValueInfo { name: stringify!($variant), value: $code, doc: concat!($($doc),+) }),+],
            };

            /// The kind of error.
            #[must_use]
            pub const fn category(self) -> Category {
                match self { $(Self::$variant => Category::$category,)+ }
            }

            /// The name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)+ }
            }

            /// The error with a (positive) code.
            #[must_use]
            pub const fn from_code(code: i64) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

errors! {
    /// Not allowed whatever rights the handle has: a policy of the object or the unit's ceiling forbids it.
    NotPermitted = 1, Permission;
    /// There is no object of this name, number or token.
    NotFound = 2, NotFound;
    /// The wait ended early, by a kick of the thread.
    Interrupted = 4, State;
    /// A struct is longer than the kernel knows and the part it does not know is not zero, or a list is too long.
    TooBig = 7, Invalid;
    /// The image is not a program this kernel can run.
    BadImage = 8, Invalid;
    /// The number is no handle of the caller, or no longer.
    BadHandle = 9, Invalid;
    /// It would have to wait, and the caller asked not to.
    WouldBlock = 11, Resource;
    /// The machine is out of memory.
    NoMemory = 12, Resource;
    /// The handle lacks a right that the call needs.
    Access = 13, Permission;
    /// A pointer leads where the caller may not read or write.
    Fault = 14, Invalid;
    /// In use, or refused by admission control.
    Busy = 16, Resource;
    /// It exists already.
    Exists = 17, State;
    /// An argument has a value that is never allowed: unknown flag, version, enumerator, misaligned or out of range.
    Invalid = 22, Invalid;
    /// The unit's table of capabilities is full.
    NoHandles = 24, Resource;
    /// A fixed capacity is used up: ring, table, or address space.
    NoSpace = 28, Resource;
    /// The other side is gone: no end is left to receive, to send, or to reply.
    PeerClosed = 32, State;
    /// Waiting would close a circle of calls.
    Deadlock = 35, State;
    /// There is no system call of this number.
    NoCall = 38, Invalid;
    /// The message does not fit: longer than the channel allows, or than the buffer to receive it.
    MessageSize = 90, Invalid;
    /// This kernel, profile or machine does not do this.
    NotSupported = 95, Invalid;
    /// The deadline passed.
    TimedOut = 110, Timeout;
    /// A quota of the unit is used up.
    Quota = 122, Resource;
    /// The operation was ended because its object was taken away while it waited.
    Canceled = 125, State;
    /// The capability was revoked.
    Revoked = 512, Permission;
    /// The handle is of an object of another type.
    WrongType = 513, Invalid;
    /// The derivation would be deeper than the limit.
    TooDeep = 514, Resource;
    /// The unit, thread or timer is not in a state that allows this.
    BadState = 515, State;
}

impl Error {
    /// The code, positive.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// What the result register holds for this error.
    #[must_use]
    pub const fn register(self) -> u64 {
        (-(self as i64)) as u64
    }

    /// Reads the result register: a value, or the error. A negative number this table does not know reads as
    /// [`Error::NotSupported`].
    ///
    /// # Errors
    /// What the kernel answered.
    pub const fn from_register(word: u64) -> Result<u64, Self> {
        let signed = word as i64;
        if signed >= 0 {
            return Ok(word);
        }
        match Self::from_code(signed.wrapping_neg()) {
            Some(error) => Err(error),
            None => Err(Self::NotSupported),
        }
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = Self::INFO.values.iter().find(|value| value.value == *self as u64).map_or("", |value| value.doc);
        f.write_str(text.trim().trim_end_matches('.'))
    }
}

impl core::error::Error for Error {}

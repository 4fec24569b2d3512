//! The table of system calls as data: for the header, the reference page, tests and fuzzers.

use crate::*;
use crate::{Category, EnumInfo, Error, FlagsInfo, ObjectType, Rights, StructInfo};

/// What an argument is.
#[derive(Debug, Clone, Copy)]
pub enum ArgKind {
    /// A handle of one of these types (none: of any type) with all these rights.
    Handle {
        /// The types.
        types: &'static [ObjectType],
        /// The rights.
        rights: Rights,
        /// Whether 0 stands for the caller's own unit or thread.
        or_self: bool,
    },
    /// A handle that the call checks itself.
    RawHandle,
    /// The address of a struct that is read.
    In(&'static StructInfo),
    /// The address of a struct that is written; its header is read.
    Out(&'static StructInfo),
    /// The address of a struct that is read and written.
    InOut(&'static StructInfo),
    /// Address and length of bytes that are read.
    BytesIn,
    /// Address and length of bytes that are written.
    BytesOut,
    /// Address and number of records that are written.
    RecordsOut(&'static StructInfo),
    /// A set of flags.
    Flags(&'static FlagsInfo),
    /// A value of an enumeration.
    Value(&'static EnumInfo),
    /// A channel with this right and the description of a short message.
    Short(Rights),
    /// A number.
    Number,
    /// A signed number.
    Signed,
    /// An address that is kept or mapped.
    Address,
    /// A time on the monotonic clock.
    Deadline,
}

impl ArgKind {
    /// How many registers it takes.
    #[must_use]
    pub const fn registers(self) -> usize {
        match self {
            Self::BytesIn | Self::BytesOut | Self::RecordsOut(_) => 2,
            _ => 1,
        }
    }

    /// Whether an argument of this kind can by itself be the reason for an error.
    #[must_use]
    pub const fn implies(self, error: Error) -> bool {
        match self {
            Self::Handle { types, rights, or_self: _ } => match error {
                Error::BadHandle | Error::Revoked => true,
                Error::WrongType => !types.is_empty(),
                Error::Access => !rights.is_none(),
                _ => false,
            },
            Self::RawHandle => matches!(error, Error::BadHandle),
            Self::In(_) | Self::InOut(_) => matches!(error, Error::Fault | Error::Invalid | Error::TooBig),
            Self::Out(_) => matches!(error, Error::Fault | Error::Invalid | Error::TooBig),
            Self::BytesIn | Self::BytesOut | Self::RecordsOut(_) => matches!(error, Error::Fault),
            Self::Flags(_) | Self::Value(_) => matches!(error, Error::Invalid),
            Self::Short(_) => matches!(
                error,
                Error::BadHandle
                    | Error::Revoked
                    | Error::WrongType
                    | Error::Access
                    | Error::Invalid
                    | Error::MessageSize
            ),
            Self::Address => matches!(error, Error::Invalid),
            Self::Number | Self::Signed | Self::Deadline => false,
        }
    }
}

/// An argument of a system call.
#[derive(Debug, Clone, Copy)]
pub struct ArgInfo {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: ArgKind,
}

/// What a system call answers when it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultKind {
    /// 0.
    None,
    /// A new handle in rax; of the argument's type for [`ObjectType::Invalid`].
    Handle(ObjectType),
    /// Two new handles, in rax and rdx.
    Handles(ObjectType),
    /// A number, and what it is.
    Number(&'static str),
    /// A short message; see [`crate::Short`].
    Short,
    /// It does not return.
    Never,
}

/// A system call.
#[derive(Debug, Clone, Copy)]
pub struct CallInfo {
    /// Its number: what rax holds.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// The section of the seed that fixes it.
    pub section: &'static str,
    /// Its arguments, in the order of the registers.
    pub arguments: &'static [ArgInfo],
    /// What it answers.
    pub result: ResultKind,
    /// Errors that no argument's kind implies.
    pub own_errors: &'static [Error],
    /// Its bound when it is RT-safe, else empty.
    pub bound: &'static str,
    /// What it does.
    pub doc: &'static str,
}

impl CallInfo {
    /// Whether the call can answer this error.
    #[must_use]
    pub fn can_answer(&self, error: Error) -> bool {
        let by_result = match self.result {
            ResultKind::Handle(_) | ResultKind::Handles(_) => {
                matches!(error, Error::NoHandles | Error::Quota | Error::NoMemory)
            }
            _ => false,
        };
        by_result || self.own_errors.contains(&error) || self.arguments.iter().any(|a| a.kind.implies(error))
    }

    /// Every error the call can answer, by code.
    pub fn errors(&self) -> impl Iterator<Item = Error> {
        Error::ALL.iter().copied().filter(|error| self.can_answer(*error))
    }

    /// How many argument registers the call uses.
    #[must_use]
    pub fn registers(&self) -> usize {
        self.arguments.iter().map(|argument| argument.kind.registers()).sum()
    }

    /// Errors of one category.
    pub fn errors_of(&self, category: Category) -> impl Iterator<Item = Error> {
        self.errors().filter(move |error| error.category() == category)
    }
}

macro_rules! kind {
    ((handle $type:ident $(, $right:ident)+)) => { kind!(@ [ObjectType::$type] [$($right)+] false) };
    ((self_or $type:ident $(, $right:ident)+)) => { kind!(@ [ObjectType::$type] [$($right)+] true) };
    ((handle_or $one:ident $two:ident, $right:ident)) => { kind!(@ [ObjectType::$one, ObjectType::$two] [$right] false) };
    ((self_or_space $right:ident)) => { kind!(@ [ObjectType::Unit, ObjectType::Space] [$right] true) };
    ((self_or_thread $right:ident)) => { kind!(@ [ObjectType::Thread, ObjectType::Unit] [$right] true) };
    ((any_handle $right:ident)) => { kind!(@ [] [$right] false) };
    ((raw_handle)) => { ArgKind::RawHandle };
    ((in $type:ident)) => { ArgKind::In(&$type::INFO) };
    ((out $type:ident)) => { ArgKind::Out(&$type::INFO) };
    ((inout $type:ident)) => { ArgKind::InOut(&$type::INFO) };
    ((bytes_in)) => { ArgKind::BytesIn };
    ((bytes_out)) => { ArgKind::BytesOut };
    ((records_out $type:ident)) => { ArgKind::RecordsOut(&$type::INFO) };
    ((flags $type:ident)) => { ArgKind::Flags(&$type::INFO) };
    ((value $type:ident)) => { ArgKind::Value(&$type::INFO) };
    ((short $right:ident)) => { ArgKind::Short(Rights::$right) };
    ((number)) => { ArgKind::Number };
    ((signed)) => { ArgKind::Signed };
    ((address)) => { ArgKind::Address };
    ((deadline)) => { ArgKind::Deadline };
    (@ [$($type:expr),*] [$($right:ident)+] $or_self:literal) => {
        ArgKind::Handle { types: &[$($type),*], rights: Rights::NONE$(.or(Rights::$right))+, or_self: $or_self }
    };
}

macro_rules! result {
    ((none)) => {
        ResultKind::None
    };
    ((handle $type:ident)) => {
        ResultKind::Handle(ObjectType::$type)
    };
    ((handles $type:ident)) => {
        ResultKind::Handles(ObjectType::$type)
    };
    ((number $what:literal)) => {
        ResultKind::Number($what)
    };
    ((short)) => {
        ResultKind::Short
    };
    ((never)) => {
        ResultKind::Never
    };
}

macro_rules! calls {
    ($( $number:literal $name:ident $section:literal ( $($arg:ident : $kind:tt),* $(,)? )
        -> $result:tt errors [ $($error:ident),* $(,)? ] $bound:literal $doc:literal ; )+) => {
        /// Every system call, by number.
        pub const CALLS: &[CallInfo] = &[$( CallInfo {
            number: $number,
            name: stringify!($name),
            section: $section,
            arguments: &[$( ArgInfo { name: stringify!($arg), kind: kind!($kind) } ),*],
            result: result!($result),
            own_errors: &[$( Error::$error ),*],
            bound: $bound,
            doc: $doc,
        } ),+];

        /// The numbers of the system calls.
        pub mod number {
            $( #[doc = $doc] #[allow(non_upper_case_globals, reason = "constants carry the calls' own names")] pub const $name: u64 = $number; )+
        }
    };
}

system_calls! { calls }

/// Other names of calls: the seed names the same thing twice.
pub const ALIASES: &[(&str, &str)] = &[("cap_query", "cap_get_info")];

/// The call of a number.
#[must_use]
pub fn call(number: u64) -> Option<&'static CallInfo> {
    CALLS.binary_search_by_key(&number, |call| call.number).ok().and_then(|at| CALLS.get(at))
}

/// Every versioned struct and record.
pub const STRUCTS: &[&StructInfo] = &[
    &UnitSpec::INFO,
    &StartInfo::INFO,
    &UnitInfo::INFO,
    &UnitAttr::INFO,
    &Label::INFO,
    &Identity::INFO,
    &ThreadSpec::INFO,
    &ThreadAttr::INFO,
    &ThreadInfo::INFO,
    &RegionSpec::INFO,
    &RegionInfo::INFO,
    &MapSpec::INFO,
    &MappingInfo::INFO,
    &CapInfo::INFO,
    &CapTransfer::INFO,
    &ChanSpec::INFO,
    &ChanAttr::INFO,
    &ChanInfo::INFO,
    &MsgIo::INFO,
    &EventSpec::INFO,
    &EventRecord::INFO,
    &TimerSpec::INFO,
    &TimerInfo::INFO,
    &TimePage::INFO,
    &SchedParams::INFO,
    &SchedStats::INFO,
    &RestrictedState::INFO,
    &Topology::INFO,
    &UnitFilter::INFO,
    &UnitListEntry::INFO,
    &Metrics::INFO,
    &LogRange::INFO,
    &TraceFilter::INFO,
    &TraceRecord::INFO,
    &KernelConfig::INFO,
    &ArchiveEntry::INFO,
];

/// Every enumeration.
pub const ENUMS: &[&EnumInfo] = &[
    &Error::INFO,
    &ObjectType::INFO,
    &ConcurrencyClass::INFO,
    &TransferMode::INFO,
    &UnitState::INFO,
    &ExitReason::INFO,
    &ThreadState::INFO,
    &Backing::INFO,
    &ChanMode::INFO,
    &DropPolicy::INFO,
    &EventSource::INFO,
    &SchedClass::INFO,
    &ClockId::INFO,
    &TimerMode::INFO,
    &RestrictedReason::INFO,
    &Profile::INFO,
    &TraceKind::INFO,
    &PowerAction::INFO,
];

/// Every set of flags.
pub const FLAGS: &[&FlagsInfo] = &[
    &Rights::INFO,
    &TransferFlags::INFO,
    &RevokeFlags::INFO,
    &CapFlags::INFO,
    &UnitFlags::INFO,
    &UnitAttrMask::INFO,
    &ThreadFlags::INFO,
    &ThreadAttrMask::INFO,
    &RegionFlags::INFO,
    &Protection::INFO,
    &MapFlags::INFO,
    &ChanFlags::INFO,
    &ChanAttrMask::INFO,
    &MsgFlags::INFO,
    &ShortFlags::INFO,
    &EventMask::INFO,
    &EventFlags::INFO,
    &SchedFlags::INFO,
    &TimerFlags::INFO,
    &UnitFilterFlags::INFO,
    &ConfigFlags::INFO,
];

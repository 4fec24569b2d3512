//! The Holm kernel's interface: system calls, structs, rights, errors. Pure data: it touches no memory but its own.
//!
//! Both sides of the kernel's border build on this crate and on nothing else of each other. One table, [`system_calls!`],
//! is the source of the dispatcher's checks, of the stubs of user programs, of the C header (`kernel/abi/include/holm.h`)
//! and of the reference page (`docs/abi.md`); [`CALLS`] is the same table as data.
//!
//! # A dispatcher
//!
//! A callback gets the whole table. Arguments are taken from the registers in order, each by its kind, so a dispatcher is a
//! match over the numbers with one inner macro for the kinds:
//!
//! ```
//! use holm_abi::*;
//!
//! /// The argument registers, taken one after the other.
//! struct Words(core::array::IntoIter<u64, 6>);
//! impl Words {
//!     fn next(&mut self) -> u64 {
//!         self.0.next().unwrap_or(0)
//!     }
//! }
//!
//! struct Kernel;
//! impl Kernel {
//!     fn check(&self, handle: Handle, types: &[ObjectType], rights: Rights) -> Result<Handle, Error> {
//!         Err(Error::BadHandle) // resolve the slot, compare type and rights
//!     }
//!     fn copy_in(&self, address: u64, bytes: usize) -> Result<Vec<u8>, Error> {
//!         Err(Error::Fault)
//!     }
//! }
//!
//! macro_rules! argument {
//!     ($k:expr, $w:expr, (handle $t:ident $(, $r:ident)+)) => {
//!         $k.check(Handle::from_register($w.next())?, &[ObjectType::$t], Rights::NONE$(.or(Rights::$r))+)?
//!     };
//!     ($k:expr, $w:expr, (in $t:ident)) => {{
//!         let address = $w.next();
//!         let size = $t::check_header(&$k.copy_in(address, 8)?)?;
//!         $t::decode(&$k.copy_in(address, size)?)?
//!     }};
//!     ($k:expr, $w:expr, (flags $t:ident)) => { $t::from_register($w.next())? };
//!     ($k:expr, $w:expr, (value $t:ident)) => { $t::from_register($w.next())? };
//!     ($k:expr, $w:expr, (bytes_in)) => { ($w.next(), $w.next()) };
//!     ($k:expr, $w:expr, $other:tt) => { $w.next() };
//! }
//!
//! macro_rules! dispatcher {
//!     ($( $number:literal $name:ident $section:literal ( $($arg:ident : $kind:tt),* $(,)? )
//!         -> $result:tt errors [ $($error:ident),* $(,)? ] $bound:literal $doc:literal ; )+) => {
//!         fn dispatch(kernel: &mut Kernel, number: u64, registers: [u64; 6]) -> Result<u64, Error> {
//!             #[allow(unused_mut, unused_variables)]
//!             match number {
//!                 $( $number => {
//!                     let mut words = Words(registers.into_iter());
//!                     $( let $arg = argument!(kernel, words, $kind); )*
//!                     Ok($number) // in the kernel: self.$name(caller $(, $arg)*)
//!                 } )+
//!                 _ => Err(Error::NoCall),
//!             }
//!         }
//!     };
//! }
//! system_calls! { dispatcher }
//!
//! assert_eq!(dispatch(&mut Kernel, number::sys_null, [0; 6]), Ok(0));
//! assert_eq!(dispatch(&mut Kernel, number::unit_start, [0; 6]), Err(Error::BadHandle));
//! assert_eq!(dispatch(&mut Kernel, 9999, [0; 6]), Err(Error::NoCall));
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod call;
mod channel;
mod error;
mod event;
pub mod field;
pub mod generate;
mod handle;
pub mod limits;
mod memory;
mod object;
mod restricted;
mod sched;
mod system;
mod table;
mod time;
mod unit;
mod words;

pub use call::{ALIASES, ArgInfo, ArgKind, CALLS, CallInfo, ENUMS, FLAGS, ResultKind, STRUCTS, call, number};
pub use channel::{
    ChanAttr, ChanAttrMask, ChanFlags, ChanInfo, ChanMode, ChanSpec, DropPolicy, MsgFlags, MsgIo, Short, ShortFlags,
};
pub use error::{Category, Error};
pub use event::{EventFlags, EventMask, EventRecord, EventSource, EventSpec};
pub use field::{EnumInfo, Field, FieldInfo, FlagsInfo, Reserved, StructInfo, ValueInfo};
pub use handle::Handle;
pub use memory::{Backing, MapFlags, MapSpec, MappingInfo, Protection, RegionFlags, RegionInfo, RegionSpec};
pub use object::{
    CapFlags, CapInfo, CapTransfer, ConcurrencyClass, ObjectType, RevokeFlags, Rights, TransferFlags, TransferMode,
};
pub use restricted::{RestrictedReason, RestrictedState};
pub use sched::{SchedClass, SchedFlags, SchedParams, SchedStats};
pub use system::{
    ArchiveEntry, ConfigFlags, KernelConfig, LogRange, Metrics, PowerAction, Profile, Topology, TraceFilter, TraceKind,
    TraceRecord, UnitFilter, UnitFilterFlags, UnitListEntry,
};
pub use time::{ClockId, TimePage, TimerFlags, TimerInfo, TimerMode, TimerSpec};
pub use unit::{
    ExitReason, Identity, Label, StartInfo, ThreadAttr, ThreadAttrMask, ThreadFlags, ThreadInfo, ThreadSpec,
    ThreadState, UnitAttr, UnitAttrMask, UnitFlags, UnitInfo, UnitSpec, UnitState,
};

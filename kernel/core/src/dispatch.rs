//! From a system call's number and registers to the function that does it.
//!
//! The table of the interface is the one source: each argument is decoded by its kind (a handle is resolved with the type and
//! the rights that the table asks for, a struct is read by the rules for versions and sizes), then `self.<name>` is called.
//! Nothing is done before every argument is good.

use core::marker::PhantomData;

use holm_abi::{Error, Handle, ObjectType, Rights, Short};

use crate::caller::{Answer, Caller, InOut, Out, Outcome};
use crate::cap::{Cap, Types};
use crate::kernel::Kernel;
use crate::machine::{Machine, Nanos, PAGE_SIZE};
use crate::object::Object;

/// A range of a user program's memory; not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserSlice {
    /// The first byte.
    pub address: u64,
    /// How many bytes.
    pub length: u64,
}

/// Room for records in a user program's memory; not yet looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records<S> {
    /// The first record.
    pub address: u64,
    /// How many.
    pub count: u64,
    of: PhantomData<S>,
}

impl<S> Records<S> {
    /// Room for `count` records at `address`.
    #[must_use]
    pub const fn new(address: u64, count: u64) -> Self {
        Self { address, count, of: PhantomData }
    }

    /// The address of a record.
    #[must_use]
    pub const fn at(&self, number: u64) -> u64 {
        self.address.wrapping_add(number.wrapping_mul(size_of::<S>() as u64))
    }
}

/// The argument registers, taken one after the other.
struct Words {
    words: [u64; 6],
    at: usize,
}

impl Words {
    #[inline(always)]
    fn next(&mut self) -> u64 {
        let word = self.words.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        word
    }
}

/// Decodes one argument by its kind.
macro_rules! argument {
    ($kernel:ident, $caller:ident, $words:ident, (handle $type:ident $(, $right:ident)*)) => {
        $kernel.resolve(
            $caller.unit,
            Handle::from_register($words.next())?,
            const { Types::of(ObjectType::$type) },
            const { Rights::NONE$(.or(Rights::$right))* },
        )?
    };
    ($kernel:ident, $caller:ident, $words:ident, (self_or $type:ident $(, $right:ident)*)) => {{
        let word = $words.next();
        match word {
            0 => own!($type, $caller),
            _ => $kernel.resolve(
                $caller.unit,
                Handle::from_register(word)?,
                const { Types::of(ObjectType::$type) },
                const { Rights::NONE$(.or(Rights::$right))* },
            )?.object,
        }
    }};
    ($kernel:ident, $caller:ident, $words:ident, (self_or_space $right:ident)) => {{
        let word = $words.next();
        match word {
            0 => Object::Unit($caller.unit),
            _ => $kernel.resolve(
                $caller.unit,
                Handle::from_register(word)?,
                const { Types::of(ObjectType::Unit).or(Types::of(ObjectType::Space)) },
                Rights::$right,
            )?.object,
        }
    }};
    ($kernel:ident, $caller:ident, $words:ident, (self_or_thread $right:ident)) => {{
        let word = $words.next();
        match word {
            0 => Object::Thread($caller.thread),
            _ => $kernel.resolve(
                $caller.unit,
                Handle::from_register(word)?,
                const { Types::of(ObjectType::Thread).or(Types::of(ObjectType::Unit)) },
                Rights::$right,
            )?.object,
        }
    }};
    ($kernel:ident, $caller:ident, $words:ident, (handle_or $one:ident $other:ident, $right:ident)) => {
        $kernel.resolve(
            $caller.unit,
            Handle::from_register($words.next())?,
            const { Types::of(ObjectType::$one).or(Types::of(ObjectType::$other)) },
            Rights::$right,
        )?
    };
    ($kernel:ident, $caller:ident, $words:ident, (any_handle $right:ident)) => {
        $kernel.resolve($caller.unit, Handle::from_register($words.next())?, Types::ANY, Rights::$right)?
    };
    ($kernel:ident, $caller:ident, $words:ident, (raw_handle)) => { Handle::from_register($words.next())? };
    ($kernel:ident, $caller:ident, $words:ident, (in $type:ident)) => {
        $kernel.struct_in::<{ holm_abi::$type::SIZE }, _>(
            $caller, $words.next(), holm_abi::$type::VERSION, holm_abi::$type::decode_whole,
        )?.1
    };
    ($kernel:ident, $caller:ident, $words:ident, (out $type:ident)) => {{
        let address = $words.next();
        let bytes = $kernel.struct_size($caller, address, holm_abi::$type::VERSION)?;
        Out::<holm_abi::$type> { address, bytes, of: PhantomData }
    }};
    ($kernel:ident, $caller:ident, $words:ident, (inout $type:ident)) => {{
        let address = $words.next();
        let (_, value) = $kernel.struct_in::<{ holm_abi::$type::SIZE }, _>(
            $caller, address, holm_abi::$type::VERSION, holm_abi::$type::decode_whole,
        )?;
        InOut { address, value }
    }};
    ($kernel:ident, $caller:ident, $words:ident, (bytes_in)) => {
        UserSlice { address: $words.next(), length: $words.next() }
    };
    ($kernel:ident, $caller:ident, $words:ident, (bytes_out)) => {
        UserSlice { address: $words.next(), length: $words.next() }
    };
    ($kernel:ident, $caller:ident, $words:ident, (records_out $type:ident)) => {
        Records::<holm_abi::$type>::new($words.next(), $words.next())
    };
    ($kernel:ident, $caller:ident, $words:ident, (flags $type:ident)) => {
        holm_abi::$type::from_register($words.next())?
    };
    ($kernel:ident, $caller:ident, $words:ident, (value $type:ident)) => {
        holm_abi::$type::from_register($words.next())?
    };
    ($kernel:ident, $caller:ident, $words:ident, (short $right:ident)) => { Short::from_register($words.next())? };
    ($kernel:ident, $caller:ident, $words:ident, (deadline)) => { Nanos($words.next()) };
    ($kernel:ident, $caller:ident, $words:ident, (signed)) => { $words.next() as i64 };
    ($kernel:ident, $caller:ident, $words:ident, (number)) => { $words.next() };
    ($kernel:ident, $caller:ident, $words:ident, (address)) => { $words.next() };
}

/// The caller's own object of a type.
macro_rules! own {
    (Unit, $caller:ident) => {
        Object::Unit($caller.unit)
    };
    (Thread, $caller:ident) => {
        Object::Thread($caller.thread)
    };
}

macro_rules! dispatcher {
    ($( $number:literal $name:ident $section:literal ( $($arg:ident : $kind:tt),* $(,)? )
        -> $result:tt errors [ $($error:ident),* $(,)? ] $bound:literal $doc:literal ; )+) => {
        impl<M: Machine> Kernel<M> {
            /// Does the system call of a number for its caller.
            pub(crate) fn dispatch(&mut self, caller: Caller, number: u64) -> Answer {
                let Some(thread) = self.threads.get(caller.thread) else { return Ok(Outcome::Ended) };
                let registers = &thread.registers;
                #[allow(unused_mut, unused_variables, reason = "not every call has arguments")]
                let mut words = Words {
                    words: [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9],
                    at: 0,
                };
                match number {
                    $( $number => {
                        $( let $arg = argument!(self, caller, words, $kind); )*
                        self.$name(caller $(, $arg)*)
                    } )+
                    _ => Err(Error::NoCall),
                }
            }
        }
    };
}
holm_abi::system_calls! { dispatcher }

impl<M: Machine> Kernel<M> {
    /// The size that the caller says its struct has.
    fn struct_size(&mut self, caller: Caller, address: u64, newest: u32) -> Result<usize, Error> {
        let mut header = [0; holm_abi::field::HEADER];
        self.copy_in(caller.unit, address, &mut header)?;
        holm_abi::field::check_header(&header, newest)
    }

    /// Reads a struct of `SIZE` bytes of ours: what the caller's is longer must be zero, what it lacks reads as zero.
    fn struct_in<const SIZE: usize, T>(
        &mut self,
        caller: Caller,
        address: u64,
        newest: u32,
        decode: impl FnOnce(&[u8; SIZE]) -> Result<T, Error>,
    ) -> Result<(usize, T), Error> {
        let mut bytes = [0; SIZE];
        let size = if address as usize % PAGE_SIZE + SIZE <= PAGE_SIZE {
            // What lies in the header's page can be read with it, whatever the size is.
            self.copy_in(caller.unit, address, &mut bytes)?;
            let size = holm_abi::field::check_header(&bytes, newest)?;
            bytes.get_mut(size..).unwrap_or_default().fill(0);
            size
        } else {
            let size = self.struct_size(caller, address, newest)?;
            self.copy_in(caller.unit, address, bytes.get_mut(..size.min(SIZE)).unwrap_or_default())?;
            size
        };
        let mut at = size.min(SIZE);
        while at < size {
            let mut tail = [0; 64];
            let length = (size - at).min(tail.len());
            let tail = tail.get_mut(..length).unwrap_or_default();
            self.copy_in(caller.unit, address.wrapping_add(at as u64), tail)?;
            if tail.iter().any(|byte| *byte != 0) {
                return Err(Error::TooBig);
            }
            at += length;
        }
        // The header may have been read twice, and another thread may have written between: the first reading counts.
        if let Some(place) = bytes.get_mut(4..8) {
            for (to, from) in place.iter_mut().zip((size as u32).to_le_bytes()) {
                *to = from;
            }
        }
        decode(&bytes).map(|value| (size, value))
    }

    /// Writes a struct where the caller has room for it.
    pub(crate) fn write_out<S>(
        &mut self,
        caller: Caller,
        to: &Out<S>,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), Error> {
        self.write_bytes(caller, to.address, to.bytes, encode)
    }

    fn write_bytes(
        &mut self,
        caller: Caller,
        address: u64,
        room: usize,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), Error> {
        let mut bytes = [0; 512];
        let room = room.min(bytes.len());
        let length = encode(bytes.get_mut(..room).unwrap_or_default());
        self.copy_out(caller.unit, address, bytes.get(..length).unwrap_or_default())
    }

    /// Writes a struct back from where it was read.
    pub(crate) fn write_back<S>(
        &mut self,
        caller: Caller,
        to: &InOut<S>,
        size: u32,
        encode: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), Error> {
        self.write_bytes(caller, to.address, size as usize, encode)
    }

    /// Gives a unit the first capability of an object that was just made, with all rights of its type; `undo` ends the object
    /// when there is no room for it.
    pub(crate) fn install_or(
        &mut self,
        unit: crate::unit::UnitId,
        object: Object,
        object_type: ObjectType,
        undo: impl FnOnce(&mut Self),
    ) -> Result<Handle, Error> {
        match self.cap_install(unit, object, object_type.rights(), object_type.transfer_flags()) {
            Ok(handle) => Ok(handle),
            Err(error) => {
                undo(self);
                Err(error)
            }
        }
    }

    /// A thread by a capability or by itself.
    pub(crate) const fn thread_of(object: Object) -> Result<crate::thread::ThreadId, Error> {
        match object {
            Object::Thread(thread) => Ok(thread),
            _ => Err(Error::WrongType),
        }
    }

    /// A timer by a capability.
    pub(crate) const fn timer_of(cap: &Cap) -> Result<crate::time::TimerId, Error> {
        match cap.object {
            Object::Timer(timer) => Ok(timer),
            _ => Err(Error::WrongType),
        }
    }
}

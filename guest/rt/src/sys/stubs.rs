//! A typed function for every system call, made from the kernel's table.
//!
//! Pointers become references and slices; what may change this unit's memory behind Rust's back is `unsafe`.

use holm_abi::*;

use super::entry::{Answer, ShortAnswer, raw};

/// The argument registers, filled one after the other.
struct Words {
    words: [u64; 6],
    used: usize,
}

impl Words {
    #[inline(always)]
    const fn new() -> Self {
        Self { words: [0; 6], used: 0 }
    }

    #[inline(always)]
    fn push(&mut self, word: u64) {
        if let Some(slot) = self.words.get_mut(self.used) {
            *slot = word;
            self.used += 1;
        }
    }
}

/// The type of a stub's parameter.
macro_rules! parameter {
    ((in $type:ident)) => {
        &$type
    };
    ((out $type:ident)) => {
        &mut $type
    };
    ((inout $type:ident)) => {
        &mut $type
    };
    ((bytes_in)) => {
        &[u8]
    };
    ((bytes_out)) => {
        &mut [u8]
    };
    ((records_out $type:ident)) => {
        &mut [[u8; $type::SIZE]]
    };
    ((flags $type:ident)) => {
        $type
    };
    ((value $type:ident)) => {
        $type
    };
    ((short $right:ident)) => {
        Short
    };
    ((number)) => {
        u64
    };
    ((signed)) => {
        i64
    };
    ((address)) => {
        u64
    };
    ((deadline)) => {
        u64
    };
    ($handle:tt) => {
        Handle
    };
}

/// Bytes of the struct that the kernel writes for an argument.
macro_rules! written {
    ((out $type:ident)) => {
        $type::SIZE
    };
    ((inout $type:ident)) => {
        $type::SIZE
    };
    ($other:tt) => {
        0
    };
}

/// Puts an argument into the registers.
macro_rules! before {
    ($words:ident $buffer:ident $arg:ident (in $type:ident)) => {
        $words.push(core::ptr::from_ref($arg) as u64)
    };
    ($words:ident $buffer:ident $arg:ident (out $type:ident)) => {
        $arg.encode_whole(&mut $buffer);
        $words.push($buffer.as_mut_ptr() as u64);
    };
    ($words:ident $buffer:ident $arg:ident (inout $type:ident)) => {
        $arg.encode_whole(&mut $buffer);
        $words.push($buffer.as_mut_ptr() as u64);
    };
    ($words:ident $buffer:ident $arg:ident (bytes_in)) => {
        $words.push($arg.as_ptr() as u64);
        $words.push($arg.len() as u64);
    };
    ($words:ident $buffer:ident $arg:ident (bytes_out)) => {
        $words.push($arg.as_mut_ptr() as u64);
        $words.push($arg.len() as u64);
    };
    ($words:ident $buffer:ident $arg:ident (records_out $type:ident)) => {
        $words.push($arg.as_mut_ptr() as u64);
        $words.push($arg.len() as u64);
    };
    ($words:ident $buffer:ident $arg:ident (flags $type:ident)) => {
        $words.push($arg.bits())
    };
    ($words:ident $buffer:ident $arg:ident (value $type:ident)) => {
        $words.push($arg as u64)
    };
    ($words:ident $buffer:ident $arg:ident (short $right:ident)) => {
        $words.push($arg.register())
    };
    ($words:ident $buffer:ident $arg:ident (number)) => {
        $words.push($arg)
    };
    ($words:ident $buffer:ident $arg:ident (signed)) => {
        $words.push($arg as u64)
    };
    ($words:ident $buffer:ident $arg:ident (address)) => {
        $words.push($arg)
    };
    ($words:ident $buffer:ident $arg:ident (deadline)) => {
        $words.push($arg)
    };
    ($words:ident $buffer:ident $arg:ident $handle:tt) => {
        $words.push($arg.raw() as u32 as u64)
    };
}

/// Takes an argument back that the kernel may have written.
macro_rules! after {
    ($buffer:ident $arg:ident (out $type:ident)) => {
        *$arg = $type::decode_whole(&$buffer)?
    };
    ($buffer:ident $arg:ident (inout $type:ident)) => {
        *$arg = $type::decode_whole(&$buffer)?
    };
    ($buffer:ident $arg:ident $other:tt) => {};
}

/// The type of a result.
macro_rules! answer {
    ((handle $type:ident)) => {
        Handle
    };
    ((handles $type:ident)) => {
        (Handle, Handle)
    };
    ((number $what:literal)) => {
        u64
    };
    ((short)) => {
        ShortAnswer
    };
    ($nothing:tt) => {
        ()
    };
}

/// Reads a result.
macro_rules! finish {
    ($answer:ident (handle $type:ident)) => {
        Handle::from_register($answer.result()?)
    };
    ($answer:ident (handles $type:ident)) => {
        Ok((Handle::from_register($answer.result()?)?, Handle::from_register($answer.rdx)?))
    };
    ($answer:ident (number $what:literal)) => {
        $answer.result()
    };
    ($answer:ident (short)) => {
        ShortAnswer::try_from($answer)
    };
    ($answer:ident $nothing:tt) => {
        $answer.result().map(|_zero| ())
    };
}

macro_rules! body {
    ($number:literal [$($arg:ident $kind:tt)*] $result:tt) => {{
        #[allow(unused_mut, reason = "not every call has arguments")]
        let mut words = Words::new();
        #[allow(unused_mut, unused_variables, reason = "not every call writes a struct")]
        let mut buffer = [0u8; 0 $(+ written!($kind))*];
        $( before!(words buffer $arg $kind); )*
        // SAFETY: pointers among the words come from references and slices with their lengths; the kernel reads or writes
        // no more. Calls that change memory otherwise are unsafe functions whose callers vouch for it.
        let answer: Answer = unsafe { raw($number, words.words) };
        let result = finish!(answer $result);
        if result.is_ok() {
            $( after!(buffer $arg $kind); )*
        }
        result
    }};
}

/// Which calls are unsafe: those that write, map or run what an argument only names by its address.
macro_rules! stub {
    (chan_recv $($rest:tt)*) => { stub!(@unsafe chan_recv $($rest)*); };
    (chan_call $($rest:tt)*) => { stub!(@unsafe chan_call $($rest)*); };
    (chan_reply_recv $($rest:tt)*) => { stub!(@unsafe chan_reply_recv $($rest)*); };
    (thread_create $($rest:tt)*) => { stub!(@unsafe thread_create $($rest)*); };
    (vm_map $($rest:tt)*) => { stub!(@unsafe vm_map $($rest)*); };
    (vm_unmap $($rest:tt)*) => { stub!(@unsafe vm_unmap $($rest)*); };
    (vm_protect $($rest:tt)*) => { stub!(@unsafe vm_protect $($rest)*); };
    (restricted_bind $($rest:tt)*) => { stub!(@unsafe restricted_bind $($rest)*); };
    (restricted_enter $($rest:tt)*) => { stub!(@unsafe restricted_enter $($rest)*); };
    (@unsafe $name:ident $number:literal $doc:literal [$($arg:ident $kind:tt)*] $result:tt) => {
        #[doc = $doc]
        ///
        /// # Errors
        /// Those of the reference page.
        ///
        /// # Safety
        /// The addresses that the arguments name must be memory that the kernel may read, write, map or run for this call
        /// without breaking what other code of the program counts on.
        #[inline]
        pub unsafe fn $name($($arg: parameter!($kind)),*) -> Result<answer!($result), Error> {
            body!($number [$($arg $kind)*] $result)
        }
    };
    ($name:ident $number:literal $doc:literal [$($arg:ident $kind:tt)*] $result:tt) => {
        #[doc = $doc]
        ///
        /// # Errors
        /// Those of the reference page.
        #[inline]
        pub fn $name($($arg: parameter!($kind)),*) -> Result<answer!($result), Error> {
            body!($number [$($arg $kind)*] $result)
        }
    };
}

macro_rules! stubs {
    ($( $number:literal $name:ident $section:literal ( $($arg:ident : $kind:tt),* $(,)? )
        -> $result:tt errors [ $($error:ident),* $(,)? ] $bound:literal $doc:literal ; )+) => {
        $( stub!($name $number $doc [$($arg $kind)*] $result); )+
    };
}

system_calls! { stubs }

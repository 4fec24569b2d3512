//! Printing to the serial console, when the program was given one.

use core::fmt;
use core::sync::atomic::{AtomicI32, Ordering};

use holm_abi::{Error, Handle};

use crate::object::{Console, Object};
use crate::sys;
use crate::time::Deadline;

/// The console's handle; 0 when there is none.
static CONSOLE: AtomicI32 = AtomicI32::new(0);

/// Looks for a console among the initial capabilities.
#[cfg(holm_user)]
pub(crate) fn begin() {
    if let Some(console) = crate::startup::initial_of(holm_abi::ObjectType::Console) {
        CONSOLE.store(console.raw(), Ordering::Relaxed);
    }
}

/// The handle `print!` writes to; [`Handle::NONE`] when there is none.
#[must_use]
pub fn handle() -> Handle {
    Handle::from_raw(CONSOLE.load(Ordering::Relaxed))
}

/// Collects text and hands it to the kernel in pieces, so that lines of several threads rarely mix.
struct Pieces {
    bytes: [u8; 256],
    used: usize,
}

impl Pieces {
    fn flush(&mut self) {
        let console = handle();
        let mut rest = self.bytes.get(..self.used).unwrap_or_default();
        while !console.is_none() && !rest.is_empty() {
            match sys::console_write(console, rest) {
                Ok(written) if written > 0 => rest = rest.get(written as usize..).unwrap_or_default(),
                _ => break,
            }
        }
        self.used = 0;
    }
}

impl fmt::Write for Pieces {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.used == self.bytes.len() {
                self.flush();
            }
            if let Some(slot) = self.bytes.get_mut(self.used) {
                *slot = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

/// Writes formatted text; does nothing without a console.
pub fn print(text: fmt::Arguments<'_>) {
    let mut pieces = Pieces { bytes: [0; 256], used: 0 };
    let _never_fails = fmt::Write::write_fmt(&mut pieces, text);
    pieces.flush();
}

/// Writes formatted text and ends the line; does nothing without a console.
pub fn print_line(text: fmt::Arguments<'_>) {
    print(format_args!("{text}\n"));
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($part:tt)*) => { $crate::console::print(format_args!($($part)*)) };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($part:tt)+) => { $crate::console::print_line(format_args!($($part)+)) };
}

impl Console {
    /// Writes all bytes.
    ///
    /// # Errors
    /// Those of console_write.
    pub fn write_all(&self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written = sys::console_write(self.handle(), bytes)? as usize;
            bytes = bytes.get(written.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads what was typed; waits for the first byte.
    ///
    /// # Errors
    /// Those of console_read.
    pub fn read(&self, to: &mut [u8], deadline: Deadline) -> Result<usize, Error> {
        sys::console_read(self.handle(), to, deadline.nanos()).map(|bytes| bytes as usize)
    }
}

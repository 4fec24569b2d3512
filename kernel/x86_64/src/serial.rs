//! The serial console: a 16550 at the first PC port, written to by polling, read by interrupt.

use core::fmt;

use crate::cpu::{input, out};

const PORT: u16 = 0x3f8;
const DATA: u16 = PORT;
const INTERRUPTS: u16 = PORT + 1;
const FIFO: u16 = PORT + 2;
const LINE: u16 = PORT + 3;
const MODEM: u16 = PORT + 4;
const STATUS: u16 = PORT + 5;

/// A byte has come.
const RECEIVED: u8 = 1;
/// Another byte may be written.
const CAN_SEND: u8 = 1 << 5;

/// Sets the line to 115200 8N1 with interrupts for input.
pub(crate) fn start() {
    // SAFETY: the ports are those of the 16550, or of nothing; the values are those of its data sheet.
    unsafe {
        out(INTERRUPTS, 0);
        out(LINE, 0x80); // the next two set the divisor
        out(DATA, 1);
        out(INTERRUPTS, 0);
        out(LINE, 0x03);
        out(FIFO, 0xc7);
        out(MODEM, 0x0b); // the interrupt line is open
        out(INTERRUPTS, 1);
    }
}

/// Writes bytes as they are, `\n` as `\r\n`.
pub(crate) fn write(bytes: &[u8]) {
    for byte in bytes {
        if *byte == b'\n' {
            send(b'\r');
        }
        send(*byte);
    }
}

fn send(byte: u8) {
    // Where there is no port at all, the status reads as all ones and nothing is waited for. A port that never empties is
    // not waited for for ever.
    for _ in 0..100_000 {
        // SAFETY: reading the status has no effect that is needed elsewhere.
        if unsafe { input(STATUS) } & CAN_SEND != 0 {
            break;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the data port of the 16550.
    unsafe { out(DATA, byte) };
}

/// The next byte that came, if one has.
pub(crate) fn read() -> Option<u8> {
    // SAFETY: reading the status has no effect that is needed elsewhere.
    let status = unsafe { input(STATUS) };
    // All ones: no port is there.
    // SAFETY: a byte is there, and taking it is what is asked for.
    (status != 0xff && status & RECEIVED != 0).then(|| unsafe { input(DATA) })
}

/// The console as something to format into: for boot and for the last words of a panic, which cannot wait for a lock.
pub(crate) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// Formats a line to the console.
macro_rules! say {
    ($($part:tt)*) => {{
        use core::fmt::Write as _;
        // The console never fails.
        let _ = writeln!($crate::serial::Console, $($part)*);
    }};
}
pub(crate) use say;

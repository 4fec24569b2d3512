//! Few lines on the guest's console, for the person who reads the microVM's serial log.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes one line with the prefix `holm-init:`. A console that is not there is no reason to fail.
pub(crate) fn say(message: Arguments<'_>) {
    let line = format!("holm-init: {message}\n");
    if let Ok(mut console) = std::fs::OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(line.as_bytes());
    }
}

//! A line being typed: bytes from the console in, echo and whole lines out.

use alloc::string::String;
use alloc::vec::Vec;

/// The most bytes of a line.
const LONGEST: usize = 256;

/// What a byte did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// Show these bytes.
    Echo(Vec<u8>),
    /// The line is complete.
    Line(String),
    /// The line was given up.
    Abandoned,
    /// Nothing to show.
    Nothing,
}

/// The line so far.
#[derive(Debug, Default)]
pub struct Editor {
    bytes: Vec<u8>,
}

impl Editor {
    /// Takes a byte.
    pub fn typed(&mut self, byte: u8) -> Typed {
        match byte {
            b'\r' | b'\n' => {
                let line = String::from_utf8_lossy(&self.bytes).into_owned();
                self.bytes.clear();
                Typed::Line(line)
            }
            0x03 => {
                self.bytes.clear();
                Typed::Abandoned
            }
            0x08 | 0x7f => {
                // The bytes of the last character, up to its first one.
                let mut removed = false;
                while let Some(byte) = self.bytes.pop() {
                    removed = true;
                    if byte & 0xc0 != 0x80 {
                        break;
                    }
                }
                if removed { Typed::Echo(b"\x08 \x08".to_vec()) } else { Typed::Nothing }
            }
            0x15 => {
                let shown = String::from_utf8_lossy(&self.bytes).chars().count();
                self.bytes.clear();
                Typed::Echo(b"\x08 \x08".repeat(shown))
            }
            0x20..=0x7e | 0x80.. if self.bytes.len() < LONGEST => {
                self.bytes.push(byte);
                Typed::Echo(alloc::vec![byte])
            }
            _ => Typed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(bytes: &[u8]) -> Vec<String> {
        let mut editor = Editor::default();
        bytes
            .iter()
            .filter_map(|byte| match editor.typed(*byte) {
                Typed::Line(line) => Some(line),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn lines_are_edited() {
        assert_eq!(lines(b"units\r"), ["units"]);
        assert_eq!(lines(b"unx\x7fits\n"), ["units"]);
        assert_eq!(lines(b"wrong\x15log\n"), ["log"]);
        assert_eq!(lines(b"wrong\x03log\n"), ["log"]);
        assert_eq!(lines("aé\x7fb\n".as_bytes()), ["ab"]);
        assert_eq!(lines(b"\x7f\x7f\n"), [""]);
    }

    proptest! {
        #[test]
        fn any_bytes_make_no_line_longer_than_the_longest(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for line in lines(&bytes) {
                prop_assert!(line.chars().count() <= LONGEST);
            }
        }
    }
}

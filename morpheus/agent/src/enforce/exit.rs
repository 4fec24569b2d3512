//! Why the kernel ended the scheduler, from the bytes of `struct morpheus_exit`.

use std::fmt;

/// The end of the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The kernel's `enum scx_exit_kind`; never 0.
    pub kind: u32,
    /// The kernel's or the scheduler's own code.
    pub code: u64,
    /// The kernel's words for the kind.
    pub reason: String,
    /// More about this case; may be empty.
    pub message: String,
}

/// Offsets in `struct morpheus_exit`.
const KIND: usize = 8;
const REASON: usize = 16;
const MESSAGE: usize = 144;
const SIZE: usize = 656;

impl Exit {
    /// Reads the record. `None` while the scheduler runs, or when it is not the record.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SIZE] = bytes.try_into().ok()?;
        let kind = u32::from_ne_bytes(bytes[KIND..KIND + 4].try_into().expect("four bytes inside the record"));
        let code = u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes inside the record"));
        (kind != 0).then(|| Self {
            kind,
            code,
            reason: text(&bytes[REASON..MESSAGE]),
            message: text(&bytes[MESSAGE..]),
        })
    }
}

/// A C string in a field of its own.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).trim().to_owned()
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel ended the scheduler: {}", self.reason)?;
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_read_and_told() {
        let mut bytes = vec![0; SIZE];
        assert_eq!(Exit::from_bytes(&bytes), None);
        bytes[KIND..KIND + 4].copy_from_slice(&1026_u32.to_ne_bytes());
        bytes[REASON..REASON + 19].copy_from_slice(b"runnable task stall");
        bytes[MESSAGE..MESSAGE + 4].copy_from_slice(b"a[7]");
        let exit = Exit::from_bytes(&bytes).unwrap();
        assert_eq!((exit.kind, exit.code), (1026, 0));
        assert_eq!(exit.to_string(), "the kernel ended the scheduler: runnable task stall (a[7])");
        assert_eq!(Exit::from_bytes(&bytes[1..]), None);
    }
}

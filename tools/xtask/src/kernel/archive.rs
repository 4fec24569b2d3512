//! The boot archive: a cpio archive (`newc`) of files that the kernel can start. The same bytes for the same files.

use anyhow::{Context, Result};

/// An archive under construction.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    /// Adds an executable file.
    ///
    /// # Errors
    /// When it is 4 GiB or longer.
    pub(super) fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, 0o100_755, content)
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]).expect("the trailer is empty");
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is too long for a boot archive"))?;
        self.files += 1;
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, owner (2), links, time, size, device (2), device of the file (2), name's size, checksum
        for field in [self.files, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        // The header with the name, and the content, each end at a multiple of four.
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_reads_what_was_written() {
        let mut archive = Archive::default();
        for (name, content) in [("init", &b"one"[..]), ("empty", b""), ("tests", &[7; 1000])] {
            archive.file(name, content).unwrap();
        }
        let mut cpio = Command::new("cpio");
        cpio.args(["--quiet", "-i", "--to-stdout", "init", "tests"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cpio.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&archive.finish()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, [b"one".to_vec(), vec![7; 1000]].concat());
    }
}

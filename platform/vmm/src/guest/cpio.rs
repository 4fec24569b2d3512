//! Writing an initial ramdisk: a cpio archive in `newc` format, the same bytes for the same contents.

/// An archive under construction. Folders must be added before what is in them.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    next_inode: u32,
}

impl Archive {
    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(path, 0o040_755, (0, 0), &[]);
    }

    pub(crate) fn file(&mut self, path: &str, executable: bool, contents: &[u8]) {
        self.entry(path, if executable { 0o100_755 } else { 0o100_644 }, (0, 0), contents);
    }

    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, 0o020_600, (major, minor), &[]);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.next_inode += 1;
        let size = u32::try_from(contents.len()).expect("what goes into a ramdisk is limited to less than 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("paths are short");
        self.bytes.extend_from_slice(b"070701");
        let (owner, links, time, home) = (0, 1, 0, 0);
        // inode, mode, uid, gid, links, time, size, device of the file (2), device number (2), name size, checksum
        for field in
            [self.next_inode, mode, owner, owner, links, time, size, home, home, device.0, device.1, name_size, 0]
        {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
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

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.character_device("dev/console", 5, 1);
        archive.file("init", true, b"program");
        archive.file("empty", false, b"");
        archive.finish()
    }

    #[test]
    fn cpio_lists_what_was_written() {
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--numeric-uid-gid"])
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let listing = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        let modes: Vec<_> = lines.iter().map(|line| (line[0], *line.last().unwrap())).collect();
        assert_eq!(
            modes,
            [("drwxr-xr-x", "dev"), ("crw-------", "dev/console"), ("-rwxr-xr-x", "init"), ("-rw-r--r--", "empty")]
        );
        assert_eq!(lines[2][4], "7");
    }

    #[test]
    fn the_same_contents_give_the_same_bytes() {
        assert_eq!(sample(), sample());
    }
}

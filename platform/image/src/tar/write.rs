//! A small tar writer for layers we make ourselves: ustar headers, pax records for whatever does not fit.

use std::io::{self, Write};

use super::{BLOCK, Device, Entry, EntryKind, Mtime};

/// Writes entries to `W`; the same entries give the same bytes.
pub(crate) struct TarWriter<W>(W);

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self(out)
    }

    /// Appends an entry and, for a file, its `data`.
    pub(crate) fn append(&mut self, entry: &Entry, data: &[u8]) -> io::Result<()> {
        let (kind, link, device) = match &entry.kind {
            EntryKind::File => (b'0', &b""[..], None),
            EntryKind::HardLink(target) => (b'1', &target[..], None),
            EntryKind::Symlink(target) => (b'2', &target[..], None),
            EntryKind::CharDevice(device) => (b'3', &b""[..], Some(*device)),
            EntryKind::BlockDevice(device) => (b'4', &b""[..], Some(*device)),
            EntryKind::Directory => (b'5', &b""[..], None),
            EntryKind::Fifo => (b'6', &b""[..], None),
        };
        let records = pax_records(entry, link, data.len());
        if !records.is_empty() {
            let header = header(b"PaxHeader", b"", b'x', records.len(), &Entry::plain(EntryKind::File), None);
            self.0.write_all(&header)?;
            self.padded(&records)?;
        }
        self.0.write_all(&header(&entry.path, link, kind, data.len(), entry, device))?;
        self.padded(data)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        Ok(self.0)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.write_all(&[0; BLOCK][..bytes.len().wrapping_neg() % BLOCK])
    }
}

impl Entry {
    /// An entry of that kind with ordinary metadata and no name.
    pub(crate) fn plain(kind: EntryKind) -> Self {
        let mode = if kind == EntryKind::Directory { 0o755 } else { 0o644 };
        let (path, mtime, xattrs) = (Vec::new(), Mtime::default(), Vec::new());
        Self { path, kind, mode, uid: 0, gid: 0, mtime, xattrs, size: 0, segments: None }
    }
}

const OCTAL_7: u64 = 0o777_7777;
const OCTAL_11: u64 = 0o777_7777_7777;

fn pax_records(entry: &Entry, link: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut record = |key: &[u8], value: &[u8]| {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        // The length counts its own digits.
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        out.extend(format!("{length} ").bytes());
        out.extend([key, b"=", value, b"\n"].concat());
    };
    if entry.path.len() > 100 || !entry.path.is_ascii() {
        record(b"path", &entry.path);
    }
    if link.len() > 100 || !link.is_ascii() {
        record(b"linkpath", link);
    }
    if size as u64 > OCTAL_11 {
        record(b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > OCTAL_7 {
            record(key, id.to_string().as_bytes());
        }
    }
    let Mtime { seconds, nanos } = entry.mtime;
    if nanos != 0 || seconds < 0 || seconds.unsigned_abs() > OCTAL_11 {
        let text = match (seconds < 0, nanos) {
            (false, nanos) => format!("{seconds}.{nanos:09}"),
            (true, 0) => format!("{seconds}"),
            (true, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
        };
        record(b"mtime", text.as_bytes());
    }
    for xattr in &entry.xattrs {
        record(&[b"SCHILY.xattr.", &xattr.name[..]].concat(), &xattr.value);
    }
    out
}

fn header(path: &[u8], link: &[u8], kind: u8, size: usize, entry: &Entry, device: Option<Device>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
    // What does not fit stands in a pax record before.
    let octal = |value: u64, most: u64| if value > most { 0 } else { value };
    put(0, &path[..path.len().min(100)]);
    put(100, format!("{:07o}\0", entry.mode).as_bytes());
    put(108, format!("{:07o}\0", octal(entry.uid.into(), OCTAL_7)).as_bytes());
    put(116, format!("{:07o}\0", octal(entry.gid.into(), OCTAL_7)).as_bytes());
    put(124, format!("{:011o}\0", octal(size as u64, OCTAL_11)).as_bytes());
    put(136, format!("{:011o}\0", octal(entry.mtime.seconds.try_into().unwrap_or(0), OCTAL_11)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    if let Some(Device { major, minor }) = device {
        put(329, format!("{major:07o}\0").as_bytes());
        put(337, format!("{minor:07o}\0").as_bytes());
    }
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

//! Folder contents: entries sorted by bytes, packed into blocks of headers followed by names.

use super::format::{BLOCK, DIRENT};

/// One entry to write.
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) nid: u64,
    pub(super) kind: u8,
}

/// Bytes of a folder with these names, in this order.
pub(super) fn length<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let (mut full, mut used) = (0, 0);
    for name in names {
        let needed = DIRENT + name.len();
        if used + needed > BLOCK {
            full += 1;
            used = 0;
        }
        used += needed;
    }
    full * BLOCK as u64 + used as u64
}

/// The folder's bytes; every block but the last is filled up with zeros.
pub(super) fn encode(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = |entry: &&Dirent<'_>| {
            used += DIRENT + entry.name.len();
            used <= BLOCK
        };
        let (block, after) = rest.split_at(rest.iter().take_while(fits).count());
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        let mut name_offset = block.len() * DIRENT;
        for entry in block {
            out.extend(entry.nid.to_le_bytes());
            out.extend(u16::try_from(name_offset).expect("an offset within a block").to_le_bytes());
            out.extend([entry.kind, 0]);
            name_offset += entry.name.len();
        }
        block.iter().for_each(|entry| out.extend(entry.name));
        rest = after;
    }
    out
}

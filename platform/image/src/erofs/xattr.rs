//! Extended attributes behind an inode: a 12-byte header, then name index, name and value, padded to 4 bytes.

use super::format::u16_at;
use crate::tar::Xattr;

/// Namespaces with their index. An attribute in any other has no place in EROFS and is left out.
const NAMESPACES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
];
pub(super) const HEADER: usize = 12;
const ENTRY: usize = 4;

/// The attributes as they stand behind the inode; empty where there are none.
pub(super) fn encode(xattrs: &[Xattr]) -> Vec<u8> {
    let mut out = Vec::new();
    for xattr in xattrs {
        let Some((index, suffix)) = split(&xattr.name) else {
            continue;
        };
        if out.is_empty() {
            out.resize(HEADER, 0);
        }
        let length = u8::try_from(suffix.len()).expect("the tree takes names of at most 255 bytes");
        let size = u16::try_from(xattr.value.len()).expect("the tree takes values of at most 65535 bytes");
        out.extend([length, index]);
        out.extend(size.to_le_bytes());
        out.extend(suffix);
        out.extend(&xattr.value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// How many bytes [`encode`] gives.
pub(super) fn encoded_length(xattrs: &[Xattr]) -> usize {
    let entries = xattrs.iter().filter_map(|xattr| split(&xattr.name).map(|(_, suffix)| (suffix, &xattr.value)));
    let total: usize = entries.map(|(suffix, value)| (ENTRY + suffix.len() + value.len()).next_multiple_of(4)).sum();
    if total == 0 { 0 } else { HEADER + total }
}

/// The value of `i_xattr_icount` for that many encoded bytes.
pub(super) fn units(length: usize) -> u16 {
    let units = if length == 0 { 0 } else { (length - HEADER) / 4 + 1 };
    u16::try_from(units).expect("the tree limits attributes to 64 KiB")
}

/// How many bytes lie behind an inode with that `i_xattr_icount`.
pub(super) fn length_of(units: u16) -> usize {
    if units == 0 { 0 } else { HEADER + 4 * (usize::from(units) - 1) }
}

/// Reads back what [`encode`] wrote; `None` where the bytes are not of that shape.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Xattr>> {
    let mut xattrs = Vec::new();
    let Some(header) = bytes.get(..HEADER) else {
        return bytes.is_empty().then_some(xattrs);
    };
    if header[4] != 0 {
        return None;
    }
    let mut rest = &bytes[HEADER..];
    while !rest.is_empty() {
        let entry = rest.get(..ENTRY)?;
        let (name_length, index, size) = (usize::from(entry[0]), entry[1], usize::from(u16_at(entry, 2)));
        let (_, prefix) = NAMESPACES.iter().find(|(known, _)| *known == index)?;
        let name = [prefix, rest.get(ENTRY..ENTRY + name_length)?].concat();
        let value = rest.get(ENTRY + name_length..ENTRY + name_length + size)?.to_vec();
        xattrs.push(Xattr { name, value });
        rest = rest.get((ENTRY + name_length + size).next_multiple_of(4)..)?;
    }
    Some(xattrs)
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    NAMESPACES.iter().find_map(|(index, prefix)| {
        let suffix = name.strip_prefix(*prefix)?;
        // A namespace that ends in a dot needs a name after it; the two others are whole names.
        (suffix.is_empty() != prefix.ends_with(b".")).then_some((*index, suffix))
    })
}

//! The 512-byte tar header: fixed fields, numbers in octal or base-256, and its checksum.

use super::{BLOCK, TarError};

/// One raw header block with a valid checksum.
pub(super) struct Header([u8; BLOCK]);

impl Header {
    /// `None` for a block of zeros, which ends the archive.
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Option<Self>, TarError> {
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let header = Self(block);
        let wanted = header.number(148, 8, "checksum").map_err(|_| TarError::Checksum)?;
        let sum = |signed: bool| -> i64 {
            let byte = |(index, &byte): (usize, &u8)| match (index, signed) {
                (148..156, _) => i64::from(b' '),
                (_, true) => i64::from(byte.cast_signed()),
                (_, false) => i64::from(byte),
            };
            header.0.iter().enumerate().map(byte).sum()
        };
        if wanted != sum(false) && wanted != sum(true) {
            return Err(TarError::Checksum);
        }
        Ok(Some(header))
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Name with the ustar prefix, which GNU headers use for other things.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[0..100]);
        let prefix = if self.is_ustar() { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u16, TarError> {
        let mode = self.number(100, 8, "mode")?;
        Ok(u16::try_from(mode & 0o7777).expect("twelve bits fit"))
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        self.number(108, 8, "uid").and_then(|uid| u32::try_from(uid).map_err(|_| TarError::Number("uid")))
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        self.number(116, 8, "gid").and_then(|gid| u32::try_from(gid).map_err(|_| TarError::Number("gid")))
    }

    pub(super) fn size(&self) -> Result<u64, TarError> {
        unsigned(self.number(124, 12, "size")?, "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, TarError> {
        self.number(136, 12, "mtime")
    }

    pub(super) fn major(&self) -> Result<u32, TarError> {
        self.device_number(329, 12, "device major number")
    }

    pub(super) fn minor(&self) -> Result<u32, TarError> {
        self.device_number(337, 20, "device minor number")
    }

    /// Old GNU sparse: up to four segments in the header, and whether more follow.
    pub(super) fn gnu_sparse(&self) -> Result<(Vec<(u64, u64)>, bool), TarError> {
        Ok((sparse_slots(&self.0[386..482])?, self.0[482] != 0))
    }

    pub(super) fn gnu_real_size(&self) -> Result<u64, TarError> {
        unsigned(self.number(483, 12, "real size")?, "real size")
    }

    fn is_ustar(&self) -> bool {
        &self.0[257..263] == b"ustar\0"
    }

    fn device_number(&self, offset: usize, bits: u32, what: &'static str) -> Result<u32, TarError> {
        let number = self.number(offset, 8, what)?;
        u32::try_from(number).ok().filter(|number| *number < 1 << bits).ok_or(TarError::Number(what))
    }

    fn number(&self, offset: usize, length: usize, what: &'static str) -> Result<i64, TarError> {
        number(&self.0[offset..offset + length]).ok_or(TarError::Number(what))
    }
}

/// A block that continues the segments of an old GNU sparse header.
pub(super) fn gnu_sparse_continuation(block: &[u8; BLOCK]) -> Result<(Vec<(u64, u64)>, bool), TarError> {
    Ok((sparse_slots(&block[..504])?, block[504] != 0))
}

fn sparse_slots(slots: &[u8]) -> Result<Vec<(u64, u64)>, TarError> {
    let field = |bytes: &[u8]| unsigned(number(bytes).ok_or(TarError::Number("sparse map"))?, "sparse map");
    slots
        .chunks_exact(24)
        .take_while(|slot| slot[0] != 0)
        .map(|slot| Ok((field(&slot[..12])?, field(&slot[12..])?)))
        .collect()
}

fn unsigned(number: i64, what: &'static str) -> Result<u64, TarError> {
    u64::try_from(number).map_err(|_| TarError::Number(what))
}

/// Bytes up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal text, or base-256 two's complement where the top bit of the first byte is set. An empty field is zero.
fn number(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative { i128::from(first) - 0x100 } else { i128::from(first & 0x3f) };
        let mut value = start;
        for &byte in rest {
            value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
        }
        return i64::try_from(value).ok();
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_i64, |value, &byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"-1\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}

//! Pax records: `length key=value\n`, and the few keys that change an entry.

use super::{Mtime, TarError, Xattr};

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an entry's extended header says, field by field; absent fields leave the ustar header's value.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Mtime>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Sparse,
}

/// The `GNU.sparse.*` keys of the pax forms 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// Offsets and lengths in turn, from 0.0 (repeated keys) or 0.1 (one list).
    pub(super) map: Option<Vec<u64>>,
    /// Version 1.0: the map stands before the data.
    pub(super) map_in_data: bool,
}

impl Records {
    /// Adds the records of one `x` header. Later records win.
    pub(super) fn parse(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let (key, value, rest) = next_record(bytes)?;
            self.set(key, value)?;
            bytes = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            self.xattrs.retain(|xattr| xattr.name != name);
            self.xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(string(value)?),
            b"linkpath" => self.link = Some(string(value)?),
            b"size" => self.size = Some(decimal(value, "size")?),
            b"uid" => self.uid = Some(identity(value, "uid")?),
            b"gid" => self.gid = Some(identity(value, "gid")?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(string(value)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.size = Some(decimal(value, "sparse size")?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.map.get_or_insert_default().push(decimal(value, "sparse map")?);
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|&byte| byte == b',').map(|number| decimal(number, "sparse map"));
                self.sparse.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            b"GNU.sparse.major" => self.sparse.map_in_data = value == b"1",
            _ => {}
        }
        Ok(())
    }
}

/// Key, value and the bytes after the record.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn next_record(bytes: &[u8]) -> Result<Record<'_>, TarError> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ').ok_or(TarError::Pax("no length"))?;
    let length = usize::try_from(decimal(&bytes[..space], "length")?).map_err(|_| TarError::Pax("length"))?;
    if length > bytes.len() || length < space + 2 {
        return Err(TarError::Pax("length runs past the header"));
    }
    let (record, rest) = bytes.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n").ok_or(TarError::Pax("no line end"))?;
    let equals = record.iter().position(|&byte| byte == b'=').ok_or(TarError::Pax("no `=`"))?;
    Ok((&record[..equals], &record[equals + 1..], rest))
}

fn string(value: &[u8]) -> Result<Vec<u8>, TarError> {
    if value.contains(&0) { Err(TarError::Pax("a name holds a NUL byte")) } else { Ok(value.to_vec()) }
}

fn identity(value: &[u8], what: &'static str) -> Result<u32, TarError> {
    u32::try_from(decimal(value, what)?).map_err(|_| TarError::Pax(what))
}

pub(super) fn decimal(value: &[u8], what: &'static str) -> Result<u64, TarError> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(TarError::Pax(what))
}

/// Seconds with an optional sign and fraction; digits beyond nanoseconds are cut off.
fn time(value: &[u8]) -> Result<Mtime, TarError> {
    const WRONG: TarError = TarError::Pax("mtime");
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(WRONG);
    }
    let seconds = i64::try_from(decimal(whole, "mtime")?).map_err(|_| WRONG)?;
    let nanos =
        (0..9).fold(0, |nanos, digit| nanos * 10 + u32::from(fraction.get(digit).map_or(0, |byte| byte - b'0')));
    Ok(match (negative, nanos) {
        (false, nanos) => Mtime { seconds, nanos },
        (true, 0) => Mtime { seconds: -seconds, nanos: 0 },
        (true, nanos) => Mtime { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_nanoseconds_and_round_down() {
        for (text, seconds, nanos) in [
            ("1", 1, 0),
            ("1.5", 1, 500_000_000),
            ("1.1234567899", 1, 123_456_789),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
        ] {
            assert_eq!(time(text.as_bytes()).unwrap(), Mtime { seconds, nanos }, "{text}");
        }
        for text in ["", ".", "x", "1.x", "--1", "99999999999999999999"] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn records_must_match_their_length() {
        for text in
            ["5 a=\n", "6 a=b", "9 a=b\n", "0 a=b\n", "a=b\n", "6 aab\n", " 6 a=b\n", "99999999999999999999 a=b\n"]
        {
            let wanted = text == "5 a=\n";
            assert_eq!(Records::default().parse(text.as_bytes()).is_ok(), wanted, "{text:?}");
        }
    }
}

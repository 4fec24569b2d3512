//! The few facts needed out of ELF files that come from packages: sections, and whether a program is static.

const PT_INTERP: u32 = 3;

/// A 64-bit little-endian x86 ELF file. Nothing in it is trusted: what lies outside of the file is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let x86_64 = bytes.get(18..20)? == 62_u16.to_le_bytes();
        (bytes.starts_with(b"\x7fELF\x02\x01") && x86_64).then_some(Self(bytes))
    }

    /// The contents of the first section with this name.
    pub(crate) fn section(&self, name: &str) -> Option<&'a [u8]> {
        let headers = self.table(0x28, 0x3a, 0x3c)?;
        let (size, names_index) = (headers.entry_size, usize::from(self.u16(0x3e)?));
        let header = |index: usize| self.0.get(headers.at.checked_add(index.checked_mul(size)?)?..);
        let contents = |header: &[u8]| self.range(read_u64(header, 0x18)?, read_u64(header, 0x20)?);
        let names = contents(header(names_index)?)?;
        (0..headers.count).find_map(|index| {
            let header = header(index)?;
            let at = usize::try_from(read_u32(header, 0)?).ok()?;
            let found = names.get(at..)?.split(|&b| b == 0).next()?;
            if found == name.as_bytes() { contents(header) } else { None }
        })
    }

    /// Whether it is a program that needs no interpreter: linked statically.
    pub(crate) fn is_static_program(&self) -> bool {
        let program = matches!(self.u16(16), Some(2 | 3));
        let segments = self.segments();
        program && !segments.is_empty() && segments.iter().all(|&(kind, _)| kind != PT_INTERP)
    }

    /// Type and contents of each segment that lies in the file.
    fn segments(&self) -> Vec<(u32, &'a [u8])> {
        let Some(headers) = self.table(0x20, 0x36, 0x38) else {
            return Vec::new();
        };
        (0..headers.count)
            .filter_map(|index| {
                let header = self.0.get(headers.at.checked_add(index.checked_mul(headers.entry_size)?)?..)?;
                Some((read_u32(header, 0)?, self.range(read_u64(header, 0x08)?, read_u64(header, 0x20)?)?))
            })
            .collect()
    }

    fn table(&self, at: usize, entry_size: usize, count: usize) -> Option<Table> {
        Some(Table {
            at: usize::try_from(read_u64(self.0, at)?).ok()?,
            entry_size: usize::from(self.u16(entry_size)?),
            count: usize::from(self.u16(count)?),
        })
    }

    fn range(&self, at: u64, size: u64) -> Option<&'a [u8]> {
        let at = usize::try_from(at).ok()?;
        self.0.get(at..at.checked_add(usize::try_from(size).ok()?)?)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.0.get(at..at.checked_add(2)?)?.try_into().ok()?))
    }
}

struct Table {
    at: usize,
    entry_size: usize,
    count: usize,
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_test_program_itself_is_an_elf_file_with_sections_and_not_static() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let elf = Elf::new(&own).unwrap();
        assert!(!elf.is_static_program());
        assert!(elf.section(".text").unwrap().len() > 1000);
        assert!(elf.section(".no-such-section").is_none());
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 20..400), magic in any::<bool>()) {
            if magic {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
                bytes[18..20].copy_from_slice(&62_u16.to_le_bytes());
            }
            if let Some(elf) = Elf::new(&bytes) {
                elf.section(".modinfo");
                elf.is_static_program();
            }
        }
    }
}

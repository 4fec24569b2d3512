//! The clusters that a qcow2 file without a backing file holds, as QEMU writes one: those a copy of changes put there.
//!
//! Only what QEMU makes by default is read (version 3, one L1 table, standard clusters); anything else is refused. Source:
//! docs/interop/qcow2.rst of QEMU.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const MAGIC: u32 = 0x5146_49fb;
/// Bits 9 to 55 of a table's entry: an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Largest L1 table that is read, in entries: enough for 64 TiB in clusters of 64 KiB.
const MAX_L1: u32 = 1 << 17;

/// Why a qcow2 file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// The system refused.
    #[error("cannot read the copy of a disk")]
    Io(#[from] io::Error),
    /// Not what QEMU makes by default.
    #[error("the copy of a disk is not as QEMU makes one: {0}")]
    Odd(&'static str),
}

/// The clusters a file holds.
#[derive(Debug)]
pub struct ChangedClusters {
    file: File,
    cluster: u64,
    size: u64,
    /// By the cluster's number: where it lies in the file; `None`: it is all zeroes.
    held: BTreeMap<u64, Option<u64>>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes.get(at + i).copied().unwrap_or(0))
}

impl ChangedClusters {
    /// Reads the tables of a file.
    ///
    /// # Errors
    /// [`Qcow2Error`].
    pub fn open(path: &Path) -> Result<Self, Qcow2Error> {
        let file = File::open(path)?;
        let mut head = [0; 104];
        file.read_exact_at(&mut head, 0)?;
        let word = |at| u32::from_be_bytes(number(&head, at));
        let long = |at| u64::from_be_bytes(number(&head, at));
        if word(0) != MAGIC || word(4) != 3 {
            return Err(Qcow2Error::Odd("another format or version"));
        }
        let (backing, bits, size, l1_entries, l1_at) = (long(8), word(20), long(24), word(36), long(40));
        if backing != 0 || !(9..=21).contains(&bits) || word(32) != 0 {
            return Err(Qcow2Error::Odd("a backing file, odd clusters or encryption"));
        }
        // Dirty (bit 0) only says that reference counts may lag behind.
        if long(72) & !1 != 0 {
            return Err(Qcow2Error::Odd("features that are not known"));
        }
        if l1_entries > MAX_L1 {
            return Err(Qcow2Error::Odd("a first table that is too large"));
        }
        let cluster = 1_u64 << bits;
        let per_table = cluster / 8;
        let mut held = BTreeMap::new();
        let l1 = read_table(&file, l1_at, u64::from(l1_entries))?;
        for (table, entry) in (0_u64..).zip(l1) {
            let at = entry & OFFSET;
            if at == 0 {
                continue;
            }
            for (index, entry) in (0_u64..).zip(read_table(&file, at, per_table)?) {
                let which = table * per_table + index;
                if entry & COMPRESSED != 0 {
                    return Err(Qcow2Error::Odd("compressed clusters"));
                }
                let offset = entry & OFFSET;
                if which.saturating_mul(cluster) < size && (offset != 0 || entry & ZERO != 0) {
                    held.insert(which, (entry & ZERO == 0).then_some(offset));
                }
            }
        }
        Ok(Self { file, cluster, size, held })
    }

    /// Bytes per cluster.
    #[must_use]
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Bytes of the whole disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The numbers of the clusters that are held, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.keys().copied()
    }

    /// Whether a cluster is held.
    #[must_use]
    pub fn holds(&self, number: u64) -> bool {
        self.held.contains_key(&number)
    }

    /// The bytes of a cluster that is held; zeroes for one that is not. The last one of a disk may be shorter.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, number: u64) -> io::Result<Vec<u8>> {
        let length = self.cluster.min(self.size.saturating_sub(number * self.cluster));
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        if let Some(Some(at)) = self.held.get(&number) {
            // The end of the last cluster may lie beyond the end of the file.
            let mut done = 0;
            while done < bytes.len() {
                match self.file.read_at(&mut bytes[done..], at + done as u64)? {
                    0 => break,
                    read => done += read,
                }
            }
        }
        Ok(bytes)
    }
}

fn read_table(file: &File, at: u64, entries: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; usize::try_from(entries * 8).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.chunks_exact(8).map(|entry| u64::from_be_bytes(number(entry, 0))).collect())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn clusters_that_qemu_wrote_are_found_with_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        let run = |program: &str, arguments: &[&str]| {
            let ran = Command::new(program).args(arguments).arg(&path).output().unwrap();
            assert!(ran.status.success(), "{ran:?}");
        };
        let made = Command::new("qemu-img").arg("--version").output();
        if made.is_err() {
            // Debian packs it apart from QEMU; what it would show is tested on a real microVM too.
            return;
        }
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=131072"])
            .arg(&path)
            .arg("300000000")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        for command in ["write -P 7 131072 131072", "write -P 9 268435456 4096", "write -z 0 131072"] {
            run("qemu-io", &["-f", "qcow2", "-c", command]);
        }
        let read = ChangedClusters::open(&path).unwrap();
        assert_eq!((read.cluster(), read.size()), (131_072, 300_000_256 / 512 * 512));
        assert_eq!(read.numbers().collect::<Vec<_>>(), [0, 1, 2048]);
        assert!(read.read(0).unwrap().iter().all(|b| *b == 0) && read.read(1).unwrap().iter().all(|b| *b == 7));
        let third = read.read(2048).unwrap();
        assert!(third[..4096].iter().all(|b| *b == 9) && third[4096..].iter().all(|b| *b == 0));
        assert_eq!((read.holds(2), read.read(2288).unwrap().len()), (false, 300_000_256 - 2288 * 131_072));
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 104..4096), sound in any::<bool>()) {
            if sound {
                bytes[..8].copy_from_slice(&[0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
                bytes[8..16].fill(0);
                bytes[20..24].copy_from_slice(&9_u32.to_be_bytes());
                bytes[32..36].fill(0);
                bytes[36..40].copy_from_slice(&2_u32.to_be_bytes());
                bytes[40..48].copy_from_slice(&104_u64.to_be_bytes());
                bytes[72..80].fill(0);
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            if let Ok(read) = ChangedClusters::open(file.path()) {
                for number in read.numbers().take(8) {
                    let _ = read.read(number);
                }
            }
        }
    }
}

//! Which processors and which I/O interrupt controller there are: from ACPI's MADT, from QEMU's configuration device where it
//! makes none (microvm without ACPI), or from Intel's multiprocessor table, which Firecracker makes.
//!
//! A table counts only when it is whole: QEMU's microvm loads a boot archive over the ACPI tables that its firmware has put
//! at the end of memory (seen with 10.0.2; how much of them is lost depends on the archive's length).

use super::pvh::read;
use crate::cpu::{input, out_word};
use crate::percpu::MAX_CPUS;

/// Where the I/O controller is when no table says so.
const USUAL_IO_APIC: u64 = 0xfec0_0000;

/// What the tables say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    apics: [u32; MAX_CPUS],
    count: usize,
    /// The registers of the I/O controller that the first interrupt lines lead to.
    pub(crate) io_apic: u64,
}

impl Processors {
    const fn none() -> Self {
        Self { apics: [0; MAX_CPUS], count: 0, io_apic: USUAL_IO_APIC }
    }

    fn add(&mut self, apic: u32) {
        if !self.apics().contains(&apic)
            && let Some(place) = self.apics.get_mut(self.count)
        {
            *place = apic;
            self.count += 1;
        }
    }

    /// The numbers of the local controllers, in the order of the tables.
    pub(crate) fn apics(&self) -> &[u32] {
        &self.apics[..self.count]
    }

    /// Reads the tables: ACPI's when the loader names them (`acpi` is not zero).
    pub(crate) fn find(acpi: u64) -> Self {
        madt(acpi).or_else(qemu).or_else(multiprocessor_table).unwrap_or(Self::none())
    }
}

/// Whether the ACPI table at `at` has one of these names and is whole: its bytes add up to zero (ACPI 6.5, 5.2.6).
fn is_whole(at: u64, names: &[[u8; 4]]) -> Option<bool> {
    let length = read::<u32>(at + 4)?;
    let known = names.contains(&read(at)?) && (36..=0x10000).contains(&length);
    Some(known && (0..u64::from(length)).try_fold(0_u8, |sum, offset| Some(sum.wrapping_add(read(at + offset)?)))? == 0)
}

/// Reads ACPI's table of interrupt controllers.
fn madt(root: u64) -> Option<Processors> {
    (read::<[u8; 8]>(root)? == *b"RSD PTR ").then_some(())?;
    let long: u64 = if read::<u8>(root + 15)? >= 2 { read(root + 24)? } else { 0 };
    let (table, width) = if long != 0 { (long, 8) } else { (u64::from(read::<u32>(root + 16)?), 4) };
    is_whole(table, &[*b"RSDT", *b"XSDT"])?.then_some(())?;
    let pointers = (u64::from(read::<u32>(table + 4)?).checked_sub(36)? / width).min(256);
    let pointer = |number| {
        let at = table + 36 + number * width;
        if width == 8 { read::<u64>(at) } else { read::<u32>(at).map(u64::from) }
    };
    let madt = (0..pointers).filter_map(pointer).find(|at| is_whole(*at, &[*b"APIC"]) == Some(true))?;
    let end = madt + u64::from(read::<u32>(madt + 4)?);
    let mut found = Processors::none();
    let mut at = madt + 44;
    while at + 2 <= end {
        let [kind, length] = read::<[u8; 2]>(at)?;
        match kind {
            0 if read::<u32>(at + 4)? & 1 == 1 => found.add(u32::from(read::<u8>(at + 3)?)),
            9 if read::<u32>(at + 8)? & 1 == 1 => found.add(read::<u32>(at + 4)?),
            1 if read::<u32>(at + 8)? == 0 => found.io_apic = u64::from(read::<u32>(at + 4)?),
            _ => {}
        }
        at += u64::from(length.max(2));
    }
    (found.count > 0).then_some(found)
}

/// Asks QEMU's configuration device how many processors there are. Their controllers are numbered from zero.
fn qemu() -> Option<Processors> {
    const SELECT: u16 = 0x510;
    const SIGNATURE: u16 = 0;
    const CPUS: u16 = 5;
    let bytes = |item: u16| {
        // SAFETY: selects an item of the configuration device and reads it, or does nothing where there is none.
        unsafe {
            out_word(SELECT, item);
            [(); 4].map(|()| input(SELECT + 1))
        }
    };
    (bytes(SIGNATURE) == *b"QEMU").then_some(())?;
    let [low, high, ..] = bytes(CPUS);
    let mut found = Processors::none();
    (0..u32::from(u16::from_le_bytes([low, high]))).for_each(|apic| found.add(apic));
    (found.count > 0).then_some(found)
}

/// Reads Intel's table.
fn multiprocessor_table() -> Option<Processors> {
    let extended = u64::from(read::<u16>(0x40e)?) << 4;
    let places = [(extended, 0x400), (0x9_fc00, 0x400), (0xf_0000, 0x1_0000)];
    let pointer = places.into_iter().filter(|(start, _)| *start != 0).find_map(|(start, length)| {
        (0..length / 16).map(|step| start + step * 16).find(|at| read::<[u8; 4]>(*at) == Some(*b"_MP_"))
    })?;
    let table = u64::from(read::<u32>(pointer + 4)?);
    (read::<[u8; 4]>(table)? == *b"PCMP").then_some(())?;
    let mut found = Processors::none();
    let mut at = table + 44;
    for _ in 0..read::<u16>(table + 34)? {
        match read::<u8>(at)? {
            0 => {
                if read::<u8>(at + 3)? & 1 == 1 {
                    found.add(u32::from(read::<u8>(at + 1)?));
                }
                at += 20;
                continue;
            }
            2 if read::<u8>(at + 3)? & 1 == 1 => found.io_apic = u64::from(read::<u32>(at + 4)?),
            _ => {}
        }
        at += 8;
    }
    (found.count > 0).then_some(found)
}

//! The processor's instructions that Rust has no words for, and which of its optional features are there.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};

/// Model-specific registers.
pub(crate) mod msr {
    pub(crate) const APIC_BASE: u32 = 0x1b;
    pub(crate) const TSC_DEADLINE: u32 = 0x6e0;
    /// The registers of an x2APIC follow, each at its offset in the page divided by 16.
    pub(crate) const X2APIC: u32 = 0x800;
    pub(crate) const EFER: u32 = 0xc000_0080;
    pub(crate) const STAR: u32 = 0xc000_0081;
    pub(crate) const LSTAR: u32 = 0xc000_0082;
    pub(crate) const CSTAR: u32 = 0xc000_0083;
    pub(crate) const SFMASK: u32 = 0xc000_0084;
    pub(crate) const FS_BASE: u32 = 0xc000_0100;
    pub(crate) const GS_BASE: u32 = 0xc000_0101;
    pub(crate) const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// Reads a model-specific register.
///
/// # Safety
/// The register exists.
#[inline]
pub(crate) unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller answers for the register; reading has no other effect.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The register exists, takes this value, and what it changes keeps every promise of the kernel.
#[inline]
pub(crate) unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller answers for the effect. No `nomem`: some registers change what memory means.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Writes a byte to an I/O port.
///
/// # Safety
/// A device that takes it, or none, is at the port.
#[inline]
pub(crate) unsafe fn out(port: u16, value: u8) {
    // SAFETY: the caller answers for the device.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes 16 bits to an I/O port.
///
/// # Safety
/// As for [`out`].
pub(crate) unsafe fn out_word(port: u16, value: u16) {
    // SAFETY: the caller answers for the device.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a byte from an I/O port; all ones where no device is.
///
/// # Safety
/// Reading has no effect that the caller does not mean.
#[inline]
pub(crate) unsafe fn input(port: u16) -> u8 {
    let value;
    // SAFETY: the caller answers for the device.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The time stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction and the kernel may always use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The address of the last page fault on this processor.
#[inline]
pub(crate) fn fault_address() -> u64 {
    let address;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    address
}

/// Loads the page-table root.
///
/// # Safety
/// `value` names a root that maps the whole kernel as it is mapped now.
#[inline]
pub(crate) unsafe fn load_root(value: u64) {
    // SAFETY: the caller promises that the kernel stays mapped.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Forgets the translation of one page of the current address space.
#[inline]
pub(crate) fn forget_page(address: u64) {
    // SAFETY: forgetting a translation is always allowed; it is read again from the tables.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Stops for good: interrupts stay off.
pub(crate) fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off this processor does nothing any more, which is what is asked for.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Optional features that change what the kernel does.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Features {
    pub(crate) pcid: bool,
    pub(crate) smep: bool,
    pub(crate) smap: bool,
    pub(crate) umip: bool,
    pub(crate) huge_pages: bool,
    pub(crate) x2apic: bool,
    pub(crate) tsc_deadline: bool,
    pub(crate) random: bool,
    /// Ticks of the time stamp counter per second, when the processor or the hypervisor says so.
    pub(crate) tsc_hertz: Option<u64>,
}

impl Features {
    /// What CPUID says.
    pub(crate) fn read() -> Self {
        let highest = __cpuid(0).eax;
        let basic = __cpuid(1);
        let extended = if highest >= 7 { __cpuid_count(7, 0) } else { __cpuid_count(0x8000_0000, u32::MAX) };
        let (smep, smap, umip) =
            if highest >= 7 { (extended.ebx >> 7, extended.ebx >> 20, extended.ecx >> 2) } else { (0, 0, 0) };
        let amd = if __cpuid(0x8000_0000).eax >= 0x8000_0001 { __cpuid(0x8000_0001).edx } else { 0 };
        let hypervisor = basic.ecx >> 31 & 1 == 1;
        Self {
            pcid: basic.ecx >> 17 & 1 == 1,
            smep: smep & 1 == 1,
            smap: smap & 1 == 1,
            umip: umip & 1 == 1,
            huge_pages: amd >> 26 & 1 == 1,
            x2apic: basic.ecx >> 21 & 1 == 1 && !(hypervisor && translated()),
            tsc_deadline: basic.ecx >> 24 & 1 == 1,
            random: basic.ecx >> 30 & 1 == 1,
            tsc_hertz: hypervisor_tsc(hypervisor).or_else(|| crystal_tsc(highest)),
        }
    }
}

/// Whether QEMU translates the code. When it counts instructions (`-icount`), it ends with "Bad icount read" at an x2APIC's
/// timer; there the registers in memory must do.
fn translated() -> bool {
    __cpuid(0x4000_0000).ebx == u32::from_le_bytes(*b"TCGT")
}

/// Leaf 0x4000_0010: VMware's way, which QEMU, Firecracker and others follow: kHz in `eax`.
fn hypervisor_tsc(hypervisor: bool) -> Option<u64> {
    if !hypervisor || __cpuid(0x4000_0000).eax < 0x4000_0010 {
        return None;
    }
    let kilohertz = u64::from(__cpuid(0x4000_0010).eax);
    (kilohertz > 0).then_some(kilohertz * 1000)
}

/// Leaf 0x15: the ratio to the crystal, and the crystal's rate.
fn crystal_tsc(highest: u32) -> Option<u64> {
    if highest < 0x15 {
        return None;
    }
    let leaf = __cpuid(0x15);
    let (denominator, numerator, crystal) = (u64::from(leaf.eax), u64::from(leaf.ebx), u64::from(leaf.ecx));
    (denominator > 0 && numerator > 0 && crystal > 0).then(|| crystal * numerator / denominator)
}

/// Sets up the control registers of the processor that runs this: write protection in the kernel, SSE for everyone, and what
/// keeps the kernel from running or touching user memory by mistake.
///
/// # Safety
/// Long mode is on with the kernel mapped, and no user memory is needed by the kernel through user addresses.
pub(crate) unsafe fn set_control(features: Features) {
    const CR0: u64 = 1 << 31 | 1 << 16 | 1 << 5 | 1 << 4 | 1 << 1 | 1; // PG, WP, NE, ET, MP, PE
    const CR4: u64 = 1 << 10 | 1 << 9 | 1 << 7 | 1 << 5; // OSXMMEXCPT, OSFXSR, PGE, PAE
    let mut cr4 = CR4;
    for (there, bit) in [(features.umip, 11), (features.pcid, 17), (features.smep, 20), (features.smap, 21)] {
        cr4 |= u64::from(there) << bit;
    }
    // SAFETY: the bits that stay as they were (PG, PE, PAE) keep long mode going; CR3 holds PCID 0 as PCIDE asks; the others
    // restrict user memory, which the caller does not touch, or allow SSE.
    unsafe {
        asm!("mov cr0, {}", in(reg) CR0, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
    }
}

/// A random number from the processor; `None` when it has none or it is used up for now.
pub(crate) fn random(features: Features) -> Option<u64> {
    if !features.random {
        return None;
    }
    (0..10).find_map(|_| {
        let (value, ok): (u64, u8);
        // SAFETY: CPUID said that the instruction is there.
        unsafe { asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack)) };
        (ok == 1).then_some(value)
    })
}

/// Forgets everything remembered of the current address space but global pages.
pub(crate) fn reload_root() {
    // SAFETY: the root stays the one it is; without bit 63, which reads as zero, what its tag remembers is forgotten.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) };
}

//! What Linux guests boot from: bundles of kernel, modules and PID 1, made from Debian's cloud kernel package.

pub mod apt;
mod cpio;
mod debian;
mod elf;
mod import;
mod modules;
mod packed;
mod store;

pub use debian::PackageError;
pub use modules::ModuleError;
pub use packed::UnpackError;
pub use store::{GuestBundle, GuestError, GuestStore};

/// The part of the kernel command line all Linux guests share; VMs start with [`base_cmdline`].
///
/// A panic resets at once, and a reset ends the VM. Self-tests of ciphers are left out: they take a third of a second
/// when translated.
pub const BASE_CMDLINE: &str = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests";

/// [`BASE_CMDLINE`] and what this accelerator needs. Takes 20 ms under TCG: call it once and keep the answer.
///
/// A translated guest on a busy host often fails to measure its time stamp counter, and then waits for a timer tick that
/// `microvm` never delivers: it hangs early in boot, in a quarter of the boots seen. Told the rate, it does not measure.
/// Nor may it check the rate against its own late ticks: on a busy host it then leaves the counter for them and its clock
/// falls behind, by seconds in each minute.
pub fn base_cmdline(kind: crate::AccelKind) -> String {
    match kind {
        crate::AccelKind::Kvm => BASE_CMDLINE.to_owned(),
        crate::AccelKind::Tcg => {
            format!("{BASE_CMDLINE} tsc_early_khz={} tsc=reliable", crate::syscalls::time_stamp_khz())
        }
    }
}

//! The end of the guest.

use crate::root;

/// Writes out what is in memory, lets go of the file systems, and powers off. Does not return.
pub(crate) fn off() -> ! {
    rustix::fs::sync();
    root::unmount();
    loop {
        // Without ACPI the kernel halts instead; a restart then ends QEMU, which runs with `-no-reboot`.
        let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
        let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
    }
}

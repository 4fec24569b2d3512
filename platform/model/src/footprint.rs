//! What an instance takes of its host, memory and disk: the sums that the planner admits by and the agent starts by.

use holm_manifest::Memory;

use crate::state::Host;

/// Memory a guest takes for itself, in MiB. Measured with Debian's 6.12 cloud kernel and 128 MiB: 42 MiB are the kernel's
/// before it counts any, and 45 MiB are in use beside an app of 2 MiB.
const GUEST_MIB: u64 = 96;

/// The kernel's books take this part of all memory: 64 bytes for each page of 4 KiB.
const BOOKS: u64 = 64;

/// What the VMM takes beside the guest's memory, in MiB, with translated code. Measured: 83 MiB proportional with 20
/// guests, of which 64 MiB are the cache of translated code.
const TRANSLATING_MIB: u64 = 96;

/// The same where the guest runs on the processor itself. Measured: 14 to 36 MiB.
const VIRTUALISING_MIB: u64 = 32;

/// The memory of a microVM whose app may use `app` MiB, in MiB.
#[must_use]
pub const fn machine_mib(app: u64) -> u64 {
    app + GUEST_MIB + app.div_ceil(BOOKS)
}

/// What an instance whose app may use `app` takes of `host` at the most, in bytes.
#[must_use]
pub fn footprint(app: Memory, host: &Host) -> u64 {
    let vmm = if host.acceleration == "kvm" { VIRTUALISING_MIB } else { TRANSLATING_MIB };
    (machine_mib(app.mib()) + vmm) << 20
}

/// What an instance takes of its host's disk at the most, in bytes, volumes left out: 4 MiB of its log, and 1 MiB for its
/// journal, its console and QEMU's messages. Its writable layer lies in its memory.
pub const INSTANCE_DISK: u64 = 5 << 20;

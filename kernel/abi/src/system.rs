//! The system as a whole: topology, units, metrics, log, trace, configuration, console, power (seed 10.2, 11, 17).

use crate::field::{Reserved, abi_struct};
use crate::words::{abi_enum, abi_flags};
use crate::{ExitReason, SchedClass, UnitState};

abi_enum! {
    /// The hardening profile the kernel was built with (seed 17.1).
    pub enum Profile {
        /// Least overhead.
        Standard = 0,
        /// Every check, verbose log.
        Dev = 1,
        /// Extra robustness.
        Hardened = 2,
    }
}

abi_struct! {
    /// The machine (seed 11).
    pub struct Topology version 1 {
        /// Processors that run.
        cpus: u32,
        /// NUMA nodes.
        numa_nodes: u32,
        /// Bytes of memory the kernel manages.
        memory_bytes: u64,
        /// Bytes of it that are free.
        free_bytes: u64,
        /// Ticks of the time-stamp counter per second; 0 when unknown.
        tsc_hz: u64,
        /// Bytes of a page.
        page_bytes: u32,
        /// The profile.
        profile: Profile,
        /// Devices the kernel knows: the console.
        devices: u32,
        /// The processor the caller runs on.
        current_cpu: u32,
        /// The version of this interface: the number of the newest call.
        abi_version: u32,
        /// Room for later.
        reserved: Reserved,
        /// Name and version of the kernel, padded with zero bytes.
        kernel: [u8; 32],
    }
}

abi_flags! {
    /// Which units sys_list_units gives; none set: all.
    pub flags UnitFilterFlags {
        /// Only those that run.
        RUNNING = 0,
        /// Only those that ended.
        ENDED = 1,
    }
}

abi_struct! {
    /// Which units to list.
    pub struct UnitFilter version 1 {
        /// Only units with an id above this: 0 first, then the last id of the list before.
        after: u64,
        /// Only children of the unit of this id; 0 for all.
        parent: u64,
        /// Which.
        flags: UnitFilterFlags,
        /// Only units that have a label of this key, padded with zero bytes; all zero for all.
        label_key: [u8; 24],
        /// With a key: only units whose label has this value; all zero for any.
        label_value: [u8; 40],
    }
}

abi_struct! {
    /// A unit in the list, by ascending id.
    pub record UnitListEntry {
        /// Its id.
        id: u64,
        /// The id of the unit that made it.
        parent: u64,
        /// Where it is in its life.
        state: UnitState,
        /// Why it ended.
        exit_reason: ExitReason,
        /// Threads that have not ended.
        threads: u32,
        /// Class of its threads.
        sched_class: SchedClass,
        /// Time its threads ran, in nanoseconds.
        cpu_time: u64,
        /// Memory, in bytes.
        memory_bytes: u64,
        /// Kernel memory, in bytes.
        kernel_bytes: u64,
        /// The code it ended with.
        exit_code: i64,
        /// Its name, padded with zero bytes.
        name: [u8; 32],
    }
}

abi_struct! {
    /// Figures of a unit, or of the whole system.
    pub struct Metrics version 1 {
        /// Nanoseconds since the unit was started, or since boot.
        uptime: u64,
        /// Time threads ran, in nanoseconds.
        cpu_time: u64,
        /// Time processors idled, in nanoseconds; 0 for a unit.
        idle_time: u64,
        /// System calls.
        syscalls: u64,
        /// Page faults that were resolved.
        page_faults: u64,
        /// Switches to its threads.
        context_switches: u64,
        /// Messages sent.
        messages_sent: u64,
        /// Messages received.
        messages_received: u64,
        /// Messages dropped by full queues.
        messages_dropped: u64,
        /// Calls made.
        calls: u64,
        /// Capabilities revoked, descendants counted when they are swept.
        revocations: u64,
        /// Timers that expired.
        timer_expirations: u64,
        /// Events reported.
        events: u64,
        /// Memory of pages and page tables, in bytes.
        memory_bytes: u64,
        /// Memory of kernel objects, in bytes.
        kernel_bytes: u64,
        /// Handles in use.
        handles: u64,
        /// Threads that have not ended.
        threads: u64,
        /// Units that have not ended; 0 for a unit.
        units: u64,
        /// Objects of all types; 0 for a unit.
        objects: u64,
        /// Revocations that wait for the sweeper, and one for each other kind of background work that waits; 0 for a unit.
        sweep_backlog: u64,
        /// Interrupts; 0 for a unit.
        interrupts: u64,
        /// The longest stretch with interrupts off, in ticks of the time-stamp counter; 0 for a unit.
        max_kernel_ticks: u64,
        /// Invariants checked by sampling; 0 for a unit.
        invariant_checks: u64,
        /// Payload checksums made; 0 for a unit.
        payload_checks: u64,
        /// How the kernel was entered for the longest stretch: a system call's number, or 65,536 plus the vector of an
        /// interrupt or exception; 0 for a unit.
        max_kernel_entry: u64,
        /// Findings of scrubber, watchdog and text check; 0 for a unit.
        findings: u64,
        /// Pages scrubbed; 0 for a unit.
        scrubbed_pages: u64,
        /// Verifications of the whole text of the kernel; 0 for a unit.
        text_checks: u64,
    }
}

abi_struct! {
    /// What to read of the kernel's log (seed 11).
    pub struct LogRange version 1 {
        /// In: the first record wanted. Out: the record after the last one given, to go on with.
        sequence: u64,
        /// Out: records lost because they were overwritten before `sequence`.
        lost: u64,
        /// Out: a checksum chained over all records up to the last one given, so that a reader notices tampering.
        chain: u64,
    }
}

abi_enum! {
    /// What a trace record tells; the payload as words 0 to 3.
    pub enum TraceKind {
        /// By trace_emit: the event type given is word 0's low half; the payload is the caller's.
        User = 0,
        /// A switch: word 0 the thread before (0: idle), 1 the thread after (0: idle).
        Switch = 1,
        /// A thread became runnable: its id, who woke it.
        Wake = 2,
        /// A system call was entered: its number, first three arguments.
        SyscallEnter = 3,
        /// A system call ended: its number, its result.
        SyscallExit = 4,
        /// A message was sent: channel id, bytes, capabilities.
        Send = 5,
        /// A message was received: channel id, bytes, capabilities.
        Receive = 6,
        /// A capability was granted, derived or transferred: object id, from unit, to unit, rights.
        CapGrant = 7,
        /// A capability was revoked: object id.
        CapRevoke = 8,
        /// A page fault: address, error code, 1 when it was resolved.
        PageFault = 9,
        /// A unit changed its state: unit id, UnitState, ExitReason.
        UnitState = 10,
        /// A thread started or ended: thread id, ThreadState.
        ThreadState = 11,
        /// A timer expired: timer id, deadline.
        Timer = 12,
        /// An EDF deadline was missed: thread id, lateness in nanoseconds.
        DeadlineMiss = 13,
        /// An EDF budget was used up: thread id, time of the next.
        Throttle = 14,
        /// The kernel found something wrong with itself; the log says it in words. Word 0 says what: 1 a free page was changed
        /// (its frame, the offset), 2 a processor does not enter the kernel when asked (its number, nanoseconds), 3 one was in
        /// the kernel too long (its number, nanoseconds), 4 a ready thread gets no processor (its id, nanoseconds, unit id), 5
        /// the kernel's text was changed (offset of the page, sum before, sum now).
        Finding = 15,
    }
}

abi_struct! {
    /// Which records a reader of the trace gets.
    pub struct TraceFilter version 1 {
        /// Kinds, by bit `1 << TraceKind`; 0 for all.
        kinds: u64,
        /// Only those of the unit of this id; 0 for all.
        unit: u64,
        /// Processors, by bit; 0 for all.
        cpus: u64,
    }
}

abi_struct! {
    /// One record of the trace (seed 10.2).
    pub record TraceRecord {
        /// When, monotonic.
        timestamp: u64,
        /// Its number on its processor; a gap means records were overwritten unread.
        sequence: u64,
        /// The processor.
        cpu: u32,
        /// What it tells.
        kind: TraceKind,
        /// The id of the unit that ran.
        unit: u64,
        /// The id of the thread that ran.
        thread: u64,
        /// The payload; see [`TraceKind`].
        data: [u64; 4],
    }
}

abi_flags! {
    /// What runs at run time of what was compiled in (seed 17.2). Switching on what the profile left out is NotSupported.
    pub flags ConfigFlags {
        /// Sampled checks of the kernel's invariants.
        INVARIANTS = 0,
        /// Sampled checksums of message payloads.
        PAYLOAD_CRC = 1,
        /// The memory scrubber.
        SCRUBBER = 2,
        /// The watchdog.
        WATCHDOG = 3,
        /// Verification of the kernel's text.
        TEXT_CHECK = 4,
        /// The trace ring.
        TRACE = 5,
        /// System calls in the trace.
        TRACE_SYSCALLS = 6,
        /// A log of everything that is refused.
        LOG_VERBOSE = 7,
    }
}

abi_struct! {
    /// The kernel's knobs (seed 17.2).
    pub struct KernelConfig version 1 {
        /// What runs.
        flags: ConfigFlags,
        /// Out: what this profile has compiled in; ignored by kernel_config_set.
        available: ConfigFlags,
        /// One invariant check in this many operations; at least 1.
        invariant_interval: u32,
        /// One payload checksum in this many messages; at least 1.
        crc_interval: u32,
        /// Free pages that are cleared, or looked at again, per second: 1 to 40,000.
        scrub_pages: u32,
        /// The watchdog's patience in milliseconds: 10 to 3,600,000.
        watchdog_ms: u32,
        /// Seconds between two verifications of the kernel's text: 1 to 86,400.
        text_check_seconds: u32,
        /// Length of a turn in BEST_EFFORT and BACKGROUND, in microseconds: 100 to 1,000,000.
        slice_us: u32,
        /// Part of each processor that RT_EDF may be admitted to, in thousandths: 0 to 1000.
        edf_limit: u32,
        /// Out: the profile; ignored by kernel_config_set.
        profile: Profile,
        /// Out: counts every change; ignored by kernel_config_set.
        config_version: u64,
    }
}

abi_struct! {
    /// A file of the boot archive.
    pub record ArchiveEntry {
        /// Its bytes.
        bytes: u64,
        /// Its CRC-32.
        crc: u32,
        /// 1 when it is a program this kernel can run.
        program: u32,
        /// Its name, padded with zero bytes.
        name: [u8; 64],
    }
}

abi_enum! {
    /// How the machine ends.
    pub enum PowerAction {
        /// Off.
        Off = 0,
        /// Start again.
        Reboot = 1,
    }
}

//! Units and threads: specifications, states, ends (seed 1, 14.1, 14.2, 15.3).

use crate::field::abi_struct;
use crate::words::{abi_enum, abi_flags};
use crate::{Handle, SchedClass};

abi_enum! {
    /// Where a unit is in its life.
    pub enum UnitState {
        /// Made, not started; its address space can be prepared.
        Created = 0,
        /// Its threads run.
        Running = 1,
        /// Ended in order, by unit_stop or with its last thread; everything it had is released.
        Stopped = 2,
        /// Ended; what it had is being released.
        Zombie = 3,
        /// Ended by a kill or a fault; everything it had is released.
        Failed = 4,
    }
}

abi_enum! {
    /// Why a unit or a thread ended.
    pub enum ExitReason {
        /// It has not.
        None = 0,
        /// It said so: thread_exit, or unit_stop of itself.
        Exited = 1,
        /// Another unit stopped it.
        Stopped = 2,
        /// Another unit killed it, or its unit ended.
        Killed = 3,
        /// It touched memory that is not mapped or not for this.
        MemoryFault = 4,
        /// It ran an instruction that is not allowed.
        IllegalInstruction = 5,
        /// An arithmetic fault: division, or an unmasked floating-point exception.
        Arithmetic = 6,
        /// A breakpoint or debug trap.
        Breakpoint = 7,
        /// Any other processor exception.
        Exception = 8,
        /// Memory was needed for a page and the quota or the machine had none.
        OutOfMemory = 9,
    }
}

abi_flags! {
    /// Flags of a unit.
    pub flags UnitFlags {
        /// The unit gets no handle of itself with ADMIN right, so it cannot change its own attributes.
        NO_SELF_ADMIN = 0,
        /// Kill the unit when the unit that made it ends.
        KILL_WITH_PARENT = 1,
    }
}

abi_struct! {
    /// A label of a unit: policy, role, tenant.
    pub record Label {
        /// The key, padded with zero bytes.
        key: [u8; 24],
        /// The value, padded with zero bytes.
        value: [u8; 40],
    }
}

abi_struct! {
    /// How a unit is to be made (seed 14.1). The new unit finds its own handle in slot 0, its first thread's in slot 1, and
    /// the initial capabilities from slot 2 on; its first thread starts with the address of [`StartInfo`] in rdi.
    ///
    /// Quotas are upper limits; 0 takes the creator's. A child's limit above its creator's is refused with NotPermitted, and
    /// what a unit uses counts against every unit above it.
    pub struct UnitSpec version 1 {
        /// The program: an Image with EXECUTE, or none for an empty unit that the creator fills by vm_map.
        image: Handle,
        /// Initial capabilities: their number, at most MAX_INITIAL_CAPS.
        cap_count: u32,
        /// Initial capabilities: the address of CapTransfer records.
        caps: u64,
        /// The address where the first thread starts; 0 for the image's.
        entry: u64,
        /// Arguments: the address of their strings, each ended by a zero byte.
        argv: u64,
        /// Arguments: bytes of all strings.
        argv_bytes: u64,
        /// Environment: the address of its strings, each ended by a zero byte.
        envp: u64,
        /// Environment: bytes of all strings.
        envp_bytes: u64,
        /// Bytes of the first thread's stack; 0 for DEFAULT_STACK. A guard page lies below.
        stack_bytes: u64,
        /// The address of Label records.
        labels: u64,
        /// Labels: their number, at most MAX_LABELS.
        label_count: u32,
        /// Class of the first thread and of later ones that ask for nothing; Inherit for the creator's.
        sched_class: SchedClass,
        /// Priority within the class, or weight; 0 for the class's default.
        base_priority: u32,
        /// The highest class threads of the unit may be in; Inherit for the creator's.
        max_sched_class: SchedClass,
        /// Flags.
        flags: UnitFlags,
        /// Memory for its own pages and page tables, in bytes.
        memory_quota: u64,
        /// Memory for kernel objects, in bytes.
        kernel_quota: u64,
        /// Threads at a time.
        thread_quota: u32,
        /// Handles at a time.
        handle_quota: u32,
        /// A name for people, padded with zero bytes.
        name: [u8; 32],
    }
}

abi_struct! {
    /// What the first thread of a unit finds at the address in rdi, on its stack. Written by the kernel.
    pub struct StartInfo version 1 {
        /// Arguments: the address of their strings, each ended by a zero byte.
        argv: u64,
        /// Arguments: bytes of all strings.
        argv_bytes: u64,
        /// Environment: the address of its strings.
        envp: u64,
        /// Environment: bytes of all strings.
        envp_bytes: u64,
        /// The id of the unit.
        unit_id: u64,
        /// Initial capabilities, in slots 2 and up.
        cap_count: u32,
        /// Processors of the machine.
        cpu_count: u32,
        /// The address of the read-only [`crate::TimePage`]; 0 when this machine cannot tell the time without a kernel entry.
        time_page: u64,
        /// The end of the stack.
        stack_top: u64,
        /// Bytes of the stack.
        stack_bytes: u64,
    }
}

abi_struct! {
    /// What the kernel tells about a unit.
    pub struct UnitInfo version 1 {
        /// Its id, unique on this node since boot.
        id: u64,
        /// The id of the unit that made it; 0 for the first.
        parent: u64,
        /// Where it is in its life.
        state: UnitState,
        /// Why it ended.
        exit_reason: ExitReason,
        /// The code it gave, or the reason given to unit_kill.
        exit_code: i64,
        /// When it ended because of a fault: the address touched.
        fault_address: u64,
        /// When it ended because of a fault: the address of the instruction.
        fault_instruction: u64,
        /// When it ended, monotonic; 0 while it lives.
        exit_time: u64,
        /// When it was started, monotonic; 0 before.
        start_time: u64,
        /// Time its threads ran, in nanoseconds.
        cpu_time: u64,
        /// Part of it outside the kernel, in nanoseconds; equal to `cpu_time` where the kernel does not tell them apart.
        user_time: u64,
        /// Memory of its own pages and page tables, in bytes.
        memory_bytes: u64,
        /// Limit of `memory_bytes`.
        memory_quota: u64,
        /// Memory of its kernel objects, in bytes.
        kernel_bytes: u64,
        /// Limit of `kernel_bytes`.
        kernel_quota: u64,
        /// Threads that have not ended.
        threads: u32,
        /// Limit of `threads`.
        thread_quota: u32,
        /// Handles in use.
        handles: u32,
        /// Limit of `handles`.
        handle_quota: u32,
        /// Class of new threads.
        sched_class: SchedClass,
        /// Priority or weight of new threads.
        base_priority: u32,
        /// The highest class allowed.
        max_sched_class: SchedClass,
        /// Labels it has.
        label_count: u32,
        /// Flags.
        flags: UnitFlags,
        /// Its name, padded with zero bytes.
        name: [u8; 32],
    }
}

abi_flags! {
    /// Which fields of [`UnitAttr`] count.
    pub flags UnitAttrMask {
        /// The name.
        NAME = 0,
        /// The labels.
        LABELS = 1,
        /// The quota of memory.
        MEMORY_QUOTA = 2,
        /// The quota of kernel memory.
        KERNEL_QUOTA = 3,
        /// The quota of threads.
        THREAD_QUOTA = 4,
        /// The quota of handles.
        HANDLE_QUOTA = 5,
        /// The highest class.
        MAX_SCHED_CLASS = 6,
    }
}

abi_struct! {
    /// New attributes of a unit. Quotas may not exceed those of the caller's own unit, except back to what they were.
    pub struct UnitAttr version 1 {
        /// Which fields count.
        mask: UnitAttrMask,
        /// The address of Label records; they replace all labels.
        labels: u64,
        /// Labels: their number.
        label_count: u32,
        /// The highest class its threads may be in; threads above it are put down to BEST_EFFORT.
        max_sched_class: SchedClass,
        /// Limit of memory in bytes. Below what is in use: nothing is taken away, nothing more is given.
        memory_quota: u64,
        /// Limit of kernel memory in bytes.
        kernel_quota: u64,
        /// Limit of threads.
        thread_quota: u32,
        /// Limit of handles.
        handle_quota: u32,
        /// The name, padded with zero bytes.
        name: [u8; 32],
    }
}

abi_enum! {
    /// Where a thread is in its life.
    pub enum ThreadState {
        /// Made, its unit not started.
        Created = 0,
        /// Wants the processor or has it.
        Runnable = 1,
        /// Waits for something.
        Blocked = 2,
        /// Its EDF budget is used up until the next period.
        Throttled = 3,
        /// Ended.
        Exited = 4,
    }
}

abi_flags! {
    /// Flags of a thread.
    pub flags ThreadFlags {
        /// When the thread ends, the unit ends with its code.
        MAIN = 0,
    }
}

abi_struct! {
    /// How a thread is to be made (seed 14.2).
    pub struct ThreadSpec version 1 {
        /// The address where it starts.
        entry: u64,
        /// What rdi holds there.
        argument: u64,
        /// What rsi holds there.
        argument2: u64,
        /// The lowest address of its stack.
        stack_base: u64,
        /// Bytes of its stack; rsp starts 8 below its end, so that `rsp + 8` is a multiple of 16 as after a call.
        stack_bytes: u64,
        /// Base of fs.
        fs_base: u64,
        /// Processors it may run on, by bit; 0 for all.
        affinity: u64,
        /// Class; Inherit for the unit's. RT_EDF is given with sched_set_thread_params.
        sched_class: SchedClass,
        /// Priority within the class, or weight; 0 for the class's default.
        base_priority: u32,
        /// Flags.
        flags: ThreadFlags,
    }
}

abi_flags! {
    /// Which fields of [`ThreadAttr`] count.
    pub flags ThreadAttrMask {
        /// The affinity.
        AFFINITY = 0,
        /// Base of fs.
        FS_BASE = 1,
        /// Base of gs.
        GS_BASE = 2,
    }
}

abi_struct! {
    /// New attributes of a thread.
    pub struct ThreadAttr version 1 {
        /// Which fields count.
        mask: ThreadAttrMask,
        /// Processors it may run on, by bit; at least one that exists.
        affinity: u64,
        /// Base of fs; only of the calling thread.
        fs_base: u64,
        /// Base of gs; only of the calling thread.
        gs_base: u64,
    }
}

abi_struct! {
    /// What the kernel tells about a thread.
    pub struct ThreadInfo version 1 {
        /// Its id, unique on this node since boot.
        id: u64,
        /// The id of its unit.
        unit_id: u64,
        /// Where it is in its life.
        state: ThreadState,
        /// Why it ended.
        exit_reason: ExitReason,
        /// The code it gave to thread_exit.
        exit_code: i64,
        /// Class.
        sched_class: SchedClass,
        /// Priority within the class, or weight.
        base_priority: u32,
        /// Class at the moment, with what it inherited.
        effective_class: SchedClass,
        /// Priority at the moment, with what it inherited.
        effective_priority: u32,
        /// Time it ran, in nanoseconds.
        cpu_time: u64,
        /// Processors it may run on.
        affinity: u64,
        /// The processor it ran on last.
        last_cpu: u32,
        /// Calls it waits for, one upon the other: the length of the chain it lends its priority to.
        call_depth: u32,
        /// Flags.
        flags: ThreadFlags,
    }
}

abi_struct! {
    /// Who a unit or a node is (seed 3.2). Random at creation and at boot; user space binds it to keys and certificates.
    pub struct Identity version 1 {
        /// The id of the unit on this node; 0 for the node.
        id: u64,
        /// 16 random bytes: unique across nodes and boots.
        unique: [u8; 16],
        /// SHA-256 is not the kernel's business: the CRC-32 of the unit's image, 0 for the node or without one.
        image_crc: u32,
        /// Generations of units between the first unit and this one.
        depth: u32,
        /// The name when it was made, padded with zero bytes.
        name: [u8; 32],
    }
}

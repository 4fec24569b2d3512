/* The Holm kernel's interface for C. Generated from kernel/abi: do not edit; docs/abi.md explains every part. */
#ifndef HOLM_H
#define HOLM_H

#include <stdint.h>

/* Names a capability of the calling unit; 0 is none. */
typedef int32_t holm_handle_t;

/* Limits */
#define HOLM_PAGE_SIZE UINT64_C(4096) /* Bytes of a page; addresses and lengths of mappings are multiples of it. */
#define HOLM_USER_START UINT64_C(65536) /* The lowest address that can be mapped. */
#define HOLM_USER_HALF UINT64_C(70368744177664) /* Where the upper half of the user's addresses begins: a personality lives above it, its guests below. */
#define HOLM_USER_END UINT64_C(140737488351232) /* The end of the addresses that can be mapped. */
#define HOLM_MAX_REGION UINT64_C(70368744177664) /* The largest region in bytes. */
#define HOLM_NEVER UINT64_C(18446744073709551615) /* A deadline that never comes. */
#define HOLM_MAX_HANDLES UINT64_C(65536) /* Slots of a unit's table of capabilities at most; its quota may be lower. */
#define HOLM_MAX_DERIVATION_DEPTH UINT64_C(32) /* Derivations on top of each other at most. */
#define HOLM_MAX_MESSAGE UINT64_C(65536) /* Bytes of a message at most. */
#define HOLM_MAX_MESSAGE_CAPS UINT64_C(16) /* Capabilities of a message at most. */
#define HOLM_MAX_QUEUE_MESSAGES UINT64_C(4096) /* Messages queued in a channel at most. */
#define HOLM_MAX_QUEUE_BYTES UINT64_C(4194304) /* Bytes queued in a channel at most. */
#define HOLM_SHORT_BYTES UINT64_C(32) /* Bytes of a short message, carried in registers. */
#define HOLM_PRIORITIES UINT64_C(32) /* Priorities of RT_FIXED and of messages: 0 to one less than this, higher first. */
#define HOLM_DEFAULT_WEIGHT UINT64_C(100) /* Weight of a BEST_EFFORT thread when nothing is said. */
#define HOLM_MAX_WEIGHT UINT64_C(10000) /* Weight of a BEST_EFFORT thread at most. */
#define HOLM_MIN_PERIOD UINT64_C(10000) /* The shortest period of an EDF thread and of a periodic timer, in nanoseconds. */
#define HOLM_MAX_PERIOD UINT64_C(3600000000000) /* The longest period, in nanoseconds. */
#define HOLM_MAX_CPUS UINT64_C(64) /* Processors at most: bits of an affinity mask. */
#define HOLM_MAX_LABELS UINT64_C(8) /* Labels of a unit at most. */
#define HOLM_MAX_INITIAL_CAPS UINT64_C(64) /* Capabilities given to a unit when it is created at most. */
#define HOLM_MAX_ARGUMENT_BYTES UINT64_C(16384) /* Bytes of the arguments, and of the environment, of a unit at most. */
#define HOLM_DEFAULT_STACK UINT64_C(65536) /* Bytes of the first thread's stack when nothing is said. */
#define HOLM_MAX_STACK UINT64_C(8388608) /* Bytes of the first thread's stack at most. */
#define HOLM_MAX_SUBSCRIPTIONS UINT64_C(1024) /* Subscriptions of an event queue at most. */
#define HOLM_MAX_RECORDS UINT64_C(64) /* Records that one call of event_wait, trace_read or a list call gives at most. */
#define HOLM_MAX_COPY UINT64_C(65536) /* Bytes that one call on bytes (region_read, console_write, image_read …) moves at most; it answers how many. */
#define HOLM_TRACE_BYTES UINT64_C(32) /* Bytes of the payload of a trace record. */
#define HOLM_NAME_BYTES UINT64_C(32) /* Bytes of a name. */

/* Why a system call did nothing; the result register holds the negated code. */
enum holm_error {
    HOLM_ERROR_NOT_PERMITTED = 1, /* Not allowed whatever rights the handle has: a policy of the object or the unit's ceiling forbids it. */
    HOLM_ERROR_NOT_FOUND = 2, /* There is no object of this name, number or token. */
    HOLM_ERROR_INTERRUPTED = 4, /* The wait ended early, by a kick of the thread. */
    HOLM_ERROR_TOO_BIG = 7, /* A struct is longer than the kernel knows and the part it does not know is not zero, or a list is too long. */
    HOLM_ERROR_BAD_IMAGE = 8, /* The image is not a program this kernel can run. */
    HOLM_ERROR_BAD_HANDLE = 9, /* The number is no handle of the caller, or no longer. */
    HOLM_ERROR_WOULD_BLOCK = 11, /* It would have to wait, and the caller asked not to. */
    HOLM_ERROR_NO_MEMORY = 12, /* The machine is out of memory. */
    HOLM_ERROR_ACCESS = 13, /* The handle lacks a right that the call needs. */
    HOLM_ERROR_FAULT = 14, /* A pointer leads where the caller may not read or write. */
    HOLM_ERROR_BUSY = 16, /* In use, or refused by admission control. */
    HOLM_ERROR_EXISTS = 17, /* It exists already. */
    HOLM_ERROR_INVALID = 22, /* An argument has a value that is never allowed: unknown flag, version, enumerator, misaligned or out of range. */
    HOLM_ERROR_NO_HANDLES = 24, /* The unit's table of capabilities is full. */
    HOLM_ERROR_NO_SPACE = 28, /* A fixed capacity is used up: ring, table, or address space. */
    HOLM_ERROR_PEER_CLOSED = 32, /* The other side is gone: no end is left to receive, to send, or to reply. */
    HOLM_ERROR_DEADLOCK = 35, /* Waiting would close a circle of calls. */
    HOLM_ERROR_NO_CALL = 38, /* There is no system call of this number. */
    HOLM_ERROR_MESSAGE_SIZE = 90, /* The message does not fit: longer than the channel allows, or than the buffer to receive it. */
    HOLM_ERROR_NOT_SUPPORTED = 95, /* This kernel, profile or machine does not do this. */
    HOLM_ERROR_TIMED_OUT = 110, /* The deadline passed. */
    HOLM_ERROR_QUOTA = 122, /* A quota of the unit is used up. */
    HOLM_ERROR_CANCELED = 125, /* The operation was ended because its object was taken away while it waited. */
    HOLM_ERROR_REVOKED = 512, /* The capability was revoked. */
    HOLM_ERROR_WRONG_TYPE = 513, /* The handle is of an object of another type. */
    HOLM_ERROR_TOO_DEEP = 514, /* The derivation would be deeper than the limit. */
    HOLM_ERROR_BAD_STATE = 515, /* The unit, thread or timer is not in a state that allows this. */
};

/* The type of the object behind a capability. Types 3 to 8 are the seed's, kept for later parts of the kernel. */
enum holm_object_type {
    HOLM_OBJECT_TYPE_INVALID = 0, /* No object. */
    HOLM_OBJECT_TYPE_CHANNEL = 1, /* One end of a channel. */
    HOLM_OBJECT_TYPE_TIMER = 2, /* A timer. */
    HOLM_OBJECT_TYPE_DEVICE = 3, /* A device. */
    HOLM_OBJECT_TYPE_FILE = 4, /* A file. */
    HOLM_OBJECT_TYPE_VOLUME = 5, /* A volume. */
    HOLM_OBJECT_TYPE_NAMESPACE = 6, /* A namespace. */
    HOLM_OBJECT_TYPE_HOOK = 7, /* A hook. */
    HOLM_OBJECT_TYPE_REMOTE_ENDPOINT = 8, /* An endpoint on another node. */
    HOLM_OBJECT_TYPE_UNIT = 9, /* A unit. */
    HOLM_OBJECT_TYPE_THREAD = 10, /* A thread. */
    HOLM_OBJECT_TYPE_REGION = 11, /* A region of memory. */
    HOLM_OBJECT_TYPE_EVENT = 12, /* A queue of events. */
    HOLM_OBJECT_TYPE_IMAGE = 13, /* A file of the boot archive: a program or data. */
    HOLM_OBJECT_TYPE_SPACE = 14, /* The lower half of an address space, for the guests of a personality. */
    HOLM_OBJECT_TYPE_TRACE = 15, /* A reader of the trace. */
    HOLM_OBJECT_TYPE_ARCHIVE = 16, /* The boot archive. */
    HOLM_OBJECT_TYPE_CONSOLE = 17, /* The serial console. */
    HOLM_OBJECT_TYPE_SYSTEM = 18, /* The machine and the kernel as a whole: list of units, log, configuration, power. */
};

/* Whether a type of object may leave the unit that made it (seed 15.2). */
enum holm_concurrency_class {
    HOLM_CONCURRENCY_CLASS_SENDABLE = 0, /* May be passed on and used on every processor. */
    HOLM_CONCURRENCY_CLASS_LOCAL_ONLY = 1, /* Stays in the unit it was made for: transfers answer NOT_PERMITTED. */
};

/* How a capability travels (seed 15.1). */
enum holm_transfer_mode {
    HOLM_TRANSFER_MODE_MOVE = 0, /* The sender loses its handle; the receiver gets the capability itself. */
    HOLM_TRANSFER_MODE_BORROW = 1, /* The receiver gets a derivation that cannot be passed on; in a call it ends with the reply, else with a revocation by the sender or the end of either unit. */
    HOLM_TRANSFER_MODE_CLONE = 2, /* The receiver gets a derivation that lives on until it is closed or revoked. */
};

/* Where a unit is in its life. */
enum holm_unit_state {
    HOLM_UNIT_STATE_CREATED = 0, /* Made, not started; its address space can be prepared. */
    HOLM_UNIT_STATE_RUNNING = 1, /* Its threads run. */
    HOLM_UNIT_STATE_STOPPED = 2, /* Ended in order, by unit_stop or with its last thread; everything it had is released. */
    HOLM_UNIT_STATE_ZOMBIE = 3, /* Ended; what it had is being released. */
    HOLM_UNIT_STATE_FAILED = 4, /* Ended by a kill or a fault; everything it had is released. */
};

/* Why a unit or a thread ended. */
enum holm_exit_reason {
    HOLM_EXIT_REASON_NONE = 0, /* It has not. */
    HOLM_EXIT_REASON_EXITED = 1, /* It said so: thread_exit, or unit_stop of itself. */
    HOLM_EXIT_REASON_STOPPED = 2, /* Another unit stopped it. */
    HOLM_EXIT_REASON_KILLED = 3, /* Another unit killed it, or its unit ended. */
    HOLM_EXIT_REASON_MEMORY_FAULT = 4, /* It touched memory that is not mapped or not for this. */
    HOLM_EXIT_REASON_ILLEGAL_INSTRUCTION = 5, /* It ran an instruction that is not allowed. */
    HOLM_EXIT_REASON_ARITHMETIC = 6, /* An arithmetic fault: division, or an unmasked floating-point exception. */
    HOLM_EXIT_REASON_BREAKPOINT = 7, /* A breakpoint or debug trap. */
    HOLM_EXIT_REASON_EXCEPTION = 8, /* Any other processor exception. */
    HOLM_EXIT_REASON_OUT_OF_MEMORY = 9, /* Memory was needed for a page and the quota or the machine had none. */
};

/* Where a thread is in its life. */
enum holm_thread_state {
    HOLM_THREAD_STATE_CREATED = 0, /* Made, its unit not started. */
    HOLM_THREAD_STATE_RUNNABLE = 1, /* Wants the processor or has it. */
    HOLM_THREAD_STATE_BLOCKED = 2, /* Waits for something. */
    HOLM_THREAD_STATE_THROTTLED = 3, /* Its EDF budget is used up until the next period. */
    HOLM_THREAD_STATE_EXITED = 4, /* Ended. */
};

/* Where the content of a region comes from. */
enum holm_backing {
    HOLM_BACKING_ANONYMOUS = 0, /* Zero pages, given when they are first touched. */
    HOLM_BACKING_SNAPSHOT = 1, /* A snapshot of another region: pages are shared until either writes. */
    HOLM_BACKING_IMAGE = 2, /* A file of the boot archive. */
    HOLM_BACKING_KERNEL = 3, /* Pages of the kernel, such as the time page. */
};

/* The shape of a channel. */
enum holm_chan_mode {
    HOLM_CHAN_MODE_UNI = 0, /* One queue: the first handle receives, the second sends. */
    HOLM_CHAN_MODE_BIDI = 1, /* Two queues: either handle sends to the other and receives from it. */
};

/* What happens to a message when the queue is full. */
enum holm_drop_policy {
    HOLM_DROP_POLICY_BLOCK = 0, /* The sender waits, or gets WOULD_BLOCK with NONBLOCK. */
    HOLM_DROP_POLICY_DROP_NEWEST = 1, /* The new message is dropped; the send succeeds and the drop is counted. */
    HOLM_DROP_POLICY_DROP_OLDEST = 2, /* The oldest message of the lowest priority is dropped to make room. */
    HOLM_DROP_POLICY_REFUSE = 3, /* The send fails with NO_SPACE. */
};

/* Where an event comes from. Cluster is the seed's, kept for later. */
enum holm_event_source {
    HOLM_EVENT_SOURCE_NONE = 0, /* Nothing: event_subscribe then only makes an empty queue. */
    HOLM_EVENT_SOURCE_CHANNEL = 1, /* A channel. */
    HOLM_EVENT_SOURCE_TIMER = 2, /* A timer. */
    HOLM_EVENT_SOURCE_UNIT = 3, /* A unit. */
    HOLM_EVENT_SOURCE_CLUSTER = 4, /* The cluster. */
    HOLM_EVENT_SOURCE_THREAD = 5, /* A thread. */
    HOLM_EVENT_SOURCE_TRACE = 6, /* A reader of the trace. */
    HOLM_EVENT_SOURCE_CONSOLE = 7, /* The console. */
};

/* How a thread shares the processor. A runnable thread of a higher class always goes first. */
enum holm_sched_class {
    HOLM_SCHED_CLASS_INHERIT = 0, /* What the unit, or the creator, has. */
    HOLM_SCHED_CLASS_RT_EDF = 1, /* Earliest deadline first, with a budget per period kept by a constant-bandwidth server and admission control. */
    HOLM_SCHED_CLASS_RT_FIXED = 2, /* Fixed priority, 0 to 31, higher first; the same priority takes turns. */
    HOLM_SCHED_CLASS_BEST_EFFORT = 3, /* Fair shares by weight. */
    HOLM_SCHED_CLASS_BACKGROUND = 4, /* Only when nobody else wants the processor. */
};

/* A clock. All tell nanoseconds. */
enum holm_clock_id {
    HOLM_CLOCK_ID_MONOTONIC = 0, /* Since boot; never goes back; deadlines are on it. */
    HOLM_CLOCK_ID_REALTIME = 1, /* Since 1970-01-01T00:00:00Z. */
    HOLM_CLOCK_ID_CPU_BUSY = 2, /* Time this processor did not idle. */
    HOLM_CLOCK_ID_CPU_IDLE = 3, /* Time this processor idled. */
    HOLM_CLOCK_ID_THREAD_CPU = 4, /* Time the calling thread ran. */
    HOLM_CLOCK_ID_UNIT_CPU = 5, /* Time the threads of the calling unit ran. */
};

/* How a timer goes on. */
enum holm_timer_mode {
    HOLM_TIMER_MODE_ONE_SHOT = 0, /* Once. */
    HOLM_TIMER_MODE_PERIODIC = 1, /* Again every period after the deadline, without drift. */
};

/* Why a guest came back to its personality: what rsi holds at the return address. */
enum holm_restricted_reason {
    HOLM_RESTRICTED_REASON_NONE = 0, /* It has not. */
    HOLM_RESTRICTED_REASON_SYSCALL = 1, /* It ran `syscall`: the number is in the state's rax. */
    HOLM_RESTRICTED_REASON_EXCEPTION = 2, /* A processor exception: see `vector`, `error_code` and `fault_address` of the state. */
    HOLM_RESTRICTED_REASON_KICK = 3, /* restricted_kick was called for the thread. */
};

/* The hardening profile the kernel was built with (seed 17.1). */
enum holm_profile {
    HOLM_PROFILE_STANDARD = 0, /* Least overhead. */
    HOLM_PROFILE_DEV = 1, /* Every check, verbose log. */
    HOLM_PROFILE_HARDENED = 2, /* Extra robustness. */
};

/* What a trace record tells; the payload as words 0 to 3. */
enum holm_trace_kind {
    HOLM_TRACE_KIND_USER = 0, /* By trace_emit: the event type given is word 0's low half; the payload is the caller's. */
    HOLM_TRACE_KIND_SWITCH = 1, /* A switch: word 0 the thread before (0: idle), 1 the thread after (0: idle). */
    HOLM_TRACE_KIND_WAKE = 2, /* A thread became runnable: its id, who woke it. */
    HOLM_TRACE_KIND_SYSCALL_ENTER = 3, /* A system call was entered: its number, first three arguments. */
    HOLM_TRACE_KIND_SYSCALL_EXIT = 4, /* A system call ended: its number, its result. */
    HOLM_TRACE_KIND_SEND = 5, /* A message was sent: channel id, bytes, capabilities. */
    HOLM_TRACE_KIND_RECEIVE = 6, /* A message was received: channel id, bytes, capabilities. */
    HOLM_TRACE_KIND_CAP_GRANT = 7, /* A capability was granted, derived or transferred: object id, from unit, to unit, rights. */
    HOLM_TRACE_KIND_CAP_REVOKE = 8, /* A capability was revoked: object id. */
    HOLM_TRACE_KIND_PAGE_FAULT = 9, /* A page fault: address, error code, 1 when it was resolved. */
    HOLM_TRACE_KIND_UNIT_STATE = 10, /* A unit changed its state: unit id, UnitState, ExitReason. */
    HOLM_TRACE_KIND_THREAD_STATE = 11, /* A thread started or ended: thread id, ThreadState. */
    HOLM_TRACE_KIND_TIMER = 12, /* A timer expired: timer id, deadline. */
    HOLM_TRACE_KIND_DEADLINE_MISS = 13, /* An EDF deadline was missed: thread id, lateness in nanoseconds. */
    HOLM_TRACE_KIND_THROTTLE = 14, /* An EDF budget was used up: thread id, time of the next. */
};

/* How the machine ends. */
enum holm_power_action {
    HOLM_POWER_ACTION_OFF = 0, /* Off. */
    HOLM_POWER_ACTION_REBOOT = 1, /* Start again. */
};

/* What the holder of a capability may do with its object. Rights only shrink on the way from holder to holder. */
#define HOLM_RIGHTS_READ (UINT64_C(1) << 0) /* Read the content. */
#define HOLM_RIGHTS_WRITE (UINT64_C(1) << 1) /* Write the content. */
#define HOLM_RIGHTS_EXECUTE (UINT64_C(1) << 2) /* Run the content: map executable, start as a program. */
#define HOLM_RIGHTS_ADMIN (UINT64_C(1) << 3) /* Change attributes, limits and parameters; of the system: configure it and switch it off. */
#define HOLM_RIGHTS_SEND (UINT64_C(1) << 4) /* Send, and call. */
#define HOLM_RIGHTS_RECEIVE (UINT64_C(1) << 5) /* Receive, and reply. */
#define HOLM_RIGHTS_MAP (UINT64_C(1) << 6) /* Map into an address space. */
#define HOLM_RIGHTS_CREATE (UINT64_C(1) << 7) /* Make things within: threads, mappings, child units, capabilities. */
#define HOLM_RIGHTS_CONTROL (UINT64_C(1) << 8) /* Start, stop, kill, destroy; arm and cancel. */
#define HOLM_RIGHTS_INSPECT (UINT64_C(1) << 9) /* Look at state and figures. */
#define HOLM_RIGHTS_WAIT (UINT64_C(1) << 10) /* Subscribe to events. */
#define HOLM_RIGHTS_TRANSFER (UINT64_C(1) << 11) /* Pass the capability on to another unit, as its transfer policy allows. */
#define HOLM_RIGHTS_DERIVE (UINT64_C(1) << 12) /* Derive weaker capabilities from it. */

/* The transfer policy of a capability (seed 15.1). It only shrinks: a derived capability has at most its parent's. */
#define HOLM_TRANSFER_FLAGS_MOVE_ALLOWED (UINT64_C(1) << 0) /* It may be moved: the sender loses it. */
#define HOLM_TRANSFER_FLAGS_BORROW_ALLOWED (UINT64_C(1) << 1) /* It may be lent: the receiver's ends with the reply or with the revocation. */
#define HOLM_TRANSFER_FLAGS_CLONE_ALLOWED (UINT64_C(1) << 2) /* It may be cloned: both have it. */

/* Flags of cap_revoke. */
#define HOLM_REVOKE_FLAGS_CHILDREN_ONLY (UINT64_C(1) << 0) /* Revoke only what was derived from the capability; the capability itself stays. */

/* Facts about a capability. */
#define HOLM_CAP_FLAGS_REVOKED (UINT64_C(1) << 0) /* It was revoked; it can only be closed. */
#define HOLM_CAP_FLAGS_BORROWED (UINT64_C(1) << 1) /* It is lent and ends with the reply. */
#define HOLM_CAP_FLAGS_DERIVED (UINT64_C(1) << 2) /* It was derived from another capability. */

/* Flags of a unit. */
#define HOLM_UNIT_FLAGS_NO_SELF_ADMIN (UINT64_C(1) << 0) /* The unit gets no handle of itself with ADMIN right, so it cannot change its own attributes. */
#define HOLM_UNIT_FLAGS_KILL_WITH_PARENT (UINT64_C(1) << 1) /* Kill the unit when the unit that made it ends. */

/* Which fields of UnitAttr count. */
#define HOLM_UNIT_ATTR_MASK_NAME (UINT64_C(1) << 0) /* The name. */
#define HOLM_UNIT_ATTR_MASK_LABELS (UINT64_C(1) << 1) /* The labels. */
#define HOLM_UNIT_ATTR_MASK_MEMORY_QUOTA (UINT64_C(1) << 2) /* The quota of memory. */
#define HOLM_UNIT_ATTR_MASK_KERNEL_QUOTA (UINT64_C(1) << 3) /* The quota of kernel memory. */
#define HOLM_UNIT_ATTR_MASK_THREAD_QUOTA (UINT64_C(1) << 4) /* The quota of threads. */
#define HOLM_UNIT_ATTR_MASK_HANDLE_QUOTA (UINT64_C(1) << 5) /* The quota of handles. */
#define HOLM_UNIT_ATTR_MASK_MAX_SCHED_CLASS (UINT64_C(1) << 6) /* The highest class. */

/* Flags of a thread. */
#define HOLM_THREAD_FLAGS_MAIN (UINT64_C(1) << 0) /* When the thread ends, the unit ends with its code. */

/* Which fields of ThreadAttr count. */
#define HOLM_THREAD_ATTR_MASK_AFFINITY (UINT64_C(1) << 0) /* The affinity. */
#define HOLM_THREAD_ATTR_MASK_FS_BASE (UINT64_C(1) << 1) /* Base of fs. */
#define HOLM_THREAD_ATTR_MASK_GS_BASE (UINT64_C(1) << 2) /* Base of gs. */

/* Flags of a region. */
#define HOLM_REGION_FLAGS_COMMIT (UINT64_C(1) << 0) /* Give every page at once, so that no fault and no shortage comes later (for RT threads). */

/* What may be done with mapped pages. WRITE and EXECUTE together are refused. */
#define HOLM_PROTECTION_READ (UINT64_C(1) << 0) /* Load. Pages that can be written or run can always be read. */
#define HOLM_PROTECTION_WRITE (UINT64_C(1) << 1) /* Store. */
#define HOLM_PROTECTION_EXECUTE (UINT64_C(1) << 2) /* Run. */

/* Flags of a mapping. */
#define HOLM_MAP_FLAGS_FIXED (UINT64_C(1) << 0) /* Exactly at `address`; what is mapped there is replaced. Without it `address` is only a wish. */
#define HOLM_MAP_FLAGS_NO_REPLACE (UINT64_C(1) << 1) /* With FIXED: refuse with Exists when something is mapped there. */
#define HOLM_MAP_FLAGS_POPULATE (UINT64_C(1) << 2) /* Map every page now instead of when it is touched. */
#define HOLM_MAP_FLAGS_UPPER_HALF (UINT64_C(1) << 3) /* In the upper half of the addresses (see USER_HALF), for personalities; not with FIXED. */

/* Flags of a channel. */
#define HOLM_CHAN_FLAGS_PRIORITY_AWARE (UINT64_C(1) << 0) /* Messages of higher priority are received first. */
#define HOLM_CHAN_FLAGS_NO_INHERITANCE (UINT64_C(1) << 1) /* Its receivers do not inherit the priority of callers. */
#define HOLM_CHAN_FLAGS_RELIABLE (UINT64_C(1) << 2) /* No message is ever dropped: only Block and Refuse are allowed as policy. */
#define HOLM_CHAN_FLAGS_RT_SAFE (UINT64_C(1) << 3) /* Sends and receives stay within their bound: no message is longer than 256 bytes or carries capabilities. */

/* Which fields of ChanAttr count. */
#define HOLM_CHAN_ATTR_MASK_MAX_MESSAGES (UINT64_C(1) << 0) /* Messages queued at most. */
#define HOLM_CHAN_ATTR_MASK_MAX_BYTES (UINT64_C(1) << 1) /* Bytes queued at most. */
#define HOLM_CHAN_ATTR_MASK_DROP_POLICY (UINT64_C(1) << 2) /* What happens when it is full. */

/* Flags of sending and receiving. */
#define HOLM_MSG_FLAGS_NONBLOCK (UINT64_C(1) << 0) /* Do not wait: WOULD_BLOCK instead. */
#define HOLM_MSG_FLAGS_PEEK (UINT64_C(1) << 1) /* Receiving: look at the message and leave it queued. Capabilities are counted, not taken; no reply token is given. */
#define HOLM_MSG_FLAGS_TRUNCATE (UINT64_C(1) << 2) /* Receiving: a message longer than the buffer is cut instead of refused with MESSAGE_SIZE. */

/* Flags of a short message. */
#define HOLM_SHORT_FLAGS_NONBLOCK (UINT64_C(1) << 0) /* Do not wait: WOULD_BLOCK instead. */
#define HOLM_SHORT_FLAGS_CALL (UINT64_C(1) << 1) /* Returned by a receive: the sender waits for a reply. */
#define HOLM_SHORT_FLAGS_CAP (UINT64_C(1) << 2) /* Receiving: there is room for one capability. Returned by a receive: one came; its handle stands in the result. */

/* What happened. Each source has its own bits; others in a subscription are refused. */
#define HOLM_EVENT_MASK_READABLE (UINT64_C(1) << 0) /* Channel, trace, console: something can be received or read. */
#define HOLM_EVENT_MASK_WRITABLE (UINT64_C(1) << 1) /* Channel: a message can be sent. */
#define HOLM_EVENT_MASK_CLOSED (UINT64_C(1) << 2) /* Channel: the other side is gone. Always reported, asked for or not. */
#define HOLM_EVENT_MASK_EXPIRED (UINT64_C(1) << 3) /* Timer: it expired; `data0` counts the expirations since the last report, `data1` is the last deadline. */
#define HOLM_EVENT_MASK_EXIT (UINT64_C(1) << 4) /* Unit, thread: it ended in order; `data0` is the code, `data1` the ExitReason. */
#define HOLM_EVENT_MASK_CRASH (UINT64_C(1) << 5) /* Unit, thread: it ended by a kill or a fault; `data0` is the code or fault address, `data1` the ExitReason. */
#define HOLM_EVENT_MASK_STARTED (UINT64_C(1) << 6) /* Unit: it was started. */
#define HOLM_EVENT_MASK_REVOKED (UINT64_C(1) << 7) /* The capability subscribed through was revoked; the subscription is over. Always reported. */

/* How a subscription reports. */
#define HOLM_EVENT_FLAGS_EDGE (UINT64_C(1) << 0) /* Report once for each time it comes true, instead of as long as it is true. */
#define HOLM_EVENT_FLAGS_NEEDS_ACK (UINT64_C(1) << 1) /* After a report stay silent until event_ack. What comes true meanwhile is reported after it. */
#define HOLM_EVENT_FLAGS_ONESHOT (UINT64_C(1) << 2) /* End the subscription with its first report. */

/* Flags of scheduling parameters. */
#define HOLM_SCHED_FLAGS_APPLY_TO_THREADS (UINT64_C(1) << 0) /* Of a unit: also change the threads it has; else only those made from now on. */

/* Flags of a timer. */
#define HOLM_TIMER_FLAGS_RELATIVE (UINT64_C(1) << 0) /* Deadlines given to timer_arm count from now instead of from the clock's zero. */

/* Which units sys_list_units gives; none set: all. */
#define HOLM_UNIT_FILTER_FLAGS_RUNNING (UINT64_C(1) << 0) /* Only those that run. */
#define HOLM_UNIT_FILTER_FLAGS_ENDED (UINT64_C(1) << 1) /* Only those that ended. */

/* What runs at run time of what was compiled in (seed 17.2). Switching on what the profile left out is NOT_SUPPORTED. */
#define HOLM_CONFIG_FLAGS_INVARIANTS (UINT64_C(1) << 0) /* Sampled checks of the kernel's invariants. */
#define HOLM_CONFIG_FLAGS_PAYLOAD_CRC (UINT64_C(1) << 1) /* Sampled checksums of message payloads. */
#define HOLM_CONFIG_FLAGS_SCRUBBER (UINT64_C(1) << 2) /* The memory scrubber. */
#define HOLM_CONFIG_FLAGS_WATCHDOG (UINT64_C(1) << 3) /* The watchdog. */
#define HOLM_CONFIG_FLAGS_TEXT_CHECK (UINT64_C(1) << 4) /* Verification of the kernel's text. */
#define HOLM_CONFIG_FLAGS_TRACE (UINT64_C(1) << 5) /* The trace ring. */
#define HOLM_CONFIG_FLAGS_TRACE_SYSCALLS (UINT64_C(1) << 6) /* System calls in the trace. */
#define HOLM_CONFIG_FLAGS_LOG_VERBOSE (UINT64_C(1) << 7) /* A log of everything that is refused. */

/* How a unit is to be made (seed 14.1). The new unit finds its own handle in slot 0, its first thread's in slot 1, and the initial capabilities from slot 2 on; its first thread starts with the address of StartInfo in rdi. Quotas are upper limits; 0 takes the creator's. A child's limit above its creator's is refused with NOT_PERMITTED, and what a unit uses counts against every unit above it. */
struct holm_unit_spec {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    holm_handle_t image; /* The program: an Image with EXECUTE, or none for an empty unit that the creator fills by vm_map. */
    uint32_t cap_count; /* Initial capabilities: their number, at most MAX_INITIAL_CAPS. */
    uint64_t caps; /* Initial capabilities: the address of CapTransfer records. */
    uint64_t entry; /* The address where the first thread starts; 0 for the image's. */
    uint64_t argv; /* Arguments: the address of their strings, each ended by a zero byte. */
    uint64_t argv_bytes; /* Arguments: bytes of all strings. */
    uint64_t envp; /* Environment: the address of its strings, each ended by a zero byte. */
    uint64_t envp_bytes; /* Environment: bytes of all strings. */
    uint64_t stack_bytes; /* Bytes of the first thread's stack; 0 for DEFAULT_STACK. A guard page lies below. */
    uint64_t labels; /* The address of Label records. */
    uint32_t label_count; /* Labels: their number, at most MAX_LABELS. */
    uint32_t sched_class; /* Class of the first thread and of later ones that ask for nothing; Inherit for the creator's. */
    uint32_t base_priority; /* Priority within the class, or weight; 0 for the class's default. */
    uint32_t max_sched_class; /* The highest class threads of the unit may be in; Inherit for the creator's. */
    uint64_t flags; /* Flags. */
    uint64_t memory_quota; /* Memory for its own pages and page tables, in bytes. */
    uint64_t kernel_quota; /* Memory for kernel objects, in bytes. */
    uint32_t thread_quota; /* Threads at a time. */
    uint32_t handle_quota; /* Handles at a time. */
    uint8_t name[32]; /* A name for people, padded with zero bytes. */
};
#define HOLM_UNIT_SPEC_VERSION 1

/* What the first thread of a unit finds at the address in rdi, on its stack. Written by the kernel. */
struct holm_start_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t argv; /* Arguments: the address of their strings, each ended by a zero byte. */
    uint64_t argv_bytes; /* Arguments: bytes of all strings. */
    uint64_t envp; /* Environment: the address of its strings. */
    uint64_t envp_bytes; /* Environment: bytes of all strings. */
    uint64_t unit_id; /* The id of the unit. */
    uint32_t cap_count; /* Initial capabilities, in slots 2 and up. */
    uint32_t cpu_count; /* Processors of the machine. */
    uint64_t time_page; /* The address of the read-only TimePage; 0 when this machine cannot tell the time without a kernel entry. */
    uint64_t stack_top; /* The end of the stack. */
    uint64_t stack_bytes; /* Bytes of the stack. */
};
#define HOLM_START_INFO_VERSION 1

/* What the kernel tells about a unit. */
struct holm_unit_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t id; /* Its id, unique on this node since boot. */
    uint64_t parent; /* The id of the unit that made it; 0 for the first. */
    uint32_t state; /* Where it is in its life. */
    uint32_t exit_reason; /* Why it ended. */
    int64_t exit_code; /* The code it gave, or the reason given to unit_kill. */
    uint64_t fault_address; /* When it ended because of a fault: the address touched. */
    uint64_t fault_instruction; /* When it ended because of a fault: the address of the instruction. */
    uint64_t exit_time; /* When it ended, monotonic; 0 while it lives. */
    uint64_t start_time; /* When it was started, monotonic; 0 before. */
    uint64_t cpu_time; /* Time its threads ran, in nanoseconds. */
    uint64_t user_time; /* Part of it outside the kernel, in nanoseconds; equal to `cpu_time` where the kernel does not tell them apart. */
    uint64_t memory_bytes; /* Memory of its own pages and page tables, in bytes. */
    uint64_t memory_quota; /* Limit of `memory_bytes`. */
    uint64_t kernel_bytes; /* Memory of its kernel objects, in bytes. */
    uint64_t kernel_quota; /* Limit of `kernel_bytes`. */
    uint32_t threads; /* Threads that have not ended. */
    uint32_t thread_quota; /* Limit of `threads`. */
    uint32_t handles; /* Handles in use. */
    uint32_t handle_quota; /* Limit of `handles`. */
    uint32_t sched_class; /* Class of new threads. */
    uint32_t base_priority; /* Priority or weight of new threads. */
    uint32_t max_sched_class; /* The highest class allowed. */
    uint32_t label_count; /* Labels it has. */
    uint64_t flags; /* Flags. */
    uint8_t name[32]; /* Its name, padded with zero bytes. */
};
#define HOLM_UNIT_INFO_VERSION 1

/* New attributes of a unit. Quotas may not exceed those of the caller's own unit, except back to what they were. */
struct holm_unit_attr {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t mask; /* Which fields count. */
    uint64_t labels; /* The address of Label records; they replace all labels. */
    uint32_t label_count; /* Labels: their number. */
    uint32_t max_sched_class; /* The highest class its threads may be in; threads above it are put down to BEST_EFFORT. */
    uint64_t memory_quota; /* Limit of memory in bytes. Below what is in use: nothing is taken away, nothing more is given. */
    uint64_t kernel_quota; /* Limit of kernel memory in bytes. */
    uint32_t thread_quota; /* Limit of threads. */
    uint32_t handle_quota; /* Limit of handles. */
    uint8_t name[32]; /* The name, padded with zero bytes. */
};
#define HOLM_UNIT_ATTR_VERSION 1

/* A label of a unit: policy, role, tenant. */
struct holm_label {
    uint8_t key[24]; /* The key, padded with zero bytes. */
    uint8_t value[40]; /* The value, padded with zero bytes. */
};

/* Who a unit or a node is (seed 3.2). Random at creation and at boot; user space binds it to keys and certificates. */
struct holm_identity {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t id; /* The id of the unit on this node; 0 for the node. */
    uint8_t unique[16]; /* 16 random bytes: unique across nodes and boots. */
    uint32_t image_crc; /* SHA-256 is not the kernel's business: the CRC-32 of the unit's image, 0 for the node or without one. */
    uint32_t depth; /* Generations of units between the first unit and this one. */
    uint8_t name[32]; /* The name when it was made, padded with zero bytes. */
};
#define HOLM_IDENTITY_VERSION 1

/* How a thread is to be made (seed 14.2). */
struct holm_thread_spec {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t entry; /* The address where it starts. */
    uint64_t argument; /* What rdi holds there. */
    uint64_t argument2; /* What rsi holds there. */
    uint64_t stack_base; /* The lowest address of its stack. */
    uint64_t stack_bytes; /* Bytes of its stack; rsp starts 8 below its end, so that `rsp + 8` is a multiple of 16 as after a call. */
    uint64_t fs_base; /* Base of fs. */
    uint64_t affinity; /* Processors it may run on, by bit; 0 for all. */
    uint32_t sched_class; /* Class; Inherit for the unit's. RT_EDF is given with sched_set_thread_params. */
    uint32_t base_priority; /* Priority within the class, or weight; 0 for the class's default. */
    uint64_t flags; /* Flags. */
};
#define HOLM_THREAD_SPEC_VERSION 1

/* New attributes of a thread. */
struct holm_thread_attr {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t mask; /* Which fields count. */
    uint64_t affinity; /* Processors it may run on, by bit; at least one that exists. */
    uint64_t fs_base; /* Base of fs; only of the calling thread. */
    uint64_t gs_base; /* Base of gs; only of the calling thread. */
};
#define HOLM_THREAD_ATTR_VERSION 1

/* What the kernel tells about a thread. */
struct holm_thread_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t id; /* Its id, unique on this node since boot. */
    uint64_t unit_id; /* The id of its unit. */
    uint32_t state; /* Where it is in its life. */
    uint32_t exit_reason; /* Why it ended. */
    int64_t exit_code; /* The code it gave to thread_exit. */
    uint32_t sched_class; /* Class. */
    uint32_t base_priority; /* Priority within the class, or weight. */
    uint32_t effective_class; /* Class at the moment, with what it inherited. */
    uint32_t effective_priority; /* Priority at the moment, with what it inherited. */
    uint64_t cpu_time; /* Time it ran, in nanoseconds. */
    uint64_t affinity; /* Processors it may run on. */
    uint32_t last_cpu; /* The processor it ran on last. */
    uint32_t call_depth; /* Calls it waits for, one upon the other: the length of the chain it lends its priority to. */
    uint64_t flags; /* Flags. */
};
#define HOLM_THREAD_INFO_VERSION 1

/* How a region is to be made. */
struct holm_region_spec {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t bytes; /* Bytes, a multiple of PAGE_SIZE up to MAX_REGION. Untouched pages cost nothing: sparse regions are the rule. */
    uint64_t flags; /* Flags. */
};
#define HOLM_REGION_SPEC_VERSION 1

/* What the kernel tells about a region. */
struct holm_region_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t id; /* Its id, unique on this node since boot. */
    uint64_t bytes; /* Bytes. */
    uint64_t committed_bytes; /* Bytes of pages that are there and its own. */
    uint64_t shared_bytes; /* Bytes of pages that are there and shared with a snapshot. */
    uint32_t backing; /* Where the content comes from. */
    uint32_t mappings; /* Mappings of it, in all units. */
    uint64_t flags; /* Flags. */
};
#define HOLM_REGION_INFO_VERSION 1

/* How a region is to be mapped. */
struct holm_map_spec {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t address; /* The address: a multiple of PAGE_SIZE; 0 lets the kernel choose. */
    uint64_t offset; /* Where in the region the mapping begins: a multiple of PAGE_SIZE. */
    uint64_t bytes; /* Bytes, a multiple of PAGE_SIZE; 0 for the rest of the region. */
    uint64_t protection; /* What may be done; needs the same rights on the region. */
    uint64_t flags; /* Flags. */
};
#define HOLM_MAP_SPEC_VERSION 1

/* What is mapped at an address. */
struct holm_mapping_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t address; /* Where the mapping, or the hole, begins. */
    uint64_t bytes; /* Its bytes. */
    uint64_t region; /* The id of the region; 0 for a hole. */
    uint64_t offset; /* Where in the region it begins. */
    uint64_t protection; /* What may be done. */
    uint64_t resident_bytes; /* Bytes of it whose pages are there. */
    uint32_t object_type; /* Region when something is mapped here, Invalid for a hole. */
    uint32_t backing; /* Where the content comes from. */
};
#define HOLM_MAPPING_INFO_VERSION 1

/* What the kernel tells about a capability (seed 14.3, 15.1, 15.2). */
struct holm_cap_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint32_t object_type; /* The type of the object. */
    uint32_t concurrency_class; /* Whether the type may leave its unit. */
    uint64_t rights; /* What the holder may do. */
    uint64_t transfer; /* How it may travel. */
    uint64_t flags; /* Facts about the capability. */
    uint64_t owner_unit; /* The id of the unit that holds it. */
    uint64_t object; /* The id of the object, unique on this node since boot. */
    uint64_t badge; /* The badge a receiver sees of messages sent through it. */
    uint32_t depth; /* Derivations between the first capability of the object and this one. */
    uint32_t references; /* Capabilities of the object that are alive, in all units. */
};
#define HOLM_CAP_INFO_VERSION 1

/* A capability of a message: what is sent, or where it arrived. */
struct holm_cap_transfer {
    holm_handle_t cap; /* Sending: the sender's handle. Received: the receiver's new handle. */
    uint32_t mode; /* How it travels. */
    uint64_t rights; /* Sending: the rights the receiver gets, a subset of the sender's. Received: the rights it has. */
};

/* How a channel is to be made. Its queues are allocated whole at once. */
struct holm_chan_spec {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint32_t mode; /* The shape. */
    uint32_t drop_policy; /* What happens when it is full. */
    uint32_t max_message; /* Bytes of a message at most: 1 to MAX_MESSAGE; 0 for 256. */
    uint32_t max_messages; /* Messages queued at most, each direction: 1 to MAX_QUEUE_MESSAGES; 0 for 16. */
    uint64_t max_bytes; /* Bytes queued at most, each direction; 0 for `max_message * max_messages`, cut at MAX_QUEUE_BYTES. */
    uint64_t flags; /* Flags. */
};
#define HOLM_CHAN_SPEC_VERSION 1

/* New attributes of a channel: of the queue this end receives from. Limits can be set up to those it was made with. */
struct holm_chan_attr {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t mask; /* Which fields count. */
    uint32_t max_messages; /* Messages queued at most. */
    uint32_t drop_policy; /* What happens when it is full. */
    uint64_t max_bytes; /* Bytes queued at most. */
};
#define HOLM_CHAN_ATTR_VERSION 1

/* What the kernel tells about a channel, seen from one end. */
struct holm_chan_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t id; /* The id of the channel, unique on this node since boot. */
    uint32_t mode; /* The shape. */
    uint32_t drop_policy; /* What happens when the queue to this end is full. */
    uint32_t max_message; /* Bytes of a message at most. */
    uint32_t max_messages; /* Messages queued at most, each direction. */
    uint64_t max_bytes; /* Bytes queued at most, each direction. */
    uint64_t flags; /* Flags. */
    uint32_t queued_messages; /* Messages waiting to be received here. */
    uint32_t receivers; /* Threads waiting to receive here. */
    uint64_t queued_bytes; /* Bytes waiting to be received here. */
    uint32_t senders; /* Threads waiting to send to here, calls included. */
    uint32_t open_calls; /* Calls received here and not yet replied to. */
    uint64_t sent; /* Messages sent to here so far. */
    uint64_t received; /* Messages received here so far. */
    uint64_t dropped; /* Messages dropped so far. */
    uint32_t peer_closed; /* 1 when no handle of the other end is left. */
    uint32_t payload_crc; /* 1 when payloads are checked by CRC at the moment (see KernelConfig). */
};
#define HOLM_CHAN_INFO_VERSION 1

/* A message to send, or room to receive one (seed 14.4). */
struct holm_msg_io {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t buffer; /* The address of the payload. */
    uint64_t buffer_bytes; /* Bytes of the payload, or of the room for it. */
    uint64_t flags; /* Flags. */
    uint64_t caps; /* The address of CapTransfer records: capabilities to send, or room for those received. */
    uint32_t cap_count; /* Number of records, at most MAX_MESSAGE_CAPS. */
    uint32_t priority; /* Sending: the priority, 0 to 31. */
    uint64_t out_bytes; /* Received: bytes of the message; with TRUNCATE possibly more than there was room for. */
    uint32_t out_caps; /* Received: capabilities of the message. */
    uint32_t out_priority; /* Received: the priority. */
    uint64_t out_token; /* Received: names the caller that waits for a reply; 0 when nobody does. */
    uint64_t out_badge; /* Received: the badge of the capability it was sent through. */
    uint64_t out_sender; /* Received: the id of the unit that sent it. */
};
#define HOLM_MSG_IO_VERSION 1

/* What to subscribe to. */
struct holm_event_spec {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    holm_handle_t event; /* The queue to add to; none makes a new one. */
    holm_handle_t source; /* The object; none with source None. */
    uint32_t source_type; /* What the object is. */
    uint32_t reserved; /* Room for later. */
    uint64_t mask; /* What to report. */
    uint64_t flags; /* How to report. */
    uint64_t token; /* Names the subscription within its queue; Exists when it is taken. */
};
#define HOLM_EVENT_SPEC_VERSION 1

/* One event (seed 14.5). */
struct holm_event_record {
    uint32_t version; /* The version of the record: 1. */
    uint32_t source_type; /* Where it comes from. */
    uint64_t source_id; /* The id of the object. */
    uint64_t token; /* The token of the subscription. */
    uint64_t mask; /* What happened. */
    uint64_t timestamp; /* When it happened last, monotonic. A record that waits to be told takes in what happens later at its source, so records of different sources need not come in this order. */
    uint64_t data0; /* See EventMask. */
    uint64_t data1; /* See EventMask. */
    uint64_t sequence; /* Events of this subscription so far. */
};

/* How a timer is to be made, and what is told about it. */
struct holm_timer_spec {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t flags; /* Flags. */
    uint64_t slack; /* How late it may fire so that wake-ups can be shared, in nanoseconds. */
};
#define HOLM_TIMER_SPEC_VERSION 1

/* What the kernel tells about a timer. */
struct holm_timer_info {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t id; /* Its id, unique on this node since boot. */
    uint64_t deadline; /* The next deadline on the monotonic clock; NEVER when it is not armed. */
    uint64_t period; /* The period in nanoseconds; 0 for one-shot. */
    uint64_t expirations; /* Expirations since it was made. */
    uint32_t clock; /* Its clock. */
    uint32_t mode; /* How it goes on. */
};
#define HOLM_TIMER_INFO_VERSION 1

/* The read-only page by which programs read the clocks without a kernel entry: monotonic time is `base_time + ((tsc - base_tsc) * multiplier >> shift)` with a 128-bit product; read `sequence` before and after, and again when it was odd or changed. */
struct holm_time_page {
    uint64_t sequence; /* Odd while the kernel writes. */
    uint64_t base_tsc; /* The time-stamp counter at `base_time`. */
    uint64_t base_time; /* Monotonic time in nanoseconds. */
    uint64_t realtime_at_boot; /* Realtime at monotonic zero, in nanoseconds. */
    uint64_t multiplier; /* Nanoseconds of a tick, times `2^shift`. */
    uint64_t shift; /* See above. */
};

/* How a thread, or the threads of a unit, are scheduled. */
struct holm_sched_params {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint32_t class; /* The class; not Inherit. */
    uint32_t priority; /* RT_FIXED: 0 to 31. Others: 0. */
    uint32_t weight; /* BEST_EFFORT: 1 to MAX_WEIGHT; 0 for DEFAULT_WEIGHT. Others: 0. */
    uint32_t cpu; /* RT_EDF: the processor it is admitted on; u32::MAX lets the kernel choose. Others: 0. */
    uint64_t runtime; /* RT_EDF: processor time in each period, in nanoseconds. Others: 0. */
    uint64_t deadline; /* RT_EDF: deadline after the start of each period, in nanoseconds: runtime <= deadline <= period. Others: 0. */
    uint64_t period; /* RT_EDF: the period in nanoseconds, MIN_PERIOD to MAX_PERIOD. Others: 0. */
    uint64_t flags; /* Flags. */
};
#define HOLM_SCHED_PARAMS_VERSION 1

/* How a thread, or all threads of a unit, fared. */
struct holm_sched_stats {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint32_t class; /* The class. */
    uint32_t priority; /* The priority or weight. */
    uint64_t run_time; /* Time it ran, in nanoseconds. */
    uint64_t wait_time; /* Time it was runnable and did not run, in nanoseconds. */
    uint64_t max_wait; /* The longest such wait, in nanoseconds. */
    uint64_t switches; /* Times it was put on a processor. */
    uint64_t preemptions; /* Times it was taken off although it wanted to run. */
    uint64_t voluntary; /* Times it gave the processor up by itself, to wait or to yield. */
    uint64_t migrations; /* Times it moved to another processor. */
    uint64_t misses; /* RT_EDF: deadlines missed. */
    uint64_t throttles; /* RT_EDF: budgets used up. */
    uint64_t max_lateness; /* RT_EDF: the largest lateness, in nanoseconds. */
    uint64_t periods; /* RT_EDF: periods begun. */
    uint64_t donated_time; /* Time that others ran on its behalf by donation, in nanoseconds. */
};
#define HOLM_SCHED_STATS_VERSION 1

/* The state of a guest, at the start of the bound page: read by restricted_enter, written when the guest comes back. Vector registers are the personality's own business. `rip`, `rsp` and the bases must be below USER_END; of `rflags` only the arithmetic flags, DF, TF and AC count. */
struct holm_restricted_state {
    uint64_t rax; /* rax */
    uint64_t rbx; /* rbx */
    uint64_t rcx; /* rcx */
    uint64_t rdx; /* rdx */
    uint64_t rsi; /* rsi */
    uint64_t rdi; /* rdi */
    uint64_t rbp; /* rbp */
    uint64_t rsp; /* rsp */
    uint64_t r8; /* r8 */
    uint64_t r9; /* r9 */
    uint64_t r10; /* r10 */
    uint64_t r11; /* r11 */
    uint64_t r12; /* r12 */
    uint64_t r13; /* r13 */
    uint64_t r14; /* r14 */
    uint64_t r15; /* r15 */
    uint64_t rip; /* The next instruction; after `syscall` the one behind it. */
    uint64_t rflags; /* Flags. */
    uint64_t fs_base; /* Base of fs. */
    uint64_t gs_base; /* Base of gs. */
    uint32_t reason; /* Written on return: why. */
    uint32_t vector; /* Written on return: the exception's vector. */
    uint64_t error_code; /* Written on return: the exception's error code. */
    uint64_t fault_address; /* Written on return: the address a page fault was for. */
    uint64_t fault_return; /* Where the personality goes on when it touches an address of the lower half at which its guest may not do the same; 0: its unit ends. Read at such a fault; every register but rip is as it was. Ranges of the guest are copied so. */
};

/* The machine (seed 11). */
struct holm_topology {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint32_t cpus; /* Processors that run. */
    uint32_t numa_nodes; /* NUMA nodes. */
    uint64_t memory_bytes; /* Bytes of memory the kernel manages. */
    uint64_t free_bytes; /* Bytes of it that are free. */
    uint64_t tsc_hz; /* Ticks of the time-stamp counter per second; 0 when unknown. */
    uint32_t page_bytes; /* Bytes of a page. */
    uint32_t profile; /* The profile. */
    uint32_t devices; /* Devices the kernel knows: the console. */
    uint32_t current_cpu; /* The processor the caller runs on. */
    uint32_t abi_version; /* The version of this interface: the number of the newest call. */
    uint32_t reserved; /* Room for later. */
    uint8_t kernel[32]; /* Name and version of the kernel, padded with zero bytes. */
};
#define HOLM_TOPOLOGY_VERSION 1

/* Which units to list. */
struct holm_unit_filter {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t after; /* Only units with an id above this: 0 first, then the last id of the list before. */
    uint64_t parent; /* Only children of the unit of this id; 0 for all. */
    uint64_t flags; /* Which. */
    uint8_t label_key[24]; /* Only units that have a label of this key, padded with zero bytes; all zero for all. */
    uint8_t label_value[40]; /* With a key: only units whose label has this value; all zero for any. */
};
#define HOLM_UNIT_FILTER_VERSION 1

/* A unit in the list, by ascending id. */
struct holm_unit_list_entry {
    uint64_t id; /* Its id. */
    uint64_t parent; /* The id of the unit that made it. */
    uint32_t state; /* Where it is in its life. */
    uint32_t exit_reason; /* Why it ended. */
    uint32_t threads; /* Threads that have not ended. */
    uint32_t sched_class; /* Class of its threads. */
    uint64_t cpu_time; /* Time its threads ran, in nanoseconds. */
    uint64_t memory_bytes; /* Memory, in bytes. */
    uint64_t kernel_bytes; /* Kernel memory, in bytes. */
    int64_t exit_code; /* The code it ended with. */
    uint8_t name[32]; /* Its name, padded with zero bytes. */
};

/* Figures of a unit, or of the whole system. */
struct holm_metrics {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t uptime; /* Nanoseconds since the unit was started, or since boot. */
    uint64_t cpu_time; /* Time threads ran, in nanoseconds. */
    uint64_t idle_time; /* Time processors idled, in nanoseconds; 0 for a unit. */
    uint64_t syscalls; /* System calls. */
    uint64_t page_faults; /* Page faults that were resolved. */
    uint64_t context_switches; /* Switches to its threads. */
    uint64_t messages_sent; /* Messages sent. */
    uint64_t messages_received; /* Messages received. */
    uint64_t messages_dropped; /* Messages dropped by full queues. */
    uint64_t calls; /* Calls made. */
    uint64_t revocations; /* Capabilities revoked, descendants counted when they are swept. */
    uint64_t timer_expirations; /* Timers that expired. */
    uint64_t events; /* Events reported. */
    uint64_t memory_bytes; /* Memory of pages and page tables, in bytes. */
    uint64_t kernel_bytes; /* Memory of kernel objects, in bytes. */
    uint64_t handles; /* Handles in use. */
    uint64_t threads; /* Threads that have not ended. */
    uint64_t units; /* Units that have not ended; 0 for a unit. */
    uint64_t objects; /* Objects of all types; 0 for a unit. */
    uint64_t sweep_backlog; /* Revocations that wait for the sweeper, and one for each other kind of background work that waits; 0 for a unit. */
    uint64_t interrupts; /* Interrupts; 0 for a unit. */
    uint64_t max_kernel_ticks; /* The longest stretch with interrupts off, in ticks of the time-stamp counter; 0 for a unit. */
    uint64_t invariant_checks; /* Invariants checked by sampling; 0 for a unit. */
    uint64_t payload_checks; /* Payload checksums made; 0 for a unit. */
    uint64_t max_kernel_entry; /* How the kernel was entered for the longest stretch: a system call's number, or 65,536 plus the vector of an interrupt or exception; 0 for a unit. */
};
#define HOLM_METRICS_VERSION 1

/* What to read of the kernel's log (seed 11). */
struct holm_log_range {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t sequence; /* In: the first record wanted. Out: the record after the last one given, to go on with. */
    uint64_t lost; /* Out: records lost because they were overwritten before `sequence`. */
    uint64_t chain; /* Out: a checksum chained over all records up to the last one given, so that a reader notices tampering. */
};
#define HOLM_LOG_RANGE_VERSION 1

/* Which records a reader of the trace gets. */
struct holm_trace_filter {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t kinds; /* Kinds, by bit `1 << TraceKind`; 0 for all. */
    uint64_t unit; /* Only those of the unit of this id; 0 for all. */
    uint64_t cpus; /* Processors, by bit; 0 for all. */
};
#define HOLM_TRACE_FILTER_VERSION 1

/* One record of the trace (seed 10.2). */
struct holm_trace_record {
    uint64_t timestamp; /* When, monotonic. */
    uint64_t sequence; /* Its number on its processor; a gap means records were overwritten unread. */
    uint32_t cpu; /* The processor. */
    uint32_t kind; /* What it tells. */
    uint64_t unit; /* The id of the unit that ran. */
    uint64_t thread; /* The id of the thread that ran. */
    uint64_t data[4]; /* The payload; see TraceKind. */
};

/* The kernel's knobs (seed 17.2). */
struct holm_kernel_config {
    uint32_t version; /* The version of the struct; see the rules for structs. */
    uint32_t size; /* The size of the caller's struct in bytes; out: the bytes filled in. */
    uint64_t flags; /* What runs. */
    uint64_t available; /* Out: what this profile has compiled in; ignored by kernel_config_set. */
    uint32_t invariant_interval; /* One invariant check in this many operations; at least 1. */
    uint32_t crc_interval; /* One payload checksum in this many messages; at least 1. */
    uint32_t scrub_pages; /* Pages scrubbed per second. */
    uint32_t watchdog_ms; /* The watchdog's patience in milliseconds. */
    uint32_t text_check_seconds; /* Seconds between two verifications of the kernel's text. */
    uint32_t slice_us; /* Length of a turn in BEST_EFFORT and BACKGROUND, in microseconds: 100 to 1,000,000. */
    uint32_t edf_limit; /* Part of each processor that RT_EDF may be admitted to, in thousandths: 0 to 1000. */
    uint32_t profile; /* Out: the profile; ignored by kernel_config_set. */
    uint64_t config_version; /* Out: counts every change; ignored by kernel_config_set. */
};
#define HOLM_KERNEL_CONFIG_VERSION 1

/* A file of the boot archive. */
struct holm_archive_entry {
    uint64_t bytes; /* Its bytes. */
    uint32_t crc; /* Its CRC-32. */
    uint32_t program; /* 1 when it is a program this kernel can run. */
    uint8_t name[64]; /* Its name, padded with zero bytes. */
};

/* Numbers of the system calls */
#define HOLM_CALL_SYS_NULL 0
#define HOLM_CALL_UNIT_CREATE 1
#define HOLM_CALL_UNIT_START 2
#define HOLM_CALL_UNIT_STOP 3
#define HOLM_CALL_UNIT_KILL 4
#define HOLM_CALL_UNIT_DESTROY 5
#define HOLM_CALL_UNIT_GET_INFO 6
#define HOLM_CALL_UNIT_SET_ATTR 7
#define HOLM_CALL_UNIT_GET_LABELS 8
#define HOLM_CALL_UNIT_GET_IDENTITY 9
#define HOLM_CALL_NODE_GET_IDENTITY 10
#define HOLM_CALL_THREAD_CREATE 16
#define HOLM_CALL_THREAD_EXIT 17
#define HOLM_CALL_THREAD_YIELD 18
#define HOLM_CALL_THREAD_SET_ATTR 19
#define HOLM_CALL_THREAD_GET_INFO 20
#define HOLM_CALL_THREAD_KILL 21
#define HOLM_CALL_VM_REGION_CREATE 32
#define HOLM_CALL_VM_MAP 33
#define HOLM_CALL_VM_UNMAP 34
#define HOLM_CALL_VM_PROTECT 35
#define HOLM_CALL_VM_QUERY 36
#define HOLM_CALL_VM_DECOMMIT 37
#define HOLM_CALL_VM_SNAPSHOT 38
#define HOLM_CALL_VM_SHARE 39
#define HOLM_CALL_VM_REGION_GET_INFO 40
#define HOLM_CALL_VM_REGION_READ 41
#define HOLM_CALL_VM_REGION_WRITE 42
#define HOLM_CALL_SPACE_CREATE 43
#define HOLM_CALL_CAP_GRANT 48
#define HOLM_CALL_CAP_DERIVE 49
#define HOLM_CALL_CAP_REVOKE 50
#define HOLM_CALL_CAP_GET_INFO 51
#define HOLM_CALL_CAP_CLOSE 52
#define HOLM_CALL_CHAN_CREATE 64
#define HOLM_CALL_CHAN_SEND 65
#define HOLM_CALL_CHAN_RECV 66
#define HOLM_CALL_CHAN_CALL 67
#define HOLM_CALL_CHAN_REPLY 68
#define HOLM_CALL_CHAN_REPLY_RECV 69
#define HOLM_CALL_CHAN_SEND_SHORT 70
#define HOLM_CALL_CHAN_RECV_SHORT 71
#define HOLM_CALL_CHAN_CALL_SHORT 72
#define HOLM_CALL_CHAN_REPLY_SHORT 73
#define HOLM_CALL_CHAN_REPLY_RECV_SHORT 74
#define HOLM_CALL_CHAN_SET_ATTR 75
#define HOLM_CALL_CHAN_GET_INFO 76
#define HOLM_CALL_CHAN_CALL_CAP 77
#define HOLM_CALL_EVENT_SUBSCRIBE 80
#define HOLM_CALL_EVENT_WAIT 81
#define HOLM_CALL_EVENT_ACK 82
#define HOLM_CALL_EVENT_UNSUBSCRIBE 83
#define HOLM_CALL_TIME_GET 96
#define HOLM_CALL_TIMER_CREATE 97
#define HOLM_CALL_TIMER_ARM 98
#define HOLM_CALL_TIMER_CANCEL 99
#define HOLM_CALL_TIMER_GET_INFO 100
#define HOLM_CALL_SCHED_SET_UNIT_PARAMS 112
#define HOLM_CALL_SCHED_SET_THREAD_PARAMS 113
#define HOLM_CALL_SCHED_QUERY 114
#define HOLM_CALL_RESTRICTED_BIND 128
#define HOLM_CALL_RESTRICTED_UNBIND 129
#define HOLM_CALL_RESTRICTED_ENTER 130
#define HOLM_CALL_RESTRICTED_KICK 131
#define HOLM_CALL_SYS_GET_TOPOLOGY 144
#define HOLM_CALL_SYS_LIST_UNITS 145
#define HOLM_CALL_SYS_GET_LOGS 146
#define HOLM_CALL_SYS_GET_CONFIG_VERSION 147
#define HOLM_CALL_KERNEL_CONFIG_GET 148
#define HOLM_CALL_KERNEL_CONFIG_SET 149
#define HOLM_CALL_METRICS_GET 150
#define HOLM_CALL_TRACE_EMIT 151
#define HOLM_CALL_TRACE_SUBSCRIBE 152
#define HOLM_CALL_TRACE_READ 153
#define HOLM_CALL_SYSTEM_POWER 154
#define HOLM_CALL_ARCHIVE_LIST 160
#define HOLM_CALL_ARCHIVE_OPEN 161
#define HOLM_CALL_IMAGE_READ 162
#define HOLM_CALL_IMAGE_MAP_REGION 163
#define HOLM_CALL_CONSOLE_WRITE 164
#define HOLM_CALL_CONSOLE_READ 165
#define HOLM_CALL_CAP_QUERY HOLM_CALL_CAP_GET_INFO

/* What the registers hold on the way into the kernel and back. */
struct holm_registers {
    uint64_t rax, rdi, rsi, rdx, r10, r8, r9;
};

/* Enters the kernel. Vector registers are lost, as by a call of a function. */
static inline void holm_enter(struct holm_registers *r)
{
    register uint64_t r10 __asm__("r10") = r->r10;
    register uint64_t r8 __asm__("r8") = r->r8;
    register uint64_t r9 __asm__("r9") = r->r9;
    __asm__ volatile("syscall"
                     : "+a"(r->rax), "+D"(r->rdi), "+S"(r->rsi), "+d"(r->rdx), "+r"(r10), "+r"(r8), "+r"(r9)
                     :
                     : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    r->r10 = r10;
    r->r8 = r8;
    r->r9 = r9;
}

static inline int64_t holm_sys_null(void)
{
    struct holm_registers r = { .rax = HOLM_CALL_SYS_NULL };
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_create(holm_handle_t parent, const struct holm_unit_spec *spec)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_CREATE };
    r.rdi = (uint32_t)parent;
    r.rsi = (uint64_t)(uintptr_t)spec;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_start(holm_handle_t unit)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_START };
    r.rdi = (uint32_t)unit;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_stop(holm_handle_t unit, int64_t code)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_STOP };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)code;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_kill(holm_handle_t unit, int64_t reason)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_KILL };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)reason;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_destroy(holm_handle_t unit)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_DESTROY };
    r.rdi = (uint32_t)unit;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_get_info(holm_handle_t unit, struct holm_unit_info *info)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_GET_INFO };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)(uintptr_t)info;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_set_attr(holm_handle_t unit, const struct holm_unit_attr *attr)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_SET_ATTR };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)(uintptr_t)attr;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_get_labels(holm_handle_t unit, struct holm_label *labels, uint64_t labels_count)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_GET_LABELS };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)(uintptr_t)labels;
    r.rdx = labels_count;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_unit_get_identity(holm_handle_t unit, struct holm_identity *identity)
{
    struct holm_registers r = { .rax = HOLM_CALL_UNIT_GET_IDENTITY };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)(uintptr_t)identity;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_node_get_identity(struct holm_identity *identity)
{
    struct holm_registers r = { .rax = HOLM_CALL_NODE_GET_IDENTITY };
    r.rdi = (uint64_t)(uintptr_t)identity;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_thread_create(holm_handle_t unit, const struct holm_thread_spec *spec)
{
    struct holm_registers r = { .rax = HOLM_CALL_THREAD_CREATE };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)(uintptr_t)spec;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_thread_exit(int64_t code)
{
    struct holm_registers r = { .rax = HOLM_CALL_THREAD_EXIT };
    r.rdi = (uint64_t)code;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_thread_yield(void)
{
    struct holm_registers r = { .rax = HOLM_CALL_THREAD_YIELD };
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_thread_set_attr(holm_handle_t thread, const struct holm_thread_attr *attr)
{
    struct holm_registers r = { .rax = HOLM_CALL_THREAD_SET_ATTR };
    r.rdi = (uint32_t)thread;
    r.rsi = (uint64_t)(uintptr_t)attr;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_thread_get_info(holm_handle_t thread, struct holm_thread_info *info)
{
    struct holm_registers r = { .rax = HOLM_CALL_THREAD_GET_INFO };
    r.rdi = (uint32_t)thread;
    r.rsi = (uint64_t)(uintptr_t)info;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_thread_kill(holm_handle_t thread, int64_t code)
{
    struct holm_registers r = { .rax = HOLM_CALL_THREAD_KILL };
    r.rdi = (uint32_t)thread;
    r.rsi = (uint64_t)code;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_region_create(const struct holm_region_spec *spec)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_REGION_CREATE };
    r.rdi = (uint64_t)(uintptr_t)spec;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_map(holm_handle_t target, holm_handle_t region, const struct holm_map_spec *spec)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_MAP };
    r.rdi = (uint32_t)target;
    r.rsi = (uint32_t)region;
    r.rdx = (uint64_t)(uintptr_t)spec;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_unmap(holm_handle_t target, uint64_t address, uint64_t bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_UNMAP };
    r.rdi = (uint32_t)target;
    r.rsi = address;
    r.rdx = bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_protect(holm_handle_t target, uint64_t address, uint64_t bytes, uint64_t protection)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_PROTECT };
    r.rdi = (uint32_t)target;
    r.rsi = address;
    r.rdx = bytes;
    r.r10 = protection;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_query(holm_handle_t target, uint64_t address, struct holm_mapping_info *info)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_QUERY };
    r.rdi = (uint32_t)target;
    r.rsi = address;
    r.rdx = (uint64_t)(uintptr_t)info;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_decommit(holm_handle_t region, uint64_t offset, uint64_t bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_DECOMMIT };
    r.rdi = (uint32_t)region;
    r.rsi = offset;
    r.rdx = bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_snapshot(holm_handle_t region)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_SNAPSHOT };
    r.rdi = (uint32_t)region;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_share(holm_handle_t region, holm_handle_t to, uint64_t rights)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_SHARE };
    r.rdi = (uint32_t)region;
    r.rsi = (uint32_t)to;
    r.rdx = rights;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_region_get_info(holm_handle_t region, struct holm_region_info *info)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_REGION_GET_INFO };
    r.rdi = (uint32_t)region;
    r.rsi = (uint64_t)(uintptr_t)info;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_region_read(holm_handle_t region, uint64_t offset, void *to, uint64_t to_bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_REGION_READ };
    r.rdi = (uint32_t)region;
    r.rsi = offset;
    r.rdx = (uint64_t)(uintptr_t)to;
    r.r10 = to_bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_vm_region_write(holm_handle_t region, uint64_t offset, const void *from, uint64_t from_bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_VM_REGION_WRITE };
    r.rdi = (uint32_t)region;
    r.rsi = offset;
    r.rdx = (uint64_t)(uintptr_t)from;
    r.r10 = from_bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_space_create(void)
{
    struct holm_registers r = { .rax = HOLM_CALL_SPACE_CREATE };
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_cap_grant(holm_handle_t unit, holm_handle_t cap, uint64_t rights, uint32_t mode)
{
    struct holm_registers r = { .rax = HOLM_CALL_CAP_GRANT };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint32_t)cap;
    r.rdx = rights;
    r.r10 = mode;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_cap_derive(holm_handle_t cap, uint64_t rights, uint64_t transfer, uint64_t badge)
{
    struct holm_registers r = { .rax = HOLM_CALL_CAP_DERIVE };
    r.rdi = (uint32_t)cap;
    r.rsi = rights;
    r.rdx = transfer;
    r.r10 = badge;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_cap_revoke(holm_handle_t cap, uint64_t flags)
{
    struct holm_registers r = { .rax = HOLM_CALL_CAP_REVOKE };
    r.rdi = (uint32_t)cap;
    r.rsi = flags;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_cap_get_info(holm_handle_t cap, struct holm_cap_info *info)
{
    struct holm_registers r = { .rax = HOLM_CALL_CAP_GET_INFO };
    r.rdi = (uint32_t)cap;
    r.rsi = (uint64_t)(uintptr_t)info;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_cap_close(holm_handle_t cap)
{
    struct holm_registers r = { .rax = HOLM_CALL_CAP_CLOSE };
    r.rdi = (uint32_t)cap;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_create(const struct holm_chan_spec *spec, holm_handle_t *second)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_CREATE };
    r.rdi = (uint64_t)(uintptr_t)spec;
    holm_enter(&r);
    *second = (holm_handle_t)r.rdx;
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_send(holm_handle_t channel, const struct holm_msg_io *message, uint64_t deadline)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_SEND };
    r.rdi = (uint32_t)channel;
    r.rsi = (uint64_t)(uintptr_t)message;
    r.rdx = deadline;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_recv(holm_handle_t channel, struct holm_msg_io *message, uint64_t deadline)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_RECV };
    r.rdi = (uint32_t)channel;
    r.rsi = (uint64_t)(uintptr_t)message;
    r.rdx = deadline;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_call(holm_handle_t channel, const struct holm_msg_io *send, struct holm_msg_io *receive, uint64_t deadline)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_CALL };
    r.rdi = (uint32_t)channel;
    r.rsi = (uint64_t)(uintptr_t)send;
    r.rdx = (uint64_t)(uintptr_t)receive;
    r.r10 = deadline;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_reply(holm_handle_t channel, uint64_t token, const struct holm_msg_io *message)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_REPLY };
    r.rdi = (uint32_t)channel;
    r.rsi = token;
    r.rdx = (uint64_t)(uintptr_t)message;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_reply_recv(holm_handle_t channel, uint64_t token, const struct holm_msg_io *reply, struct holm_msg_io *receive, uint64_t deadline)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_REPLY_RECV };
    r.rdi = (uint32_t)channel;
    r.rsi = token;
    r.rdx = (uint64_t)(uintptr_t)reply;
    r.r10 = (uint64_t)(uintptr_t)receive;
    r.r8 = deadline;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_send_short(uint64_t short_message, uint64_t deadline, uint64_t word0, uint64_t word1, uint64_t word2, uint64_t word3)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_SEND_SHORT };
    r.rdi = short_message;
    r.rsi = deadline;
    r.rdx = word0;
    r.r10 = word1;
    r.r8 = word2;
    r.r9 = word3;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_recv_short(uint64_t short_message, uint64_t deadline, struct holm_registers *answer)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_RECV_SHORT };
    r.rdi = short_message;
    r.rsi = deadline;
    holm_enter(&r);
    *answer = r;
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_call_short(uint64_t short_message, uint64_t deadline, uint64_t word0, uint64_t word1, uint64_t word2, uint64_t word3, struct holm_registers *answer)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_CALL_SHORT };
    r.rdi = short_message;
    r.rsi = deadline;
    r.rdx = word0;
    r.r10 = word1;
    r.r8 = word2;
    r.r9 = word3;
    holm_enter(&r);
    *answer = r;
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_reply_short(uint64_t short_message, uint64_t token, uint64_t word0, uint64_t word1, uint64_t word2, uint64_t word3)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_REPLY_SHORT };
    r.rdi = short_message;
    r.rsi = token;
    r.rdx = word0;
    r.r10 = word1;
    r.r8 = word2;
    r.r9 = word3;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_reply_recv_short(uint64_t short_message, uint64_t token, uint64_t word0, uint64_t word1, uint64_t word2, uint64_t word3, struct holm_registers *answer)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_REPLY_RECV_SHORT };
    r.rdi = short_message;
    r.rsi = token;
    r.rdx = word0;
    r.r10 = word1;
    r.r8 = word2;
    r.r9 = word3;
    holm_enter(&r);
    *answer = r;
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_set_attr(holm_handle_t channel, const struct holm_chan_attr *attr)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_SET_ATTR };
    r.rdi = (uint32_t)channel;
    r.rsi = (uint64_t)(uintptr_t)attr;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_get_info(holm_handle_t channel, struct holm_chan_info *info)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_GET_INFO };
    r.rdi = (uint32_t)channel;
    r.rsi = (uint64_t)(uintptr_t)info;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_chan_call_cap(uint64_t short_message, uint64_t transfer, uint64_t word0, uint64_t word1, uint64_t word2, uint64_t word3, struct holm_registers *answer)
{
    struct holm_registers r = { .rax = HOLM_CALL_CHAN_CALL_CAP };
    r.rdi = short_message;
    r.rsi = transfer;
    r.rdx = word0;
    r.r10 = word1;
    r.r8 = word2;
    r.r9 = word3;
    holm_enter(&r);
    *answer = r;
    return (int64_t)r.rax;
}

static inline int64_t holm_event_subscribe(const struct holm_event_spec *spec)
{
    struct holm_registers r = { .rax = HOLM_CALL_EVENT_SUBSCRIBE };
    r.rdi = (uint64_t)(uintptr_t)spec;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_event_wait(holm_handle_t event, struct holm_event_record *records, uint64_t records_count, uint64_t deadline)
{
    struct holm_registers r = { .rax = HOLM_CALL_EVENT_WAIT };
    r.rdi = (uint32_t)event;
    r.rsi = (uint64_t)(uintptr_t)records;
    r.rdx = records_count;
    r.r10 = deadline;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_event_ack(holm_handle_t event, uint64_t token)
{
    struct holm_registers r = { .rax = HOLM_CALL_EVENT_ACK };
    r.rdi = (uint32_t)event;
    r.rsi = token;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_event_unsubscribe(holm_handle_t event, uint64_t token)
{
    struct holm_registers r = { .rax = HOLM_CALL_EVENT_UNSUBSCRIBE };
    r.rdi = (uint32_t)event;
    r.rsi = token;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_time_get(uint32_t clock)
{
    struct holm_registers r = { .rax = HOLM_CALL_TIME_GET };
    r.rdi = clock;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_timer_create(uint32_t clock, const struct holm_timer_spec *spec)
{
    struct holm_registers r = { .rax = HOLM_CALL_TIMER_CREATE };
    r.rdi = clock;
    r.rsi = (uint64_t)(uintptr_t)spec;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_timer_arm(holm_handle_t timer, uint64_t deadline, uint32_t mode, uint64_t period)
{
    struct holm_registers r = { .rax = HOLM_CALL_TIMER_ARM };
    r.rdi = (uint32_t)timer;
    r.rsi = deadline;
    r.rdx = mode;
    r.r10 = period;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_timer_cancel(holm_handle_t timer)
{
    struct holm_registers r = { .rax = HOLM_CALL_TIMER_CANCEL };
    r.rdi = (uint32_t)timer;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_timer_get_info(holm_handle_t timer, struct holm_timer_info *info)
{
    struct holm_registers r = { .rax = HOLM_CALL_TIMER_GET_INFO };
    r.rdi = (uint32_t)timer;
    r.rsi = (uint64_t)(uintptr_t)info;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_sched_set_unit_params(holm_handle_t unit, const struct holm_sched_params *params)
{
    struct holm_registers r = { .rax = HOLM_CALL_SCHED_SET_UNIT_PARAMS };
    r.rdi = (uint32_t)unit;
    r.rsi = (uint64_t)(uintptr_t)params;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_sched_set_thread_params(holm_handle_t thread, const struct holm_sched_params *params)
{
    struct holm_registers r = { .rax = HOLM_CALL_SCHED_SET_THREAD_PARAMS };
    r.rdi = (uint32_t)thread;
    r.rsi = (uint64_t)(uintptr_t)params;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_sched_query(holm_handle_t object, struct holm_sched_stats *stats)
{
    struct holm_registers r = { .rax = HOLM_CALL_SCHED_QUERY };
    r.rdi = (uint32_t)object;
    r.rsi = (uint64_t)(uintptr_t)stats;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_restricted_bind(holm_handle_t space, holm_handle_t state, uint64_t offset)
{
    struct holm_registers r = { .rax = HOLM_CALL_RESTRICTED_BIND };
    r.rdi = (uint32_t)space;
    r.rsi = (uint32_t)state;
    r.rdx = offset;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_restricted_unbind(void)
{
    struct holm_registers r = { .rax = HOLM_CALL_RESTRICTED_UNBIND };
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_restricted_enter(uint64_t return_to, uint64_t context)
{
    struct holm_registers r = { .rax = HOLM_CALL_RESTRICTED_ENTER };
    r.rdi = return_to;
    r.rsi = context;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_restricted_kick(holm_handle_t thread)
{
    struct holm_registers r = { .rax = HOLM_CALL_RESTRICTED_KICK };
    r.rdi = (uint32_t)thread;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_sys_get_topology(struct holm_topology *topology)
{
    struct holm_registers r = { .rax = HOLM_CALL_SYS_GET_TOPOLOGY };
    r.rdi = (uint64_t)(uintptr_t)topology;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_sys_list_units(holm_handle_t system, const struct holm_unit_filter *filter, struct holm_unit_list_entry *units, uint64_t units_count)
{
    struct holm_registers r = { .rax = HOLM_CALL_SYS_LIST_UNITS };
    r.rdi = (uint32_t)system;
    r.rsi = (uint64_t)(uintptr_t)filter;
    r.rdx = (uint64_t)(uintptr_t)units;
    r.r10 = units_count;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_sys_get_logs(holm_handle_t log, struct holm_log_range *range, void *to, uint64_t to_bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_SYS_GET_LOGS };
    r.rdi = (uint32_t)log;
    r.rsi = (uint64_t)(uintptr_t)range;
    r.rdx = (uint64_t)(uintptr_t)to;
    r.r10 = to_bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_sys_get_config_version(void)
{
    struct holm_registers r = { .rax = HOLM_CALL_SYS_GET_CONFIG_VERSION };
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_kernel_config_get(holm_handle_t system, struct holm_kernel_config *config)
{
    struct holm_registers r = { .rax = HOLM_CALL_KERNEL_CONFIG_GET };
    r.rdi = (uint32_t)system;
    r.rsi = (uint64_t)(uintptr_t)config;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_kernel_config_set(holm_handle_t system, const struct holm_kernel_config *config)
{
    struct holm_registers r = { .rax = HOLM_CALL_KERNEL_CONFIG_SET };
    r.rdi = (uint32_t)system;
    r.rsi = (uint64_t)(uintptr_t)config;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_metrics_get(holm_handle_t object, struct holm_metrics *metrics)
{
    struct holm_registers r = { .rax = HOLM_CALL_METRICS_GET };
    r.rdi = (uint32_t)object;
    r.rsi = (uint64_t)(uintptr_t)metrics;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_trace_emit(holm_handle_t system, uint64_t event, const void *data, uint64_t data_bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_TRACE_EMIT };
    r.rdi = (uint32_t)system;
    r.rsi = event;
    r.rdx = (uint64_t)(uintptr_t)data;
    r.r10 = data_bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_trace_subscribe(holm_handle_t system, const struct holm_trace_filter *filter)
{
    struct holm_registers r = { .rax = HOLM_CALL_TRACE_SUBSCRIBE };
    r.rdi = (uint32_t)system;
    r.rsi = (uint64_t)(uintptr_t)filter;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_trace_read(holm_handle_t trace, struct holm_trace_record *records, uint64_t records_count)
{
    struct holm_registers r = { .rax = HOLM_CALL_TRACE_READ };
    r.rdi = (uint32_t)trace;
    r.rsi = (uint64_t)(uintptr_t)records;
    r.rdx = records_count;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_system_power(holm_handle_t system, uint32_t action, uint64_t status)
{
    struct holm_registers r = { .rax = HOLM_CALL_SYSTEM_POWER };
    r.rdi = (uint32_t)system;
    r.rsi = action;
    r.rdx = status;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_archive_list(holm_handle_t archive, uint64_t first, struct holm_archive_entry *entries, uint64_t entries_count)
{
    struct holm_registers r = { .rax = HOLM_CALL_ARCHIVE_LIST };
    r.rdi = (uint32_t)archive;
    r.rsi = first;
    r.rdx = (uint64_t)(uintptr_t)entries;
    r.r10 = entries_count;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_archive_open(holm_handle_t archive, const void *name, uint64_t name_bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_ARCHIVE_OPEN };
    r.rdi = (uint32_t)archive;
    r.rsi = (uint64_t)(uintptr_t)name;
    r.rdx = name_bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_image_read(holm_handle_t image, uint64_t offset, void *to, uint64_t to_bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_IMAGE_READ };
    r.rdi = (uint32_t)image;
    r.rsi = offset;
    r.rdx = (uint64_t)(uintptr_t)to;
    r.r10 = to_bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_image_map_region(holm_handle_t image)
{
    struct holm_registers r = { .rax = HOLM_CALL_IMAGE_MAP_REGION };
    r.rdi = (uint32_t)image;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_console_write(holm_handle_t console, const void *from, uint64_t from_bytes)
{
    struct holm_registers r = { .rax = HOLM_CALL_CONSOLE_WRITE };
    r.rdi = (uint32_t)console;
    r.rsi = (uint64_t)(uintptr_t)from;
    r.rdx = from_bytes;
    holm_enter(&r);
    return (int64_t)r.rax;
}

static inline int64_t holm_console_read(holm_handle_t console, void *to, uint64_t to_bytes, uint64_t deadline)
{
    struct holm_registers r = { .rax = HOLM_CALL_CONSOLE_READ };
    r.rdi = (uint32_t)console;
    r.rsi = (uint64_t)(uintptr_t)to;
    r.rdx = to_bytes;
    r.r10 = deadline;
    holm_enter(&r);
    return (int64_t)r.rax;
}

#endif

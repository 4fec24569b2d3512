//! The table of all system calls: the one source for the dispatcher, the stubs, the C header and the reference page.

/// Gives the table of all system calls to a macro: `system_calls! { callback }` expands to `callback! { table }`.
///
/// The table is a sequence of entries, each of this form:
///
/// ```text
/// 40 chan_send "14.4"
///     (channel: (handle Channel, SEND), message: (inout MsgIo), deadline: (deadline))
///     -> (none) errors [WouldBlock, TimedOut] "O(len + caps)"
///     "What it does.";
/// ```
///
/// number, name, seed section, arguments with kinds, result, errors beyond those that the kinds imply, the bound of an
/// RT-safe call (`""` when it is none), description. An argument of two registers (`bytes_in`, `bytes_out`, `records_out`)
/// takes an address and a length. Kinds of arguments:
///
/// | kind | registers | meaning |
/// | --- | --- | --- |
/// | `(handle T, R, …)` | 1 | a handle of an object of type `T` with the rights `R`, all of them |
/// | `(self_or T, R, …)` | 1 | the same, or 0 for the caller's own unit or thread, which needs no rights |
/// | `(handle_or T1 T2, R)` | 1 | a handle of either type with the right `R` |
/// | `(self_or_space R)` | 1 | a handle of a unit or a guest space with the right `R`, or 0 for the caller's own unit |
/// | `(self_or_thread R)` | 1 | a handle of a thread or a unit with the right `R`, or 0 for the calling thread |
/// | `(any_handle R)` | 1 | a handle of any type with the right `R` |
/// | `(raw_handle)` | 1 | a handle that is checked by the call itself, revoked ones included |
/// | `(in S)` `(out S)` `(inout S)` | 1 | the address of a versioned struct |
/// | `(bytes_in)` `(bytes_out)` | 2 | address and length of bytes, moved up to MAX_COPY |
/// | `(records_out S)` | 2 | address and number of records, filled up to MAX_RECORDS |
/// | `(flags F)` | 1 | a set of flags; unknown ones are refused |
/// | `(value E)` | 1 | an enumeration; unknown values are refused |
/// | `(short R)` | 1 | [`crate::Short`]: a channel with right `R`, and length, priority and flags of a short message |
/// | `(number)` `(signed)` | 1 | a plain number |
/// | `(address)` | 1 | an address in user memory that the call keeps or maps; not dereferenced |
/// | `(deadline)` | 1 | a time on the monotonic clock in nanoseconds; past: once, without waiting; `NEVER`: no deadline |
///
/// Results: `(none)` is 0; `(handle T)` a new handle; `(handles T)` two, in rax and rdx; `(number "what")`; `(short)` see
/// [`crate::Short`]; `(never)` does not return.
#[macro_export]
macro_rules! system_calls {
    ($($callback:tt)+) => { $($callback)+! {
        0 sys_null "6"
            () -> (none) errors [] "O(1)"
            "Does nothing: measures the way into the kernel and back.";

        1 unit_create "14.1"
            (parent: (self_or Unit, CREATE), spec: (in UnitSpec))
            -> (handle Unit) errors [BadHandle, WrongType, Access, Revoked, Fault, BadImage, NotPermitted, TooBig, NoMemory, Quota] ""
            "Makes a unit in state CREATED as a child of `parent`: address space, image, arguments, initial capabilities, \
             quotas, first thread. In steps, with interrupts between them. Capabilities moved to it leave the caller only \
             when everything else succeeded. The handle has all rights of a unit.";
        2 unit_start "14.1"
            (unit: (handle Unit, CONTROL))
            -> (none) errors [BadState] "O(1)"
            "Lets the threads of a unit in state CREATED run.";
        3 unit_stop "14.1"
            (unit: (self_or Unit, CONTROL), code: (signed))
            -> (none) errors [BadState] ""
            "Ends a unit in order with an exit code; does not return when it is the caller's own. Its threads end at once; \
             what it has is released in bounded steps, and its watchers get EXIT.";
        4 unit_kill "14.1"
            (unit: (self_or Unit, CONTROL), reason: (signed))
            -> (none) errors [BadState] ""
            "Ends a unit hard: as unit_stop, but it counts as failed, `reason` is its exit code and its watchers get CRASH.";
        5 unit_destroy "1.1"
            (unit: (handle Unit, CONTROL))
            -> (none) errors [] ""
            "Kills the unit if it lives and closes the handle. Its information is gone when the last handle is closed.";
        6 unit_get_info "14.1"
            (unit: (self_or Unit, INSPECT), info: (out UnitInfo))
            -> (none) errors [] "O(1)"
            "Tells state, end, times and quotas of a unit.";
        7 unit_set_attr "1.1"
            (unit: (handle Unit, ADMIN), attr: (in UnitAttr))
            -> (none) errors [Fault, NotPermitted, TooBig] "O(labels)"
            "Changes name, labels, quotas and ceiling of a unit.";
        8 unit_get_labels "1.1"
            (unit: (self_or Unit, INSPECT), labels: (records_out Label))
            -> (number "labels written") errors [] "O(labels)"
            "Gives the labels of a unit.";
        9 unit_get_identity "3.2"
            (unit: (self_or Unit, INSPECT), identity: (out Identity))
            -> (none) errors [] "O(1)"
            "Tells who a unit is.";
        10 node_get_identity "3.2"
            (identity: (out Identity))
            -> (none) errors [] "O(1)"
            "Tells who this node is: the same for every unit from boot to power-off.";

        16 thread_create "14.2"
            (unit: (self_or Unit, CREATE), spec: (in ThreadSpec))
            -> (handle Thread) errors [NotPermitted, BadState, Quota, NoMemory] ""
            "Makes a thread; it runs at once when its unit runs.";
        17 thread_exit "14.2"
            (code: (signed))
            -> (never) errors [] "O(1)"
            "Ends the calling thread. With the last thread its unit ends, with the same code.";
        18 thread_yield "14.2"
            () -> (none) errors [] "O(1)"
            "Lets other threads of the same rank run first; an EDF thread gives up the rest of its budget of this period.";
        19 thread_set_attr "1.2"
            (thread: (self_or Thread, ADMIN), attr: (in ThreadAttr))
            -> (none) errors [NotPermitted, BadState] "O(1)"
            "Changes affinity and segment bases of a thread.";
        20 thread_get_info "14.2"
            (thread: (self_or Thread, INSPECT), info: (out ThreadInfo))
            -> (none) errors [] "O(1)"
            "Tells state, class, times and place of a thread.";
        21 thread_kill "14.2"
            (thread: (handle Thread, CONTROL), code: (signed))
            -> (none) errors [BadState] "O(1)"
            "Ends another thread wherever it is; its stack and what it held in memory stay as they are.";

        32 vm_region_create "2.1"
            (spec: (in RegionSpec))
            -> (handle Region) errors [Quota, NoMemory] "O(1) without COMMIT"
            "Makes a region of zero pages, with all rights of a region.";
        33 vm_map "2.1"
            (target: (self_or_space MAP), region: (handle Region, MAP), spec: (in MapSpec))
            -> (number "address") errors [Exists, NoSpace, NotPermitted, Quota, NoMemory, BadState] "O(1) without POPULATE and FIXED"
            "Maps a part of a region into a unit or a guest space. The protection needs the rights READ, WRITE and EXECUTE \
             on the region. The mapping ends when the capability it was made through is revoked, not when it is closed.";
        34 vm_unmap "2.1"
            (target: (self_or_space MAP), address: (address), bytes: (number))
            -> (none) errors [Quota, NoMemory] "O(pages), restarts every 64"
            "Removes everything mapped in a range; holes are fine.";
        35 vm_protect "2.1"
            (target: (self_or_space MAP), address: (address), bytes: (number), protection: (flags Protection))
            -> (none) errors [NotFound, NotPermitted, Quota, NoMemory] "O(pages), restarts every 64"
            "Changes the protection of a range without holes, within the rights each part was mapped with.";
        36 vm_query "2.1"
            (target: (self_or_space INSPECT), address: (address), info: (out MappingInfo))
            -> (none) errors [] "O(log mappings)"
            "Tells the mapping, or the hole, at an address.";
        37 vm_decommit "2.1"
            (region: (handle Region, WRITE), offset: (number), bytes: (number))
            -> (none) errors [NoMemory, BadState] "O(pages), restarts every 64"
            "Gives the pages of a range of a region back; it reads as at its beginning afterwards, in every mapping. BAD_STATE \
             while the region is bound as the state of restricted mode.";
        38 vm_snapshot "2.1"
            (region: (handle Region, READ))
            -> (handle Region) errors [BadState, Quota, NoMemory] "O(pages), restarts every 64"
            "Makes a region with the same content; pages are shared until either side writes. All pages that the region has \
             count against the unit that makes the snapshot, shared or not, so that a write to them cannot fail for want of \
             quota. BAD_STATE while the region is bound as the state of restricted mode. Another thread's snapshot of it is \
             waited for.";
        39 vm_share "2.2"
            (region: (handle Region, TRANSFER), to: (handle Unit, CREATE), rights: (flags Rights))
            -> (number "handle in the other unit") errors [NotPermitted, TooDeep, NoHandles, Quota, NoMemory] "O(1)"
            "Gives another unit a derived capability of a region, with a subset of the rights.";
        40 vm_region_get_info "2.1"
            (region: (handle Region, INSPECT), info: (out RegionInfo))
            -> (none) errors [] "O(1)"
            "Tells size and committed pages of a region.";
        41 vm_region_read "2.1"
            (region: (handle Region, READ), offset: (number), to: (bytes_out))
            -> (number "bytes read") errors [] "O(len), restarts every page"
            "Copies out of a region that need not be mapped.";
        42 vm_region_write "2.1"
            (region: (handle Region, WRITE), offset: (number), from: (bytes_in))
            -> (number "bytes written") errors [Quota, NoMemory] "O(len), restarts every page"
            "Copies into a region that need not be mapped.";
        43 space_create "2"
            () -> (handle Space) errors [Quota, NoMemory] ""
            "Makes an empty guest space: the lower half of an address space, for restricted mode.";

        48 cap_grant "14.3"
            (unit: (handle Unit, CREATE), cap: (raw_handle), rights: (flags Rights), mode: (value TransferMode))
            -> (number "handle in the other unit") errors [Access, Revoked, NotPermitted, TooDeep, NoHandles, Quota, NoMemory, BadState] "O(1)"
            "Passes a capability with TRANSFER to another unit, with a subset of its rights. MOVE takes it from the caller; \
             BORROW and CLONE derive one.";
        49 cap_derive "14.3"
            (cap: (any_handle DERIVE), rights: (flags Rights), transfer: (flags TransferFlags), badge: (number))
            -> (handle Invalid) errors [NotPermitted, TooDeep] "O(1)"
            "Makes a weaker capability of the same object in the same unit: a subset of rights and of the transfer policy. \
             A badge can be set once, on a channel: 0 keeps the parent's.";
        50 cap_revoke "3.1"
            (cap: (raw_handle), flags: (flags RevokeFlags))
            -> (none) errors [Revoked] "O(1) until no use succeeds; a sweeper reclaims 64 at a time"
            "Ends the capability and everything derived from it, in all units: each use answers Revoked from now on. Of a \
             region it returns when no mapping made through them is left.";
        51 cap_get_info "14.3"
            (cap: (raw_handle), info: (out CapInfo))
            -> (none) errors [] "O(1)"
            "Tells type, rights and policy of a capability; also of a revoked one. The seed's cap_query is the same call.";
        52 cap_close "15.1"
            (cap: (raw_handle))
            -> (none) errors [] "O(1); the end of the object is released in bounded steps"
            "Gives a handle up. What was derived from it stays. The object ends with its last handle, unless something else \
             keeps it: a running unit that has a thread, a running thread, a mapped region.";

        64 chan_create "14.4"
            (spec: (in ChanSpec))
            -> (handles Channel) errors [Quota, NoMemory] ""
            "Makes a channel and gives both ends. UNI: rax receives, rdx sends. BIDI: each end sends to the other.";
        65 chan_send "14.4"
            (channel: (handle Channel, SEND), message: (in MsgIo), deadline: (deadline))
            -> (none) errors [BadHandle, Access, Revoked, NotPermitted, TooDeep, WouldBlock, TimedOut, PeerClosed, MessageSize, NoSpace, Quota, NoMemory, Canceled, Interrupted] "O(len + caps)"
            "Sends a message with its capabilities; all of it or nothing. Waits for room until the deadline. A message above \
             8 KiB, or 1 KiB with more than 2 capabilities, is copied in pieces, and queued when it is whole.";
        66 chan_recv "14.4"
            (channel: (handle Channel, RECEIVE), message: (inout MsgIo), deadline: (deadline))
            -> (number "bytes of the message") errors [WouldBlock, TimedOut, PeerClosed, MessageSize, NoHandles, Quota, NoMemory, Revoked, Canceled, Interrupted] "O(len + caps)"
            "Receives the first message, of the highest priority where the channel knows priorities. A message that does not \
             fit stays queued. PeerClosed only when the queue is empty.";
        67 chan_call "4.1"
            (channel: (handle Channel, SEND), send: (in MsgIo), receive: (inout MsgIo), deadline: (deadline))
            -> (number "bytes of the reply") errors [BadHandle, Access, Revoked, NotPermitted, TooDeep, WouldBlock, TimedOut, PeerClosed, MessageSize, NoSpace, NoHandles, Quota, NoMemory, Deadlock, Canceled, Interrupted] "O(len + caps)"
            "Sends a message and waits for its reply. From the send on the receiver inherits the caller's priority, along \
             chains of calls; the receiver's time counts as the caller's. PeerClosed when the receiver is gone without a reply.";
        68 chan_reply "4.1"
            (channel: (handle Channel, RECEIVE), token: (number), message: (in MsgIo))
            -> (none) errors [BadHandle, Access, Revoked, NotPermitted, TooDeep, NotFound, MessageSize, NoHandles, Quota, NoMemory] "O(len + caps)"
            "Answers the caller that the token names and wakes it. NotFound when it no longer waits.";
        69 chan_reply_recv "4.1"
            (channel: (handle Channel, RECEIVE), token: (number), reply: (in MsgIo), receive: (inout MsgIo), deadline: (deadline))
            -> (number "bytes of the message") errors [BadHandle, Access, Revoked, NotPermitted, TooDeep, NotFound, WouldBlock, TimedOut, PeerClosed, MessageSize, NoHandles, Quota, NoMemory, Canceled, Interrupted] "O(len + caps)"
            "chan_reply, unless the token is 0, and then chan_recv: a server's loop in one call. An error of the reply is \
             answered before anything is received.";
        70 chan_send_short "4.1"
            (short: (short SEND), deadline: (deadline), word0: (number), word1: (number), word2: (number), word3: (number))
            -> (none) errors [WouldBlock, TimedOut, PeerClosed, MessageSize, NoSpace, Canceled, Interrupted] "O(1)"
            "chan_send of up to 32 bytes in registers.";
        71 chan_recv_short "4.1"
            (short: (short RECEIVE), deadline: (deadline))
            -> (short) errors [WouldBlock, TimedOut, PeerClosed, MessageSize, NoHandles, Quota, NoMemory, Canceled, Interrupted] "O(1)"
            "chan_recv into registers. With CAP there is room for one capability, whose handle then stands in the result. A \
             message that is longer than 32 bytes or carries more capabilities stays queued: MessageSize.";
        72 chan_call_short "4.1"
            (short: (short SEND), deadline: (deadline), word0: (number), word1: (number), word2: (number), word3: (number))
            -> (short) errors [WouldBlock, TimedOut, PeerClosed, MessageSize, NoSpace, Deadlock, Canceled, Interrupted] "O(1)"
            "chan_call with up to 32 bytes each way in registers. A longer reply, or one with capabilities, is refused to the \
             replier with MessageSize.";
        73 chan_reply_short "4.1"
            (short: (short RECEIVE), token: (number), word0: (number), word1: (number), word2: (number), word3: (number))
            -> (none) errors [NotFound, MessageSize] "O(1)"
            "chan_reply of up to 32 bytes in registers; also to a chan_call.";
        74 chan_reply_recv_short "4.1"
            (short: (short RECEIVE), token: (number), word0: (number), word1: (number), word2: (number), word3: (number))
            -> (short) errors [NotFound, WouldBlock, PeerClosed, MessageSize, NoHandles, Quota, NoMemory, Canceled, Interrupted] "O(1)"
            "chan_reply_short, unless the token is 0, and then chan_recv_short without a deadline.";
        75 chan_set_attr "4.1"
            (channel: (handle Channel, ADMIN), attr: (in ChanAttr))
            -> (none) errors [NotPermitted] "O(1)"
            "Changes limits and drop policy of the queue that this end receives from. Messages already queued stay.";
        76 chan_get_info "4.1"
            (channel: (handle Channel, INSPECT), info: (out ChanInfo))
            -> (none) errors [] "O(1)"
            "Tells limits, fill and figures of a channel.";
        77 chan_call_cap "15.1"
            (short: (short SEND), transfer: (number), word0: (number), word1: (number), word2: (number), word3: (number))
            -> (short) errors [NotPermitted, TooDeep, WouldBlock, PeerClosed, MessageSize, NoSpace, NoHandles, Quota, NoMemory, Deadlock, Canceled, Interrupted] "O(1)"
            "chan_call_short with one capability and without a deadline. `transfer` holds the capability's handle in bits 0 to \
             31, the rights it arrives with in 32 to 55, the TransferMode in 56 to 63.";

        80 event_subscribe "14.5"
            (spec: (in EventSpec))
            -> (handle Event) errors [BadHandle, WrongType, Access, Revoked, Exists, NoSpace] "O(1)"
            "Subscribes a queue of events to a source, through a handle with WAIT; makes the queue when `event` is none, else \
             needs ADMIN on it and answers the same handle. An end that has already happened is reported at once.";
        81 event_wait "14.5"
            (event: (handle Event, READ), records: (records_out EventRecord), deadline: (deadline))
            -> (number "records written") errors [TimedOut, Canceled, Interrupted] "O(records)"
            "Gives the events that are there, in the order they came; waits for the first until the deadline.";
        82 event_ack "14.5"
            (event: (handle Event, READ), token: (number))
            -> (none) errors [NotFound, BadState] "O(1)"
            "Lets a subscription with NEEDS_ACK report again. BadState when nothing was reported since the last.";
        83 event_unsubscribe "14.5"
            (event: (handle Event, ADMIN), token: (number))
            -> (none) errors [NotFound] "O(1)"
            "Ends a subscription; what it has not yet reported is dropped.";

        96 time_get "5"
            (clock: (value ClockId))
            -> (number "nanoseconds") errors [] "O(1)"
            "Reads a clock.";
        97 timer_create "5"
            (clock: (value ClockId), spec: (in TimerSpec))
            -> (handle Timer) errors [NotSupported] "O(1)"
            "Makes a timer that is not armed. Clocks: Monotonic and Realtime; others are NotSupported.";
        98 timer_arm "5"
            (timer: (handle Timer, CONTROL), deadline: (deadline), mode: (value TimerMode), period: (number))
            -> (none) errors [] "O(log timers)"
            "Arms a timer anew. Periodic: again every `period` nanoseconds (MIN_PERIOD to MAX_PERIOD) after the deadline; \
             OneShot: `period` is 0. A past deadline expires at once; NEVER is Invalid.";
        99 timer_cancel "5"
            (timer: (handle Timer, CONTROL))
            -> (none) errors [BadState] "O(log timers)"
            "Disarms a timer. BadState when it is not armed. Expirations not yet reported are dropped.";
        100 timer_get_info "5"
            (timer: (handle Timer, INSPECT), info: (out TimerInfo))
            -> (none) errors [] "O(1)"
            "Tells deadline, period and expirations of a timer.";

        112 sched_set_unit_params "6"
            (unit: (self_or Unit, ADMIN), params: (in SchedParams))
            -> (none) errors [NotPermitted, Busy] "O(threads), restarts every 64"
            "Sets class and priority that new threads of a unit get, and with APPLY_TO_THREADS those it has. NotPermitted \
             above the unit's ceiling. RT_EDF is given to threads, not units: Invalid.";
        113 sched_set_thread_params "6"
            (thread: (self_or Thread, ADMIN), params: (in SchedParams))
            -> (none) errors [NotPermitted, Busy, BadState] "O(log threads of the class)"
            "Sets class and parameters of a thread. NotPermitted above its unit's ceiling; Busy when RT_EDF is not admitted.";
        114 sched_query "6"
            (object: (self_or_thread INSPECT), stats: (out SchedStats))
            -> (none) errors [] "O(1)"
            "Tells how a thread, or all threads of a unit, fared. 0 is the calling thread.";

        128 restricted_bind "DESIGN 8"
            (space: (handle Space, MAP), state: (handle Region, MAP, READ, WRITE), offset: (number))
            -> (none) errors [NotPermitted, BadState, Quota, NoMemory] ""
            "Binds the calling thread to a guest space and to the page of its state. From now on the thread's lower half \
             shows the guest space. Binding again replaces; NotPermitted when the caller maps something in its own lower half. \
             The caller's other system calls know its own half only: addresses of the guest answer Fault.";
        129 restricted_unbind "DESIGN 8"
            () -> (none) errors [BadState] "O(1)"
            "Ends the binding of the calling thread.";
        130 restricted_enter "DESIGN 8"
            (return_to: (address), context: (number))
            -> (none) errors [BadState, Fault] "O(1)"
            "Runs the guest from its state. Does not return here: when the guest comes back, the thread goes on at \
             `return_to` with rdi = `context`, rsi = RestrictedReason, rsp and callee-saved registers as they were. Errors return here.";
        131 restricted_kick "DESIGN 8"
            (thread: (handle Thread, CONTROL))
            -> (none) errors [BadState] "O(1)"
            "Brings the guest of a thread back, now or as soon as it enters; kicks do not add up. A bound thread that waits \
             in a system call gets Interrupted.";

        144 sys_get_topology "11"
            (topology: (out Topology))
            -> (none) errors [] "O(1)"
            "Tells processors, memory, profile and version.";
        145 sys_list_units "11"
            (system: (handle System, INSPECT), filter: (in UnitFilter), units: (records_out UnitListEntry))
            -> (number "records written") errors [] "O(units), restarts every 64"
            "Lists units by ascending id.";
        146 sys_get_logs "11"
            (log: (handle System, READ), range: (inout LogRange), to: (bytes_out))
            -> (number "bytes written") errors [] "O(len)"
            "Gives whole records of the kernel's log, each a line of text; 0 when there is nothing new.";
        147 sys_get_config_version "11"
            () -> (number "version") errors [] "O(1)"
            "Tells how often the configuration was changed.";
        148 kernel_config_get "17.2"
            (system: (handle System, INSPECT), config: (out KernelConfig))
            -> (none) errors [] "O(1)"
            "Gives the kernel's knobs.";
        149 kernel_config_set "17.2"
            (system: (handle System, ADMIN), config: (in KernelConfig))
            -> (none) errors [NotSupported, Busy] "O(1)"
            "Sets the kernel's knobs, all or none. Busy when `edf_limit` is below what is admitted.";
        150 metrics_get "10.2"
            (object: (handle_or Unit System, INSPECT), metrics: (out Metrics))
            -> (none) errors [] "O(1)"
            "Gives the figures of a unit or of the whole system.";
        151 trace_emit "10.2"
            (system: (handle System, WRITE), event: (number), data: (bytes_in))
            -> (none) errors [TooBig] "O(1)"
            "Adds a record to the trace: `event` is a 32-bit number of the caller's; at most 24 bytes of data.";
        152 trace_subscribe "10.2"
            (system: (handle System, READ), filter: (in TraceFilter))
            -> (handle Trace) errors [] ""
            "Makes a reader of the trace that begins now.";
        153 trace_read "10.2"
            (trace: (handle Trace, READ), records: (records_out TraceRecord))
            -> (number "records written") errors [] "O(records)"
            "Gives the records that are there, oldest first; 0 when there are none. To wait, subscribe to the reader's READABLE.";
        154 system_power "0"
            (system: (handle System, ADMIN), action: (value PowerAction), status: (number))
            -> (never) errors [] ""
            "Ends the machine. `status`, 0 to 127, is what a test harness reads.";

        160 archive_list "7.1"
            (archive: (handle Archive, READ), first: (number), entries: (records_out ArchiveEntry))
            -> (number "records written") errors [] "O(records)"
            "Lists some of the files of the boot archive from the given index on, in their order: none at the end.";
        161 archive_open "7.1"
            (archive: (handle Archive, READ), name: (bytes_in))
            -> (handle Image) errors [NotFound, TooBig] "O(files)"
            "Opens a file of the boot archive; EXECUTE only when the archive's handle has it.";
        162 image_read "7.1"
            (image: (handle Image, READ), offset: (number), to: (bytes_out))
            -> (number "bytes read") errors [] "O(len), restarts every page"
            "Reads a file; 0 at its end.";
        163 image_map_region "2.1"
            (image: (handle Image, READ))
            -> (handle Region) errors [Quota, NoMemory] "O(1)"
            "Makes a region with the content of a file, copied page by page as it is written; EXECUTE as the image's handle.";
        164 console_write "7.1"
            (console: (handle Console, WRITE), from: (bytes_in))
            -> (number "bytes written") errors [] "O(len), restarts every 64"
            "Writes to the console.";
        165 console_read "7.1"
            (console: (handle Console, READ), to: (bytes_out), deadline: (deadline))
            -> (number "bytes read") errors [TimedOut, Canceled, Interrupted] "O(len)"
            "Reads what was typed; waits for the first byte until the deadline.";
    } };
}

//! Events: one wait over many sources (seed 4.2, 14.5, 15.3).

use crate::Handle;
use crate::field::{Reserved, abi_struct};
use crate::words::{abi_enum, abi_flags};

abi_enum! {
    /// Where an event comes from. Cluster is the seed's, kept for later.
    pub enum EventSource {
        /// Nothing: event_subscribe then only makes an empty queue.
        None = 0,
        /// A channel.
        Channel = 1,
        /// A timer.
        Timer = 2,
        /// A unit.
        Unit = 3,
        /// The cluster.
        Cluster = 4,
        /// A thread.
        Thread = 5,
        /// A reader of the trace.
        Trace = 6,
        /// The console.
        Console = 7,
    }
}

abi_flags! {
    /// What happened. Each source has its own bits; others in a subscription are refused.
    pub flags EventMask {
        /// Channel, trace, console: something can be received or read.
        READABLE = 0,
        /// Channel: a message can be sent.
        WRITABLE = 1,
        /// Channel: the other side is gone. Always reported, asked for or not.
        CLOSED = 2,
        /// Timer: it expired; `data0` counts the expirations since the last report, `data1` is the last deadline.
        EXPIRED = 3,
        /// Unit, thread: it ended in order; `data0` is the code, `data1` the ExitReason.
        EXIT = 4,
        /// Unit, thread: it ended by a kill or a fault; `data0` is the code or fault address, `data1` the ExitReason.
        CRASH = 5,
        /// Unit: it was started.
        STARTED = 6,
        /// The capability subscribed through was revoked; the subscription is over. Always reported.
        REVOKED = 7,
    }
}

abi_flags! {
    /// How a subscription reports.
    pub flags EventFlags {
        /// Report once for each time it comes true, instead of as long as it is true.
        EDGE = 0,
        /// After a report stay silent until event_ack. What comes true meanwhile is reported after it.
        NEEDS_ACK = 1,
        /// End the subscription with its first report.
        ONESHOT = 2,
    }
}

abi_struct! {
    /// What to subscribe to.
    pub struct EventSpec version 1 {
        /// The queue to add to; none makes a new one.
        event: Handle,
        /// The object; none with source None.
        source: Handle,
        /// What the object is.
        source_type: EventSource,
        /// Room for later.
        reserved: Reserved,
        /// What to report.
        mask: EventMask,
        /// How to report.
        flags: EventFlags,
        /// Names the subscription within its queue; Exists when it is taken.
        token: u64,
    }
}

abi_struct! {
    /// One event (seed 14.5).
    pub record EventRecord {
        /// The version of the record: 1.
        version: u32,
        /// Where it comes from.
        source_type: EventSource,
        /// The id of the object.
        source_id: u64,
        /// The token of the subscription.
        token: u64,
        /// What happened.
        mask: EventMask,
        /// When it happened last, monotonic. A record that waits to be told takes in what happens later at its source, so
        /// records of different sources need not come in this order.
        timestamp: u64,
        /// See [`EventMask`].
        data0: u64,
        /// See [`EventMask`].
        data1: u64,
        /// Events of this subscription so far.
        sequence: u64,
    }
}

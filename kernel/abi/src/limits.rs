//! Limits of the interface: numbers both sides count on.

macro_rules! limits {
    ($( $(#[doc = $doc:literal])+ $name:ident = $value:expr; )+) => {
        $( $(#[doc = $doc])+ pub const $name: u64 = $value; )+

        /// Every limit, for the header and the reference page.
        pub const LIMITS: &[crate::ValueInfo] =
            &[$(crate::ValueInfo { name: stringify!($name), value: $value, doc: concat!($($doc),+) }),+];
    };
}

limits! {
    /// Bytes of a page; addresses and lengths of mappings are multiples of it.
    PAGE_SIZE = 4096;
    /// The lowest address that can be mapped.
    USER_START = 0x1_0000;
    /// Where the upper half of the user's addresses begins: a personality lives above it, its guests below.
    USER_HALF = 0x4000_0000_0000;
    /// The end of the addresses that can be mapped.
    USER_END = 0x7fff_ffff_f000;
    /// The largest region in bytes.
    MAX_REGION = 0x4000_0000_0000;
    /// A deadline that never comes.
    NEVER = u64::MAX;
    /// Slots of a unit's table of capabilities at most; its quota may be lower.
    MAX_HANDLES = 65_536;
    /// Derivations on top of each other at most.
    MAX_DERIVATION_DEPTH = 32;
    /// Bytes of a message at most.
    MAX_MESSAGE = 65_536;
    /// Capabilities of a message at most.
    MAX_MESSAGE_CAPS = 16;
    /// Messages queued in a channel at most.
    MAX_QUEUE_MESSAGES = 4096;
    /// Bytes queued in a channel at most.
    MAX_QUEUE_BYTES = 4_194_304;
    /// Bytes of a short message, carried in registers.
    SHORT_BYTES = 32;
    /// Priorities of RT_FIXED and of messages: 0 to one less than this, higher first.
    PRIORITIES = 32;
    /// Weight of a BEST_EFFORT thread when nothing is said.
    DEFAULT_WEIGHT = 100;
    /// Weight of a BEST_EFFORT thread at most.
    MAX_WEIGHT = 10_000;
    /// The shortest period of an EDF thread and of a periodic timer, in nanoseconds.
    MIN_PERIOD = 10_000;
    /// The longest period, in nanoseconds.
    MAX_PERIOD = 3_600_000_000_000;
    /// Processors at most: bits of an affinity mask.
    MAX_CPUS = 64;
    /// Labels of a unit at most.
    MAX_LABELS = 8;
    /// Capabilities given to a unit when it is created at most.
    MAX_INITIAL_CAPS = 64;
    /// Bytes of the arguments, and of the environment, of a unit at most.
    MAX_ARGUMENT_BYTES = 16_384;
    /// Bytes of the first thread's stack when nothing is said.
    DEFAULT_STACK = 65_536;
    /// Bytes of the first thread's stack at most.
    MAX_STACK = 8_388_608;
    /// Subscriptions of an event queue at most.
    MAX_SUBSCRIPTIONS = 1024;
    /// Records that one call of event_wait, trace_read or a list call gives at most.
    MAX_RECORDS = 64;
    /// Bytes that one call on bytes (region_read, console_write, image_read …) moves at most; it answers how many.
    MAX_COPY = 65_536;
    /// Bytes of the payload of a trace record.
    TRACE_BYTES = 32;
    /// Bytes of a name.
    NAME_BYTES = 32;
}

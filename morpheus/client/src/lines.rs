//! Which two lines this thread looks at: its own in the agent's pages, a private pair, or the static pair of every thread
//! that is no worker. There always is a pair, so the checkpoint has no null test.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};

use morpheus_abi::{
    KernelLine, Reason, RuntimeLine, SharedKernelLine, SharedPageHeader, SharedRuntimeLine, WorkerState, YieldCause,
    heartbeat_is_stale,
};

use crate::clock;
use crate::sys::Mapping;

/// A thread's two lines, and the header above the kernel's.
#[derive(Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) kernel: &'static SharedKernelLine,
    pub(crate) runtime: &'static SharedRuntimeLine,
    pub(crate) header: &'static SharedPageHeader,
    /// The pages the lines are of; `None` for private and static lines.
    pub(crate) mapping: Option<&'static Mapping>,
}

static NO_HEADER: SharedPageHeader = SharedPageHeader::zeroed();
static NOWHERE_KERNEL: SharedKernelLine = SharedKernelLine::zeroed();
static NOWHERE_RUNTIME: SharedRuntimeLine = SharedRuntimeLine::zeroed();
static ARMED_KERNEL: SharedKernelLine = {
    let mut line = SharedKernelLine::zeroed();
    line.hint_seq = std::sync::atomic::AtomicU32::new(1);
    line
};

/// The lines of a thread that is no worker. Nobody writes to them, so no hint is ever pending.
const NOWHERE: Lines = Lines { kernel: &NOWHERE_KERNEL, runtime: &NOWHERE_RUNTIME, header: &NO_HEADER, mapping: None };

/// The lines of a thread that shall take the slow path once: see [`at_first_checkpoint`]. Nobody writes to them either.
const ARMED: Lines = Lines { kernel: &ARMED_KERNEL, runtime: &NOWHERE_RUNTIME, header: &NO_HEADER, mapping: None };

thread_local! {
    /// Without a destructor and initialised at compile time: reading it is one load relative to the thread's pointer.
    pub(crate) static LINES: Cell<Lines> = const { Cell::new(NOWHERE) };
    static FIRST_CHECKPOINT: Cell<Option<fn()>> = const { Cell::new(None) };
    static CRITICAL_DEPTH: Cell<u32> = const { Cell::new(0) };
}

impl Lines {
    /// A fresh pair of this process alone, for a worker without an agent.
    pub(crate) fn private() -> Self {
        Self {
            kernel: Box::leak(Box::new(SharedKernelLine::zeroed())),
            runtime: Box::leak(Box::new(SharedRuntimeLine::zeroed())),
            ..NOWHERE
        }
    }

    /// Makes a private pair as good as new for the next worker.
    pub(crate) fn clear_private(self) {
        if self.mapping.is_none() && self.is_a_workers() {
            self.kernel.write(&KernelLine::default());
            self.runtime.write(&RuntimeLine::default());
        }
    }

    /// Whether the lines belong to one worker, so that its thread may write to the runtime's.
    pub(crate) fn is_a_workers(self) -> bool {
        !ptr::eq(self.runtime, &NOWHERE_RUNTIME)
    }

    /// Whether an agent that is alive writes the kernel line.
    pub(crate) fn live(self) -> bool {
        self.mapping.is_some_and(|mapping| !mapping.retired())
            && !heartbeat_is_stale(self.header.heartbeat_ns.load(Ordering::Relaxed), clock::now_ns())
    }

    /// Makes the worker's next checkpoint take the slow path, from any thread. Only where the kernel line is this
    /// process's own memory: private lines, or those of an agent that is gone.
    pub(crate) fn nudge(self) {
        if self.is_a_workers() && self.mapping.is_none_or(Mapping::retired) {
            // Far from every number an agent has given, so an acknowledgement under way cannot swallow it.
            let acked = self.runtime.ack_seq.load(Ordering::Relaxed);
            self.kernel.hint_seq.store(acked.wrapping_add(1 << 30), Ordering::Release);
        }
    }

    /// Makes these the calling thread's lines and writes the runtime line for this registration.
    pub(crate) fn occupy(self, line: RuntimeLine, state: WorkerState) {
        self.runtime.write(&RuntimeLine {
            ack_seq: self.kernel.hint_seq.load(Ordering::Relaxed),
            critical_depth: CRITICAL_DEPTH.get(),
            state: WorkerState::Init.number(),
            ..line
        });
        LINES.set(self);
        // Last: the publisher believes the other fields once it sees the state.
        self.runtime.state.store(state.number(), Ordering::Release);
    }

    /// Counts a yield. One writer: the worker's thread.
    pub(crate) fn count(self, cause: YieldCause, now_ns: u64) {
        if self.is_a_workers() {
            let count = &self.runtime.yields[cause.number() as usize];
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            if cause != YieldCause::Withheld {
                self.runtime.last_yield_ns.store(now_ns, Ordering::Relaxed);
            }
        }
    }
}

/// The calling thread is no worker any more; also called in a forked child, so it does nothing but store.
pub(crate) fn leave() {
    LINES.set(NOWHERE);
}

/// Calls `action` when this thread, being no worker, first comes to [`take_hint`](crate::take_hint) after
/// [`hint_pending`](crate::hint_pending) said yes, which it then does once. For runtimes that learn only inside of their
/// work whether a thread is a worker and should be registered. Does nothing on a worker's thread.
pub fn at_first_checkpoint(action: fn()) {
    if !LINES.get().is_a_workers() {
        FIRST_CHECKPOINT.set(Some(action));
        LINES.set(ARMED);
    }
}

/// Disarms the thread if it is armed and runs what it was armed with. Whether it was.
pub(crate) fn fire() -> bool {
    let armed = ptr::eq(LINES.get().kernel, &ARMED_KERNEL);
    if armed {
        leave();
        if let Some(action) = FIRST_CHECKPOINT.take() {
            action();
        }
    }
    armed
}

/// Critical sections this thread is in.
pub(crate) fn critical_depth() -> u32 {
    CRITICAL_DEPTH.get()
}

pub(crate) fn enter_critical() {
    let depth = CRITICAL_DEPTH.get() + 1;
    CRITICAL_DEPTH.set(depth);
    let lines = LINES.get();
    if lines.is_a_workers() {
        lines.runtime.critical_depth.store(depth, Ordering::Relaxed);
    }
    // The publisher acts on this CPU, in between two of this thread's instructions: order in the program is enough.
    compiler_fence(Ordering::SeqCst);
}

pub(crate) fn exit_critical() {
    // Guards balance: each exit has its enter before it.
    let depth = CRITICAL_DEPTH.get() - 1;
    CRITICAL_DEPTH.set(depth);
    let lines = LINES.get();
    if lines.is_a_workers() {
        lines.runtime.critical_depth.store(depth, Ordering::Release);
    }
}

/// A hint as it stands in the line now: number, reason's number, time, deadline.
pub(crate) fn read_hint(line: &SharedKernelLine) -> (u32, Option<Reason>, u64, u64) {
    // Another hint may be written meanwhile. Four times in a row is no accident but a broken publisher; then the last
    // reading, perhaps of two hints, is as good advice as any.
    let mut hint = (0, None, 0, 0);
    for _ in 0..4 {
        let seq = line.hint_seq.load(Ordering::Acquire);
        let reason = Reason::from_number(line.reason.load(Ordering::Relaxed));
        let time_ns = line.hint_time_ns.load(Ordering::Relaxed);
        let deadline_ns = line.deadline_ns.load(Ordering::Relaxed);
        std::sync::atomic::fence(Ordering::Acquire);
        hint = (seq, reason, time_ns, deadline_ns);
        if line.hint_seq.load(Ordering::Relaxed) == seq {
            break;
        }
    }
    hint
}

//! What the kernel needs of a machine: frames, address spaces, time, timers, kicks, a console.
//!
//! The kernel's logic runs over this trait and touches no hardware. `kernel/x86_64` implements it for real; `sim`
//! implements it for tests, with several processors and virtual time. Every function is called with the kernel locked.

use core::fmt;

use crate::thread::{Thread, ThreadId};

/// A processor, counted from 0 in the order in which they were started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(pub u32);

/// A time on the monotonic clock, or a length of time, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// No deadline: later than every time.
    pub const NEVER: Self = Self(u64::MAX);

    /// This time and `length` more; [`Nanos::NEVER`] when that is past the end of the clock.
    #[must_use]
    pub const fn after(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// The length from `earlier` to this time; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// Bytes in a page and in a frame.
pub const PAGE_SIZE: usize = 4096;

/// Where the upper half of the addresses of user programs begins; see [`Machine::space_join`].
pub const HALF: u64 = 0x4000_0000_0000;

/// The end of the addresses that user programs may map: the last page below the canonical hole stays free, since `sysret`
/// to its end would fault in the kernel.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// A frame of physical memory: its address divided by [`PAGE_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNumber(pub u32);

/// An address space of the machine: a page-table root with its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u32);

/// What a user program may do with a page. Reading is always allowed; writable and executable at once is refused above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRights {
    /// Stores are allowed.
    pub write: bool,
    /// Instructions may be fetched.
    pub execute: bool,
}

/// Where the machine takes frames for page tables from, and where it gives them back.
pub trait FramePool {
    /// A frame of any content, or `None` when the quota or the memory is used up.
    fn take(&mut self) -> Option<FrameNumber>;
    /// Takes a frame back.
    fn give(&mut self, frame: FrameNumber);
}

/// Nanoseconds from the time stamp counter: `((tsc - base) * multiplier) >> shift`, with a 128-bit product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockScale {
    /// The counter at time zero.
    pub base: u64,
    /// See above.
    pub multiplier: u64,
    /// See above; below 64.
    pub shift: u32,
}

/// See [`Machine::longest_entry`]; zeroes when it is not measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LongestEntry {
    /// In ticks of the time stamp counter: instructions under icount.
    pub ticks: u64,
    /// The number of the system call, or [`LongestEntry::VECTOR`] and the vector of the interrupt or exception.
    pub entry: u64,
}

impl LongestEntry {
    /// Tells vectors from system calls.
    pub const VECTOR: u64 = 1 << 16;
}

/// How the kernel was entered.
impl fmt::Display for LongestEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (holm_abi::call(self.entry), self.entry.checked_sub(Self::VECTOR)) {
            (Some(call), _) => f.write_str(call.name),
            (None, Some(vector)) => write!(f, "vector-{vector:#x}"),
            (None, None) => write!(f, "call-{}", self.entry),
        }
    }
}

/// There was no frame for a page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoFrames;

/// Pages whose cached translations are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// `pages` pages from the page at `address`.
    Range {
        /// The first byte of the first page.
        address: u64,
        /// How many pages; the machine may flush the whole space instead when there are many.
        pages: u64,
    },
    /// The whole space.
    Space,
}

/// Why the machine stops for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// Power off, with a status that a test harness can read (QEMU's isa-debug-exit).
    PowerOff(u8),
    /// Start again.
    Reboot,
}

/// The machine below the kernel.
pub trait Machine {
    /// How many processors run; constant after boot.
    fn cpus(&self) -> u32;

    /// The monotonic clock, in nanoseconds since boot. It never goes back, on any processor.
    fn now(&self) -> Nanos;

    /// Nanoseconds since 1970-01-01T00:00:00Z at monotonic time zero.
    fn realtime_at_boot(&self) -> Nanos;

    /// Asks for one timer interrupt on `cpu` at `deadline` ([`Nanos::NEVER`]: none). A past deadline fires at once.
    fn set_timer(&mut self, cpu: CpuId, deadline: Nanos);

    /// Makes `cpu` enter the kernel soon ([`crate::Kernel::kicked`]), also when it idles.
    fn kick(&mut self, cpu: CpuId);

    /// Copies bytes out of a frame. `offset + to.len()` is at most [`PAGE_SIZE`].
    fn frame_read(&self, frame: FrameNumber, offset: usize, to: &mut [u8]);

    /// Copies bytes into a frame. `offset + from.len()` is at most [`PAGE_SIZE`].
    fn frame_write(&mut self, frame: FrameNumber, offset: usize, from: &[u8]);

    /// The first words of a frame. At most as many as fit.
    #[inline]
    fn frame_words<const N: usize>(&self, frame: FrameNumber) -> [u64; N] {
        let mut words = [0; N];
        for (at, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; size_of::<u64>()];
            self.frame_read(frame, at * size_of::<u64>(), &mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
        words
    }

    /// Writes the first words of a frame. At most as many as fit.
    #[inline]
    fn frame_put_words<const N: usize>(&mut self, frame: FrameNumber, words: &[u64; N]) {
        for (at, word) in words.iter().enumerate() {
            self.frame_write(frame, at * size_of::<u64>(), &word.to_le_bytes());
        }
    }

    /// Fills a frame with zeroes.
    fn frame_zero(&mut self, frame: FrameNumber);

    /// Copies a whole frame.
    fn frame_copy(&mut self, from: FrameNumber, to: FrameNumber);

    /// Copies bytes between two frames, or within one (not overlapping). Both ranges lie within their frame.
    fn frame_move(&mut self, from: FrameNumber, from_offset: usize, to: FrameNumber, to_offset: usize, length: usize);

    /// Makes an empty address space (its kernel half filled in).
    ///
    /// # Errors
    /// [`NoFrames`] when `pool` has none.
    fn space_create(&mut self, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames>;

    /// Makes an address space that shows the lower user half (below [`HALF`]) of `lower` and the upper user half of `upper`,
    /// by sharing their page tables: later changes of either are seen in it. It is never mapped into itself. This is how a
    /// personality sees the process it serves (DESIGN, The kernel, 8).
    ///
    /// # Errors
    /// [`NoFrames`] when `pool` has none.
    fn space_join(&mut self, lower: SpaceId, upper: SpaceId, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames>;

    /// Takes an address space apart and gives its page tables back; mapped frames stay their owners'. No processor runs in
    /// it any more, or only idles with it loaded. Works in bounded steps: false asks to be called again.
    #[must_use]
    fn space_destroy(&mut self, space: SpaceId, pool: &mut dyn FramePool) -> bool;

    /// Maps the page at `address` (a multiple of [`PAGE_SIZE`]) to `frame`, in place of what was mapped there. Stale
    /// translations of a page that was mapped before are the caller's to [`Machine::flush`].
    ///
    /// # Errors
    /// [`NoFrames`] when a page table is missing and `pool` has no frame.
    fn map(
        &mut self,
        space: SpaceId,
        address: u64,
        frame: FrameNumber,
        rights: PageRights,
        pool: &mut dyn FramePool,
    ) -> Result<(), NoFrames>;

    /// Removes the mapping of a page and says which frame was there. The caller flushes before it uses the frame again.
    fn unmap(&mut self, space: SpaceId, address: u64) -> Option<FrameNumber>;

    /// The frame and the rights of a mapped page.
    fn translate(&self, space: SpaceId, address: u64) -> Option<(FrameNumber, PageRights)>;

    /// Removes cached translations on every processor that may hold them; done when it returns.
    fn flush(&mut self, space: SpaceId, what: Flush);

    /// Writes to the console.
    fn console_write(&mut self, bytes: &[u8]);

    /// How user programs compute the monotonic clock without entering the kernel, where they can.
    fn clock_scale(&self) -> Option<ClockScale>;

    /// The longest time between an entry of the kernel and leaving it again so far, with interrupts off.
    fn longest_entry(&self) -> LongestEntry;

    /// The kernel's own code and constants, which never change after boot; empty where there are none to look at.
    fn text(&self) -> &[u8] {
        &[]
    }

    /// How long a processor may be in the kernel before those that wait for it say so; `None`: they need not look. For a
    /// machine on which nobody waits there is nothing to do.
    fn watchdog(&mut self, _patience: Option<Nanos>) {}

    /// Random bits for identities; best effort where the processor has no source.
    fn random(&mut self) -> u64;

    /// The thread on the processor that is in the kernel gives way to another: what its structure does not have of its
    /// registers yet is put there. Only for [`crate::Direct::Switched`]; the other exits do it themselves.
    fn set_down(&mut self, from: &mut Thread);

    /// The processor that is in the kernel leaves it with this thread and its address space. After [`Machine::set_down`].
    fn take_up(&mut self, to: ThreadId, thread: &mut Thread);

    /// Ends what [`crate::Kernel::crossing`] allowed, on every processor: it is asked again before it is used again. For a
    /// machine that takes no such way there is nothing to do.
    fn crossings_end(&mut self) {}

    /// Stops the machine as soon as the kernel is left. Returns, so that tests can go on.
    fn halt(&mut self, how: Halt);
}

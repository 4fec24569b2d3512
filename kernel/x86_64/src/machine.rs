//! The machine as the core sees it: [`Machine`] over page tables, local timers and the serial console.

use core::sync::atomic::{AtomicU64, Ordering};

use holm_kernel_core::machine::{
    ClockScale, Flush, FramePool, Halt, LongestEntry, Machine, Nanos, NoFrames, PAGE_SIZE, PageRights,
};
use holm_kernel_core::thread::{Thread, ThreadId};
use holm_kernel_core::{CpuId, FrameNumber, SpaceId};

use crate::cpu::{Features, random, tsc};
use crate::memory::space::Spaces;
use crate::memory::{Physical, read_only, tlb};
use crate::percpu::{self, NO_SPACE, PerCpu, this_cpu};
use crate::time::clock::Clock;
use crate::trap::{crossing, leave};
use crate::{apic, lock, measure, power, serial};

/// The real machine.
#[derive(Debug)]
pub(crate) struct X86 {
    cpus: u32,
    features: Features,
    clock: &'static Clock,
    realtime: Nanos,
    spaces: Spaces,
    /// What random numbers are made of where the processor has none.
    mix: u64,
}

impl X86 {
    /// A machine of `cpus` processors that all have been started.
    pub(crate) fn new(cpus: u32, features: Features, clock: &'static Clock, realtime: Nanos, spaces: Spaces) -> Self {
        Self { cpus, features, clock, realtime, spaces, mix: tsc() ^ realtime.0 }
    }

    /// The address spaces.
    #[inline]
    pub(crate) const fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Whether a page fault was only for lack of a joined space's root entry, which it has now.
    #[inline]
    pub(crate) fn catch_up(&mut self, cpu: &PerCpu, address: u64) -> bool {
        cpu.loaded().is_some_and(|space| self.spaces.catch_up(space, address))
    }

    /// The timer of `cpu`, which runs this, fired: whether its deadline has passed. Else it is set again.
    pub(crate) fn timer_fired(&mut self, cpu: &PerCpu) -> bool {
        let deadline = cpu.timer.get();
        if deadline > self.clock.now() {
            self.clock.set_timer(deadline);
            return false;
        }
        cpu.timer.set(Nanos::NEVER);
        true
    }

    /// Sets the timer of `cpu`, which runs this, to what another processor wanted.
    pub(crate) fn set_wanted_timer(&mut self, cpu: &PerCpu) {
        let wanted = cpu.timer_wanted.swap(NOTHING_WANTED, Ordering::Relaxed);
        if wanted != NOTHING_WANTED {
            cpu.timer.set(Nanos(wanted));
            self.clock.set_timer(Nanos(wanted));
        }
    }

    /// The bytes of a frame.
    fn frame(frame: FrameNumber) -> *mut [u8; PAGE_SIZE] {
        Physical::of(frame).direct()
    }
}

/// In [`PerCpu::timer_wanted`]: nothing. One less than "never", which can be wanted.
pub(crate) const NOTHING_WANTED: u64 = u64::MAX - 1;

impl Machine for X86 {
    fn cpus(&self) -> u32 {
        self.cpus
    }

    #[inline]
    fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn realtime_at_boot(&self) -> Nanos {
        self.realtime
    }

    fn set_timer(&mut self, cpu: CpuId, deadline: Nanos) {
        let this = this_cpu();
        if cpu != this.id {
            if let Some(other) = percpu::cpu(cpu) {
                other.timer_wanted.store(deadline.0, Ordering::Relaxed);
                apic::send(other.apic, apic::KICK);
            }
        } else if this.timer.replace(deadline) != deadline {
            // What another processor wanted before is out of date.
            this.timer_wanted.store(NOTHING_WANTED, Ordering::Relaxed);
            self.clock.set_timer(deadline);
        }
    }

    fn kick(&mut self, cpu: CpuId) {
        // One that is kicked already has not been in the kernel since.
        if let Some(cpu) = percpu::cpu(cpu)
            && !cpu.kicked.swap(true, Ordering::Relaxed)
        {
            apic::send(cpu.apic, apic::KICK);
        }
    }

    #[inline]
    fn frame_read(&self, frame: FrameNumber, offset: usize, to: &mut [u8]) {
        debug_assert!(offset + to.len() <= PAGE_SIZE);
        // SAFETY: the core names frames that boot gave it, or that hold the boot archive: memory in the direct map, of which
        // no Rust object is part; `offset + to.len()` is at most a frame.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(Self::frame(frame).cast::<u8>().add(offset), to.len()) };
    }

    #[inline]
    fn frame_write(&mut self, frame: FrameNumber, offset: usize, from: &[u8]) {
        debug_assert!(offset + from.len() <= PAGE_SIZE);
        // SAFETY: as for `frame_read`; user programs that read the frame meanwhile see old or new bytes.
        unsafe { Self::frame(frame).cast::<u8>().add(offset).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
    }

    #[inline]
    fn frame_words<const N: usize>(&self, frame: FrameNumber) -> [u64; N] {
        const { assert!(N * size_of::<u64>() <= PAGE_SIZE) };
        // SAFETY: as for `frame_read`. Volatile: a user program may write the frame meanwhile, and what the core looks at must
        // be what it uses.
        unsafe { Self::frame(frame).cast::<[u64; N]>().read_volatile() }
    }

    #[inline]
    fn frame_put_words<const N: usize>(&mut self, frame: FrameNumber, words: &[u64; N]) {
        const { assert!(N * size_of::<u64>() <= PAGE_SIZE) };
        // SAFETY: as for `frame_write`.
        unsafe { Self::frame(frame).cast::<[u64; N]>().write(*words) };
    }

    fn frame_zero(&mut self, frame: FrameNumber) {
        // SAFETY: as for `frame_write`, over the whole frame.
        unsafe { Self::frame(frame).write_bytes(0, 1) };
    }

    fn frame_copy(&mut self, from: FrameNumber, to: FrameNumber) {
        if from != to {
            // SAFETY: as for `frame_read` and `frame_write`; different frames do not overlap.
            unsafe { Self::frame(to).copy_from_nonoverlapping(Self::frame(from), 1) };
        }
    }

    fn frame_move(&mut self, from: FrameNumber, from_offset: usize, to: FrameNumber, to_offset: usize, length: usize) {
        debug_assert!(from_offset + length <= PAGE_SIZE && to_offset + length <= PAGE_SIZE);
        // SAFETY: as for `frame_read` and `frame_write`; the caller promises that the ranges lie within their frames. `copy`
        // takes ranges that overlap.
        unsafe {
            let from = Self::frame(from).cast::<u8>().add(from_offset);
            Self::frame(to).cast::<u8>().add(to_offset).copy_from(from, length);
        }
    }

    fn space_create(&mut self, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames> {
        self.spaces.create(pool)
    }

    fn space_join(&mut self, lower: SpaceId, upper: SpaceId, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames> {
        self.spaces.join(lower, upper, pool)
    }

    fn space_destroy(&mut self, space: SpaceId, pool: &mut dyn FramePool) -> bool {
        let this = this_cpu();
        if this.space.get() == space && space != NO_SPACE {
            tlb::leave(this, &self.spaces);
        }
        self.spaces.destroy(space, pool)
    }

    fn map(
        &mut self,
        space: SpaceId,
        address: u64,
        frame: FrameNumber,
        rights: PageRights,
        pool: &mut dyn FramePool,
    ) -> Result<(), NoFrames> {
        self.spaces.map(space, address, frame, rights, pool)
    }

    fn unmap(&mut self, space: SpaceId, address: u64) -> Option<FrameNumber> {
        self.spaces.unmap(space, address)
    }

    #[inline]
    fn translate(&self, space: SpaceId, address: u64) -> Option<(FrameNumber, PageRights)> {
        self.spaces.translate(space, address)
    }

    fn flush(&mut self, space: SpaceId, what: Flush) {
        tlb::flush(&mut self.spaces, space, what);
    }

    fn console_write(&mut self, bytes: &[u8]) {
        serial::write(bytes);
    }

    fn clock_scale(&self) -> Option<ClockScale> {
        Some(self.clock.scale())
    }

    fn text(&self) -> &[u8] {
        read_only()
    }

    fn longest_entry(&self) -> LongestEntry {
        measure::longest()
    }

    fn random(&mut self) -> u64 {
        /// Numbers times this differ in all bits (2^64 divided by the golden ratio).
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        static CALLS: AtomicU64 = AtomicU64::new(0);
        random(self.features).unwrap_or_else(|| {
            // SplitMix64 over the clock: unlike from boot to boot, no secret.
            self.mix = self.mix.wrapping_add(STEP) ^ tsc().rotate_left(CALLS.fetch_add(1, Ordering::Relaxed) as u32);
            let mixed = (self.mix ^ self.mix >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        })
    }

    #[inline(always)]
    fn set_down(&mut self, from: &mut Thread) {
        leave::set_down(this_cpu(), from);
    }

    #[inline(always)]
    fn take_up(&mut self, to: ThreadId, thread: &mut Thread) {
        let cpu = this_cpu();
        tlb::enter(cpu, &self.spaces, thread.space);
        cpu.exit.set(leave::take_up(cpu, to, thread));
    }

    fn watchdog(&mut self, patience: Option<Nanos>) {
        lock::watch(patience.map_or(0, |patience| self.clock.ticks(patience)));
    }

    fn crossings_end(&mut self) {
        crossing::end_all();
    }

    fn halt(&mut self, how: Halt) {
        power::stop(how);
    }
}

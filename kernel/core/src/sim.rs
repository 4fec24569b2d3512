//! The simulated machine: several processors, virtual time, memory as arrays, address spaces as maps, and translation
//! caches that go stale unless they are flushed.

use std::boxed::Box;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use crate::machine::{
    ClockScale, CpuId, Flush, FrameNumber, FramePool, HALF, Halt, LongestEntry, Machine, Nanos, NoFrames, PAGE_SIZE,
    PageRights, SpaceId,
};
use crate::random::Random;
use crate::thread::{Thread, ThreadId};

type Mappings = BTreeMap<u64, (FrameNumber, PageRights)>;

/// An address space: its own mappings, or those of two others.
#[derive(Debug)]
enum Space {
    Own { root: FrameNumber, tables: BTreeMap<u64, FrameNumber>, mappings: Mappings },
    Joined { root: FrameNumber, lower: SpaceId, upper: SpaceId },
}

/// A machine made of maps.
#[derive(Debug)]
pub struct SimMachine {
    now: Nanos,
    timers: Vec<Nanos>,
    kicked: BTreeSet<CpuId>,
    frames: BTreeMap<FrameNumber, Box<[u8; PAGE_SIZE]>>,
    spaces: BTreeMap<SpaceId, Space>,
    next_space: u32,
    /// Translations that processors have cached, by processor, space and page.
    cached: BTreeMap<(CpuId, SpaceId, u64), (FrameNumber, PageRights)>,
    /// What was written to the console.
    pub console: Vec<u8>,
    /// The kernel's text, as far as a simulated machine has one.
    pub text: Vec<u8>,
    /// How long a byte on the console takes.
    pub console_pace: Nanos,
    /// How the kernel asked to stop, if it did.
    pub halted: Option<Halt>,
    /// The thread that a processor went on with last, where the core said so itself, and its address space.
    pub taken_up: Option<(ThreadId, SpaceId)>,
    random: Random,
}

impl SimMachine {
    /// A machine with `cpus` processors at time zero.
    #[must_use]
    pub fn new(cpus: u32) -> Self {
        Self {
            now: Nanos(0),
            timers: std::vec![Nanos::NEVER; cpus as usize],
            kicked: BTreeSet::new(),
            frames: BTreeMap::new(),
            spaces: BTreeMap::new(),
            next_space: 1,
            cached: BTreeMap::new(),
            console: Vec::new(),
            text: Vec::new(),
            console_pace: Nanos(0),
            halted: None,
            taken_up: None,
            random: Random(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Lets time pass.
    pub fn advance(&mut self, length: Nanos) {
        self.now = self.now.after(length);
    }

    /// When the timer of `cpu` fires.
    #[must_use]
    pub fn timer(&self, cpu: CpuId) -> Nanos {
        self.timers[cpu.0 as usize]
    }

    /// The next processor that was kicked; it is to enter the kernel.
    pub fn take_kick(&mut self) -> Option<CpuId> {
        self.kicked.pop_first()
    }

    /// Takes the kick of `cpu` when it was kicked; it is to enter the kernel.
    pub fn take_kick_of(&mut self, cpu: CpuId) -> bool {
        self.kicked.remove(&cpu)
    }

    /// How many address spaces there are.
    #[must_use]
    pub fn spaces(&self) -> usize {
        self.spaces.len()
    }

    /// What a user program on `cpu` gets when it reads the byte at `address`: through the processor's cache, stale or not.
    pub fn user_read(&mut self, cpu: CpuId, space: SpaceId, address: u64) -> Option<u8> {
        let (frame, _) = self.cached_translation(cpu, space, address)?;
        let mut byte = [0];
        self.frame_read(frame, address as usize % PAGE_SIZE, &mut byte);
        Some(byte[0])
    }

    /// Stores a byte as a user program on `cpu` does. `None`: the processor would fault.
    pub fn user_write(&mut self, cpu: CpuId, space: SpaceId, address: u64, byte: u8) -> Option<()> {
        let (frame, rights) = self.cached_translation(cpu, space, address)?;
        if !rights.write {
            return None;
        }
        self.frame_write(frame, address as usize % PAGE_SIZE, &[byte]);
        Some(())
    }

    fn cached_translation(&mut self, cpu: CpuId, space: SpaceId, address: u64) -> Option<(FrameNumber, PageRights)> {
        let page = address & !(PAGE_SIZE as u64 - 1);
        if let Some(hit) = self.cached.get(&(cpu, space, page)) {
            return Some(*hit);
        }
        let found = self.translate(space, page)?;
        self.cached.insert((cpu, space, page), found);
        Some(found)
    }

    fn frame(&mut self, frame: FrameNumber) -> &mut [u8; PAGE_SIZE] {
        // Frames of the simulated machine start with rubbish, as those of a real one do.
        self.frames.entry(frame).or_insert_with(|| Box::new([0xa5; PAGE_SIZE]))
    }
}

impl Machine for SimMachine {
    fn cpus(&self) -> u32 {
        self.timers.len() as u32
    }

    fn now(&self) -> Nanos {
        self.now
    }

    fn realtime_at_boot(&self) -> Nanos {
        Nanos(1_800_000_000_000_000_000)
    }

    fn set_timer(&mut self, cpu: CpuId, deadline: Nanos) {
        self.timers[cpu.0 as usize] = deadline;
    }

    fn kick(&mut self, cpu: CpuId) {
        assert!((cpu.0 as usize) < self.timers.len(), "there is no processor {}", cpu.0);
        self.kicked.insert(cpu);
    }

    fn frame_read(&self, frame: FrameNumber, offset: usize, to: &mut [u8]) {
        match self.frames.get(&frame) {
            Some(bytes) => to.copy_from_slice(&bytes[offset..offset + to.len()]),
            None => to.fill(0xa5),
        }
    }

    fn frame_write(&mut self, frame: FrameNumber, offset: usize, from: &[u8]) {
        self.frame(frame)[offset..offset + from.len()].copy_from_slice(from);
    }

    fn frame_zero(&mut self, frame: FrameNumber) {
        self.frame(frame).fill(0);
    }

    fn frame_copy(&mut self, from: FrameNumber, to: FrameNumber) {
        let bytes = *self.frame(from);
        *self.frame(to) = bytes;
    }

    fn frame_move(&mut self, from: FrameNumber, from_offset: usize, to: FrameNumber, to_offset: usize, length: usize) {
        let bytes = *self.frame(from);
        self.frame(to)[to_offset..to_offset + length].copy_from_slice(&bytes[from_offset..from_offset + length]);
    }

    fn space_create(&mut self, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames> {
        let root = pool.take().ok_or(NoFrames)?;
        let space = SpaceId(self.next_space);
        self.next_space += 1;
        self.spaces.insert(space, Space::Own { root, tables: BTreeMap::new(), mappings: Mappings::new() });
        Ok(space)
    }

    fn space_join(&mut self, lower: SpaceId, upper: SpaceId, pool: &mut dyn FramePool) -> Result<SpaceId, NoFrames> {
        let root = pool.take().ok_or(NoFrames)?;
        let space = SpaceId(self.next_space);
        self.next_space += 1;
        self.spaces.insert(space, Space::Joined { root, lower, upper });
        Ok(space)
    }

    fn space_destroy(&mut self, space: SpaceId, pool: &mut dyn FramePool) -> bool {
        match self.spaces.remove(&space) {
            Some(Space::Own { root, tables, .. }) => {
                pool.give(root);
                tables.into_values().for_each(|table| pool.give(table));
            }
            Some(Space::Joined { root, .. }) => pool.give(root),
            None => panic!("there is no address space {}", space.0),
        }
        self.cached.retain(|(_, cached, _), _| *cached != space);
        true
    }

    fn map(
        &mut self,
        space: SpaceId,
        address: u64,
        frame: FrameNumber,
        rights: PageRights,
        pool: &mut dyn FramePool,
    ) -> Result<(), NoFrames> {
        assert_eq!(address % PAGE_SIZE as u64, 0, "a mapping begins at a page");
        let Some(Space::Own { tables, mappings, .. }) = self.spaces.get_mut(&space) else {
            panic!("there is no address space {} to map into", space.0)
        };
        // One table frame for every 2 MiB, as the last level of a real machine takes.
        let table = address >> 21;
        if let Entry::Vacant(place) = tables.entry(table) {
            place.insert(pool.take().ok_or(NoFrames)?);
        }
        mappings.insert(address, (frame, rights));
        Ok(())
    }

    fn unmap(&mut self, space: SpaceId, address: u64) -> Option<FrameNumber> {
        let Some(Space::Own { mappings, .. }) = self.spaces.get_mut(&space) else { return None };
        mappings.remove(&address).map(|(frame, _)| frame)
    }

    fn translate(&self, space: SpaceId, address: u64) -> Option<(FrameNumber, PageRights)> {
        let page = address & !(PAGE_SIZE as u64 - 1);
        match self.spaces.get(&space)? {
            Space::Own { mappings, .. } => mappings.get(&page).copied(),
            Space::Joined { lower, upper, .. } => self.translate(if page < HALF { *lower } else { *upper }, page),
        }
    }

    fn flush(&mut self, space: SpaceId, what: Flush) {
        let joined: BTreeSet<SpaceId> = self
            .spaces
            .iter()
            .filter(
                |(_, other)| matches!(other, Space::Joined { lower, upper, .. } if *lower == space || *upper == space),
            )
            .map(|(id, _)| *id)
            .chain([space])
            .collect();
        self.cached.retain(|(_, cached, page), _| {
            let touched = match what {
                Flush::Space => true,
                Flush::Range { address, pages } => *page >= address && (*page - address) / (PAGE_SIZE as u64) < pages,
            };
            !(touched && joined.contains(cached))
        });
    }

    fn console_write(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
        self.now = self.now.after(Nanos(self.console_pace.0 * bytes.len() as u64));
    }

    fn clock_scale(&self) -> Option<ClockScale> {
        None
    }

    fn text(&self) -> &[u8] {
        &self.text
    }

    fn longest_entry(&self) -> LongestEntry {
        LongestEntry::default()
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn set_down(&mut self, from: &mut Thread) {
        assert_ne!(from.state, crate::thread::ThreadState::Running, "who is set down does not run");
    }

    fn take_up(&mut self, to: ThreadId, thread: &mut Thread) {
        self.taken_up = Some((to, thread.space));
    }

    fn halt(&mut self, how: Halt) {
        self.halted = Some(how);
    }
}

//! The kernel as one value: its objects, and the entries that the machine layer calls.

use alloc::vec::Vec;

use holm_abi::Error;

use crate::arena::{Arena, Full};
use crate::caller::Caller;
use crate::cap::Capabilities;
use crate::channel::{Channel, ChannelWork};
use crate::config::Config;
use crate::console::Console;
use crate::event::Events;
use crate::guard::Guards;
use crate::machine::{CpuId, FrameNumber, Halt, Machine, Nanos, SpaceId};
use crate::memory::archive::Archive;
use crate::memory::region::DyingRegions;
use crate::memory::space::DyingSpaces;
use crate::memory::tree::Nodes;
use crate::memory::{AddressSpace, Frames, Image, Region, RegionId};
use crate::sched::Sched;
use crate::thread::{Thread, ThreadId, ThreadState};
use crate::time::Timers;
use crate::trace::Trace;
use crate::unit::boot::BootError;
use crate::unit::{DyingUnits, Unit};
use crate::wait::Wait;

/// Frames that are memory and not taken by the kernel image, its heap, the boot archive or the machine layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    /// The first frame.
    pub first: FrameNumber,
    /// How many frames.
    pub count: u32,
}

/// What the machine layer knows when it makes the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootInfo {
    /// Free memory.
    pub memory: Vec<MemoryRange>,
    /// The boot archive; `None` when the loader gave none.
    pub archive: Option<&'static [u8]>,
    /// The command line, as the loader gave it.
    pub command_line: Vec<u8>,
    /// Bytes of kernel heap that objects may use in all.
    pub heap: u64,
}

/// What a user program did that it cannot go on after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An access that the page tables refuse.
    Page {
        /// The address.
        address: u64,
        /// It was a store.
        write: bool,
        /// It was an instruction fetch.
        execute: bool,
        /// The page is mapped, with fewer rights.
        present: bool,
    },
    /// Another exception of the processor.
    Exception {
        /// The vector.
        vector: u8,
        /// The error code, or zero.
        code: u64,
    },
}

/// What a processor does when it leaves the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It runs this thread in this address space: its registers are loaded from [`Kernel::running`].
    Run(ThreadId, SpaceId),
    /// It waits for an interrupt.
    Idle,
    /// It stops for good.
    Halt(Halt),
}

/// The kernel. Fields are for the modules of this crate, which each own some of them.
#[derive(Debug)]
pub struct Kernel<M> {
    pub(crate) machine: M,
    pub(crate) units: Arena<Unit, 1>,
    pub(crate) threads: Arena<Thread, 1>,
    pub(crate) regions: Arena<Region>,
    pub(crate) channels: Arena<Channel, 1>,
    pub(crate) channel_work: ChannelWork,
    pub(crate) events: Events,
    pub(crate) images: Arena<Image>,
    pub(crate) archive: Archive,
    pub(crate) spaces: Arena<AddressSpace>,
    pub(crate) nodes: Nodes,
    /// The page by which programs read the clocks, once it was needed.
    pub(crate) time_page: Option<RegionId>,
    pub(crate) dying_regions: DyingRegions,
    pub(crate) dying_spaces: DyingSpaces,
    pub(crate) dying_units: DyingUnits,
    /// Which kind of work that waits has its turn.
    pub(crate) work_turn: u8,
    /// This entry did so much that what waits is for the next ones.
    pub(crate) spent: bool,
    /// Random bits of this boot: the node's identity.
    pub(crate) node: [u8; 16],
    pub(crate) caps: Capabilities,
    pub(crate) frames: Frames,
    pub(crate) sched: Sched,
    pub(crate) timers: Timers,
    pub(crate) trace: Trace,
    pub(crate) console: Console,
    pub(crate) config: Config,
    pub(crate) guards: Guards,
    pub(crate) halt: Option<Halt>,
}

impl<M: Machine> Kernel<M> {
    /// A kernel without objects and memory over `machine`.
    ///
    /// # Errors
    /// [`Full`] when there is no memory for run queues and trace.
    pub(crate) fn empty(machine: M) -> Result<Self, Full> {
        let cpus = machine.cpus();
        Ok(Self {
            units: Arena::default(),
            threads: Arena::default(),
            regions: Arena::default(),
            channels: Arena::default(),
            channel_work: ChannelWork::default(),
            images: Arena::default(),
            archive: Archive::default(),
            spaces: Arena::default(),
            nodes: Nodes::default(),
            time_page: None,
            dying_regions: DyingRegions::default(),
            dying_spaces: DyingSpaces::default(),
            dying_units: DyingUnits::default(),
            work_turn: 0,
            spent: false,
            node: [0; 16],
            caps: Capabilities::default(),
            events: Events::default(),
            frames: Frames::default(),
            sched: Sched::new(cpus)?,
            timers: Timers::default(),
            trace: Trace::new(cpus.clamp(1, crate::sched::MAX_CPUS))?,
            console: Console::default(),
            config: Config::default(),
            guards: Guards::default(),
            halt: None,
            machine,
        })
    }

    /// A kernel over `machine` with the first unit, made from the archive's `init`, ready to run on processor 0. Every
    /// processor enters by [`Kernel::kicked`] first: the machine layer calls it on processor 0, the others are kicked here.
    ///
    /// # Errors
    /// What a person at the console can do something about.
    pub fn new(machine: M, info: &BootInfo) -> Result<Self, BootError> {
        let mut kernel = Self::empty(machine).map_err(|Full| BootError::Memory)?;
        let root = kernel.boot_root(info)?;
        kernel.unit_run(root).map_err(BootError::Unit)?;
        kernel.guards_begin();
        kernel.log(format_args!("{} processors, {} pages of memory", kernel.sched.cpus.len(), kernel.frames.total()));
        // Until a processor has entered once it counts as one that is about to look at its queues, and nobody kicks it.
        (1..kernel.sched.cpus.len() as u32).for_each(|cpu| kernel.machine.kick(CpuId(cpu)));
        Ok(kernel)
    }

    /// As [`Kernel::empty`], for tests.
    #[cfg(test)]
    pub(crate) fn bare(machine: M) -> Self {
        Self::empty(machine).unwrap()
    }

    /// The machine below.
    pub const fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// Where the system calls of a processor are counted, for a machine that does some of them by itself.
    pub fn system_call_counter(&mut self, cpu: CpuId) -> Option<&mut u64> {
        self.sched.cpu_mut(cpu).map(|entry| &mut entry.syscalls)
    }

    /// The thread that a [`Next::Run`] named: the machine layer loads its registers, and saves them there at the next entry.
    pub fn running(&mut self, thread: ThreadId) -> Option<&mut Thread> {
        self.threads.get_mut(thread)
    }

    /// Blocks the caller until it is woken ([`Kernel::wake`]) or `deadline` passes ([`Kernel::give_up`] is called then). The
    /// module that blocks it has put it into its object's queue through [`Thread::wait_link`], if there is one.
    pub(crate) fn block(&mut self, caller: Caller, wait: Wait, deadline: Nanos) {
        let Some(thread) = self.threads.get_mut(caller.thread) else { return };
        thread.wait = wait;
        thread.deadline = deadline;
        thread.state = ThreadState::Blocked;
        self.sched_blocked(caller.cpu, caller.thread, deadline);
    }

    /// Ends the wait of `thread`, which is in no object's queue any more: writes the result of its call and makes it ready.
    pub(crate) fn wake(&mut self, thread: ThreadId, result: Result<u64, Error>) {
        let Some(entry) = self.threads.get_mut(thread) else { return };
        if entry.state != ThreadState::Blocked {
            return;
        }
        entry.registers.rax = match result {
            Ok(value) => value,
            Err(error) => error.register(),
        };
        entry.wait = Wait::Nothing;
        entry.state = ThreadState::Ready;
        self.sched_woken(thread);
    }

    /// As [`Kernel::wake`], for a waker that has written the registers itself.
    pub(crate) fn wake_with_registers(&mut self, thread: ThreadId) {
        let Some(entry) = self.threads.get_mut(thread) else { return };
        if entry.state != ThreadState::Blocked {
            return;
        }
        entry.wait = Wait::Nothing;
        entry.state = ThreadState::Ready;
        self.sched_woken(thread);
    }

    /// Ends the wait of a blocked thread without what it waited for: its deadline passed (`error` is `TimedOut`), the object
    /// went away (`PeerClosed`), or the thread is to end (`Canceled`). Takes it out of its object's queue and undoes what the
    /// wait holds (a boost, a place in a call), then wakes it with `error`.
    pub(crate) fn give_up(&mut self, thread: ThreadId, error: Error) {
        let Some(entry) = self.threads.get(thread) else { return };
        if entry.state != ThreadState::Blocked {
            return;
        }
        let slept = entry.wait == Wait::Time && error == Error::TimedOut;
        self.leave_wait(thread);
        // Sleeping until a time is what `Time` asked for: it ends well.
        self.wake(thread, if slept { Ok(0) } else { Err(error) });
    }

    /// Takes a blocked thread out of its object's queue and undoes what the wait holds.
    pub(crate) fn leave_wait(&mut self, thread: ThreadId) {
        let Some(entry) = self.threads.get(thread) else { return };
        match entry.wait {
            Wait::Channel(wait) => self.channel_give_up(thread, wait),
            Wait::Event(wait) => self.event_give_up(thread, wait),
            Wait::Memory(wait) => self.memory_give_up(thread, wait),
            Wait::Console(_) => self.console_give_up(thread),
            Wait::Nothing | Wait::Time | Wait::Stopped => {}
        }
    }

    /// The time.
    pub(crate) fn now(&self) -> Nanos {
        self.machine.now()
    }
}

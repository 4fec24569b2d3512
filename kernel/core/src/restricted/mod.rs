//! Restricted mode: a thread that runs a guest's code under a personality (DESIGN, The kernel, 8).
//!
//! A thread of a personality binds itself to a guest space and to a page for the guest's state. From then on its lower half
//! shows the guest space (a joined page-table root), its upper half the personality. [`Kernel::restricted_enter`] loads the
//! guest's registers from the page and changes to the guest's own root, which has no upper half; every system call, exception
//! and kick brings the thread back to the personality, with the registers in the page and the joined root.
//!
//! ```text
//!          bind                    enter
//! unbound ------> in personality ---------> in guest
//!         <------                <---------
//!          unbind                 system call, exception, kick
//! ```
//!
//! A kick is a latch: it takes effect when the guest next enters the kernel, or at the next enter. A personality reads and
//! writes its guest's memory where the guest sees it; where the guest could not, it goes on at the state's `fault_return`.
//! System calls know only the personality's own half: addresses of the guest answer `Fault` there. A guest has no
//! capabilities: its system calls are the personality's to answer. Vector registers of a bound thread are kept over every
//! kernel entry; the personality moves the guest's itself.

mod direct;
#[cfg(test)]
mod tests;

use holm_abi::{Error, RestrictedReason, RestrictedState, TraceKind, number};

use crate::caller::{Answer, Caller, Outcome};
use crate::cap::Cap;
use crate::kernel::{Fault, Kernel};
use crate::machine::{CpuId, FrameNumber, HALF, Machine, PAGE_SIZE, SpaceId, USER_END};
use crate::memory::{Access, RegionId};
use crate::object::Object;
use crate::quota::Resource;
use crate::thread::{EntryKind, REGISTERS, Registers, Thread, ThreadId, ThreadState};

/// Names a guest space.
pub type GuestSpaceId = crate::memory::AddressSpaceId;

const PAGE: u64 = PAGE_SIZE as u64;
/// Flags that a guest may have as it likes: arithmetic flags, DF, TF and AC.
pub const GUEST_FLAGS: u64 = 0x4_0dd5 & !0x200;
/// Interrupts on, and the bit that is always set.
pub const USER_FLAGS: u64 = 0x202;
/// The number of the call with which a personality enters its guest.
pub const ENTER: u64 = number::restricted_enter;
/// What it finds in rsi when the guest made a system call.
pub const SYSCALL_REASON: u64 = RestrictedReason::Syscall as u64;
/// The vector of page faults.
const PAGE_FAULT: u32 = 14;
/// In the error code of a page fault: the page is there, the access was a store, from user mode, a fetch.
const PRESENT: u64 = 1;
const STORE: u64 = 2;
const USER: u64 = 4;
const FETCH: u64 = 16;
/// In the error code of a page fault: the page is due and there was no memory or quota for it. No processor sets this bit.
pub const NO_MEMORY: u64 = 1 << 32;
/// Words of a state behind the registers that are written on the way back: all but `fault_return`.
const REPORT: usize = 3;
/// Where in a state `fault_return` is.
const FAULT_RETURN: usize = (REGISTERS + REPORT) * size_of::<u64>();
const _: () = assert!(FAULT_RETURN + size_of::<u64>() == RestrictedState::SIZE);

/// What a thread has of restricted mode. The fields that are public are for the machine's own way into a guest and back: see
/// [`Crossing`].
#[derive(Debug, Default)]
pub struct ThreadRestricted {
    binding: Option<Binding>,
    /// The guest's registers are the thread's.
    pub active: bool,
    /// A kick waits for the guest.
    pub kicked: bool,
    /// What the personality goes on with.
    pub home: Home,
}

#[derive(Debug, Clone, Copy)]
struct Binding {
    guest: GuestSpaceId,
    /// The guest's root.
    root: SpaceId,
    /// The root that shows both halves.
    joined: SpaceId,
    state: RegionId,
    /// The page of the state: it stays this one while the region is pinned.
    frame: FrameNumber,
}

/// The registers of the personality that a guest's run leaves alone, and where it goes on.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
#[expect(missing_docs, reason = "the names of the processor's manual, and of restricted_enter's arguments")]
pub struct Home {
    pub return_to: u64,
    pub context: u64,
    pub rsp: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// What the machine needs for its own way between a personality and its guest: it may do by itself, with the kernel locked,
/// what [`Kernel::restricted_direct`] does, as long as the thread runs, the kernel was not entered otherwise, no kick waits and
/// [`Machine::crossings_end`] was not called. Where a register of the guest is not as its system call left it, or is refused
/// by the long way, the machine takes that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// The page of the guest's registers and of the report, in the order of [`RestrictedState`].
    pub state: FrameNumber,
    /// The guest's root.
    pub guest: SpaceId,
    /// The root of personality and guest.
    pub home: SpaceId,
    /// The guest runs.
    pub active: bool,
}

impl ThreadRestricted {
    /// Whether the thread is bound to a guest: its vector registers are kept over every kernel entry.
    #[must_use]
    #[inline]
    pub const fn is_bound(&self) -> bool {
        self.binding.is_some()
    }

    /// Whether the thread runs its guest.
    #[must_use]
    #[inline]
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// Whether the guest is to come back before it runs another instruction.
    #[must_use]
    #[inline]
    pub const fn wants_out(&self) -> bool {
        self.active && self.kicked
    }
}

/// What the guest came back with.
#[derive(Debug, Clone, Copy, Default)]
struct Report {
    vector: u32,
    error_code: u64,
    fault_address: u64,
}

impl Report {
    /// The part of a state behind the registers.
    #[inline]
    const fn words(&self, reason: RestrictedReason) -> [u64; REPORT] {
        [reason as u64 | (self.vector as u64) << 32, self.error_code, self.fault_address]
    }
}

/// The registers that a guest gets from those of its state; `None` where one could fault in the kernel on the way out.
#[inline]
fn guest_registers(words: [u64; REGISTERS]) -> Option<Registers> {
    let mut guest = Registers::from_words(&words);
    if guest.rip >= USER_END || guest.rsp >= USER_END || guest.fs_base >= USER_END || guest.gs_base >= USER_END {
        return None;
    }
    guest.rflags = guest.rflags & GUEST_FLAGS | USER_FLAGS;
    Some(guest)
}

impl Home {
    /// What the personality goes on with when it entered with these registers.
    #[inline]
    const fn of(now: &Registers, return_to: u64, context: u64) -> Self {
        Self {
            return_to,
            context,
            rsp: now.rsp,
            rbx: now.rbx,
            rbp: now.rbp,
            r12: now.r12,
            r13: now.r13,
            r14: now.r14,
            r15: now.r15,
            fs_base: now.fs_base,
            gs_base: now.gs_base,
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// Binds the calling thread to a guest space and to the page of its state.
    pub(crate) fn restricted_bind(&mut self, caller: Caller, space: Cap, state: Cap, offset: u64) -> Answer {
        let (Object::Space(guest), Object::Region(region)) = (space.object, state.object) else {
            return Err(Error::WrongType);
        };
        let pages = self.regions.get(region).ok_or(Error::BadHandle)?.pages;
        if !offset.is_multiple_of(PAGE) || offset / PAGE >= pages {
            return Err(Error::Invalid);
        }
        let unit = self.units.get(caller.unit).ok_or(Error::BadState)?;
        let (own, upper) = (unit.memory.space.ok_or(Error::BadState)?, unit.memory.root.ok_or(Error::BadState)?);
        let entry = self.spaces.get(own).ok_or(Error::BadState)?;
        if entry.mappings.next(0).is_some_and(|mapping| mapping.start < HALF) {
            return Err(Error::NotPermitted);
        }
        let (frame, _) = self.region_page(region, offset / PAGE, true)?;
        let joined = self.guest_join(guest, upper)?;
        let root = self.spaces.get(guest).ok_or(Error::BadState)?.root;
        if let Some(entry) = self.spaces.get_mut(own) {
            entry.low = HALF;
        }
        if let Some(unit) = self.units.get_mut(caller.unit) {
            unit.memory.personality = true;
        }
        // The new one first: the old one may hold the same space and page.
        self.retain(Object::Space(guest));
        self.region_pin(region);
        self.restricted_loosen(caller.thread);
        let thread = self.threads.get_mut(caller.thread).ok_or(Error::BadState)?;
        thread.restricted.binding = Some(Binding { guest, root, joined, state: region, frame });
        thread.space = joined;
        Ok(Outcome::OK)
    }

    /// The root that shows a guest space below and its personality above.
    fn guest_join(&mut self, guest: GuestSpaceId, upper: SpaceId) -> Result<SpaceId, Error> {
        let space = self.spaces.get(guest).ok_or(Error::BadState)?;
        if let Some(joined) = space.joined {
            return Ok(joined);
        }
        let (lower, owner) = (space.root, space.owner);
        self.charge(owner, Resource::Frames, 4)?;
        let (made, taken) = match self.frames.pool(&mut self.machine) {
            Ok(mut pool) => {
                let made = self.machine.space_join(lower, upper, &mut pool);
                (made.map_err(|_| Error::NoMemory), pool.taken)
            }
            Err(_) => (Err(Error::NoMemory), 0),
        };
        self.refund(owner, Resource::Frames, 4 - taken.min(4));
        if let Some(space) = self.spaces.get_mut(guest) {
            space.tables += taken;
            space.joined = made.ok();
        }
        made
    }

    /// Ends the binding of the calling thread.
    pub(crate) fn restricted_unbind(&mut self, caller: Caller) -> Answer {
        let thread = self.threads.get(caller.thread).ok_or(Error::BadState)?;
        if !thread.restricted.is_bound() {
            return Err(Error::BadState);
        }
        self.restricted_loosen(caller.thread);
        Ok(Outcome::OK)
    }

    /// A thread ends: what restricted mode holds for it is let go.
    pub(crate) fn restricted_abandon(&mut self, thread: ThreadId) {
        if self.threads.get(thread).is_some_and(|entry| entry.restricted.is_bound()) {
            self.restricted_loosen(thread);
        }
    }

    fn restricted_loosen(&mut self, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let old = core::mem::take(&mut thread.restricted);
        let Some(binding) = old.binding else { return };
        let unit = thread.unit;
        if let (Some(thread), Some(root)) =
            (self.threads.get_mut(id), self.units.get(unit).and_then(|unit| unit.memory.root))
        {
            thread.space = root;
        }
        self.region_unpin(binding.state);
        self.release(Object::Space(binding.guest));
    }

    /// Runs the guest from its state. The thread goes on at `return_to` when it comes back.
    pub(crate) fn restricted_enter(&mut self, caller: Caller, return_to: u64, context: u64) -> Answer {
        let thread = self.threads.get_mut(caller.thread).ok_or(Error::BadState)?;
        let binding = thread.restricted.binding.ok_or(Error::BadState)?;
        if return_to >= USER_END {
            return Err(Error::Invalid);
        }
        let home = Home::of(&thread.registers, return_to, context);
        if thread.restricted.kicked {
            // The guest comes back before it runs: its state is what it was, and says why.
            thread.restricted.kicked = false;
            thread.restricted.home = home;
            go_home(thread, &home, RestrictedReason::Kick, binding.joined);
            self.write_report(&binding, RestrictedReason::Kick, Report::default());
            return Ok(Outcome::Registers);
        }
        let guest = guest_registers(self.machine.frame_words(binding.frame)).ok_or(Error::Fault)?;
        let thread = self.threads.get_mut(caller.thread).ok_or(Error::BadState)?;
        thread.registers = guest;
        thread.entry = EntryKind::Interrupt;
        thread.space = binding.root;
        thread.restricted.home = home;
        thread.restricted.active = true;
        Ok(Outcome::Registers)
    }

    /// What the machine needs for its own way between `thread` and its guest; `None` when it may not take it.
    pub fn crossing(&self, thread: ThreadId) -> Option<Crossing> {
        let restricted = &self.threads.get(thread)?.restricted;
        let binding = restricted.binding.as_ref().filter(|_| !restricted.kicked && self.trace.kinds == 0)?;
        let Binding { root, joined, frame, .. } = *binding;
        Some(Crossing { state: frame, guest: root, home: joined, active: restricted.active })
    }

    /// Whether a thread runs its guest.
    #[inline]
    pub(crate) fn restricted_active(&self, thread: ThreadId) -> bool {
        self.threads.get(thread).is_some_and(|thread| thread.restricted.active)
    }

    /// The guest of a thread made a system call.
    pub(crate) fn restricted_system_call(&mut self, _cpu: CpuId, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        // As the processor leaves them.
        thread.registers.rcx = thread.registers.rip;
        thread.registers.r11 = thread.registers.rflags;
        self.restricted_leave(id, RestrictedReason::Syscall, Report::default());
    }

    /// A kick of a thread takes effect: the thread was about to run its guest. Nothing happens when it is not.
    pub(crate) fn restricted_leave_kicked(&mut self, id: ThreadId) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        if thread.restricted.wants_out() {
            thread.restricted.kicked = false;
            self.restricted_leave(id, RestrictedReason::Kick, Report::default());
        }
    }

    /// Brings a thread back from its guest.
    fn restricted_leave(&mut self, id: ThreadId, reason: RestrictedReason, report: Report) {
        let Some(thread) = self.threads.get_mut(id) else { return };
        let Some(binding) = thread.restricted.binding else { return };
        thread.restricted.active = false;
        let home = thread.restricted.home;
        let words = thread.registers.to_words();
        go_home(thread, &home, reason, binding.joined);
        self.machine.frame_put_words(binding.frame, &words);
        self.write_report(&binding, reason, report);
    }

    fn write_report(&mut self, binding: &Binding, reason: RestrictedReason, report: Report) {
        let words = report.words(reason);
        for (at, word) in words.into_iter().enumerate() {
            self.machine.frame_write(binding.frame, (REGISTERS + at) * size_of::<u64>(), &word.to_le_bytes());
        }
    }

    /// Brings the guest of a thread back, now or as soon as it enters.
    pub(crate) fn restricted_kick(&mut self, _caller: Caller, thread: Cap) -> Answer {
        let Object::Thread(id) = thread.object else { return Err(Error::WrongType) };
        let entry = self.threads.get_mut(id).ok_or(Error::BadState)?;
        if !entry.restricted.is_bound() {
            return Err(Error::BadState);
        }
        entry.restricted.kicked = true;
        match entry.state {
            ThreadState::Blocked => self.give_up(id, Error::Interrupted),
            // It leaves its guest when it is next about to run, at the latest when it has been made to enter the kernel.
            ThreadState::Running => self.restricted_nudge(id),
            // Its guest's registers are all here.
            _ => self.restricted_leave_kicked(id),
        }
        Ok(Outcome::OK)
    }

    /// A thread did what it cannot go on after, or touched a page that is not there yet: the page comes, the guest goes back to
    /// its personality, or the unit ends.
    pub(crate) fn user_fault(&mut self, _cpu: CpuId, id: ThreadId, fault: Fault) {
        let Some(thread) = self.threads.get(id) else { return };
        let active = thread.restricted.active;
        let result = match fault {
            Fault::Page { address, write, execute, .. } => {
                let access = Access::of(write, execute);
                let space = match &thread.restricted.binding {
                    Some(binding) if active || address < HALF => Some(binding.guest),
                    _ => self.units.get(thread.unit).and_then(|unit| unit.memory.space),
                };
                space.ok_or(Error::Fault).and_then(|space| self.space_fault(space, address, access)).map(|_| ())
            }
            Fault::Exception { .. } => Err(Error::Fault),
        };
        if result == Err(Error::Interrupted) {
            // It faults again, and the next step follows.
            return;
        }
        if let Fault::Page { address, write, execute, present } = fault {
            self.trace.counts.page_faults += u64::from(result.is_ok());
            let code = page_error_code(write, execute, present);
            self.trace_event(TraceKind::PageFault, [address, code, u64::from(result.is_ok()), 0]);
        }
        let Err(error) = result else { return };
        let short = matches!(error, Error::Quota | Error::NoMemory);
        if !active {
            if let Fault::Page { address: ..HALF, .. } = fault
                && self.restricted_fault_return(id)
            {
                return;
            }
            self.unit_fault(id, fault, short);
            return;
        }
        let report = match fault {
            Fault::Page { address, write, execute, present } => {
                let error_code = page_error_code(write, execute, present) | if short { NO_MEMORY } else { 0 };
                Report { vector: PAGE_FAULT, error_code, fault_address: address }
            }
            Fault::Exception { vector, code } => {
                Report { vector: u32::from(vector), error_code: code, fault_address: 0 }
            }
        };
        self.restricted_leave(id, RestrictedReason::Exception, report);
    }

    /// A personality touched what its guest may not touch: it goes on where its state says. False when that says nothing.
    fn restricted_fault_return(&mut self, id: ThreadId) -> bool {
        let Some(thread) = self.threads.get_mut(id) else { return false };
        let Some(binding) = thread.restricted.binding else { return false };
        let mut bytes = [0; size_of::<u64>()];
        self.machine.frame_read(binding.frame, FAULT_RETURN, &mut bytes);
        let address = u64::from_le_bytes(bytes);
        if address == 0 || address >= USER_END {
            return false;
        }
        thread.registers.rip = address;
        thread.entry = EntryKind::Interrupt;
        true
    }
}

/// The processor's error code of a page fault of a user program.
fn page_error_code(write: bool, execute: bool, present: bool) -> u64 {
    let bits = [(present, PRESENT), (write, STORE), (true, USER), (execute, FETCH)];
    bits.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, bit)| all | bit)
}

/// Lets the personality go on.
fn go_home(thread: &mut Thread, home: &Home, reason: RestrictedReason, space: SpaceId) {
    thread.registers = Registers {
        rip: home.return_to,
        rdi: home.context,
        rsi: reason as u64,
        rsp: home.rsp,
        rbx: home.rbx,
        rbp: home.rbp,
        r12: home.r12,
        r13: home.r13,
        r14: home.r14,
        r15: home.r15,
        fs_base: home.fs_base,
        gs_base: home.gs_base,
        rflags: USER_FLAGS,
        ..Registers::default()
    };
    thread.entry = EntryKind::Interrupt;
    thread.space = space;
}

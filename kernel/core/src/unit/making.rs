//! Making a unit in steps: each entry of the kernel does one, and `unit_create` is made again until all are done. Nobody is told
//! of the unit before; whatever goes wrong, it is let go with all that it got.

use holm_abi::{CapTransfer, Error, Handle, ObjectType, StartInfo, TransferMode, UnitSpec};

use super::create::Plan;
use super::{End, UnitId};
use crate::caller::{Answer, Caller, Outcome};
use crate::kernel::Kernel;
use crate::machine::{Machine, PAGE_SIZE};
use crate::memory::Progress;
use crate::memory::load::{Stack, Strings};
use crate::object::Object;
use crate::thread::ThreadId;

const PAGE: u64 = PAGE_SIZE as u64;

/// Bytes of arguments that one step copies.
const COPIED: u64 = 8192;

/// Capabilities that one step looks at or gives.
const CAPS: usize = 8;

/// Capabilities that are given without having been looked at in a step before.
const FEW: usize = 4;

/// A unit in the making: the thread that makes it keeps this.
#[derive(Debug, Clone, Copy)]
pub struct Making {
    unit: UnitId,
    /// The creator's handle of it, once it has one.
    handle: Option<Handle>,
    step: Step,
    /// Where its program starts, and the page by which it reads the clocks.
    entry: u64,
    time_page: u64,
    stack: Stack,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Program,
    Stack,
    /// So many bytes of arguments and environment are in place.
    Strings(u64),
    Thread,
    Handle,
    /// So many of the capabilities were found good to travel.
    Look(usize),
    /// So many were given.
    Give(usize),
    Done,
}

impl Making {
    pub(super) const fn of(unit: UnitId, plan: &Plan) -> Self {
        let step = if plan.image.is_some() { Step::Program } else { Step::Handle };
        Self { unit, handle: None, step, entry: 0, time_page: 0, stack: Stack { low: 0, top: 0 } }
    }

    /// Whether the unit is made as far as its creator's handle and capabilities.
    pub(super) fn is_furnished(&self) -> bool {
        self.step == Step::Handle
    }
}

impl<M: Machine> Kernel<M> {
    /// Makes a unit for the caller under `parent`, gives it its capabilities and the caller its handle.
    pub(super) fn unit_make(&mut self, caller: Caller, parent: UnitId, spec: UnitSpec) -> Answer {
        let creator = caller.unit;
        let plan = self.unit_plan(creator, parent, spec)?;
        let Some(mut making) = self.threads.get(caller.thread).and_then(|thread| thread.making) else {
            let unit = self.unit_begin(&plan)?;
            self.making_is(caller.thread, Some(Making::of(unit, &plan)));
            self.spent = true;
            return Ok(Outcome::Again);
        };
        // What goes wrong ends the call, and with it the unit: see `making_over`.
        let progress = self.making_step(&mut making, &plan)?;
        self.spent = true;
        if progress == Progress::More {
            self.making_is(caller.thread, Some(making));
            return Ok(Outcome::Again);
        }
        let handle = making.handle.ok_or(Error::BadState)?;
        self.making_is(caller.thread, None);
        // The handle names it from now on.
        self.release(Object::Unit(making.unit));
        Ok(Outcome::Done(handle.raw() as u64))
    }

    fn making_is(&mut self, thread: ThreadId, making: Option<Making>) {
        if let Some(thread) = self.threads.get_mut(thread) {
            thread.making = making;
        }
    }

    /// The system call of a thread is over, or the thread is: a unit that it did not finish is let go.
    #[cold]
    #[inline(never)]
    pub(crate) fn making_over(&mut self, thread: ThreadId) {
        let Some(entry) = self.threads.get_mut(thread) else { return };
        let creator = entry.unit;
        let Some(making) = entry.making.take() else { return };
        self.unit_end(making.unit, End::because(holm_abi::ExitReason::Killed, 0));
        if let Some(handle) = making.handle {
            // Another thread may have closed it.
            let _ = self.cap_close_handle(creator, handle);
        }
        self.release(Object::Unit(making.unit));
    }

    /// One bounded step.
    pub(super) fn making_step(&mut self, making: &mut Making, plan: &Plan) -> Result<Progress, Error> {
        let (unit, spec) = (making.unit, &plan.spec);
        let entry = self.units.get(unit).filter(|unit| !unit.has_ended()).ok_or(Error::BadState)?;
        let space = entry.memory.space.ok_or(Error::BadState)?;
        let strings = [
            Strings { address: spec.argv, bytes: spec.argv_bytes },
            Strings { address: spec.envp, bytes: spec.envp_bytes },
        ];
        let all = strings[0].bytes + strings[1].bytes;
        match making.step {
            Step::Program => {
                let image = plan.image.ok_or(Error::BadState)?;
                let entry = self.program_load(unit, space, image)?;
                making.entry = if spec.entry == 0 { entry } else { spec.entry };
                making.step = Step::Stack;
            }
            Step::Stack => {
                making.time_page = self.time_page_map(space)?;
                let bytes = match spec.stack_bytes {
                    0 => holm_abi::limits::DEFAULT_STACK,
                    bytes if bytes > holm_abi::limits::MAX_STACK => return Err(Error::Invalid),
                    bytes => bytes.next_multiple_of(PAGE),
                };
                if all > bytes / 2 {
                    return Err(Error::Invalid);
                }
                making.stack = self.stack_map(unit, space, bytes)?;
                making.step = if all == 0 { Step::Thread } else { Step::Strings(0) };
            }
            Step::Strings(done) => {
                let done = done + self.strings_copy(unit, making.stack, plan.creator, strings, done, COPIED)?;
                making.step = if done >= all { Step::Thread } else { Step::Strings(done) };
            }
            Step::Thread => {
                let mut info = StartInfo::new();
                info.unit_id = unit.number();
                info.cap_count = spec.cap_count;
                info.cpu_count = self.machine.cpus();
                info.time_page = making.time_page;
                let (start_info, stack_pointer) = self.stack_fill(unit, making.stack, strings, info)?;
                let thread = self.thread_first(unit, making.entry, stack_pointer, start_info)?;
                let (rights, transfer) = (ObjectType::Thread.rights(), ObjectType::Thread.transfer_flags());
                let handle = self.cap_install(unit, Object::Thread(thread), rights, transfer)?;
                debug_assert_eq!(handle, Handle::initial(1), "the second slot is next");
                making.step = Step::Handle;
            }
            Step::Handle => {
                let creator = plan.creator.ok_or(Error::BadState)?;
                let (rights, transfer) = (ObjectType::Unit.rights(), ObjectType::Unit.transfer_flags());
                making.handle = Some(self.cap_install(creator, Object::Unit(unit), rights, transfer)?);
                making.step = match spec.cap_count as usize {
                    0 => Step::Done,
                    count if count <= FEW => Step::Give(0),
                    _ => Step::Look(0),
                };
            }
            Step::Look(at) => {
                let creator = plan.creator.ok_or(Error::BadState)?;
                self.caps_look(creator, spec, at)?;
                making.step = if at + CAPS < spec.cap_count as usize { Step::Look(at + CAPS) } else { Step::Give(0) };
            }
            Step::Give(at) => {
                let creator = plan.creator.ok_or(Error::BadState)?;
                self.caps_give(creator, spec, at, unit)?;
                making.step = if at + CAPS < spec.cap_count as usize { Step::Give(at + CAPS) } else { Step::Done };
            }
            Step::Done => {}
        }
        Ok(if making.step == Step::Done { Progress::Done } else { Progress::More })
    }

    /// The records of the capabilities for a new unit, from one on to another.
    fn caps_in(
        &mut self,
        creator: UnitId,
        spec: &UnitSpec,
        (from, end): (usize, usize),
        caps: &mut [CapTransfer],
    ) -> Result<usize, Error> {
        let end = end.min(spec.cap_count as usize);
        for (at, cap) in (from..end).zip(caps) {
            let mut bytes = [0; CapTransfer::SIZE];
            self.copy_in(creator, spec.caps.wrapping_add((at * CapTransfer::SIZE) as u64), &mut bytes)?;
            *cap = CapTransfer::decode_whole(&bytes)?;
        }
        Ok(end.saturating_sub(from))
    }

    /// Whether some of the capabilities for a new unit may travel, beside those before them.
    fn caps_look(&mut self, creator: UnitId, spec: &UnitSpec, at: usize) -> Result<(), Error> {
        let mut caps = [CapTransfer::new(); CAPS];
        let count = self.caps_in(creator, spec, (at, at + CAPS), &mut caps)?;
        let caps = caps.get(..count).unwrap_or_default();
        self.parcel_decide(creator, caps, None)?;
        // Those before came by in parcels of their own.
        for before in (0..at).step_by(CAPS) {
            let mut others = [CapTransfer::new(); CAPS];
            let count = self.caps_in(creator, spec, (before, before + CAPS), &mut others)?;
            for other in others.iter().take(count) {
                let moves = |cap: &CapTransfer| other.mode == TransferMode::Move || cap.mode == TransferMode::Move;
                if caps.iter().any(|cap| other.cap == cap.cap && moves(cap)) {
                    return Err(Error::Invalid);
                }
            }
        }
        Ok(())
    }

    /// Gives some of its capabilities to a new unit, in order, all of these or none.
    fn caps_give(&mut self, creator: UnitId, spec: &UnitSpec, at: usize, to: UnitId) -> Result<(), Error> {
        let mut caps = [CapTransfer::new(); CAPS];
        let count = self.caps_in(creator, spec, (at, at + CAPS), &mut caps)?;
        let mut parcel = self.parcel_decide(creator, caps.get(..count).unwrap_or_default(), None)?;
        self.cap_reserve(to, count as u32)?;
        self.parcel_make(&mut parcel, to)?;
        self.parcel_take(creator, &parcel);
        for grant in parcel.grants() {
            self.cap_repay(grant, to);
            let put = self.cap_put(to, grant, 0);
            self.trace_grant(grant, creator.number(), to);
            debug_assert!(put.is_some(), "room was reserved");
        }
        Ok(())
    }
}

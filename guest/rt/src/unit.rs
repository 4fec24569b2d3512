//! Units: making them, watching them.

use alloc::vec::Vec;

use holm_abi::{
    CapTransfer, Error, Handle, Identity, Label, Metrics, Rights, SchedClass, SchedParams, SchedStats, TransferMode,
    UnitAttr, UnitFlags, UnitInfo, UnitSpec,
};

use crate::object::{Image, Object, Owned, Unit};
use crate::startup::{packed, padded};
use crate::sys;

/// How a unit is to be made.
#[derive(Debug)]
pub struct UnitBuilder {
    spec: UnitSpec,
    arguments: Vec<u8>,
    environment: Vec<u8>,
    caps: Vec<u8>,
    cap_names: alloc::string::String,
    cap_count: u32,
    labels: Vec<u8>,
}

impl UnitBuilder {
    /// A unit that runs a program of the boot archive, under a name.
    #[must_use]
    pub fn new(image: &Image, name: &str) -> Self {
        Self::of(UnitSpec { image: image.handle(), name: padded(name), ..UnitSpec::new() })
    }

    /// A unit without a program.
    #[must_use]
    pub fn empty(name: &str) -> Self {
        Self::of(UnitSpec { name: padded(name), ..UnitSpec::new() })
    }

    fn of(spec: UnitSpec) -> Self {
        Self {
            spec,
            arguments: Vec::new(),
            environment: Vec::new(),
            caps: Vec::new(),
            cap_names: alloc::string::String::new(),
            cap_count: 0,
            labels: Vec::new(),
        }
    }

    /// Its arguments, the program's own name first.
    #[must_use]
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments = packed(arguments);
        self
    }

    /// One more line of its environment.
    #[must_use]
    pub fn environment(mut self, line: &str) -> Self {
        self.environment.extend(packed([line]));
        self
    }

    /// One more initial capability, under a name the program can look it up by.
    #[must_use]
    pub fn cap(mut self, name: &str, cap: CapTransfer) -> Self {
        let mut bytes = [0; CapTransfer::SIZE];
        cap.encode_whole(&mut bytes);
        self.caps.extend(bytes);
        if self.cap_count > 0 {
            self.cap_names.push(',');
        }
        self.cap_names.push_str(name);
        self.cap_count += 1;
        self
    }

    /// One more label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        let mut bytes = [0; Label::SIZE];
        Label { key: padded(key), value: padded(value) }.encode_whole(&mut bytes);
        self.labels.extend(bytes);
        self
    }

    /// Class and priority (or weight) of its threads, and the highest class they may have.
    #[must_use]
    pub fn class(mut self, class: SchedClass, priority: u32, ceiling: SchedClass) -> Self {
        self.spec.sched_class = class;
        self.spec.base_priority = priority;
        self.spec.max_sched_class = ceiling;
        self
    }

    /// Limits of memory and kernel memory in bytes; 0 for the creator's.
    #[must_use]
    pub fn memory(mut self, memory: u64, kernel: u64) -> Self {
        self.spec.memory_quota = memory;
        self.spec.kernel_quota = kernel;
        self
    }

    /// Limits of threads and handles; 0 for the creator's.
    #[must_use]
    pub fn counts(mut self, threads: u32, handles: u32) -> Self {
        self.spec.thread_quota = threads;
        self.spec.handle_quota = handles;
        self
    }

    /// Bytes of the first thread's stack.
    #[must_use]
    pub fn stack(mut self, bytes: u64) -> Self {
        self.spec.stack_bytes = bytes;
        self
    }

    /// Flags.
    #[must_use]
    pub fn flags(mut self, flags: UnitFlags) -> Self {
        self.spec.flags = flags;
        self
    }

    /// Makes the unit as a child of this one. Moved capabilities are gone when it succeeded.
    ///
    /// # Errors
    /// Those of unit_create.
    pub fn create(self) -> Result<Unit, Error> {
        self.create_under(Handle::NONE)
    }

    /// Makes the unit as a child of another.
    ///
    /// # Errors
    /// Those of unit_create.
    pub fn create_under(mut self, parent: Handle) -> Result<Unit, Error> {
        if self.cap_count > 0 {
            let line = alloc::format!("{}={}", crate::startup::CAPS, self.cap_names);
            self.environment.extend(packed([line.as_str()]));
        }
        self.spec.argv = self.arguments.as_ptr() as u64;
        self.spec.argv_bytes = self.arguments.len() as u64;
        self.spec.envp = self.environment.as_ptr() as u64;
        self.spec.envp_bytes = self.environment.len() as u64;
        self.spec.caps = self.caps.as_ptr() as u64;
        self.spec.cap_count = self.cap_count;
        self.spec.labels = self.labels.as_ptr() as u64;
        self.spec.label_count = (self.labels.len() / Label::SIZE) as u32;
        sys::unit_create(parent, &self.spec).map(|handle| Unit::from_owned(Owned::new(handle)))
    }

    /// Makes the unit and starts it.
    ///
    /// # Errors
    /// Those of unit_create and unit_start.
    pub fn start(self) -> Result<Unit, Error> {
        let unit = self.create()?;
        unit.start()?;
        Ok(unit)
    }
}

impl Unit {
    /// Lets its threads run.
    ///
    /// # Errors
    /// Those of unit_start.
    pub fn start(&self) -> Result<(), Error> {
        sys::unit_start(self.handle())
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// Those of unit_stop.
    pub fn stop(&self, code: i64) -> Result<(), Error> {
        sys::unit_stop(self.handle(), code)
    }

    /// Ends it hard.
    ///
    /// # Errors
    /// Those of unit_kill.
    pub fn kill(&self, reason: i64) -> Result<(), Error> {
        sys::unit_kill(self.handle(), reason)
    }

    /// What the kernel tells about it.
    ///
    /// # Errors
    /// Those of unit_get_info.
    pub fn info(&self) -> Result<UnitInfo, Error> {
        let mut info = UnitInfo::new();
        sys::unit_get_info(self.handle(), &mut info)?;
        Ok(info)
    }

    /// Its figures.
    ///
    /// # Errors
    /// Those of metrics_get.
    pub fn metrics(&self) -> Result<Metrics, Error> {
        let mut metrics = Metrics::new();
        sys::metrics_get(self.handle(), &mut metrics)?;
        Ok(metrics)
    }

    /// Who it is.
    ///
    /// # Errors
    /// Those of unit_get_identity.
    pub fn identity(&self) -> Result<Identity, Error> {
        let mut identity = Identity::new();
        sys::unit_get_identity(self.handle(), &mut identity)?;
        Ok(identity)
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// Those of unit_set_attr.
    pub fn set(&self, attributes: &UnitAttr) -> Result<(), Error> {
        sys::unit_set_attr(self.handle(), attributes)
    }

    /// How its threads are scheduled from now on.
    ///
    /// # Errors
    /// Those of sched_set_unit_params.
    pub fn schedule(&self, params: &SchedParams) -> Result<(), Error> {
        sys::sched_set_unit_params(self.handle(), params)
    }

    /// How its threads fared.
    ///
    /// # Errors
    /// Those of sched_query.
    pub fn schedule_figures(&self) -> Result<SchedStats, Error> {
        let mut stats = SchedStats::new();
        sys::sched_query(self.handle(), &mut stats)?;
        Ok(stats)
    }

    /// Passes a capability to it and says under which handle it has it there.
    ///
    /// # Errors
    /// Those of cap_grant.
    pub fn grant(&self, cap: Handle, rights: Rights, mode: TransferMode) -> Result<Handle, Error> {
        Handle::from_register(sys::cap_grant(self.handle(), cap, rights, mode)?)
    }

    /// Waits until it has ended and everything it had is released.
    ///
    /// # Errors
    /// Those of event_subscribe and event_wait; [`Error::TimedOut`] at the deadline.
    pub fn wait(&self, deadline: crate::Deadline) -> Result<UnitInfo, Error> {
        let events = crate::Events::new()?;
        let ended = holm_abi::EventMask::EXIT | holm_abi::EventMask::CRASH;
        events.subscribe(crate::Source::Unit(self), ended, holm_abi::EventFlags::NONE, 0)?;
        events.wait_one(deadline)?;
        self.info()
    }
}

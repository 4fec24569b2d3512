//! Observe mode: loads the tracing programs and attaches them while there is a worker; without one the machine pays nothing.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

use libbpf_rs::{Link, MapCore, Object, ObjectBuilder};
use morpheus_abi::flags;
use morpheus_abi::protocol::Registration;

use crate::bpf::layout::Place;
use crate::bpf::maps::SharedMaps;
use crate::bpf::{BpfError, OBSERVE, clock};
use crate::mode::{Health, Mode, ModeName, Thread};

/// A worker's own CPU time between two looks at its run queue, in ns.
const TICK_NS: u64 = 1_000_000;

/// The loaded programs and what is attached of them.
#[derive(Debug)]
pub struct Observe {
    object: Object,
    maps: SharedMaps,
    /// The programs that see every wake-up; empty while there is no worker.
    tracing: Vec<Link>,
    /// The kernel keeps account of how long threads wait for a CPU.
    measures_waits: bool,
    /// Each worker's clock.
    clocks: HashMap<Place, Link>,
}

impl Observe {
    /// Loads the programs into the kernel without attaching any.
    ///
    /// # Errors
    /// When BPF is not permitted, or the kernel lacks something; libbpf's log says what.
    pub fn load() -> Result<Self, BpfError> {
        let open = ObjectBuilder::default()
            .open_memory(OBSERVE)
            .map_err(BpfError::libbpf("cannot read the observe programs"))?;
        let object = open.load().map_err(BpfError::libbpf("the kernel refused the observe programs"))?;
        let maps = SharedMaps::of(&object)?;
        let measures_waits = crate::check::kernel_has("sched_info", &["run_delay"]);
        Ok(Self { object, maps, tracing: Vec::new(), measures_waits, clocks: HashMap::new() })
    }

    /// Every map of the loaded object: name, type and key size.
    pub fn all_maps(&self) -> Vec<(String, libbpf_rs::MapType, u32)> {
        let of = |map: libbpf_rs::Map<'_>| (map.name().to_string_lossy().into_owned(), map.map_type(), map.key_size());
        self.object.maps().map(of).collect()
    }

    fn attach(&mut self) -> Result<(), BpfError> {
        let mut links = Vec::new();
        for program in self.object.progs_mut() {
            if program.section().to_string_lossy().starts_with("tp_btf/") {
                links.push(program.attach_trace().map_err(BpfError::libbpf("cannot attach a tracing program"))?);
            }
        }
        self.tracing = links;
        Ok(())
    }
}

impl Mode for Observe {
    fn name(&self) -> ModeName {
        ModeName::Observe
    }

    fn flags(&self) -> u32 {
        flags::OBSERVE | flags::BUDGET | if self.measures_waits { flags::RUNQUEUE_WAIT } else { 0 }
    }

    fn maps(&self) -> &SharedMaps {
        &self.maps
    }

    /// Attaches and detaches once, so that a kernel that refuses says so now and not to the first worker.
    fn start(&mut self) -> Result<(), BpfError> {
        self.attach()?;
        self.tracing.clear();
        Ok(())
    }

    fn add(&mut self, thread: Thread<'_>, place: Place, _: &Registration) -> Result<(), BpfError> {
        let event = clock::thread_clock(thread.tid, TICK_NS)?;
        let program = self
            .object
            .progs_mut()
            .find(|program| program.name() == "observe_tick")
            .ok_or(BpfError::Object("observe_tick"))?;
        let link = program
            .attach_perf_event(event.as_fd().as_raw_fd())
            .map_err(BpfError::libbpf("cannot attach to a thread's clock"))?;
        // From here on the link owns the event's descriptor and closes it.
        let _ = event.into_raw_fd();
        if self.clocks.is_empty() {
            self.attach()?;
        }
        self.clocks.insert(place, link);
        Ok(())
    }

    fn remove(&mut self, _: Thread<'_>, place: Place) {
        self.clocks.remove(&place);
        if self.clocks.is_empty() {
            self.tracing.clear();
        }
    }

    fn health(&mut self) -> Health {
        Health::Well
    }

    fn stop(&mut self) {
        self.clocks.clear();
        self.tracing.clear();
    }

    fn verified_instructions(&self) -> Vec<(String, u32)> {
        crate::verifier::instructions(&self.object)
    }
}

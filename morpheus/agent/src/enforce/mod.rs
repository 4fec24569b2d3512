//! Enforce mode: loads our sched_ext scheduler, hands every thread of the machine to it, and says when the kernel takes
//! them back.
//!
//! - [`settings`]: what the programs are told before they are loaded; [`domains`]: the machine's cache domains.
//! - [`presence`]: whether this kernel has sched_ext and who uses it; [`functions`]: which of its functions can be called.
//! - [`exit`]: why the kernel ended the scheduler; [`counts`]: what the scheduler decided about workers.
//!
//! Fall back is the kernel's: when the link's descriptor closes (an orderly stop, a panic, SIGKILL), when a thread waits
//! longer than the watchdog allows, or when somebody presses SysRq-S, the kernel returns every thread to its own scheduler.

pub mod counts;
pub mod domains;
pub mod exit;
pub mod functions;
pub mod presence;
pub mod settings;

use std::path::Path;

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder};
use morpheus_abi::flags;
use morpheus_abi::protocol::Registration;

use crate::bpf::layout::Place;
use crate::bpf::maps::SharedMaps;
use crate::bpf::{BpfError, ENFORCE};
use crate::mode::{Health, Mode, ModeName, Thread};
use counts::Counts;
use exit::Exit;
use functions::Unusable;
use presence::Presence;
use settings::{OPS_TIMEOUT_OFFSET, Settings, SettingsError};

/// The name of our scheduler in the kernel, as in `/sys/kernel/sched_ext/root/ops`.
pub const SCHEDULER: &str = "morpheus";

/// Where the kernel tells of sched_ext.
const SYSFS: &str = "/sys/kernel/sched_ext";

/// Why enforce mode cannot be.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// The kernel was built without it.
    #[error("this kernel has no sched_ext (CONFIG_SCHED_CLASS_EXT); run `morpheusd observe` instead")]
    NoSchedExt,
    /// Only one can be loaded, and we push nobody out.
    #[error("another sched_ext scheduler is loaded: {0}; stop it first, or run `morpheusd observe` beside it")]
    Occupied(String),
    /// The state could not be read.
    #[error("cannot read {SYSFS}")]
    Presence(#[source] std::io::Error),
    /// The kernel lacks functions.
    #[error("this kernel's sched_ext cannot be used: {0}")]
    Functions(Unusable),
    /// The settings make no sense here.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The programs were refused.
    #[error(transparent)]
    Bpf(#[from] BpfError),
}

/// The loaded scheduler; in force between [`Mode::start`] and [`Mode::stop`].
#[derive(Debug)]
pub struct Enforce {
    /// Closing it unregisters the scheduler.
    scheduler: Option<Link>,
    /// The programs that see a worker's thread end.
    tracing: Vec<Link>,
    maps: SharedMaps,
    exit: MapHandle,
    counts: MapHandle,
    object: Object,
}

impl Enforce {
    /// Loads the scheduler into the kernel; it schedules nothing yet.
    ///
    /// # Errors
    /// See [`EnforceError`].
    pub fn load(settings: &Settings) -> Result<Self, EnforceError> {
        match presence::read(Path::new(SYSFS)).map_err(EnforceError::Presence)? {
            Presence::Absent => return Err(EnforceError::NoSchedExt),
            Presence::Occupied(name) => return Err(EnforceError::Occupied(name)),
            Presence::Free => {}
        }
        functions::check()?;
        let domains = domains::read(Path::new("/sys/devices/system/cpu"))?;
        tracing::info!(cache_domains = domains.count, slice = ?settings.slice, "will schedule");
        let mut open = ObjectBuilder::default()
            .open_memory(ENFORCE)
            .map_err(BpfError::libbpf("cannot read the enforce programs"))?;
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            match name.as_str() {
                "cpus" => size(&mut map, domains.of_cpu.len())?,
                "domains" => size(&mut map, usize::from(domains.count))?,
                ".rodata.settings" => {
                    map.set_initial_value(&settings.to_bytes(&domains)?)
                        .map_err(BpfError::libbpf("cannot write the scheduler's settings"))?;
                }
                "morpheus_ops" => {
                    let bytes = map.initial_value_mut().ok_or(BpfError::Object("morpheus_ops"))?;
                    let place = bytes
                        .get_mut(OPS_TIMEOUT_OFFSET..OPS_TIMEOUT_OFFSET + 4)
                        .ok_or(BpfError::Object("morpheus_ops"))?;
                    place.copy_from_slice(&settings.timeout_ms()?.to_ne_bytes());
                }
                _ => {}
            }
        }
        let object = open.load().map_err(BpfError::libbpf("the kernel refused the scheduler"))?;
        let maps = SharedMaps::of(&object)?;
        let exit = handle(&object, ".bss.exit")?;
        let counts = handle(&object, "counts")?;
        Ok(Self { scheduler: None, tracing: Vec::new(), maps, exit, counts, object })
    }

    fn exit(&self) -> Result<Option<Exit>, BpfError> {
        let bytes = self
            .exit
            .lookup(&0_u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(BpfError::libbpf("cannot read why the scheduler ended"))?;
        Ok(bytes.and_then(|bytes| Exit::from_bytes(&bytes)))
    }
}

fn size(map: &mut libbpf_rs::OpenMapMut<'_>, entries: usize) -> Result<(), BpfError> {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    map.set_max_entries(entries).map_err(BpfError::libbpf("cannot size a map of the scheduler"))
}

fn handle(object: &Object, name: &'static str) -> Result<MapHandle, BpfError> {
    let map = object.maps().find(|map| map.name() == name).ok_or(BpfError::Object(name))?;
    MapHandle::try_from(&map).map_err(BpfError::libbpf("cannot keep a map"))
}

impl Mode for Enforce {
    fn name(&self) -> ModeName {
        ModeName::Enforce
    }

    fn flags(&self) -> u32 {
        flags::ENFORCE | flags::RUNQUEUE_WAIT | flags::BUDGET
    }

    fn maps(&self) -> &SharedMaps {
        &self.maps
    }

    fn start(&mut self) -> Result<(), BpfError> {
        let mut tracing = Vec::new();
        for program in self.object.progs_mut() {
            if program.section().to_string_lossy().starts_with("tp_btf/") {
                tracing.push(program.attach_trace().map_err(BpfError::libbpf("cannot attach a tracing program"))?);
            }
        }
        let mut ops =
            self.object.maps_mut().find(|map| map.name() == "morpheus_ops").ok_or(BpfError::Object("morpheus_ops"))?;
        let refused = BpfError::libbpf("the kernel did not take the scheduler; another one may just have been loaded");
        self.scheduler = Some(ops.attach_struct_ops().map_err(refused)?);
        self.tracing = tracing;
        Ok(())
    }

    fn add(&mut self, _: Thread<'_>, _: Place, _: &Registration) -> Result<(), BpfError> {
        Ok(())
    }

    fn remove(&mut self, _: Thread<'_>, _: Place) {}

    /// The scheduler's own word first; the kernel's list says when it is gone without one.
    fn health(&mut self) -> Health {
        match self.exit() {
            Ok(Some(exit)) => return Health::Ended(exit.to_string()),
            Ok(None) => {}
            Err(error) => return Health::Ended(error.to_string()),
        }
        match presence::read(Path::new(SYSFS)) {
            Ok(Presence::Occupied(name)) if name == SCHEDULER => Health::Well,
            Ok(Presence::Occupied(name)) => Health::Ended(format!("{name} has taken the scheduler's place")),
            Ok(Presence::Free | Presence::Absent) => {
                Health::Ended("the kernel no longer runs the scheduler".to_owned())
            }
            Err(error) => Health::Ended(format!("cannot read {SYSFS}: {error}")),
        }
    }

    fn stop(&mut self) {
        self.scheduler = None;
        self.tracing.clear();
    }

    fn counts(&self) -> Option<Counts> {
        Counts::read(&self.counts)
            .inspect_err(|error| tracing::warn!(%error, "the scheduler's counts are missing"))
            .ok()
    }

    fn verified_instructions(&self) -> Vec<(String, u32)> {
        crate::verifier::instructions(&self.object)
    }
}

//! What an instance is made of: its process type, or the release command that it runs once.

use holm_manifest::{HealthCheck, Manifest, Memory, Process, ProcessName, ReleaseCommand, StopPolicy};
use holm_model::id::InstanceName;
use holm_model::state::{Instance, State};

/// The part of a manifest that one kind of instance is made from.
pub(crate) enum Shape<'a> {
    Process(&'a Process),
    Task(&'a ReleaseCommand),
}

impl<'a> Shape<'a> {
    /// The shape of an instance, if its release is known.
    pub(crate) fn of(state: &'a State, name: &InstanceName, instance: &Instance) -> Option<Self> {
        let manifest = &state.release(&name.app, instance.release)?.manifest;
        Self::in_manifest(manifest, &name.process, instance.task)
    }

    fn in_manifest(manifest: &'a Manifest, process: &ProcessName, task: bool) -> Option<Self> {
        if task {
            return manifest.release.as_ref().map(Self::Task);
        }
        manifest.processes.get(process).map(Self::Process)
    }

    pub(crate) const fn memory(&self) -> Memory {
        match self {
            Self::Process(process) => process.memory,
            Self::Task(task) => task.memory,
        }
    }

    pub(crate) const fn cpu_millis(&self) -> u32 {
        match self {
            Self::Process(process) => process.cpu_millis,
            Self::Task(task) => task.cpu_millis,
        }
    }

    pub(crate) fn command(&self) -> Option<Vec<String>> {
        match self {
            Self::Process(process) => process.command.clone(),
            Self::Task(task) => Some(task.command.clone()),
        }
    }

    pub(crate) fn health(&self) -> Option<HealthCheck> {
        match self {
            Self::Process(process) => process.health.clone(),
            Self::Task(_) => None,
        }
    }

    pub(crate) fn stop(&self) -> StopPolicy {
        match self {
            Self::Process(process) => process.stop.clone(),
            // Nobody is connected to it.
            Self::Task(_) => StopPolicy { drain_ms: 0, ..StopPolicy::default() },
        }
    }
}

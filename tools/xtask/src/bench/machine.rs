//! What was measured on: the machine, and what else it was doing.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::command::{command, output};

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    /// Model of the processor.
    pub(super) processor: String,
    /// Processors this program may use.
    pub(super) cpus: usize,
    /// Memory, in MiB.
    pub(super) memory_mib: u64,
    /// Release of the host's kernel.
    pub(super) kernel: String,
    /// Version of QEMU, as it says it.
    pub(super) qemu: String,
    /// The load averages before anything was measured.
    pub(super) load_before: String,
}

/// Looks at the machine. What cannot be told is left empty.
pub(super) fn look() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory_kib: u64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
    let qemu = output(&mut command(Path::new("/"), "qemu-system-x86_64", &["--version"])).unwrap_or_default();
    let load = read("/proc/loadavg");
    Machine {
        processor: field(&read("/proc/cpuinfo"), "model name"),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: memory_kib / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        qemu: qemu.lines().next().unwrap_or_default().to_owned(),
        load_before: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    }
}

//! A host with 20 instances: how long `holm status` takes, and what memory the host process needs when nobody asks for
//! anything.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::installation::Installation;
use super::report::Measured;
use super::samples::Samples;
use crate::site::free_port;

/// Instances on the host.
const INSTANCES: u32 = 20;

/// The least memory an app can be given that the example runs in.
const MEMORY: &str = "32MiB";

/// Runs of `holm status` that are measured.
const RUNS: usize = 30;

/// Rest before memory is looked at, and between two looks.
const REST: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Looks at the memory.
const LOOKS: usize = 5;

/// What to measure on the one host.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    pub(super) status: bool,
    pub(super) memory: bool,
}

/// Measures.
pub(super) fn measure(what: What) -> Result<Vec<Measured>> {
    println!("status, memory: {INSTANCES} instances");
    let holm = Installation::start()?;
    let manifest = holm.hello_manifest("crowd", free_port()?, "1s", MEMORY, INSTANCES)?;
    let began = Instant::now();
    holm.site.ok(&["deploy", &holm.hello_image()?, "-f", &manifest])?;
    println!("  {INSTANCES} instances were healthy after {:.0} s", began.elapsed().as_secs_f64());
    let mut measured = Vec::new();
    // Memory first: before anybody has asked for the status again and again.
    if what.memory {
        measured.push(memory(&holm)?);
    }
    if what.status {
        measured.insert(0, status(&holm)?);
    }
    Ok(measured)
}

/// The wall time of the whole command, from its start to its end.
fn status(holm: &Installation) -> Result<Measured> {
    let mut samples = Samples::default();
    for _ in 0..RUNS {
        let mut command = holm.site.holm(&["status"]);
        let began = Instant::now();
        let ran = command.stderr(Stdio::null()).output()?;
        samples.0.push(began.elapsed().as_secs_f64() * 1e3);
        let shown = String::from_utf8_lossy(&ran.stdout);
        ensure!(
            ran.status.success() && shown.contains(&format!("{INSTANCES}/{INSTANCES}")),
            "unexpected status: {shown}"
        );
    }
    let (least, most) = samples.range();
    let how = format!("median of {RUNS} runs; p90 {:.1} ms ({least:.1} to {most:.1})", samples.quantile(0.9));
    Ok(Measured { name: "status-20", value: samples.median(), how, samples: [("wall_ms".to_owned(), samples)].into() })
}

fn memory(holm: &Installation) -> Result<Measured> {
    let host = holm.processes("holm")?;
    let [host] = host[..] else { anyhow::bail!("one host process was expected, not {host:?}") };
    let ingress = holm.site.ingresses()?;
    let [ingress] = ingress[..] else { anyhow::bail!("one ingress was expected, not {ingress:?}") };
    let machines = holm.processes("qemu-system-x86_64")?;
    ensure!(machines.len() == INSTANCES as usize, "{} microVMs run", machines.len());
    std::thread::park_timeout(REST);
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for _ in 0..LOOKS {
        let mut add = |name: &str, value| samples.entry(name.to_owned()).or_default().0.push(value);
        add("host_resident_mib", mapped(host, "Rss")? + mapped(ingress, "Rss")?);
        add("host_proportional_mib", mapped(host, "Pss")? + mapped(ingress, "Pss")?);
        for machine in &machines {
            add("microvm_proportional_mib", mapped(*machine, "Pss")?);
        }
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
    let median = |name: &str| samples.get(name).map_or(f64::NAN, Samples::median);
    let how = format!(
        "resident sets of Holm and its ingress, {LOOKS} looks after {} s of rest; proportional {:.1} MiB; beside it each QEMU {:.0} MiB proportional",
        REST.as_secs(),
        median("host_proportional_mib"),
        median("microvm_proportional_mib"),
    );
    Ok(Measured { name: "memory-20", value: median("host_resident_mib"), how, samples })
}

/// A sum over everything that the process `pid` has mapped, in MiB.
fn mapped(pid: u32, what: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("process {pid} has no {what}"))? / 1024.0)
}

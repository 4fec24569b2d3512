//! Boots that must work: every number of processors, little and much memory, other processors and firmware. And boots that
//! must not, and must say why.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::build::Built;
use super::check::Outcome;
use super::qemu::{CANNOT_BOOT, Machine};
use crate::workspace::target;

/// The first line of the first program.
pub(crate) const FIRST_LINE: &str = "init: ready";
/// A boot takes less than a second; on a loaded machine it may wait for its turn.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Makes the boots and notes what came of them.
///
/// # Errors
/// When QEMU cannot be started, or a file not be written.
pub(super) fn check(built: &Built, outcome: &mut Outcome) -> Result<()> {
    let usual = || Machine::of(built);
    for cpus in 1..=8 {
        outcome.note(&format!("boot with {cpus} processors"), comes_up(&Machine { cpus, ..usual() }));
    }
    for (memory_mib, cpus) in [(16, 8), (8192, 1)] {
        let name = format!("boot with {memory_mib} MiB and {cpus} processors");
        outcome.note(&name, comes_up(&Machine { memory_mib, cpus, ..usual() }));
    }
    outcome.note("boot on a plain processor", comes_up(&Machine { processor: "qemu64", cpus: 2, ..usual() }));
    outcome.note("boot with ACPI tables", comes_up(&Machine { acpi: true, cpus: 3, ..usual() }));
    outcome.note("boot with counted instructions", comes_up(&Machine { count: true, ..usual() }));

    outcome.note("a missing boot archive is named", says(&Machine { archive: None, ..usual() }, "boot archive"));
    let whole = fs::read(&built.archive).context("cannot read the boot archive")?;
    let folder = target().join("holm-kernel/damaged");
    fs::create_dir_all(&folder)?;
    for (name, content) in damaged(&whole) {
        let file = folder.join(name.replace(' ', "-"));
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        outcome.note(
            &format!("a boot archive {name} is named"),
            says(&Machine { archive: Some(file), ..usual() }, "boot archive"),
        );
    }
    Ok(())
}

/// Boot archives that are none.
fn damaged(whole: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    let mut magic = whole.to_vec();
    magic[0] = b'x';
    let mut number = whole.to_vec();
    number[60] = b'!';
    [
        ("that ends too early", whole[..whole.len() / 2].to_vec()),
        ("of other bytes", b"this is a text, not an archive\n".repeat(100)),
        ("with a wrong magic", magic),
        ("with a wrong number", number),
    ]
}

/// The machine must get to the first line of init, with all its processors.
fn comes_up(machine: &Machine) -> Result<()> {
    let ended = machine.run(Some(FIRST_LINE), LIMIT)?;
    if ended.reached.is_none() {
        bail!("`{FIRST_LINE}` did not come:\n{}", ended.console);
    }
    let all = format!("{0} of {0} processors", machine.cpus);
    ensure!(ended.console.contains(&all), "not {all}:\n{}", ended.console);
    Ok(())
}

/// The machine must say that it cannot boot, for a reason that names `what`, and end.
fn says(machine: &Machine, what: &str) -> Result<()> {
    let ended = machine.run(None, LIMIT)?;
    let said = ended.console.lines().any(|line| line.starts_with("holm: cannot boot: ") && line.contains(what));
    ensure!(
        said && ended.status == Some(CANNOT_BOOT),
        "it ended with {:?} (not {CANNOT_BOOT}), or does not say `holm: cannot boot: … {what} …`:\n{}",
        ended.status,
        ended.console
    );
    ensure!(ended.console.contains("hint: "), "it does not say what to do:\n{}", ended.console);
    Ok(())
}

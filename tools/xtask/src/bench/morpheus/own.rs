//! What Morpheus costs: a checkpoint in Rust and in Python, and threads that are no workers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::agent::Agent;
use super::pairs::told;
use super::{build, release};
use crate::bench::report::Measured;
use crate::bench::samples::Samples;
use crate::command::{command, output};
use crate::morpheus::python;

/// Checkpoints that are counted instruction by instruction.
const COUNTED: u64 = 1_000_000;

/// The checkpoint in Rust: its time, and its instructions where valgrind is there to count them.
pub(super) fn checkpoint(root: &Path) -> Result<Vec<Measured>> {
    build(root, &["--package", "morpheus", "--example", "checkpoint"])?;
    let text = output(&mut command(root, release("examples/checkpoint"), &[""; 0]))?;
    let row = |name: &str| row(&text, name).with_context(|| format!("the example does not tell of `{name}`"));
    let (empty, attached, written) = (row("empty loop")?, row("attached")?, row("attached, line written at 10 kHz")?);
    let mut measured = vec![Measured {
        name: "checkpoint",
        value: attached.1,
        how: format!(
            "median of 10001 loops of 20000, the loop's own {} ns included; best {} ns; with a remote writer at 10 kHz {} ns",
            empty.1, attached.0, written.1
        ),
        samples: BTreeMap::from([
            ("attached_best_median_ns".to_owned(), Samples(vec![attached.0, attached.1])),
            ("empty_best_median_ns".to_owned(), Samples(vec![empty.0, empty.1])),
            ("written_best_median_ns".to_owned(), Samples(vec![written.0, written.1])),
        ]),
    }];
    match instructions(root) {
        Ok(one) => measured.push(one),
        Err(error) => println!("instructions are not counted: {error:#}"),
    }
    Ok(measured)
}

/// Counts by callgrind, which needs no quiet machine: the difference of two lengths is free of what surrounds the loop.
fn instructions(root: &Path) -> Result<Measured> {
    let count = |mode: &str, rounds: u64| -> Result<f64> {
        let mut valgrind = command(root, "valgrind", &["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.arg(release("examples/checkpoint")).args([mode, &rounds.to_string()]);
        let done = valgrind.output().context("cannot start valgrind")?;
        let said = String::from_utf8_lossy(&done.stderr);
        let count = collected(&said).filter(|_| done.status.success());
        count.with_context(|| format!("valgrind ended with {} and no count of the whole: {said}", done.status))
    };
    let per_round =
        |mode: &str| Ok::<_, anyhow::Error>((count(mode, 2 * COUNTED)? - count(mode, COUNTED)?) / COUNTED as f64);
    let (with, without) = (per_round("loop")?, per_round("empty")?);
    Ok(Measured {
        name: "checkpoint_instructions",
        value: (with - without).round(),
        how: format!("callgrind: {with:.2} a round with the checkpoint, {without:.2} without"),
        samples: BTreeMap::from([("with_without_instructions".to_owned(), Samples(vec![with, without]))]),
    })
}

/// The number of callgrind's line `==7== Collected : 12345`.
fn collected(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("Collected : "))?;
    line.rsplit_once(": ")?.1.trim().parse().ok()
}

/// Best and median of the line that begins with exactly this name.
fn row(text: &str, name: &str) -> Option<(f64, f64)> {
    text.lines().find_map(|line| {
        let (best, median) = line.strip_prefix(name)?.trim().split_once(' ')?;
        Some((best.parse().ok()?, median.trim().parse().ok()?))
    })
}

/// The checkpoint in Python.
pub(super) fn python_checkpoint(root: &Path, quick: bool) -> Result<Measured> {
    let environment = python::installed()?;
    let agent = Agent::start()?;
    let mut script = command(root, environment.join("bin/python"), &["morpheus/python/bench/checkpoint.py"]);
    let text = output(script.arg(agent.socket()).arg(if quick { "50" } else { "1000" }))?;
    let samples: BTreeMap<String, Samples> = serde_json::from_str(&text)?;
    let arm = |name: &str| samples.get(name).with_context(|| format!("there is no arm `{name}`"));
    let empty = arm("empty")?;
    let net = |name: &str| Ok::<_, anyhow::Error>(arm(name)?.with(empty, |arm, empty| arm - empty));
    let checkpoint = net("checkpoint")?;
    Ok(Measured {
        name: "python_checkpoint",
        value: checkpoint.median(),
        how: format!(
            "median of {} loops of 10000, less an empty loop ({:.1} ns) of the same round; best loop {:.1} ns; noise (empty \
             against empty) {:.1} ns; hint_pending() {:.1} ns, memoryview compared in line {:.1} ns",
            empty.0.len(),
            empty.median(),
            arm("checkpoint")?.range().0 - empty.range().0,
            net("empty_again")?.median(),
            net("hint_pending")?.median(),
            net("memoryview_inlined")?.median(),
        ),
        samples: samples.into_iter().map(|(name, samples)| (name + "_ns", samples)).collect(),
    })
}

/// What each pair of the example `bystander` cost: wall time without and with the programs, CPU time without and with.
type Pairs = BTreeMap<String, Vec<[f64; 4]>>;

fn bystander(root: &Path, workload: &str, pairs: &str) -> Result<Pairs> {
    build(root, &["--package", "morpheus-agent", "--example", "bystander"])?;
    let agent = Agent::start()?;
    let mut example = command(root, release("examples/bystander"), &[""; 0]);
    let text = output(example.arg(agent.socket()).args([workload, pairs]))?;
    serde_json::from_str(&text).context("the example's pairs read differently")
}

/// One column against another, pair by pair.
fn column(pairs: &Pairs, arm: &str, of: impl Fn(&[f64; 4]) -> f64) -> Result<Samples> {
    Ok(pairs.get(arm).with_context(|| format!("there is no arm `{arm}`"))?.iter().map(of).collect())
}

fn raw(pairs: &Pairs, unit: &str) -> Result<BTreeMap<String, Samples>> {
    let mut samples = BTreeMap::new();
    for arm in pairs.keys() {
        for (index, what) in ["wall_off", "wall_on", "cpu_off", "cpu_on"].into_iter().enumerate() {
            samples.insert(format!("{arm}_{what}_{unit}"), column(pairs, arm, |pair| pair[index])?);
        }
    }
    Ok(samples)
}

/// A wake-up and a switch to another thread, of threads that are no workers.
pub(super) fn switch_cost(root: &Path, quick: bool) -> Result<Measured> {
    let pairs = bystander(root, "pipe", if quick { "10" } else { "200" })?;
    let cpu = |pair: &[f64; 4]| pair[3] - pair[2];
    let (attached, noise) = (column(&pairs, "attached", cpu)?, column(&pairs, "noise", cpu)?);
    Ok(Measured {
        name: "switch_cost",
        value: attached.median(),
        how: format!(
            "pipe ping-pong on one CPU, a wake-up in each switch of {:.0} ns; CPU time, {} pairs: quartiles {:+.0} to {:+.0} ns; \
             noise {:+.0} ns ({:+.0} to {:+.0})",
            column(&pairs, "attached", |pair| pair[2])?.median(),
            attached.0.len(),
            attached.quantile(0.25),
            attached.quantile(0.75),
            noise.median(),
            noise.quantile(0.25),
            noise.quantile(0.75),
        ),
        samples: raw(&pairs, "ns")?,
    })
}

/// What hackbench does, with the programs attached and without.
pub(super) fn hackbench(root: &Path, quick: bool) -> Result<Measured> {
    let pairs = bystander(root, "crowd", if quick { "6" } else { "60" })?;
    let wall = |pair: &[f64; 4]| pair[1] / pair[0];
    let (attached, noise) = (column(&pairs, "attached", wall)?, column(&pairs, "noise", wall)?);
    let cpu = column(&pairs, "attached", |pair| pair[3] / pair[2])?;
    Ok(Measured {
        name: "hackbench",
        value: (attached.median() - 1.0) * 100.0,
        how: format!(
            "20 senders, 20 receivers, 40000 messages in {:.0} ms; wall time with over without: {}; noise {}; CPU time {:+.1} %",
            column(&pairs, "attached", |pair| pair[0])?.median(),
            told(&attached),
            told(&noise),
            (cpu.median() - 1.0) * 100.0,
        ),
        samples: raw(&pairs, "ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_examples_print_is_read() {
        let text = "empty loop                           0.30   0.31\n\
                    attached                             0.62   0.71\n\
                    attached, line written at 10 kHz     0.65   0.75\n";
        assert_eq!(row(text, "attached"), Some((0.62, 0.71)));
        assert_eq!(row(text, "attached, line written at 10 kHz"), Some((0.65, 0.75)));
        assert_eq!(row(text, "no worker"), None);
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 3070707\n==7==\n"), Some(3_070_707.0));
        assert_eq!(collected("==7== no such file\n"), None);
    }

    #[test]
    fn pairs_are_read_column_by_column() {
        let pairs: Pairs = serde_json::from_str(r#"{"attached": [[1.0, 2.0, 3.0, 4.0]], "noise": []}"#).unwrap();
        assert_eq!(column(&pairs, "attached", |pair| pair[1] - pair[0]).unwrap().0, [1.0]);
        assert!(column(&pairs, "ours", |pair| pair[0]).is_err());
        assert_eq!(raw(&pairs, "ns").unwrap()["attached_cpu_on_ns"].0, [4.0]);
    }
}

//! What hints are worth: to a neighbour on the worker's CPU, to the requests of a server, to an asyncio loop; and that an
//! idle machine gets none.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::agent::{Agent, Server, competitor};
use super::load::{self, Connection, Numbers};
use super::pairs::{Arms, order, told};
use super::{build, release};
use crate::bench::report::Measured;
use crate::bench::samples::Samples;
use crate::command::{command, output};
use crate::morpheus::python;

/// The window of a server's arm.
const WINDOW: Duration = Duration::from_secs(6);
/// Work between two safe points of the asyncio server: some 0.1 µs.
const CHUNK: &str = "2";

fn arms_of(samples: impl Iterator<Item = (String, Samples)>) -> BTreeMap<String, Samples> {
    samples.collect()
}

/// How late a neighbour wakes, and what the worker gets done.
pub(super) fn neighbour(root: &Path, quick: bool) -> Result<Vec<Measured>> {
    build(root, &["--package", "morpheus-agent", "--example", "neighbour"])?;
    let agent = Agent::start()?;
    let mut example = command(root, release("examples/neighbour"), &[""; 0]);
    let text = output(example.arg(agent.socket()).arg(if quick { "2" } else { "12" }))?;
    let windows: BTreeMap<String, Vec<[f64; 4]>> = serde_json::from_str(&text)?;
    let (mut p99, mut work) = (Arms::default(), Arms::default());
    for (arm, windows) in &windows {
        for [_, late, _, done] in windows {
            p99.add(arm, *late);
            work.add(arm, *done);
        }
    }
    let late = |arm: &str| Ok::<_, anyhow::Error>(p99.of(arm)?.median());
    let against_ignored = p99.ratios("ignore", "hint")?;
    let against_slice = p99.ratios("slice", "hint")?;
    let share = work.ratios("hint", "ignore")?;
    let how = format!(
        "hints {}; median p99 {:.0} \u{b5}s ignored, {:.0} hinted, {:.0} with the slice, {:.0} always yielding (at {:.2} \u{d7} the \
         work), {:.0} stub; noise {}",
        told(&against_ignored),
        late("ignore")?,
        late("hint")?,
        late("slice")?,
        late("always")?,
        work.ratios("always", "ignore")?.median(),
        late("stub")?,
        told(&p99.ratios("ignore", "again")?),
    );
    let work_how = format!("hints {}; noise {}", told(&share), told(&work.ratios("again", "ignore")?));
    let slice_how =
        format!("{}; the slice against ignored hints {}", told(&against_slice), told(&p99.ratios("ignore", "slice")?));
    let (better, slice, throughput) = (against_ignored.median(), against_slice.median(), share.median());
    Ok(vec![
        Measured { name: "neighbour", value: better, how, samples: arms_of(p99.raw("p99_us")) },
        Measured {
            name: "neighbour_throughput",
            value: throughput,
            how: work_how,
            samples: arms_of(work.raw("per_second")),
        },
        Measured { name: "neighbour_slice", value: slice, how: slice_how, samples: BTreeMap::new() },
    ])
}

/// Hints on a machine with a busy worker on each CPU.
pub(super) fn idle(root: &Path, quick: bool) -> Result<Measured> {
    build(root, &["--package", "morpheus-agent", "--example", "neighbour"])?;
    let agent = Agent::start()?;
    let seconds = if quick { "5" } else { "60" };
    let mut example = command(root, release("examples/neighbour"), &[""; 0]);
    let text = output(example.arg(agent.socket()).args(["idle", seconds]))?;
    let told: BTreeMap<String, Vec<[f64; 3]>> = serde_json::from_str(&text)?;
    let workers = told.get("idle").context("the example does not tell of idle")?;
    let sum = |index: usize| workers.iter().map(|worker| worker[index]).sum::<f64>();
    Ok(Measured {
        name: "idle",
        value: sum(0),
        how: format!(
            "{} workers, {seconds} s; they lost the CPU {:.0} times and waited {:.1} ms for it: with much of that the machine was \
             not idle",
            workers.len(),
            sum(1),
            sum(2)
        ),
        samples: BTreeMap::from([
            ("hints".to_owned(), workers.iter().map(|worker| worker[0]).collect()),
            ("lost".to_owned(), workers.iter().map(|worker| worker[1]).collect()),
            ("waited_ms".to_owned(), workers.iter().map(|worker| worker[2]).collect()),
        ]),
    })
}

/// How the axum server's CPU is wanted twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowd {
    /// One worker, and another process that computes.
    Process,
    /// Two workers.
    Workers,
}

/// The axum server under open-loop load, on one CPU that is wanted twice.
pub(super) fn axum(root: &Path, crowd: Crowd, quick: bool) -> Result<Vec<Measured>> {
    const ARMS: [&str; 4] = ["none", "consume-budget", "morpheus", "stub"];
    build(root, &["--package", "morpheus-tokio", "--example", "axum"])?;
    let agent = Agent::start()?;
    let program = release("examples/axum");
    let (workers, rate, names) = match crowd {
        // The server has half a CPU, and 60 % of that are asked of it: 2.8 ms in the mean, by a request.
        Crowd::Process => ("1", 0.3 / 0.0028, ["axum_none", "axum_budget", "axum_goodput"]),
        Crowd::Workers => ("2", 0.6 / 0.0028, ["axum_workers_none", "axum_workers_budget", "axum_workers_goodput"]),
    };
    let start = |arm: &str, iterations: &str| {
        let arguments = ["--port", "0", "--workers", workers, "--yields", arm, "--iterations-per-ms", iterations];
        Server::start(&program, if iterations.is_empty() { &arguments[..6] } else { &arguments }, agent.socket())
    };
    // The same work for all, as measured once.
    let said = start("none", "")?.said;
    let iterations = said.split(' ').rev().nth(3).context("the server does not tell its speed")?.to_owned();
    let servers = ARMS.iter().map(|arm| start(arm, &iterations)).collect::<Result<Vec<_>>>()?;
    let _competitor = if crowd == Crowd::Process { Some(competitor()?) } else { None };
    let (mut short, mut all, mut goodput) = (Arms::default(), Arms::default(), Arms::default());
    for round in 0..if quick { 1 } else { 8 } {
        // Each round has its own requests, the same ones for all arms.
        let requests = load::plan(&mut Numbers::new(round as u64 + 1), rate, WINDOW);
        let arms: Vec<_> = ARMS.iter().zip(&servers).collect();
        for (arm, server) in order(&arms, round) {
            let outcome = load::open_loop(server.address, &requests)?;
            let answered = outcome.all_ms.len() as f64;
            short.add(arm, Samples(outcome.short_ms).quantile(0.99));
            all.add(arm, Samples(outcome.all_ms).quantile(0.99));
            goodput.add(arm, answered / outcome.took.as_secs_f64());
        }
    }
    let ours = |other: &str, arms: &Arms| arms.ratios(other, "morpheus");
    let how = |other: &str| -> Result<String> {
        Ok(format!(
            "p99 of short requests {}; medians {:.1} ms against {:.1}; of all requests {}; stub {:.1} ms",
            told(&ours(other, &short)?),
            short.of("morpheus")?.median(),
            short.of(other)?.median(),
            told(&ours(other, &all)?),
            short.of("stub")?.median(),
        ))
    };
    let (none, budget) = (how("none")?, how("consume-budget")?);
    let against_none = ours("none", &short)?.median();
    let against_budget = ours("consume-budget", &short)?.median();
    let share = goodput.ratios("morpheus", "none")?;
    let share_how = format!(
        "answers a second against no yields {}; {:.0} of {rate:.0} asked",
        told(&share),
        goodput.of("morpheus")?.median()
    );
    Ok(vec![
        Measured { name: names[0], value: against_none, how: none, samples: arms_of(short.raw("short_p99_ms")) },
        Measured { name: names[1], value: against_budget, how: budget, samples: arms_of(all.raw("all_p99_ms")) },
        Measured { name: names[2], value: share.median(), how: share_how, samples: arms_of(goodput.raw("per_second")) },
    ])
}

/// The asyncio server with handlers that compute, beside another process that does.
pub(super) fn asyncio(root: &Path, quick: bool) -> Result<Vec<Measured>> {
    const ARMS: [&str; 4] = ["none", "always", "morpheus", "stub"];
    let interpreter = python::installed()?.join("bin/python");
    let script = root.join("morpheus/python/examples/asyncio_server.py");
    let script = script.to_str().context("the workspace's path is no text")?;
    let agent = Agent::start()?;
    let start = |arm: &&str| {
        Server::start(&interpreter, &[script, "--port", "0", "--yields", arm, "--chunk", CHUNK], agent.socket())
    };
    let servers = ARMS.iter().map(start).collect::<Result<Vec<_>>>()?;
    let _competitor = competitor()?;
    let (mut lag, mut chunks) = (Arms::default(), Arms::default());
    let window = if quick { Duration::from_secs(1) } else { Duration::from_secs(4) };
    for round in 0..if quick { 1 } else { 8 } {
        let arms: Vec<_> = ARMS.iter().zip(&servers).collect();
        for (arm, server) in order(&arms, round) {
            let mut connection = Connection::open(server.address)?;
            let mut stats = || -> Result<serde_json::Value> { Ok(serde_json::from_str(&connection.get("/stats")?)?) };
            let number = |stats: &serde_json::Value, name: &str| {
                stats[name].as_f64().with_context(|| format!("the server does not tell {name}"))
            };
            let (before, begin) = (stats()?, std::time::Instant::now());
            load::closed_loop(server.address, "/cpu?ms=20", 4, window)?;
            let took = begin.elapsed().as_secs_f64();
            let after = stats()?;
            lag.add(arm, number(&after, "lag_p99_ms")?);
            chunks.add(arm, (number(&after, "chunks")? - number(&before, "chunks")?) / took);
        }
    }
    let better = lag.ratios("none", "morpheus")?;
    let faster = chunks.ratios("morpheus", "always")?;
    let lag_how = format!(
        "p99 lag of a 5 ms timer, 4 requests of 20 ms at a time: {}; medians {:.1} ms against {:.1}; stub {:.1}, sleep(0) {:.1}",
        told(&better),
        lag.of("morpheus")?.median(),
        lag.of("none")?.median(),
        lag.of("stub")?.median(),
        lag.of("always")?.median(),
    );
    let work_how = format!(
        "items of {CHUNK} iterations a second, a safe point after each: {}; against none {}, stub against none {}",
        told(&faster),
        told(&chunks.ratios("morpheus", "none")?),
        told(&chunks.ratios("stub", "none")?),
    );
    Ok(vec![
        Measured { name: "asyncio_lag", value: better.median(), how: lag_how, samples: arms_of(lag.raw("p99_ms")) },
        Measured {
            name: "asyncio_throughput",
            value: faster.median(),
            how: work_how,
            samples: arms_of(chunks.raw("items_per_second")),
        },
    ])
}

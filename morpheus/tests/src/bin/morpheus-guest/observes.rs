//! Observe mode where nothing else runs: here a busy worker on every CPU is nobody's neighbour.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use morpheus::{Worker, WorkerConfig};
use morpheus_e2e::{IDLE, IDLE_SECONDS, IDLE_SECONDS_SHORT};

use crate::Stage;
use crate::agent::{Agent, socket};
use crate::threads::{OWN, SHARED, bind, work};

/// Until then the agent and this process are still at work for the registration.
const SETTLING: Duration = Duration::from_secs(2);
/// After so long of its own time a worker wants LOCAL, and how long it is watched.
const ROTATION: Duration = Duration::from_millis(5);
const ROTATING: Duration = Duration::from_secs(1);

/// Workers whose windows are over.
static THROUGH: AtomicU32 = AtomicU32::new(0);

/// What one worker saw in its window.
struct Seen {
    /// By their reasons.
    hints: BTreeMap<String, u64>,
    /// Times it lost the CPU: to the kernel's own threads, since there is nobody else.
    lost: u64,
}

pub(crate) fn nobody_is_hinted_for_others_on_an_idle_machine(stage: &mut Stage) -> Result<()> {
    ensure!(stage.agent.is_none(), "another agent is there");
    let seconds = std::env::var(IDLE_SECONDS).map_or(Ok(IDLE_SECONDS_SHORT), |text| text.parse())?;
    let _agent = Agent::observe()?;
    // This thread only waits for the ends of the two: to look at them would be to wait for their CPU.
    let workers = [OWN, SHARED].map(|cpu| std::thread::spawn(move || watched(cpu, Duration::from_secs(seconds))));
    let (mut hints, mut lost) = (BTreeMap::<String, u64>::new(), 0);
    for worker in workers {
        let seen = worker.join().map_err(|_| anyhow!("a worker panicked"))??;
        for (reason, count) in seen.hints {
            *hints.entry(reason).or_default() += count;
        }
        lost += seen.lost;
    }
    // LOCAL is for workers with tasks of their own.
    let local = hints.remove("Local").unwrap_or(0);
    let for_others: u64 = hints.values().sum();
    println!("{IDLE} {for_others} {local} {seconds} {lost}");
    // The first scenario: clients that lost an agent, which look for it now and then, come later. Still something may wake.
    ensure!(local == 0, "{local} LOCAL hints to workers without tasks");
    ensure!(for_others <= seconds / 5, "{hints:?} in {seconds} s; the workers lost their CPUs {lost} times");
    // One that has some is told of its own time by the same agent.
    let rotates = std::thread::spawn(|| -> Result<u64> {
        bind(None, OWN)?;
        let config = WorkerConfig::new("rotates").socket(socket()).rotates_after(ROTATION);
        let _worker = Worker::try_register(config).map_err(|why| anyhow!("cannot register: {why:?}"))?;
        Ok(computed(ROTATING).get("Local").copied().unwrap_or(0))
    });
    let told = rotates.join().map_err(|_| anyhow!("the worker panicked"))??;
    let most = ROTATING.as_millis().div_euclid(ROTATION.as_millis()) as u64;
    ensure!(told >= most / 4, "{told} hints of own time, of {most}");
    Ok(())
}

/// A worker that computes on this CPU, and yields at every hint; its window begins when all has settled.
fn watched(cpu: usize, window: Duration) -> Result<Seen> {
    bind(None, cpu)?;
    let config = WorkerConfig::new("idle").socket(socket());
    let _worker = Worker::try_register(config).map_err(|why| anyhow!("cannot register: {why:?}"))?;
    computed(SETTLING);
    let before = switches()?;
    let hints = computed(window);
    let lost = switches()? - before;
    // Whoever waits for this thread's end wakes on a CPU of the other one.
    THROUGH.fetch_add(1, Ordering::Relaxed);
    while THROUGH.load(Ordering::Relaxed) < 2 {
        work();
    }
    Ok(Seen { hints, lost })
}

/// Computes for this long; gives the hints taken.
fn computed(window: Duration) -> BTreeMap<String, u64> {
    let (begin, mut hints) = (Instant::now(), BTreeMap::new());
    while begin.elapsed() < window {
        work();
        if let Some(hint) = morpheus::take_hint() {
            morpheus::yield_for(&hint);
            *hints.entry(format!("{:?}", hint.reason)).or_default() += 1;
        }
    }
    hints
}

/// How often the calling thread lost its CPU.
fn switches() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let lost = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    Ok(lost.context("the kernel does not count switches")?.trim().parse()?)
}

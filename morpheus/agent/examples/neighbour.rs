//! What hints are worth to a neighbour: a worker computes on one CPU without an end, and another thread there wakes every
//! 3 ms and wants to know how late it was. Arms, in an order that is reversed each round: the worker *ignores* hints, takes
//! *hints*, or ignores them while the neighbour has a slice of 100 µs set by hand (`slice`).
//!
//! `morpheusd observe --socket S &  cargo run --release -p morpheus-agent --example neighbour -- S [ROUNDS]`
//!
//! With `idle SECONDS` in place of ROUNDS: no neighbour, one worker on each CPU, and the number of hints they got.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::{Duration, Instant};

use anyhow::Context;
use morpheus::{Worker, WorkerConfig};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const WINDOW: Duration = Duration::from_secs(2);
const PERIOD: Duration = Duration::from_millis(3);
const ARMS: [&str; 3] = ["ignore", "hint", "slice"];

/// Sets the calling thread's slice; 0 is the kernel's own choice.
fn set_slice(ns: u64) -> std::io::Result<()> {
    /// `struct sched_attr`, include/uapi/linux/sched/types.h.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let size = size_of::<Attributes>() as u32;
    let attributes =
        Attributes { size, policy: 0, flags: 0, nice: 0, priority: 0, runtime: ns, deadline: 0, period: 0 };
    // SAFETY: the attributes are a whole structure that says its own size and lives until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn one(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// A worker that computes without an end. `takes` says whether it takes hints at the moment.
fn worker(cpu: usize, socket: &str, takes: &Arc<AtomicU8>) -> (Arc<AtomicU64>, Arc<AtomicU64>) {
    let (done, taken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    std::thread::spawn({
        let (config, takes) = (WorkerConfig::new("computing").socket(socket), Arc::clone(takes));
        let (done, taken) = (Arc::clone(&done), Arc::clone(&taken));
        move || {
            sched_setaffinity(None, &one(cpu)).expect("a CPU of ours");
            let worker = Worker::register(config);
            let mut value = 1u64;
            loop {
                for _ in 0..2_000 {
                    value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
                done.fetch_add(1, Relaxed);
                if takes.load(Relaxed) == 1
                    && let Some(hint) = morpheus::take_hint()
                {
                    taken.fetch_add(1, Relaxed);
                    morpheus::yield_for(&hint);
                }
                if takes.load(Relaxed) == 2 {
                    drop(worker);
                    return;
                }
            }
        }
    });
    (done, taken)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let socket = arguments.first().context("usage: neighbour SOCKET [ROUNDS | idle SECONDS]")?;
    let mut out = std::io::stdout();
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let takes = Arc::new(AtomicU8::new(1));
    if arguments.get(1).is_some_and(|word| word == "idle") {
        let seconds: u64 = arguments.get(2).context("how many seconds?")?.parse()?;
        let workers: Vec<_> = cpus.iter().map(|cpu| worker(*cpu, socket, &takes)).collect();
        std::thread::park_timeout(Duration::from_secs(seconds));
        let taken: Vec<u64> = workers.iter().map(|(_, taken)| taken.load(Relaxed)).collect();
        writeln!(out, "hints in {seconds} s with a worker on each CPU: {taken:?}")?;
        return Ok(());
    }
    let rounds: usize = arguments.get(1).map_or(Ok(8), |rounds| rounds.parse())?;
    let (done, _) = worker(cpus[0], socket, &takes);
    sched_setaffinity(None, &one(cpus[0]))?;
    let mut results: [Vec<(f64, f64)>; 3] = Default::default();
    for round in 0..rounds {
        for step in 0..ARMS.len() {
            let arm = if round % 2 == 0 { step } else { ARMS.len() - 1 - step };
            takes.store(u8::from(arm == 1), Relaxed);
            set_slice(if arm == 2 { 100_000 } else { 0 })?;
            let (begin, before) = (Instant::now(), done.load(Relaxed));
            let mut late = Vec::new();
            let mut next = begin + PERIOD;
            while begin.elapsed() < WINDOW {
                std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
                late.push(next.elapsed().as_nanos() as f64 / 1e3);
                next = Instant::now() + PERIOD;
            }
            late.sort_by(f64::total_cmp);
            let p99 = late[late.len() * 99 / 100];
            let work = (done.load(Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
            results[arm].push((p99, work));
        }
    }
    takes.store(2, Relaxed);
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    for (arm, name) in ARMS.iter().enumerate() {
        let p99 = median(results[arm].iter().map(|(p99, _)| *p99).collect());
        let ratios: Vec<f64> = results[0].iter().zip(&results[arm]).map(|(base, this)| base.0 / this.0).collect();
        let won = ratios.iter().filter(|ratio| **ratio > 1.0).count();
        let work = median(results[0].iter().zip(&results[arm]).map(|(base, this)| this.1 / base.1).collect());
        writeln!(
            out,
            "{name:<7} p99 {p99:8.0} µs, paired {:.2} × better, won {won} of {rounds}, work {work:.3} ×",
            median(ratios)
        )?;
    }
    Ok(())
}

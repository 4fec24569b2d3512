//! What hints are worth to a neighbour: a worker computes on one CPU without an end, and another thread there wakes every
//! 3 ms and wants to know how late it was. Arms, in an order that is reversed each round:
//!
//! | arm | the worker, at each checkpoint |
//! | --- | --- |
//! | `ignore`, and `again`: the noise floor | looks at no hint |
//! | `stub` | takes the hint and does nothing |
//! | `hint` | takes the hint and yields |
//! | `slice` | looks at no hint, while the neighbour has a slice of 100 µs set by hand |
//! | `always` | yields, hint or not |
//!
//! `morpheusd observe --socket S &  cargo run --release -p morpheus-agent --example neighbour -- S [ROUNDS]` prints JSON:
//! for each arm its windows of 2 s `[p50 µs, p99 µs, most µs, work per second]`.
//!
//! With `idle SECONDS` in place of ROUNDS: no neighbour, one worker on each CPU; for each worker `[hints, times it lost the
//! CPU, ms it waited for it]`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::time::{Duration, Instant};

use anyhow::Context;
use morpheus::{Worker, WorkerConfig};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

const WINDOW: Duration = Duration::from_secs(2);
const PERIOD: Duration = Duration::from_millis(3);
const ARMS: [&str; 6] = ["ignore", "hint", "slice", "stub", "always", "again"];

/// What the worker does at a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Answer {
    Ignore,
    Take,
    TakeAndYield,
    Yield,
    End,
}

impl Answer {
    const ALL: [Self; 5] = [Self::Ignore, Self::Take, Self::TakeAndYield, Self::Yield, Self::End];

    fn of_arm(arm: &str) -> Self {
        match arm {
            "hint" => Self::TakeAndYield,
            "stub" => Self::Take,
            "always" => Self::Yield,
            _ => Self::Ignore,
        }
    }
}

/// What a worker tells while it computes.
#[derive(Default)]
struct Told {
    done: AtomicU64,
    taken: AtomicU64,
    tid: AtomicU64,
}

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

/// A worker that computes without an end, and answers hints as it is told at the moment.
fn worker(cpu: usize, socket: &str, answer: &Arc<AtomicU8>) -> Arc<Told> {
    let told = Arc::new(Told::default());
    std::thread::spawn({
        let (config, answer, told) =
            (WorkerConfig::new("computing").socket(socket), Arc::clone(answer), Arc::clone(&told));
        move || {
            sched_setaffinity(None, &one(cpu)).expect("a CPU of ours");
            told.tid.store(gettid().as_raw_nonzero().get() as u64, Relaxed);
            let _worker = Worker::register(config);
            let mut value = 1u64;
            loop {
                for _ in 0..2_000 {
                    value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
                told.done.fetch_add(1, Relaxed);
                let answer = Answer::ALL[usize::from(answer.load(Relaxed))];
                match answer {
                    Answer::Ignore => {}
                    Answer::Take | Answer::TakeAndYield => {
                        if let Some(hint) = morpheus::take_hint() {
                            told.taken.fetch_add(1, Relaxed);
                            if answer == Answer::TakeAndYield {
                                morpheus::yield_for(&hint);
                            }
                        }
                    }
                    Answer::Yield => {
                        morpheus::yield_thread();
                    }
                    Answer::End => return,
                }
            }
        }
    });
    told
}

/// How often a thread lost the CPU against its will, and ms it waited for one, by the kernel's accounts.
fn waits(tid: u64) -> anyhow::Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status"))?;
    let lost = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    let schedstat = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap_or_default();
    let waited: f64 = schedstat.split_whitespace().nth(1).map_or(Ok(f64::NAN), str::parse)?;
    Ok((lost.context("the kernel does not count switches")?.trim().parse()?, waited / 1e6))
}

/// One window: p50, p99 and most of how late the neighbour woke in µs, and the worker's work per second.
fn window(told: &Told) -> [f64; 4] {
    let (begin, before) = (Instant::now(), told.done.load(Relaxed));
    let mut late = Vec::new();
    let mut next = begin + PERIOD;
    while begin.elapsed() < WINDOW {
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        late.push(next.elapsed().as_nanos() as f64 / 1e3);
        next = Instant::now() + PERIOD;
    }
    late.sort_by(f64::total_cmp);
    let work = (told.done.load(Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
    [late[late.len() / 2], late[late.len() * 99 / 100], late[late.len() - 1], work]
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let socket = arguments.first().context("usage: neighbour SOCKET [ROUNDS | idle SECONDS]")?;
    let mut out = std::io::stdout();
    let allowed = sched_getaffinity(None)?;
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if arguments.get(1).is_some_and(|word| word == "idle") {
        let answer = Arc::new(AtomicU8::new(Answer::TakeAndYield as u8));
        let seconds: u64 = arguments.get(2).context("how many seconds?")?.parse()?;
        let workers: Vec<_> = cpus.iter().map(|cpu| worker(*cpu, socket, &answer)).collect();
        let end = Instant::now() + Duration::from_secs(seconds);
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        let mut told = Vec::new();
        for worker in &workers {
            let (lost, waited) = waits(worker.tid.load(Relaxed))?;
            told.push([worker.taken.load(Relaxed) as f64, lost, waited]);
        }
        writeln!(out, "{}", serde_json::json!({ "idle": told }))?;
        return Ok(());
    }
    let rounds: usize = arguments.get(1).map_or(Ok(8), |rounds| rounds.parse())?;
    let answer = Arc::new(AtomicU8::new(Answer::Ignore as u8));
    let told = worker(cpus[0], socket, &answer);
    sched_setaffinity(None, &one(cpus[0]))?;
    let mut windows: [Vec<[f64; 4]>; ARMS.len()] = Default::default();
    for round in 0..rounds {
        for step in 0..ARMS.len() {
            let arm = if round % 2 == 0 { step } else { ARMS.len() - 1 - step };
            answer.store(Answer::of_arm(ARMS[arm]) as u8, Relaxed);
            set_slice(if ARMS[arm] == "slice" { 100_000 } else { 0 })?;
            windows[arm].push(window(&told));
        }
    }
    answer.store(Answer::End as u8, Relaxed);
    let arms: serde_json::Map<_, _> =
        ARMS.iter().zip(windows).map(|(arm, windows)| ((*arm).to_owned(), serde_json::json!(windows))).collect();
    writeln!(out, "{}", serde_json::Value::Object(arms))?;
    Ok(())
}

//! What a checkpoint costs, attached and without a hint: `cargo run --release -p morpheus --example checkpoint`.
//!
//! Prints the best and the median of many timed loops in ns per checkpoint, beside a loop without one, for a thread that
//! is no worker, for a worker, and for a worker whose kernel line another thread writes to at about 10 kHz. The hints come
//! from the tests' agent over a real socket; the pages are shared memory as with the real one. With an argument
//! `loop <count>` it only runs that many checkpoints, to have their instructions counted: on a thread that is no worker,
//! where they are the same ones; `empty <count>` runs the loop without them.

use std::hint::black_box;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use morpheus::{Worker, WorkerConfig, hint_pending};
use morpheus_fake_agent::FakeAgent;

/// Some 20 µs, so that most loops run through without an interruption.
const LOOP: u64 = 20_000;
const REPEATS: usize = 10_001;

#[inline(never)]
fn checkpoints(count: u64) -> u64 {
    let mut hints = 0;
    for index in 0..count {
        black_box(index);
        if hint_pending() {
            hints += 1;
        }
    }
    hints
}

#[inline(never)]
fn nothing(count: u64) -> u64 {
    for index in 0..count {
        black_box(index);
    }
    0
}

/// Best and median ns per round.
fn time(work: fn(u64) -> u64) -> (f64, f64) {
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            black_box(work(LOOP));
            start.elapsed().as_secs_f64() * 1e9 / LOOP as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[REPEATS / 2])
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout();
    if let [mode, count] = &arguments[..] {
        let count = count.parse().map_err(std::io::Error::other)?;
        let hints = if mode == "empty" { nothing(count) } else { checkpoints(count) };
        return writeln!(out, "{hints} hints");
    }
    let agent = FakeAgent::start();
    let config = WorkerConfig::new("checkpoint").socket(agent.socket());
    let mut line = |what: &str, (best, median): (f64, f64)| writeln!(out, "{what:<34} {best:6.2} {median:6.2}");
    line("empty loop", time(nothing))?;
    line("no worker", time(checkpoints))?;
    let worker = Worker::register(config);
    let seat = agent.running("checkpoint");
    assert!(worker.is_attached());
    line("attached", time(checkpoints))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                agent.measured(&seat, 1, 1, 1);
                std::thread::park_timeout(Duration::from_micros(50));
            }
        });
        let result = line("attached, line written at 10 kHz", time(checkpoints));
        stop.store(true, Ordering::Relaxed);
        result
    })
}

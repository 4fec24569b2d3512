//! An HTTP server with a short route and one that computes, to see what hints are worth: `cargo run --release -p
//! morpheus-tokio --example axum`.
//!
//! `GET /short` answers at once. `GET /cpu?us=20000` computes for that many µs of CPU time's worth of work (measured at
//! the start, so that the work is the same however often the thread is interrupted) with a safe point about every 20 µs.
//! `GET /stats` tells, as JSON, how often safe points were passed and gave way. `--yields` says what a safe point does:
//!
//! | arm | a safe point |
//! | --- | --- |
//! | `none` | is none |
//! | `consume-budget` | `tokio::task::consume_budget().await` |
//! | `always` | `tokio::task::yield_now().await` |
//! | `stub` | `morpheus_tokio::checkpoint().await` on threads that never register: its cost without its effect |
//! | `morpheus` | the same with the threads registered, and every response behind the layer |
//!
//! It works with and without an agent; one that comes later is found.

use std::hint::black_box;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use clap::{Parser, ValueEnum};
use morpheus_tokio::CooperativeLayer;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// The longest computation a request may ask for.
const LONGEST: Duration = Duration::from_secs(1);
/// The work between two safe points.
const CHUNK: Duration = Duration::from_micros(20);

/// An HTTP server whose computing route has safe points.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "::1")]
    address: IpAddr,
    /// The port; 0 for any.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Worker threads of the runtime; as many as CPUs if not given.
    #[arg(long)]
    workers: Option<NonZeroUsize>,
    /// What a safe point does.
    #[arg(long, value_enum, default_value_t = Yields::Morpheus)]
    yields: Yields,
    /// The same as `--yields none`.
    #[arg(long, conflicts_with = "yields")]
    no_checkpoints: bool,
    /// Iterations of the work per ms, instead of measuring it: the same for all arms of a comparison.
    #[arg(long)]
    iterations_per_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Yields {
    None,
    ConsumeBudget,
    Always,
    Stub,
    Morpheus,
}

/// What the routes share.
struct Server {
    yields: Yields,
    iterations_per_chunk: u64,
    safe_points: AtomicU64,
    gave_way: AtomicU64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let yields = if arguments.no_checkpoints { Yields::None } else { arguments.yields };
    let iterations_per_ms = arguments.iterations_per_ms.unwrap_or_else(iterations_per_ms);
    let server = Arc::new(Server {
        yields,
        iterations_per_chunk: (iterations_per_ms * CHUNK.as_micros() as u64 / 1000).max(1),
        safe_points: AtomicU64::new(0),
        gave_way: AtomicU64::new(0),
    });
    let mut builder = Builder::new_multi_thread();
    if let Some(workers) = arguments.workers {
        builder.worker_threads(workers.get());
    }
    if yields == Yields::Morpheus {
        morpheus_tokio::install(&mut builder);
    }
    let runtime = builder.enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(serve(server, SocketAddr::new(arguments.address, arguments.port), iterations_per_ms))
}

async fn serve(server: Arc<Server>, address: SocketAddr, iterations_per_ms: u64) -> anyhow::Result<()> {
    let routes =
        Router::new().route("/short", get(async || "short\n")).route("/cpu", get(cpu)).route("/stats", get(stats));
    let routes = if server.yields == Yields::Morpheus { routes.layer(CooperativeLayer::new()) } else { routes };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address}"))?;
    writeln!(
        std::io::stdout(),
        "listening at http://{}, {iterations_per_ms} iterations per ms",
        listener.local_addr()?
    )?;
    // On a worker: what runs in `block_on` itself runs on the main thread, which is none.
    let serving = tokio::spawn(async move { axum::serve(listener, routes.with_state(server)).await });
    tokio::select! {
        served = serving => served?.context("cannot serve"),
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for ctrl-c"),
    }
}

#[derive(serde::Deserialize)]
struct Work {
    #[serde(default = "default_us")]
    us: u64,
}

fn default_us() -> u64 {
    20_000
}

async fn cpu(State(server): State<Arc<Server>>, Query(work): Query<Work>) -> String {
    let chunks = Duration::from_micros(work.us).min(LONGEST).as_micros() / CHUNK.as_micros();
    let mut value = 1;
    let mut gave_way = 0;
    for _ in 0..chunks {
        value = compute(value, server.iterations_per_chunk);
        gave_way += u64::from(server.safe_point().await);
    }
    server.safe_points.fetch_add(chunks as u64, Ordering::Relaxed);
    server.gave_way.fetch_add(gave_way, Ordering::Relaxed);
    format!("{value:016x}\n")
}

async fn stats(State(server): State<Arc<Server>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({
        "safe_points": server.safe_points.load(Ordering::Relaxed),
        "gave_way": server.gave_way.load(Ordering::Relaxed),
    }))
}

impl Server {
    /// Passes a safe point. Whether the task or the thread gave way there, as far as the arm can tell.
    async fn safe_point(&self) -> bool {
        match self.yields {
            Yields::None => false,
            Yields::ConsumeBudget => {
                let spent = !tokio::task::coop::has_budget_remaining();
                tokio::task::consume_budget().await;
                spent
            }
            Yields::Always => {
                tokio::task::yield_now().await;
                true
            }
            Yields::Stub | Yields::Morpheus => {
                let asked = morpheus::hint_pending();
                morpheus_tokio::checkpoint().await;
                asked
            }
        }
    }
}

/// A chain of multiplications no compiler can shorten.
#[inline(never)]
fn compute(mut value: u64, iterations: u64) -> u64 {
    for _ in 0..iterations {
        value = black_box(value).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    value
}

/// How much of [`compute`] this machine does in a ms when it is not interrupted: the best of many tries.
fn iterations_per_ms() -> u64 {
    const TRY: u64 = 100_000;
    let best = (0..50)
        .map(|_| {
            let start = Instant::now();
            black_box(compute(1, TRY));
            start.elapsed().as_nanos().max(1) as u64
        })
        .min()
        .unwrap_or(1);
    TRY * 1_000_000 / best
}

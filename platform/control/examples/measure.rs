//! Measures the log on this machine: `fill FOLDER` measures acknowledged appends, one at a time and many at once, and leaves
//! a long log; `open FOLDER` measures the start with it. Both print one line of JSON and then append until they are killed:
//! what is opened next was left by a process that died in the middle of its work.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program that ends at the first fault")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use holm_control::{Command, Control, FetchError, FetchedImage, Images, Meta, Options, ProgressSink};
use holm_manifest::{Manifest, Memory, Process, ProcessName, Route, RouteMatch};
use holm_model::id::{AppKey, Digest};

struct Known;

impl Images for Known {
    fn fetch<'a>(&'a self, name: &'a str, _: ProgressSink) -> BoxFuture<'a, Result<FetchedImage, FetchError>> {
        let digest = Digest::of(name.as_bytes());
        Box::pin(async move { Ok(FetchedImage { reference: format!("{name}@{digest}"), digest }) })
    }
}

const APPS: u16 = 50;
const EVENTS: u64 = 100_000;

fn key(n: u16) -> AppKey {
    format!("app-{n}").parse().unwrap()
}

fn deploy(n: u16) -> Command {
    let process = Process { cpu_millis: 500, instances: 2, ..Process::new(Memory::from_mib(128)) };
    let manifest = Manifest {
        // A registry that is not there: whoever tries to run this folder's apps asks nobody else for them.
        image: Some("localhost:1/image".to_owned()),
        ..Manifest::new(key(n).app, [(ProcessName::new("web").unwrap(), process)].into())
    };
    Command::Deploy { app: key(n), image: None, manifest: Box::new(manifest) }
}

/// One event each: a route that comes and goes.
fn toggle(n: u16, i: u64) -> Command {
    let on = RouteMatch::TcpPort(10_000 + n);
    if i.is_multiple_of(2) {
        let route = Route { on, process: ProcessName::new("web").unwrap(), port: 80, proxy_protocol: false };
        Command::RouteAdd { app: key(n), route }
    } else {
        Command::RouteRemove { app: key(n), on }
    }
}

async fn open(folder: &Path) -> Control {
    Control::open(folder, Arc::new(Known), Options::default()).await.unwrap()
}

/// Appends from every app at once, each waiting for its own, `each` times or without end.
async fn append(control: &Control, each: u64) {
    let asking = (0..APPS).map(|n| {
        let control = control.clone();
        tokio::spawn(async move {
            for i in 0..each {
                // Refused where a kill came between a route and its end; the next one fits again.
                let _ = control.submit(toggle(n, i), Meta::new("measure")).await;
            }
        })
    });
    join_all(asking).await;
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn fill(folder: &Path) {
    let control = open(folder).await;
    for n in 0..APPS {
        control.submit(deploy(n), Meta::new("measure")).await.unwrap();
    }
    let mut changes = control.changes();
    changes.wait_for(|_| control.state().instances.len() == 2 * usize::from(APPS)).await.unwrap();

    let mut times = Vec::new();
    for i in 0..1000 {
        let begin = Instant::now();
        control.submit(toggle(0, i), Meta::new("measure")).await.unwrap();
        times.push(begin.elapsed());
    }
    times.sort();

    let (from, begin) = (control.state().seq.0, Instant::now());
    append(&control, EVENTS / u64::from(APPS)).await;
    let appended = control.state().seq.0 - from;
    assert!(appended >= EVENTS, "only {appended} of {EVENTS} were appended");
    let figures = serde_json::json!({
        "append_p50_ms": ms(times[500]),
        "append_p99_ms": ms(times[990]),
        "append_per_s": appended as f64 / begin.elapsed().as_secs_f64(),
    });
    println!("{figures}");
    append(&control, u64::MAX).await;
}

async fn reopen(folder: &Path) {
    let mib =
        |name: &str| std::fs::metadata(folder.join(name)).map_or(0.0, |file| file.len() as f64 / f64::from(1 << 20));
    let (database, unfolded) = (mib("holm.db"), mib("holm.db-wal"));
    let begin = Instant::now();
    let control = open(folder).await;
    let opened = begin.elapsed();
    let begin = Instant::now();
    let verified = control.verify().await.unwrap();
    let verifying = begin.elapsed();
    assert_eq!(verified.differing, [""; 0]);
    let figures = serde_json::json!({
        "open_ms": ms(opened),
        "verify_ms": ms(verifying),
        "events": verified.seq.0,
        "documents": verified.documents,
        "mib": database,
        "wal_mib": unfolded,
    });
    println!("{figures}");
    append(&control, u64::MAX).await;
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", folder] => fill(&PathBuf::from(folder)).await,
        ["open", folder] => reopen(&PathBuf::from(folder)).await,
        _ => panic!("usage: measure fill|open FOLDER"),
    }
}

//! Measures the log on this machine: acknowledged appends, one at a time and many at once, and the start with a long log.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program that ends at the first fault")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use holm_control::{Command, Control, FetchError, FetchedImage, Images, Meta, Options, ProgressSink};
use holm_manifest::{AppName, Manifest, Memory, Process, ProcessName, Route, RouteMatch, StopPolicy};
use holm_model::id::{AppKey, Digest};

struct Known;

impl Images for Known {
    fn fetch<'a>(&'a self, name: &'a str, _: ProgressSink) -> BoxFuture<'a, Result<FetchedImage, FetchError>> {
        let digest = Digest::of(name.as_bytes());
        Box::pin(async move { Ok(FetchedImage { digest, reference: name.to_owned() }) })
    }
}

const APPS: u16 = 50;
const EVENTS: u64 = 100_000;

fn key(n: u16) -> AppKey {
    format!("app-{n}").parse().unwrap()
}

fn deploy(n: u16) -> Command {
    let process = Process {
        command: None,
        cpu_millis: 500,
        memory: Memory::from_mib(128),
        instances: 2,
        health: None,
        stop: StopPolicy::default(),
        restart: Default::default(),
        mounts: Default::default(),
    };
    let manifest = Manifest {
        app: AppName::new(format!("app-{n}")).unwrap(),
        image: Some("image".to_owned()),
        processes: [(ProcessName::new("web").unwrap(), process)].into(),
        strategy: Default::default(),
        release: None,
        volumes: Default::default(),
        routes: Vec::new(),
        config: Default::default(),
        secrets: Default::default(),
        ingress: Default::default(),
        environments: Default::default(),
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

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let open = || Control::open(dir.path(), Arc::new(Known), Options::default());
    let control = open().await.unwrap();
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
    let (p50, p99) = (times[500], times[990]);

    let (from, begin) = (control.state().seq.0, Instant::now());
    let asking = (0..APPS).map(|n| {
        let control = control.clone();
        tokio::spawn(async move {
            for i in 0..EVENTS / u64::from(APPS) {
                control.submit(toggle(n, i), Meta::new("measure")).await.unwrap();
            }
        })
    });
    join_all(asking).await;
    let per_s = (control.state().seq.0 - from) as f64 / begin.elapsed().as_secs_f64();
    control.close().await;

    let mib = std::fs::metadata(dir.path().join("holm.db")).unwrap().len() >> 20;
    let begin = Instant::now();
    let control = open().await.unwrap();
    let opened = begin.elapsed();
    let begin = Instant::now();
    let verified = control.verify().await.unwrap();
    assert_eq!(verified.differing, [""; 0]);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let figures = serde_json::json!({
        "append_p50_ms": ms(p50),
        "append_p99_ms": ms(p99),
        "append_per_s": per_s,
        "open_ms": ms(opened),
        "verify_ms": ms(begin.elapsed()),
        "events": verified.seq.0,
        "documents": verified.documents,
        "mib": mib,
    });
    println!("{figures:#}");
}

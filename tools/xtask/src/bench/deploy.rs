//! Our own share of deploy-to-first-byte, the image being cached: what is neither the guest's boot nor the app's start.
//!
//! Two clocks are read: this program's, from the start of `holm deploy` to the first byte through the ingress, and the
//! journal that the agent keeps of the instance. Both are the host's real-time clock.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::installation::Installation;
use super::report::Measured;
use super::samples::Samples;
use crate::site::{free_port, loopback};

/// Deployments that are measured.
const ROUNDS: usize = 7;

/// Time between two health checks: the shortest there is.
const INTERVAL: &str = "100ms";

/// Longest wait for the first byte.
const PATIENCE: Duration = Duration::from_secs(180);

/// Time between two tries to reach the app.
const TRY_EVERY: Duration = Duration::from_millis(2);

/// When what was done in one deployment.
pub(super) struct Times {
    asked: Timestamp,
    image_ready: Timestamp,
    pub(super) launched: Timestamp,
    pub(super) greeted: Timestamp,
    /// Of the boot, what our PID 1 took: from its first mark to its last.
    init: Duration,
    configured: Timestamp,
    pub(super) started: Timestamp,
    pub(super) healthy: Timestamp,
    first_byte: Timestamp,
}

/// A part of the whole and who it is counted to.
type Part = (&'static str, fn(&Times) -> f64);

/// The parts that are ours, in order.
const OURS: [Part; 4] = [
    ("ask_ms", |t| ms(t.asked, t.image_ready)),
    ("launch_ms", |t| ms(t.image_ready, t.launched)),
    ("configure_ms", |t| ms(t.greeted, t.started)),
    ("route_ms", |t| ms(t.healthy, t.first_byte)),
];

/// What is told beside them.
const OTHERS: [Part; 7] = [
    ("boot_ms", |t| ms(t.launched, t.greeted)),
    ("init_in_boot_ms", |t| t.init.as_secs_f64() * 1e3),
    ("configured_ms", |t| ms(t.greeted, t.configured)),
    ("app_start_ms", |t| ms(t.started, t.healthy)),
    ("whole_ms", |t| ms(t.asked, t.first_byte)),
    ("own_ms", own),
    ("own_with_init_ms", |t| own(t) + t.init.as_secs_f64() * 1e3),
];

fn own(times: &Times) -> f64 {
    OURS.iter().map(|(_, part)| part(times)).sum()
}

pub(super) fn ms(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}

/// Measures.
pub(super) fn measure() -> Result<Vec<Measured>> {
    println!("deploy: {ROUNDS} deployments of an image that is prepared already");
    let holm = Installation::start()?;
    // The first one, not counted, prepares the image.
    deploy(&holm, "warm-up")?;
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for round in 1..=ROUNDS {
        let times = deploy(&holm, &format!("round-{round}"))?;
        for (name, part) in OURS.iter().chain(&OTHERS) {
            samples.entry((*name).to_owned()).or_default().0.push(part(&times));
        }
        println!("  {:.0} ms of {:.0} ms are ours", own(&times), ms(times.asked, times.first_byte));
    }
    let median = |name: &str| samples.get(name).map_or(f64::NAN, Samples::median);
    let parts = OURS.map(|(name, _)| format!("{} {:.0}", name.trim_end_matches("_ms"), median(name))).join(", ");
    let how = format!(
        "median of {ROUNDS}; p90 {:.0} ms; parts in ms: {parts}; not ours: boot {:.0} (of it our PID 1 {:.0}), app start {:.0}; the whole {:.0}",
        samples.get("own_ms").map_or(f64::NAN, |own| own.quantile(0.9)),
        median("boot_ms"),
        median("init_in_boot_ms"),
        median("app_start_ms"),
        median("whole_ms"),
    );
    Ok(vec![Measured { name: "deploy-own-share", value: median("own_ms"), how, samples }])
}

/// Deploys the example app under the name `app`, reads when what was done, and destroys it again.
fn deploy(holm: &Installation, app: &str) -> Result<Times> {
    let port = free_port()?;
    let (image, manifest) = (holm.hello_image()?, holm.hello_manifest(app, port, INTERVAL, "64MiB", 1)?);
    let mut command = holm.site.holm(&["deploy", &image, "-f", &manifest]);
    let asked = Timestamp::now();
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start holm")?;
    let (first_byte, answer) = first_byte(port)?;
    let ended = running.wait_with_output()?;
    ensure!(ended.status.success(), "holm deploy failed: {}", String::from_utf8_lossy(&ended.stderr));
    let name = answer.split_once(" from ").and_then(|(_, rest)| rest.split(',').next());
    let journal = holm.journal(name.with_context(|| format!("an unexpected answer: {answer}"))?);
    let times = read(&journal, asked, first_byte);
    let times = times.with_context(|| format!("cannot read {}", journal.display()))?;
    holm.site.ok(&["destroy", app, "--yes"])?;
    Ok(times)
}

/// Asks the ingress until it answers; gives the time of the first byte, and the body.
fn first_byte(port: u16) -> Result<(Timestamp, String)> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        // Until there is a route nobody listens; until there is a healthy instance the ingress closes the connection.
        if let Ok(found) = ask(port) {
            return Ok(found);
        }
        std::thread::park_timeout(TRY_EVERY);
    }
    bail!("nothing came through the ingress within {} s", PATIENCE.as_secs())
}

fn ask(port: u16) -> std::io::Result<(Timestamp, String)> {
    let mut stream = TcpStream::connect_timeout(&loopback(port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: holm\r\n\r\n")?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    let at = Timestamp::now();
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok((at, body.unwrap_or_default()))
}

/// Reads the journal at `path`: each line is a sum, a space and a document.
pub(super) fn read(path: &Path, asked: Timestamp, first_byte: Timestamp) -> Result<Times> {
    let mut at: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut init = Duration::ZERO;
    for line in fs::read_to_string(path)?.lines() {
        let (_, json) = line.split_once(' ').context("a line without a sum")?;
        let record: Value = serde_json::from_str(json)?;
        let step = &record["step"];
        let name = match step.as_object() {
            Some(object) => object.keys().next().cloned(),
            None => step.as_str().map(str::to_owned),
        };
        let name = name.context("a line without a step")?;
        at.entry(name).or_insert(record["at"].as_str().context("a line without a time")?.parse()?);
        if let Some(marks) = step["greeted"]["boot"].as_array() {
            let mark = |mark: Option<&Value>| mark.and_then(|mark| mark["since_boot_us"].as_u64()).unwrap_or_default();
            init = Duration::from_micros(mark(marks.last()).saturating_sub(mark(marks.first())));
        }
    }
    let of = |step: &str| at.get(step).copied().with_context(|| format!("it has no step `{step}`"));
    Ok(Times {
        asked,
        image_ready: of("image-ready")?,
        launched: of("launched")?,
        greeted: of("greeted")?,
        init,
        configured: of("configured")?,
        started: of("started")?,
        healthy: of("healthy")?,
        first_byte,
    })
}

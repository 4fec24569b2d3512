//! The ingress beside a direct connection and Debian's HAProxy: `holm_ingress::bench`, run as a release build.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::report::Measured;
use super::samples::Samples;
use crate::build;
use crate::command::{command, output};
use crate::debian;
use crate::workspace::{cache, workspace};

/// HAProxy with the libraries it loads, of Debian 12 and what lies on every Debian.
const HAPROXY_PACKAGES: [&str; 5] =
    ["haproxy", "liblua5.3-0", "libpcre2-posix3", "libopentracing-c-wrapper0", "libopentracing1"];

/// The samples of all rounds: by figure, by path.
type Rounds = BTreeMap<String, BTreeMap<String, Samples>>;

/// Measures.
pub(super) fn measure() -> Result<Vec<Measured>> {
    println!("ingress: latency, throughput and connections, beside HAProxy");
    let program = build::release_example("holm-ingress", "ingress_bench", Some("bench"))?;
    let mut run = command::<&str>(&workspace(), program, &[]);
    if output(&mut command(Path::new("/"), "haproxy", &["-v"])).is_err() {
        let unpacked = debian::unpacked(&cache().join("haproxy"), &HAPROXY_PACKAGES)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let libraries = unpacked.join("usr/lib/x86_64-linux-gnu");
        run.env("PATH", format!("{}:{path}", unpacked.join("usr/sbin").display())).env("LD_LIBRARY_PATH", libraries);
    }
    let report: Value = serde_json::from_str(&output(&mut run)?)?;
    if let Some(why) = report["without_haproxy"].as_str() {
        anyhow::bail!("HAProxy does not run: {why}");
    }
    let rounds: Rounds = serde_json::from_value(report["samples"].clone()).context("no samples")?;
    let mut measured = Vec::new();
    for (name, figure) in [("ingress-latency-p50", "latency_p50_us"), ("ingress-latency-p99", "latency_p99_us")] {
        measured.push(added(name, figure, &rounds)?);
    }
    let rates = [
        ("ingress-throughput-1", "throughput_1_gib_s", "GiB/s"),
        ("ingress-throughput-8", "throughput_8_gib_s", "GiB/s"),
        ("ingress-connections", "connections_per_s", "connections/s"),
    ];
    for (name, figure, unit) in rates {
        measured.push(against(name, figure, unit, &rounds)?);
    }
    measured.push(memory(&report)?);
    measured.push(hostile(&report["hostile"])?);
    Ok(measured)
}

/// What the ingress takes for each of many open connections.
fn memory(report: &Value) -> Result<Measured> {
    let bytes = report["idle_connection_bytes"].as_f64().context("no memory of idle connections")?;
    let how = format!(
        "resident memory of the ingress's process, per connection at {} open and idle; the kernel's own is not in it",
        report["idle_connections"]
    );
    let value = bytes / 1024.0;
    let samples = [("kib".to_owned(), Samples(vec![value]))].into();
    Ok(Measured { name: "ingress-memory-10000", value, how, samples })
}

/// What hostile clients of one app do to the clients of another.
fn hostile(report: &Value) -> Result<Measured> {
    let samples = |name: &str| {
        let values = report[name].as_array().into_iter().flatten().filter_map(Value::as_f64);
        Samples(values.collect())
    };
    let (calm, attacked) = (samples("p99_calm_us"), samples("p99_attacked_us"));
    let value = report["ratio"].as_f64().context("no ratio of attacked to calm")?;
    let how = format!(
        "p99 of connect, hello and first byte, median of {} pairs; calm {:.3} ms, under attack {:.3} ms; the attack: {} idle \
         connections to another app and {} bad ones a second (slow, random and endless hellos)",
        calm.0.len(),
        calm.median() / 1e3,
        attacked.median() / 1e3,
        report["idle"],
        report["bad_per_second"],
    );
    let samples = [("calm_us".to_owned(), calm), ("attacked_us".to_owned(), attacked)].into();
    Ok(Measured { name: "ingress-hostile-p99", value, how, samples })
}

/// What one path took in each round.
fn of<'r>(rounds: &'r Rounds, figure: &str, path: &str) -> Result<&'r Samples> {
    let found = rounds.get(figure).and_then(|paths| paths.get(path));
    found.with_context(|| format!("no {figure} of {path}"))
}

/// The median over the rounds of what the ingress adds to the direct connection, in ms.
fn added(name: &'static str, figure: &str, rounds: &Rounds) -> Result<Measured> {
    let direct = of(rounds, figure, "direct")?;
    let over =
        |path| Ok::<_, anyhow::Error>(of(rounds, figure, path)?.with(direct, |path, direct| (path - direct) / 1e3));
    let (ours, haproxy, noise) = (over("holm")?, over("haproxy")?, over("direct_again")?);
    let how = format!(
        "median of {} rounds; direct takes {:.3} ms, HAProxy adds {:.3} ms; noise (direct against direct) {:+.3} ms",
        ours.0.len(),
        direct.median() / 1e3,
        haproxy.median(),
        noise.median(),
    );
    let value = ours.median();
    let added =
        [("added_ms".to_owned(), ours), ("haproxy_adds_ms".to_owned(), haproxy), ("noise_ms".to_owned(), noise)];
    let samples = added.into_iter().chain(raw(rounds, figure)).collect();
    Ok(Measured { name, value, how, samples })
}

/// The median over the rounds of the ingress's rate divided by HAProxy's.
fn against(name: &'static str, figure: &str, unit: &str, rounds: &Rounds) -> Result<Measured> {
    let ratio =
        |path, peer| Ok::<_, anyhow::Error>(of(rounds, figure, path)?.with(of(rounds, figure, peer)?, |a, b| a / b));
    let (ours, noise) = (ratio("holm", "haproxy")?, ratio("haproxy_again", "haproxy")?);
    let (copying, splice) = (ratio("holm_copy", "haproxy")?, ratio("holm", "haproxy_splice")?);
    let (least, most) = ours.range();
    let (noise_least, noise_most) = noise.range();
    let how = format!(
        "median of {} rounds ({least:.2} to {most:.2}); ours {:.4}, HAProxy {:.4} {unit}; noise (HAProxy against itself) {:.2} \
         ({noise_least:.2} to {noise_most:.2}); against HAProxy with `option splice-auto` {:.2}; \
         ours without splice {:.2}",
        ours.0.len(),
        of(rounds, figure, "holm")?.median(),
        of(rounds, figure, "haproxy")?.median(),
        noise.median(),
        splice.median(),
        copying.median(),
    );
    let value = ours.median();
    let ratios = [
        ("ratio".to_owned(), ours),
        ("noise_ratio".to_owned(), noise),
        ("splice_ratio".to_owned(), splice),
        ("copying_ratio".to_owned(), copying),
    ];
    let samples = ratios.into_iter().chain(raw(rounds, figure)).collect();
    Ok(Measured { name, value, how, samples })
}

fn raw(rounds: &Rounds, figure: &str) -> BTreeMap<String, Samples> {
    let paths = rounds.get(figure).into_iter().flatten();
    paths.map(|(path, samples)| (format!("{path}_{figure}"), samples.clone())).collect()
}

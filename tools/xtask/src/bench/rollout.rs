//! A new release of an app that is asked all the time: what the rollout takes beyond the guest's boot and the app's own
//! readiness, and how many connections fail.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::deploy::{ms, read};
use super::installation::Installation;
use super::report::Measured;
use super::samples::Samples;
use crate::client;
use crate::images::hello_manifest;
use crate::load::Load;
use crate::site::free_port;

/// Rollouts that are measured.
const ROUNDS: u32 = 7;

/// Requests on connections of their own, per second.
const RATE: u32 = 20;

/// Measures.
pub(super) fn measure() -> Result<Vec<Measured>> {
    println!("rollout: {ROUNDS} new releases of an app that is asked all the time");
    let holm = Installation::start()?;
    let (port, image) = (free_port()?, holm.hello_image()?);
    let deploy = |nth: u32| -> Result<()> {
        let manifest =
            hello_manifest(port, &format!("greeting {nth}")).replace("interval = \"1s\"", "interval = \"100ms\"");
        let manifest = holm.site.manifest("rollout", &manifest)?;
        holm.site.ok(&["deploy", &image, "-f", &manifest]).map(drop)
    };
    deploy(0)?;
    let load = Load::start(port, RATE);
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for nth in 1..=ROUNDS {
        let asked = Timestamp::now();
        deploy(nth)?;
        let ended = Timestamp::now();
        let answer = client::get(port, "/")?;
        let name = answer.split_once(" from ").and_then(|(_, rest)| rest.split(',').next());
        let journal = holm.journal(name.with_context(|| format!("an unexpected answer: {answer}"))?);
        let times = read(&journal, asked, ended).with_context(|| format!("cannot read {}", journal.display()))?;
        let (boot, app, whole) =
            (ms(times.launched, times.greeted), ms(times.started, times.healthy), ms(asked, ended));
        for (part, value) in
            [("boot_ms", boot), ("app_start_ms", app), ("whole_ms", whole), ("beyond_ms", whole - boot - app)]
        {
            samples.entry(part.to_owned()).or_default().0.push(value);
        }
        println!("  {:.0} ms of {whole:.0} ms are ours", whole - boot - app);
    }
    let outcome = load.end()?;
    let median = |name: &str| samples.get(name).map_or(f64::NAN, Samples::median);
    let how = format!(
        "median of {ROUNDS}; p90 {:.0} ms; boot {:.0} ms, app start {:.0} ms, the whole command {:.0} ms",
        samples.get("beyond_ms").map_or(f64::NAN, |beyond| beyond.quantile(0.9)),
        median("boot_ms"),
        median("app_start_ms"),
        median("whole_ms"),
    );
    let value = median("beyond_ms");
    let first = outcome.failures.first().map(|first| format!("; the first: {first}")).unwrap_or_default();
    let counted = format!(
        "{} connections for one request at {RATE}/s, {} kept ones with {} requests{first}",
        outcome.one_shot, outcome.kept, outcome.requests
    );
    #[expect(clippy::cast_precision_loss, reason = "a count of failures is small")]
    let failed = outcome.failures.len() as f64;
    Ok(vec![
        Measured { name: "rollout-own-share", value, how, samples },
        Measured { name: "rollout-failed-connections", value: failed, how: counted, samples: BTreeMap::new() },
    ])
}

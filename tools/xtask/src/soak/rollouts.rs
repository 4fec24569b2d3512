//! Deployments under load: an open loop of requests and kept connections, and not one that fails.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::bench::installation::Installation;
use crate::load::Load;
use crate::site::free_port;

/// How long, and how hard.
#[derive(Debug, Args)]
pub struct Options {
    /// Deployments
    #[arg(long, default_value_t = 50)]
    deployments: u32,
    /// Instances of the app
    #[arg(long, default_value_t = 1)]
    instances: u32,
    /// Requests on connections of their own, per second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Go over all at once instead of one after the other
    #[arg(long)]
    blue_green: bool,
}

/// Deploys, every time with another greeting, and counts what failed.
///
/// # Errors
/// When a deployment or a connection fails.
pub fn run(options: &Options) -> Result<()> {
    let holm = Installation::start()?;
    let port = free_port()?;
    let image = holm.hello_image()?;
    let deploy = |nth: u32| -> Result<Duration> {
        let greeting = format!("greeting {nth}");
        let strategy = if options.blue_green { "\n[deploy]\nstrategy = \"blue-green\"\n" } else { "" };
        let manifest = crate::images::hello_manifest(port, &greeting)
            .replace("instances = 1", &format!("instances = {}", options.instances));
        let manifest = holm.site.manifest("soak", &(manifest + strategy))?;
        let begun = Instant::now();
        holm.site.ok(&["deploy", &image, "-f", &manifest])?;
        Ok(begun.elapsed())
    };
    deploy(0)?;
    let load = Load::start(port, options.rate);
    let mut longest = Duration::ZERO;
    let done = (1..=options.deployments).try_for_each(|nth| {
        let took = deploy(nth).with_context(|| format!("deployment {nth}"))?;
        longest = longest.max(took);
        let (all, failed) = (options.deployments, load.failed());
        println!("deployment {nth} of {all}: {:.1} s; {failed} connections have failed", took.as_secs_f64());
        Ok(())
    });
    let outcome = load.end()?;
    println!(
        "{} deployments, the longest {:.1} s; {} connections for one request, {} kept ones with {} requests; {} failed",
        options.deployments,
        longest.as_secs_f64(),
        outcome.one_shot,
        outcome.kept,
        outcome.requests,
        outcome.failures.len()
    );
    outcome.failures.iter().take(20).for_each(|failure| println!("  {failure}"));
    done.and(outcome.check())
}

//! Kills at random moments: of `holm up`, of its ingress, and of microVMs, while apps are deployed, scaled and restarted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use holm_process::Process;

use crate::bench::installation::Installation;
use crate::client;
use crate::command::command;
use crate::site::free_port;
use crate::workspace::{cargo, workspace};

/// How long.
#[derive(Debug, Args)]
pub struct Options {
    /// Kills of a running Holm, ingress or microVM
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// Random histories in each crash test of the control plane, the planner and the agent
    #[arg(long, default_value_t = 10_000)]
    seeds: u32,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The environment variable by which the crash tests are told how many random histories to try.
const CASES: &str = "PROPTEST_CASES";

/// Longest wait for everything to be as it should be after a kill.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the crash tests with many seeds, then kills real ones.
///
/// # Errors
/// When something is lost, left or does not converge.
pub fn run(options: &Options) -> Result<()> {
    if options.seeds > 0 {
        println!("the crash tests with {} random histories each", options.seeds);
        let packages = ["-p", "holm-control", "-p", "holm-planner", "-p", "holm-agent"];
        let mut tests = command(&workspace(), cargo(), &["test", "--release"]);
        let status = tests.args(packages).env(CASES, options.seeds.to_string()).status()?;
        ensure!(status.success(), "a crash test failed");
    }
    kills(options)
}

fn kills(options: &Options) -> Result<()> {
    let holm = Installation::start()?;
    let port = free_port()?;
    let image = holm.hello_image()?;
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let deploy = |nth: u32| -> Result<std::process::Child> {
        let greeting = format!("round {nth}");
        let manifest = holm.site.manifest("crash", &crate::images::hello_manifest(port, &greeting))?;
        let mut deploy = holm.site.holm(&["deploy", "--detach", &image, "-f", &manifest]);
        deploy.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        deploy.spawn().context("cannot start holm")
    };
    ensure!(deploy(0)?.wait()?.success(), "the first deployment was not accepted");
    converge(&holm, port, 1)?;
    for nth in 1..=options.kills {
        let accepted = deploy(nth)?.wait()?.success();
        ensure!(accepted, "deployment {nth} was not accepted");
        std::thread::park_timeout(Duration::from_millis(dice.u64(..6000)));
        let whom = ["qemu-system-x86_64", "ingress", "holm", "holm"][dice.usize(..4)];
        let victims = match whom {
            "ingress" => holm.site.ingresses()?,
            // By its lock: a process that it is starting has its program for a moment.
            "holm" => {
                std::fs::read_to_string(holm.site.state().join("holm.lock"))?.trim().parse().into_iter().collect()
            }
            _ => holm.processes(whom)?,
        };
        let Some(victim) = dice.choice(&victims).map_or(Ok(None), |pid| Process::open(*pid))? else {
            println!("kill {nth}: there is no {whom} to kill just now");
            continue;
        };
        let begun = Instant::now();
        victim.kill()?;
        if whom == "holm" {
            // Its locks are given back later than its program.
            ensure!(victim.ends_within(PATIENCE)?, "the killed Holm is still there");
            holm.up()?;
        }
        // A microVM of the new release that was killed fails its deployment; the one before then serves.
        converge(&holm, port, nth + 1)?;
        println!("kill {nth}: {whom}, as it should be after {:.1} s", begun.elapsed().as_secs_f64());
        let findings = holm.site.json(&["doctor"])?;
        let log = findings["findings"].as_array().into_iter().flatten().find(|f| f["subject"] == "event log");
        ensure!(log.is_some_and(|finding| finding["level"] == "ok"), "the event log: {log:?}");
    }
    holm.site.ok(&["down"])?;
    let left = holm.site.processes()?;
    ensure!(left.is_empty(), "processes are left: {left:?}");
    ensure!(holm.site.cgroups().is_empty(), "cgroups are left: {:?}", holm.site.cgroups());
    println!("{} kills: nothing was lost and nothing is left", options.kills);
    Ok(())
}

/// Waits until the deployment that was accepted last has ended, one instance serves, and exactly one microVM runs.
fn converge(holm: &Installation, port: u16, deployment: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = String::new();
    while Instant::now() < deadline {
        match settled(holm, port, deployment) {
            Ok(()) => return Ok(()),
            Err(error) => last = format!("{error:#}"),
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    bail!("not as it should be after {} s: {last}", PATIENCE.as_secs())
}

fn settled(holm: &Installation, port: u16, deployment: u32) -> Result<()> {
    let status = holm.site.json(&["status", "hello"])?;
    let newest = &status["apps"][0]["deployment"];
    ensure!(newest["deployment"] == deployment, "deployment {deployment} was accepted, and the newest is {newest}");
    let under_way = newest["ended_at"].is_null();
    ensure!(!under_way, "a deployment is under way");
    let running = status["instances"].as_array().map_or(0, Vec::len);
    let machines = holm.processes("qemu-system-x86_64")?.len();
    ensure!((running, machines) == (1, 1), "{running} instances and {machines} microVMs");
    let answer = client::get(port, "/")?;
    ensure!(answer.starts_with("round "), "it answers `{answer}`");
    Ok(())
}

//! `cargo xtask demo`: the main job from end to end, step by step, as a user would type it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;

use crate::build::{Profile, programs};
use crate::client;
use crate::guest::kernel_packages;
use crate::images::{self, Certificate};
use crate::registry::Registry;
use crate::site::{Site, free_port};
use crate::workspace::{cache, target};

/// Longest wait for an instance to boot and answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the demo can be told.
#[derive(Debug, Args)]
pub struct Options {
    /// Leave Holm, the apps and the registry's images where they are, and say how to go on
    #[arg(long)]
    keep: bool,
    /// Write the steps and their times to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The steps that were done, with their times.
struct Steps {
    began: Instant,
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Does one step and prints how long it took.
    fn step<T>(&mut self, title: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n\u{25b6} {title}");
        let began = Instant::now();
        let value = act().with_context(|| format!("the demo failed at: {title}"))?;
        let took = began.elapsed();
        println!("  done in {:.1} s", took.as_secs_f64());
        self.done.push((title.to_owned(), took));
        Ok(value)
    }

    fn to_json(&self) -> serde_json::Value {
        let step = |(title, took): &(String, Duration)| json!({"step": title, "seconds": took.as_secs_f64()});
        json!({
            "schema": "holm.demo/1",
            "steps": self.done.iter().map(step).collect::<Vec<_>>(),
            "seconds": self.began.elapsed().as_secs_f64(),
        })
    }
}

/// Runs the demo.
///
/// # Errors
/// When a step fails; what it started is ended first.
pub fn run(options: &Options) -> Result<()> {
    let mut steps = Steps { began: Instant::now(), done: Vec::new() };
    let programs = steps.step("build Holm, its guest's PID 1 and the example app", || programs(Profile::Dev))?;
    let folder = target().join("demo");
    if folder.exists() {
        Site::leftover(programs.clone(), &folder.join("state")).clear();
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    let site = Site::new(programs, &folder.join("state"))?;
    let result = show(&mut steps, &site, &folder);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&steps.to_json())?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    if options.keep && result.is_ok() {
        let (holm, state) = (site.programs().holm.display(), site.state().display());
        println!(
            "\nHolm goes on. Look around with\n  {holm} --state {state} status\nand end it with\n  {holm} --state {state} down"
        );
        return Ok(());
    }
    let ended = steps.step("stop Holm; nothing is left", || end(&site, &folder));
    site.clear();
    result.and(ended)?;
    println!("\nThe demo ended well after {:.0} s.", steps.began.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `holm` and shows the command and what it said.
fn holm(site: &Site, arguments: &[&str]) -> Result<String> {
    println!("  $ holm {}", arguments.join(" "));
    let ran = site.run(arguments)?;
    for line in ran.stderr.lines().chain(ran.stdout.lines()) {
        println!("    {line}");
    }
    ensure!(ran.status == 0, "`holm {}` ended with status {}", arguments.join(" "), ran.status);
    Ok(ran.stdout)
}

fn show(steps: &mut Steps, site: &Site, folder: &Path) -> Result<()> {
    let (http, sni) = (free_port()?, free_port()?);
    let sni_flag = sni.to_string();

    steps.step("start Holm: control plane and agent, and the ingress beside them", || {
        holm(site, &["up", "--detach", "--network", "user", "--sni-port", &sni_flag])
    })?;
    steps.step("import Debian's cloud kernel as the guest", || {
        let packages = kernel_packages(&cache())?;
        let packages: Vec<String> = packages.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        let import: Vec<&str> = ["guest", "import"].into_iter().chain(packages.iter().map(String::as_str)).collect();
        holm(site, &import)
    })?;

    let hello = images::hello(&folder.join("hello"), &site.programs().hello)?;
    let manifest = |greeting: &str| site.manifest("hello", &images::hello_manifest(http, greeting));
    steps.step("deploy the example app from an OCI layout folder", || {
        holm(site, &["deploy", &hello, "-f", &manifest("hello")?])
    })?;
    steps.step("reach it through the ingress by its TCP port", || {
        let answer = client::get(http, "/")?;
        println!("    GET http://[::1]:{http}/ \u{2192} {}", answer.trim_end());
        ensure!(answer.starts_with("hello from hello.web."), "an unexpected answer: {answer}");
        Ok(())
    })?;

    let certificate = Certificate::new("shop.example")?;
    let registry = steps.step("pack nginx from Debian packages, push it to a registry", || {
        let layout = images::nginx(&cache(), &folder.join("nginx"), &certificate)?;
        let registry = Registry::start(&cache(), &folder.join("registry"))?;
        let pushed = registry.push(&layout, "1", "shop")?;
        let digest = images::digest_of(&layout, "1")?;
        let by_digest = format!("{}@{digest}", pushed.trim_end_matches(":1"));
        println!("    pushed {by_digest}");
        Ok((registry, by_digest))
    })?;
    let (registry, by_digest) = registry;
    steps.step("deploy nginx from the registry, by digest", || {
        let manifest = site.manifest("shop", images::SHOP_MANIFEST)?;
        holm(site, &["deploy", &by_digest, "-f", &manifest])
    })?;
    steps.step("reach it through the ingress by TLS host name, TLS passed through unread", || {
        let page = client::get_tls(sni, "shop.example", &certificate)?;
        println!("    GET https://shop.example:{sni}/ \u{2192} {}", page.lines().next().unwrap_or_default());
        ensure!(page.contains(images::SHOP_PAGE), "an unexpected page: {page}");
        let refused = client::get_tls(sni, "other.example", &certificate);
        let why = refused.err().map(|e| format!("{e:#}")).unwrap_or_default();
        println!("    GET https://other.example:{sni}/ \u{2192} {why}");
        ensure!(why.contains("UnrecognisedName"), "an unknown name was not refused as it should: {why}");
        Ok(())
    })?;
    drop(registry);

    steps.step("look at the logs", || holm(site, &["logs", "hello", "-n", "5"]))?;
    steps.step("run a command inside", || holm(site, &["exec", "shop", "--", "/usr/sbin/nginx", "-v"]))?;
    steps.step("scale to 2", || {
        holm(site, &["scale", "--app", "hello", "web=2"])?;
        expect_answers(http, 2, "hello from")
    })?;
    steps.step("roll out a second release", || {
        holm(site, &["deploy", &hello, "-f", &manifest("good day")?])?;
        expect_answers(http, 2, "good day from")
    })?;
    steps.step("roll back", || {
        holm(site, &["rollback", "hello"])?;
        expect_answers(http, 2, "hello from")
    })?;
    steps.step("see where everything stands", || {
        holm(site, &["status"])?;
        holm(site, &["releases", "hello"])?;
        holm(site, &["ps"]).map(drop)
    })
}

/// Asks until `count` different instances have answered, each with `start`; one may still be booting.
fn expect_answers(port: u16, count: usize, start: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < count {
        ensure!(Instant::now() < deadline, "{} instances answered, {count} should", seen.len());
        let answer = client::get(port, "/")?;
        ensure!(answer.starts_with(start), "an unexpected answer: {answer}");
        if seen.insert(answer.clone()) {
            println!("    GET http://[::1]:{port}/ \u{2192} {}", answer.trim_end());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

/// Stops Holm and makes sure that it has left nothing but its folder, which goes too.
fn end(site: &Site, folder: &Path) -> Result<()> {
    holm(site, &["down"])?;
    let left = site.processes()?;
    if let Some((pid, line)) = left.first() {
        bail!("{} processes are left, the first is {pid}: {line}", left.len());
    }
    let cgroups = site.cgroups();
    ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
    fs::remove_dir_all(folder)?;
    Ok(())
}

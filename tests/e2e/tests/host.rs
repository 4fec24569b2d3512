//! One host without privileges: what a user does with apps, and what happens when things break.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use holm_e2e::{Batch, Test, run, wait_for};
use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use xtask::client;
use xtask::images::{self, Certificate};
use xtask::load::Load;
use xtask::registry::Registry;
use xtask::site::{free_port, loopback};
use xtask::workspace::cache;

#[path = "host/access.rs"]
mod access;
#[path = "host/copies.rs"]
mod copies;
#[path = "host/faults.rs"]
mod faults;
#[path = "host/secrets.rs"]
mod secrets;
#[path = "host/upgrade.rs"]
mod upgrade;

const TESTS: [Test; 20] = [
    ("deployed_image_is_reached_through_its_port", deployed_image_is_reached_through_its_port),
    ("exec_has_input_output_status_and_terminal", exec_has_input_output_status_and_terminal),
    ("app_without_a_check_is_ready_when_it_has_stayed_up", app_without_a_check_is_ready_when_it_has_stayed_up),
    ("rollout_scale_and_rollback_lose_no_request", rollout_scale_and_rollback_lose_no_request),
    ("deployment_that_exits_fails_at_once_and_the_old_release_serves", failed_deployment_leaves_the_old_release),
    ("app_over_its_memory_cap_is_killed_and_explained", app_over_its_memory_cap_is_killed_and_explained),
    ("image_from_a_registry_is_reached_by_tls_host_name", image_from_a_registry_is_reached_by_tls_host_name),
    ("logs_are_followed_across_instances", logs_are_followed_across_instances),
    ("killed_holm_adopts_what_runs_and_loses_nothing", killed_holm_adopts_what_runs_and_loses_nothing),
    ("killed_ingress_is_started_again", killed_ingress_is_started_again),
    ("killed_microvm_is_replaced", killed_microvm_is_replaced),
    ("guest_that_hangs_is_killed_after_its_grace", guest_that_hangs_is_killed_after_its_grace),
    (
        "stopped_app_starts_again_although_its_image_was_damaged_and_is_destroyed",
        stopped_app_starts_again_although_its_image_was_damaged_and_is_destroyed,
    ),
    ("secrets_reach_the_app_and_nothing_else", secrets::secrets_reach_the_app_and_nothing_else),
    (
        "token_allows_what_it_names_from_afar_and_every_refusal_is_recorded",
        access::token_allows_what_it_names_from_afar_and_every_refusal_is_recorded,
    ),
    ("rubbish_from_afar_harms_nothing", access::rubbish_from_afar_harms_nothing),
    ("newer_holm_takes_over_and_an_older_one_refuses", upgrade::newer_holm_takes_over_and_an_older_one_refuses),
    ("exported_state_goes_on_in_another_folder", copies::exported_state_goes_on_in_another_folder),
    ("failing_disks_are_told_and_apps_go_on", faults::failing_disks_are_told_and_apps_go_on),
    ("rubbish_is_refused_and_harms_nothing", rubbish_is_refused_and_harms_nothing),
];

/// The port that TLS host names share; chosen before Holm starts.
static SNI_PORT: AtomicU64 = AtomicU64::new(0);

/// The ports of the interface from afar and of the metrics; chosen before Holm starts.
static REMOTE_PORT: AtomicU64 = AtomicU64::new(0);
static METRICS_PORT: AtomicU64 = AtomicU64::new(0);

const BOX_MANIFEST: &str = r#"schema = 1
app = "box"
[process.web]
memory = "64MiB"
[process.web.stop]
grace = "2s"
[config]
FROM_MANIFEST = "yes"
"#;

/// How long an app without a check has to stay up, as docs/rollouts.md says; less what a clock that is being set may take.
const SMOKE: SignedDuration = SignedDuration::from_millis(1900);

fn main() -> ExitCode {
    let sni = free_port().unwrap_or(8443);
    SNI_PORT.store(u64::from(sni), Ordering::Relaxed);
    let (remote, metrics) = (free_port().unwrap_or(7443), free_port().unwrap_or(9464));
    REMOTE_PORT.store(u64::from(remote), Ordering::Relaxed);
    METRICS_PORT.store(u64::from(metrics), Ordering::Relaxed);
    let (remote, metrics) = (loopback(remote).to_string(), loopback(metrics).to_string());
    let sni = sni.to_string();
    let up = ["--network", "user", "--sni-port", &sni, "--memory", "8GiB", "--remote", &remote, "--metrics", &metrics];
    let batch = Batch::new(&up);
    run(batch, Batch::begin, &TESTS, ("down_leaves_nothing_behind", down_leaves_nothing_behind))
}

/// Deploys the example app under the name `app` and gives its port.
fn deploy_hello(batch: &Batch, app: &str, greeting: &str, port: u16) -> Result<()> {
    let image = hello_image(batch)?;
    let manifest = batch.site.manifest(app, &hello_manifest(app, greeting, port))?;
    batch.site.ok(&["deploy", &image, "-f", &manifest]).map(drop)
}

fn hello_image(batch: &Batch) -> Result<String> {
    images::hello(&batch.path().join("hello"), &batch.site.programs().hello)
}

fn busybox_image(batch: &Batch) -> Result<String> {
    images::busybox(&cache(), &batch.path().join("busybox"))
}

fn hello_manifest(app: &str, greeting: &str, port: u16) -> String {
    images::hello_manifest(port, greeting).replace("app = \"hello\"", &format!("app = {app:?}"))
}

/// The instances of `app` as `holm ps --json` shows them.
fn instances(batch: &Batch, app: &str) -> Result<Vec<Value>> {
    let shown = batch.site.json(&["ps", "--all", app])?;
    shown["instances"].as_array().cloned().with_context(|| format!("no instances in {shown}"))
}

/// The instances of `app` that serve.
fn healthy(batch: &Batch, app: &str) -> Result<Vec<String>> {
    let healthy = instances(batch, app)?.into_iter().filter(|i| i["phase"] == "healthy" && i["retired"].is_null());
    Ok(healthy.filter_map(|i| i["instance"].as_str().map(str::to_owned)).collect())
}

fn deployed_image_is_reached_through_its_port(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "first", "good morning", port)?;
    let answer = client::get(port, "/")?;
    ensure!(answer.starts_with("good morning from first.web."), "{answer}");
    ensure!(answer.ends_with(", v1\n"), "{answer}");

    let again = batch.site.json(&[
        "deploy",
        &hello_image(batch)?,
        "-f",
        &batch.site.manifest("first", &hello_manifest("first", "good morning", port))?,
    ])?;
    ensure!(again["deployment"]["release"] == 1, "the same image and manifest made another release: {again}");
    ensure!(client::get(port, "/")? == answer, "the same deployment replaced the instance");

    let (ours, theirs) = (client::get(port, "/big/3000000")?, vec!['x'; 3_000_000]);
    ensure!(ours.len() == theirs.len(), "{} bytes came through", ours.len());
    Ok(())
}

/// Deploys busybox's web server as the app `box`, without a health check; once for all.
fn deploy_box(batch: &Batch) -> Result<()> {
    batch.site.ok(&["deploy", &busybox_image(batch)?, "-f", &batch.site.manifest("box", BOX_MANIFEST)?]).map(drop)
}

fn exec_has_input_output_status_and_terminal(batch: &Batch) -> Result<()> {
    deploy_box(batch)?;

    let ran = batch.site.run(&["exec", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!((ran.status, &*ran.stdout, &*ran.stderr) == (7, "out\n", "err\n"), "{ran:?}");
    let environment = batch.site.ok(&["exec", "box", "--", "env"])?;
    for expected in ["FROM_IMAGE=yes", "FROM_MANIFEST=yes", "HOLM_APP=box", "HOLM_ENV=prod", "HOLM_RELEASE=v1"] {
        ensure!(environment.lines().any(|line| line == expected), "no {expected} in\n{environment}");
    }

    let mut cat = batch.site.holm(&["exec", "-i", "box", "--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let text = "holm\n".repeat(50_000);
    let mut input = cat.stdin.take().context("no input")?;
    let sent = text.clone();
    let writing = std::thread::spawn(move || input.write_all(sent.as_bytes()));
    let output = cat.wait_with_output()?;
    writing.join().ok().context("the writer panicked")??;
    ensure!(output.stdout == text.as_bytes(), "{} of {} bytes came back", output.stdout.len(), text.len());

    let full =
        batch.site.run(&["exec", "box", "--", "busybox", "dd", "if=/dev/zero", "of=/fill", "bs=1M", "count=200"])?;
    ensure!(full.status == 1 && full.stderr.contains("No space left"), "the writable layer has no end: {full:?}");
    batch.site.ok(&["exec", "box", "--", "busybox", "rm", "/fill"])?;

    let ran = batch.site.run(&["exec", "box", "--", "/no/such/program"])?;
    ensure!(ran.status == 127 && ran.stderr.contains("/no/such/program"), "{ran:?}");

    // `script` gives the command a terminal on this side too.
    let inner = format!(
        "{} exec -it box -- sh -c 'stty size; tty 2>/dev/null; test -t 0 && echo a terminal'",
        batch.site.programs().holm.display()
    );
    let mut script = batch.site.outside("script", &["-qec", &inner, "/dev/null"]);
    let output = script.env("HOLM_STATE", batch.site.state()).output().context("cannot run script")?;
    let seen = String::from_utf8_lossy(&output.stdout);
    ensure!(seen.contains("a terminal"), "no terminal: {seen}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn app_without_a_check_is_ready_when_it_has_stayed_up(batch: &Batch) -> Result<()> {
    deploy_box(batch)?;
    let name = healthy(batch, "box")?.pop().context("no healthy instance")?;
    let (started, ready) = (step(batch, &name, "started")?, step(batch, &name, "healthy")?);
    let window = ready.duration_since(started);
    ensure!(window >= SMOKE, "it was ready {window} after its start");
    let events = batch.site.ok(&["events", "--app", "box"])?;
    let at = |what: &str| events.find(what).with_context(|| format!("no `{what}` in\n{events}"));
    ensure!(at(&format!("{name}: healthy"))? < at("deployment d1 succeeded")?, "{events}");

    // One that does not stay up: what served before goes on.
    let gone = BOX_MANIFEST
        .replace("memory =", "command = [\"/bin/sh\", \"-c\", \"echo no longer than this; exit 6\"]\nmemory =");
    let ran = batch.site.run(&["deploy", &busybox_image(batch)?, "-f", &batch.site.manifest("box", &gone)?])?;
    ensure!(ran.status == 5, "{ran:?}");
    for expected in ["exited with status 6", "no longer than this"] {
        ensure!(ran.stderr.contains(expected), "no `{expected}` in\n{}", ran.stderr);
    }
    ensure!(healthy(batch, "box")? == [name.clone()], "another instance serves");
    let status = batch.site.ok(&["status", "box"])?;
    ensure!(status.contains("v1"), "{status}");
    let events = batch.site.ok(&["events", "--app", "box"])?;
    let mut ready = events.lines().filter(|line| line.ends_with(": healthy") || line.contains(": healthy ("));
    ensure!(ready.all(|line| line.contains(&name)), "one that did not stay up was ready:\n{events}");
    Ok(())
}

/// When the agent wrote a step into the journal of an instance for the first time: a sum and a document on each line.
fn step(batch: &Batch, instance: &str, step: &str) -> Result<Timestamp> {
    let journal = std::fs::read_to_string(batch.site.state().join("agent/instances").join(instance).join("journal"))?;
    let mut records = journal.lines().filter_map(|line| serde_json::from_str::<Value>(line.split_once(' ')?.1).ok());
    let found = records.find(|record| record["step"] == step);
    let at = found.with_context(|| format!("no `{step}` in\n{journal}"))?;
    Ok(at["at"].as_str().context("a step without a time")?.parse()?)
}

fn rollout_scale_and_rollback_lose_no_request(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "rolling", "one", port)?;
    let load = Load::start(port, 20);
    let act = || -> Result<()> {
        batch.site.ok(&["scale", "--app", "rolling", "web=2"])?;
        ensure!(healthy(batch, "rolling")?.len() == 2, "scale did not wait");
        ensure!(answers(port, 2)?.iter().all(|answer| answer.starts_with("one")));
        deploy_hello(batch, "rolling", "two", port)?;
        ensure!(answers(port, 2)?.iter().all(|answer| answer.starts_with("two")));
        batch.site.ok(&["rollback", "rolling"])?;
        ensure!(answers(port, 2)?.iter().all(|answer| answer.starts_with("one")));
        let all_at_once = hello_manifest("rolling", "three", port) + "\n[deploy]\nstrategy = \"blue-green\"\n";
        let manifest = batch.site.manifest("rolling", &all_at_once)?;
        batch.site.ok(&["deploy", &hello_image(batch)?, "-f", &manifest])?;
        ensure!(answers(port, 2)?.iter().all(|answer| answer.starts_with("three")));
        batch.site.ok(&["scale", "--app", "rolling", "web=1"])?;
        batch.site.ok(&["restart", "rolling"])?;
        Ok(())
    };
    let done = act();
    let outcome = load.end()?;
    done?;
    outcome.check()?;
    let releases = batch.site.json(&["releases", "rolling"])?;
    ensure!(releases["releases"].as_array().is_some_and(|all| all.len() == 3), "{releases}");
    let refused = batch.site.run(&["scale", "--app", "rolling", "web=100"])?;
    ensure!(refused.status == 4 && refused.stderr.contains("of the host's 8192 MiB are free"), "{refused:?}");
    Ok(())
}

/// Asks until `count` different instances have answered.
fn answers(port: u16, count: usize) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    wait_for("every instance to answer", || {
        seen.insert(client::get(port, "/")?);
        Ok((seen.len() >= count).then(|| seen.clone()))
    })
}

fn failed_deployment_leaves_the_old_release(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "failing", "still here", port)?;
    let broken = hello_manifest("failing", "never", port).replace("[\"--port\", \"8080\"]", "[\"--fail\", \"3\"]");
    let manifest = batch.site.manifest("failing", &broken)?;
    let ran = batch.site.run(&["deploy", &hello_image(batch)?, "-f", &manifest])?;
    ensure!(ran.status == 5, "exit status {}: {}", ran.status, ran.stderr);
    for expected in ["exited with status 3", "hello: told to fail"] {
        ensure!(ran.stderr.contains(expected), "no `{expected}` in\n{}", ran.stderr);
    }
    ensure!(client::get(port, "/")?.starts_with("still here"));
    let status = batch.site.ok(&["status", "failing"])?;
    ensure!(status.contains("v1"), "{status}");

    // A release command that fails stops the rollout before anything is placed; one that works lets it go on.
    let prepared = |status: u8| {
        let release = format!("\n[release]\ncommand = [\"--fail\", \"{status}\"]\nmemory = \"32MiB\"\n");
        batch.site.manifest("failing", &(hello_manifest("failing", "prepared", port) + &release))
    };
    let ran = batch.site.run(&["deploy", &hello_image(batch)?, "-f", &prepared(4)?])?;
    ensure!(ran.status == 5, "exit status {}: {}", ran.status, ran.stderr);
    for expected in ["the release command, failing.release.", "exited with status 4", "hello: told to fail"] {
        ensure!(ran.stderr.contains(expected), "no `{expected}` in\n{}", ran.stderr);
    }
    ensure!(client::get(port, "/")?.starts_with("still here"));
    batch.site.ok(&["deploy", &hello_image(batch)?, "-f", &prepared(0)?])?;
    ensure!(client::get(port, "/")?.starts_with("prepared"));
    Ok(())
}

fn app_over_its_memory_cap_is_killed_and_explained(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "eater", "yum", port)?;
    let before = healthy(batch, "eater")?;
    let name = before.first().context("no healthy instance")?;
    // The answer never comes: the process is killed while it takes the memory.
    let _ = client::get(port, "/eat/200");
    let explained = wait_for("the end to be explained", || {
        let text = batch.site.ok(&["explain", name])?;
        Ok(text.contains("memory cap of 64 MiB").then_some(text))
    });
    explained.with_context(|| batch.site.ok(&["explain", name]).unwrap_or_default())?;
    wait_for("a replacement", || Ok(healthy(batch, "eater")?.first().filter(|now| *now != name).cloned()))?;
    ensure!(client::get(port, "/")?.starts_with("yum"));
    Ok(())
}

fn image_from_a_registry_is_reached_by_tls_host_name(batch: &Batch) -> Result<()> {
    let sni = u16::try_from(SNI_PORT.load(Ordering::Relaxed))?;
    let certificate = Certificate::new("shop.example")?;
    let layout = images::nginx(&cache(), &batch.path().join("nginx"), &certificate)?;
    let registry = Registry::start(&cache(), &batch.path().join("registry"))?;
    let tagged = registry.push(&layout, "1", "shop")?;
    let digest = images::digest_of(&layout, "1")?;
    let manifest = batch.site.manifest("shop", images::SHOP_MANIFEST)?;
    let deployed = batch.site.json(&["deploy", &tagged, "-f", &manifest])?;
    ensure!(deployed["deployment"]["digest"] == digest, "the tag was not resolved to {digest}: {deployed}");
    drop(registry);

    let page = client::get_tls(sni, "shop.example", &certificate)?;
    ensure!(page.contains(images::SHOP_PAGE), "{page}");
    let refused = client::get_tls(sni, "other.example", &certificate).err().context("an unknown name was served")?;
    ensure!(format!("{refused:#}").contains("UnrecognisedName"), "{refused:#}");
    Ok(())
}

fn logs_are_followed_across_instances(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "talker", "hi", port)?;
    let mut follow = batch.site.holm(&["logs", "-f", "talker"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("no output")?).lines();
    let mut until = |wanted: &str| -> Result<()> {
        for line in &mut lines {
            if line?.contains(wanted) {
                return Ok(());
            }
        }
        bail!("the log ended before `{wanted}`")
    };
    let result = (|| {
        until("listening on port 8080")?;
        client::get(port, "/slow/1")?;
        until("GET /slow/1 200")?;
        batch.site.ok(&["restart", "talker"])?;
        until("listening on port 8080")?;
        client::get(port, "/slow/2")?;
        until("GET /slow/2 200")
    })();
    follow.kill()?;
    follow.wait()?;
    result?;
    let past = batch.site.ok(&["logs", "talker", "--since", "1h"])?;
    ensure!(past.contains("GET /slow/1 200") && past.contains("GET /slow/2 200"), "{past}");
    ensure!(batch.site.ok(&["logs", "talker", "-n", "1"])?.lines().count() == 1);
    Ok(())
}

fn holm_pid(batch: &Batch) -> Result<Pid> {
    let all = batch.site.processes()?;
    let found = all.iter().find(|(_, line)| line.contains("/holm up "));
    let pid = found.map(|(pid, _)| *pid).with_context(|| format!("no Holm among {all:?}"))?;
    i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")
}

/// The microVM's process of an instance.
fn qemu_of(batch: &Batch, instance: &str) -> Result<Pid> {
    let all = batch.site.processes()?;
    let of_instance = |line: &str| line.contains("qemu") && line.contains(&format!("/{instance} "));
    let found: Vec<_> = all.iter().filter(|(_, line)| of_instance(line)).collect();
    ensure!(found.len() == 1, "{} microVMs of {instance}: {all:#?}", found.len());
    i32::try_from(found[0].0).ok().and_then(Pid::from_raw).context("not a process id")
}

fn killed_holm_adopts_what_runs_and_loses_nothing(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "survivor", "here", port)?;
    let name = healthy(batch, "survivor")?.pop().context("no healthy instance")?;
    let vm = qemu_of(batch, &name)?;
    let answer = client::get(port, "/")?;

    // Acknowledged right before the kill: it must not be lost.
    batch.site.ok(&["route", "add", "--app", "survivor", "web", "--port", "8080", "--sni", "survivor.example"])?;
    // Clients notice nothing: the ingress is a process of its own.
    let load = Load::start(port, 10);
    kill_process(holm_pid(batch)?, Signal::KILL)?;
    wait_for("Holm's end", || Ok((batch.site.run(&["status"])?.status == 3).then_some(())))?;
    ensure!(qemu_of(batch, &name)? == vm, "the microVM did not outlive Holm");
    batch.up()?;
    wait_for("the instance to be adopted", || Ok(healthy(batch, "survivor")?.contains(&name).then_some(())))?;
    ensure!(qemu_of(batch, &name)? == vm, "another microVM was started");
    wait_for("the route", || Ok((client::get(port, "/").ok().as_ref() == Some(&answer)).then_some(())))?;
    let routes = batch.site.ok(&["route", "list", "survivor"])?;
    ensure!(routes.contains("survivor.example"), "the acknowledged route is gone:\n{routes}");
    let log = batch.site.ok(&["logs", "survivor"])?;
    ensure!(log.matches("listening on port 8080").count() == 1, "lines were lost or repeated:\n{log}");
    let ran = batch.site.run(&["exec", "survivor", "--", "/hello", "--fail", "4"])?;
    ensure!(ran.status == 4, "exec after adoption: {ran:?}");
    load.end()?.check()
}

fn killed_ingress_is_started_again(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "door", "open", port)?;
    let answer = client::get(port, "/")?;
    let [before] = *batch.site.ingresses()? else { bail!("not one ingress") };
    let pid = i32::try_from(before).ok().and_then(Pid::from_raw).context("not a process id")?;
    kill_process(pid, Signal::KILL)?;
    wait_for("the route", || Ok((client::get(port, "/").ok().as_ref() == Some(&answer)).then_some(())))?;
    let [after] = *batch.site.ingresses()? else { bail!("not one ingress") };
    ensure!(after != before, "the ingress did not die");
    batch.site.ok(&["destroy", "door", "--yes"]).map(drop)
}

fn killed_microvm_is_replaced(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "phoenix", "again", port)?;
    let name = healthy(batch, "phoenix")?.pop().context("no healthy instance")?;
    kill_process(qemu_of(batch, &name)?, Signal::KILL)?;
    wait_for("a replacement", || Ok(healthy(batch, "phoenix")?.first().filter(|now| **now != name).cloned()))?;
    wait_for("an answer", || Ok(client::get(port, "/").ok()))?;
    let explained = batch.site.ok(&["explain", &name])?;
    ensure!(explained.contains("lost"), "{explained}");
    Ok(())
}

fn guest_that_hangs_is_killed_after_its_grace(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    deploy_hello(batch, "frozen", "brr", port)?;
    let name = healthy(batch, "frozen")?.pop().context("no healthy instance")?;
    kill_process(qemu_of(batch, &name)?, Signal::STOP)?;
    batch.site.ok(&["stop", "frozen"])?;
    wait_for("the end of the hung guest", || {
        let all = instances(batch, "frozen")?;
        Ok(all.iter().find(|i| i["instance"] == name.as_str() && i["phase"] == "ended").cloned())
    })?;
    let explained = batch.site.ok(&["explain", &name])?;
    ensure!(explained.contains("killed"), "{explained}");
    ensure!(batch.site.processes()?.iter().all(|(_, line)| !line.contains(&format!("/{name} "))));
    Ok(())
}

fn stopped_app_starts_again_although_its_image_was_damaged_and_is_destroyed(batch: &Batch) -> Result<()> {
    let port = free_port()?;
    // The same program with a byte more is an image that nobody else has.
    let program = batch.path().join("longer");
    let mut bytes = std::fs::read(&batch.site.programs().hello)?;
    bytes.push(0);
    std::fs::write(&program, bytes)?;
    let image = images::hello(&batch.path().join("hello-longer"), &program)?;
    let manifest = batch.site.manifest("cycle", &hello_manifest("cycle", "round", port))?;
    let deployed = batch.site.json(&["deploy", &image, "-f", &manifest])?;
    let digest = deployed["deployment"]["digest"].as_str().context("no digest")?.to_owned();
    batch.site.ok(&["stop", "cycle"])?;
    let ended = || Ok(instances(batch, "cycle")?.iter().all(|instance| instance["phase"] == "ended").then_some(()));
    wait_for("no instance", ended)?;
    ensure!(client::get_from(loopback(port), "/").is_err(), "a stopped app answers");

    deploy_box(batch)?;
    let other = healthy(batch, "box")?;
    faults::damaged_and_built_again(batch, &digest, || {
        batch.site.ok(&["start", "cycle"])?;
        wait_for("an answer", || Ok(client::get(port, "/").ok()))
    })?;
    ensure!(healthy(batch, "box")? == other, "another app's instance was replaced");
    batch.site.ok(&["exec", "box", "--", "ls", "/srv/index.html"])?;

    let refused = batch.site.run(&["destroy", "cycle"])?;
    ensure!(refused.status == 2, "destroyed without --yes: {refused:?}");
    batch.site.ok(&["destroy", "cycle", "--yes"])?;
    wait_for("the app to be gone", || Ok((!batch.site.ok(&["status"])?.contains("cycle")).then_some(())))
}

fn rubbish_is_refused_and_harms_nothing(batch: &Batch) -> Result<()> {
    let manifest = |text: &str| batch.site.manifest("rubbish", text);
    let unknown = manifest("schema = 1\napp = \"rubbish\"\n\n[process.web]\nmemroy = \"64MiB\"\n")?;
    let ran = batch.site.run(&["deploy", "oci:/nowhere", "-f", &unknown])?;
    ensure!(ran.status == 2 && ran.stderr.contains(":5:1") && ran.stderr.contains('^'), "{ran:?}");

    let sound = manifest("schema = 1\napp = \"rubbish\"\n[process.web]\n")?;
    let ran = batch.site.run(&["deploy", "oci:/no/such/folder:1", "-f", &sound])?;
    ensure!(ran.status == 5 && ran.stderr.contains("/no/such/folder"), "{ran:?}");
    let taken = free_port()?;
    deploy_hello(batch, "owner", "mine", taken)?;
    let thief = manifest(&hello_manifest("rubbish", "yours", taken))?;
    let ran = batch.site.run(&["deploy", &hello_image(batch)?, "-f", &thief])?;
    ensure!(ran.status == 4 && ran.stderr.contains("owner"), "{ran:?}");
    for command in [vec!["status", "nobody"], vec!["logs", "nobody"], vec!["explain", "nobody.web.1"]] {
        let ran = batch.site.run(&command)?;
        ensure!(ran.status != 0 && ran.stderr.starts_with("error: "), "{command:?}: {ran:?}");
    }
    batch.site.ok(&["destroy", "owner", "--yes"])?;
    batch.site.ok(&["destroy", "rubbish", "--yes"])?;
    wait_for("the apps to be gone", || {
        let status = batch.site.ok(&["status"])?;
        Ok((!status.contains("owner") && !status.contains("rubbish")).then_some(()))
    })?;
    let findings = batch.site.json(&["doctor"])?;
    let log = findings["findings"].as_array().into_iter().flatten().find(|f| f["subject"] == "event log").cloned();
    ensure!(log.as_ref().is_some_and(|f| f["level"] == "ok"), "{findings}");
    Ok(())
}

fn down_leaves_nothing_behind(batch: &Batch) -> Result<()> {
    batch.site.ok(&["down"])?;
    let left = batch.site.processes()?;
    ensure!(left.is_empty(), "processes are left: {left:#?}");
    ensure!(!batch.site.state().join("holm.sock").exists(), "the socket is left");
    let cgroups = batch.site.cgroups();
    ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
    Ok(())
}

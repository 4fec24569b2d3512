//! What `holm doctor` looks at, on a host where Holm runs and on one where it does not.

use std::path::Path;

use holm_api::wire::{Finding, FindingLevel};
use holm_control::EventQuery;
use holm_model::state::State;
use holm_planner::Disk;
use holm_vmm::{CpuShares, GuestStore};

use super::backend::Host;
use super::checks;
use super::disk::Left;

/// Looks at a host where Holm runs.
pub(crate) async fn of_running_host(host: &Host) -> Vec<Finding> {
    let mut findings = of_machine(&host.state_dir).await;
    let state = host.control.state();
    if let Some(running) = &state.site.host {
        let level = if running.acceleration == "kvm" { FindingLevel::Ok } else { FindingLevel::Warn };
        findings.push(finding("acceleration in use", level, format!("{}: {}", running.acceleration, running.why)));
        findings.push(finding("network in use", FindingLevel::Ok, running.network.clone()));
    }
    if let Some((taken, there)) = holm_planner::Room::of(&state).figures() {
        let text = format!("{} of {} MiB are taken by instances", taken >> 20, there >> 20);
        let level = if taken > there { FindingLevel::Warn } else { FindingLevel::Ok };
        findings.push(finding("memory for microVMs", level, text));
    }
    findings.extend(disk(host, &state));
    let paused = host.agent.starved();
    if !paused.is_empty() {
        let names: Vec<String> = paused.iter().map(ToString::to_string).collect();
        let text = format!("the disk is full, and these are paused until there is room: {}", names.join(", "));
        let hint = "make room: `holm images prune`, delete snapshots, or remove what other programs wrote";
        findings.push(Finding { hint: Some(hint.to_owned()), ..finding("paused instances", FindingLevel::Fail, text) });
    }
    for (listener, why) in host.front.closed_listeners().await {
        let text = format!("cannot listen on {listener}: {why}");
        let hint = "choose another port, or end what listens there; it is tried again every second";
        findings.push(Finding { hint: Some(hint.to_owned()), ..finding("ingress", FindingLevel::Fail, text) });
    }
    for (volume, problem) in host.storage.overdue() {
        let text = format!("{volume}: {problem}");
        findings
            .push(Finding { hint: problem.hint.clone(), ..finding("backup by schedule", FindingLevel::Fail, text) });
    }
    let newest = host.control.events(EventQuery { limit: 1, newest: true, ..EventQuery::default() }).await;
    let newest = newest.ok().and_then(|events| Some(events.last()?.at));
    findings.push(checks::clock(host.clocks, newest, jiff::Timestamp::now()));
    if let Some((address, fingerprint)) = host.desk.remote {
        findings.push(finding("remote interface", FindingLevel::Ok, format!("{address}, {fingerprint}")));
    }
    match host.control.verify().await {
        Ok(verified) if verified.differing.is_empty() => {
            let text = format!("{} events replay to the stored {} documents", verified.seq, verified.documents);
            findings.push(finding("event log", FindingLevel::Ok, text));
        }
        Ok(verified) => {
            let text = format!("replaying the log gives other documents: {}", verified.differing.join(", "));
            findings.push(finding("event log", FindingLevel::Fail, text));
        }
        Err(error) => findings.push(finding("event log", FindingLevel::Fail, super::images::chain(&error))),
    }
    findings
}

/// What of the disk is promised, and whether the disk has it.
fn disk(host: &Host, state: &State) -> Vec<Finding> {
    let subject = "disk for volumes";
    let Some((promised, cap)) = Disk::of(state).figures() else { return Vec::new() };
    let text = format!("{} of {} MiB are promised to volumes, snapshots and logs", promised >> 20, cap >> 20);
    let hint = "nothing is taken back; delete volumes or snapshots that nobody needs, or make room on the disk";
    let told = |level, text| Finding { hint: Some(hint.to_owned()), ..finding(subject, level, text) };
    if promised > cap {
        return vec![told(FindingLevel::Warn, text)];
    }
    let short = host.storage.left().ok().filter(|left| left.owed > left.free);
    let short = short.map(|Left { owed, free }| {
        let text =
            format!("apps may still write {} MiB that they were promised, and {} are free", owed >> 20, free >> 20);
        told(FindingLevel::Warn, text)
    });
    [finding(subject, FindingLevel::Ok, text)].into_iter().chain(short).collect()
}

/// Looks at the machine alone; for a host where Holm does not run.
pub(crate) async fn of_machine(state_dir: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(guests) = GuestStore::open(&state_dir.join("guests")) {
        let shares = CpuShares::detect("doctor");
        let seen = holm_vmm::doctor::examine(Path::new(super::QEMU), &guests, &shares).await;
        if let Err(error) = shares.sweep() {
            tracing::warn!(%error, "cannot remove the cgroup that was tried");
        }
        findings.extend(seen.into_iter().map(of_vmm));
    }
    findings.push(match holm_network::privileges() {
        Ok(()) => finding("network", FindingLevel::Ok, "taps and routed IPv6 are possible"),
        Err(missing) => Finding {
            hint: Some("run Holm as root, or with CAP_NET_ADMIN, for routed IPv6 and apps kept apart".to_owned()),
            ..finding("network", FindingLevel::Warn, format!("QEMU's user network: {}", super::images::chain(&missing)))
        },
    });
    findings.extend(checks::state_folder(state_dir));
    findings.extend(checks::leftovers(state_dir));
    findings
}

fn finding(subject: &str, level: FindingLevel, text: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), level, text: text.into(), hint: None }
}

fn of_vmm(seen: holm_vmm::doctor::Finding) -> Finding {
    use holm_vmm::doctor::{Check, Level};
    let subject = match seen.check {
        Check::Qemu => "qemu",
        Check::Microvm => "microvm",
        Check::KvmDevice => "kvm device",
        Check::Acceleration => "acceleration",
        Check::GuestBundle => "guest",
        Check::CpuShares => "cpu shares",
    };
    let level = match seen.level {
        Level::Good => FindingLevel::Ok,
        Level::Drawback => FindingLevel::Warn,
        Level::Broken => FindingLevel::Fail,
    };
    Finding { subject: subject.to_owned(), level, text: seen.message, hint: seen.hint }
}

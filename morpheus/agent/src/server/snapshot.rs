//! The report, made from the table, the pages and the ledgers.

use std::collections::BTreeMap;

use morpheus_abi::protocol::Refusal;
use morpheus_abi::{Reason, WorkerState, YieldCause};

use super::{Daemon, now_ns};
use crate::bpf::layout::Place;
use crate::bpf::maps::ledger;
use crate::bpf::pages::Pages;
use crate::report::{ProcessReport, REPORT_VERSION, Report, Totals, WorkerReport};
use crate::worker::Worker;

impl Daemon {
    /// What the operator is told.
    pub(super) fn report(&self) -> Report {
        let now = now_ns();
        let refused = Refusal::ALL
            .into_iter()
            .filter_map(|refusal| Some((refusal.to_string(), *self.refused.get(&(refusal as u32))?)))
            .collect();
        let mut processes: Vec<ProcessReport> = self
            .sessions
            .values()
            .filter_map(|session| {
                let served = session.served.as_ref()?;
                let process = self.table.process(served.index)?;
                Some(ProcessReport {
                    pid: process.pid,
                    uid: process.uid,
                    name: process_name(process.pid),
                    workers: process
                        .workers()
                        .map(|worker| {
                            let bound = served.threads.get(&worker.place.generation);
                            of_worker(
                                &served.pages,
                                worker,
                                bound.map_or(0, |bound| now.saturating_sub(bound.since_ns)),
                            )
                        })
                        .collect(),
                })
            })
            .collect();
        processes.sort_by_key(|process| process.pid);
        Report {
            version: REPORT_VERSION,
            mode: self.mode.name(),
            generation: self.generation,
            pid: std::process::id(),
            time_ns: now,
            uptime_ns: now - self.started_ns,
            refused,
            gone: self.gone.clone(),
            programs: self.mode.verified_instructions().into_iter().collect(),
            enforce: self.mode.counts(),
            processes,
        }
    }
}

/// The kernel's name of a process, without what would disturb a terminal.
fn process_name(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .chars()
        .filter(|letter| !letter.is_control())
        .collect()
}

fn of_worker(pages: &Pages, worker: &Worker, age_ns: u64) -> WorkerReport {
    let kernel = pages.kernel_line(worker.place.slot);
    let runtime = pages.runtime_line(worker.place.slot);
    // What a process wrote before this registration is not this worker's.
    let own = runtime.slot_generation == worker.place.generation;
    let state = match (kernel.state, own) {
        (dead, _) if dead == WorkerState::Dead.number() => "dead".to_owned(),
        (_, false) => WorkerState::Registered.to_string(),
        (_, true) => WorkerState::from_number(runtime.state).map_or_else(|| "?".to_owned(), |state| state.to_string()),
    };
    let yields = YieldCause::ALL.iter().filter(|_| own).filter_map(|cause| {
        let count = runtime.yields[cause.number() as usize];
        (count > 0).then(|| (cause.to_string(), u64::from(count)))
    });
    WorkerReport {
        slot: worker.place.slot.index() as u32,
        tid: worker.tid,
        age_ns,
        name: worker.registration.name.to_string(),
        state,
        escapable: own && runtime.escapable == 1,
        critical_depth: if own { runtime.critical_depth } else { 0 },
        budget_remaining_ns: kernel.budget_remaining_ns,
        yields: yields.collect(),
        totals: totals(pages, worker.place),
    }
}

/// What the programs counted for a worker.
pub(super) fn totals(pages: &Pages, place: Place) -> Totals {
    let kernel = pages.kernel_line(place.slot);
    let ledger = ledger(pages, place)
        .inspect_err(|error| tracing::warn!(%error, "a worker's counts are missing"))
        .unwrap_or_default();
    let hints: BTreeMap<String, u64> = Reason::ALL
        .iter()
        .filter_map(|reason| {
            let count = *ledger.hints.get(reason.number() as usize)?;
            (count > 0).then(|| (reason.to_string(), u64::from(count)))
        })
        .collect();
    Totals {
        workers: 1,
        hints,
        taken: ledger.taken.into(),
        ignored: ledger.ignored.into(),
        moot: ledger.moot.into(),
        latency_sum_ns: ledger.latency_sum_ns,
        latency: ledger.latency.map(u64::from).to_vec(),
        off_cpu_ns: kernel.off_cpu_ns,
        runqueue_wait_ns: kernel.runqueue_wait_ns,
        involuntary_switches: kernel.involuntary_switches.into(),
        escalations: kernel.escalations.into(),
    }
}

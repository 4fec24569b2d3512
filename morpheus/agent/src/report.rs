//! What an operator is told: one picture of the agent, made at a moment and sent as JSON. `status`, `top` and the metrics
//! all show this picture, so they cannot disagree. Its shape is versioned: a field may be added, none changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::enforce::counts::Counts;
use crate::histogram::Histogram;
use crate::mode::ModeName;

/// Version of the JSON.
pub const REPORT_VERSION: u32 = 1;

/// The agent at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The mode.
    pub mode: ModeName,
    /// The agent's run, as in the pages' headers.
    pub generation: u64,
    /// The agent's process.
    pub pid: u32,
    /// When the picture was made: CLOCK_MONOTONIC in ns.
    pub time_ns: u64,
    /// ns since the start.
    pub uptime_ns: u64,
    /// Requests refused since the start, by reason.
    pub refused: BTreeMap<String, u64>,
    /// What became of workers that are gone, added up.
    pub gone: Totals,
    /// Verifier instructions of each loaded program.
    pub programs: BTreeMap<String, u32>,
    /// What the scheduler decided about workers; only of an agent that enforces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforce: Option<Counts>,
    /// The processes with pages.
    pub processes: Vec<ProcessReport>,
}

/// Counts that outlive a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Workers.
    pub workers: u64,
    /// Hints by reason.
    pub hints: BTreeMap<String, u64>,
    /// Hints taken.
    pub taken: u64,
    /// Hints still pending when the kernel took the CPU away.
    pub ignored: u64,
    /// Hints overtaken by the worker's own sleep.
    pub moot: u64,
    /// Sum of the latencies from hint to yield in ns.
    pub latency_sum_ns: u64,
    /// Their histogram, as [`Histogram`].
    pub latency: Vec<u64>,
    /// ns off the CPU.
    pub off_cpu_ns: u64,
    /// ns runnable without a CPU.
    pub runqueue_wait_ns: u64,
    /// Switches away from a worker that could have run on.
    pub involuntary_switches: u64,
    /// Slices ended by consent.
    pub escalations: u64,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Its number.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// The kernel's name for it.
    pub name: String,
    /// Its workers by slot.
    pub workers: Vec<WorkerReport>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Slot in the pages.
    pub slot: u32,
    /// The thread.
    pub tid: u32,
    /// ns since it was registered.
    pub age_ns: u64,
    /// What it calls itself.
    pub name: String,
    /// Its state by its own word, or `dead`.
    pub state: String,
    /// Whether it consents to escalation.
    pub escapable: bool,
    /// Nested critical sections it says it is in.
    pub critical_depth: u32,
    /// ns left of slice or quota when last looked at; information only.
    pub budget_remaining_ns: u64,
    /// Yields by cause, by its own word.
    pub yields: BTreeMap<String, u64>,
    /// What the programs counted; `workers` is 1.
    pub totals: Totals,
}

impl Totals {
    /// The latencies.
    pub fn histogram(&self) -> Histogram {
        let mut histogram = Histogram::default();
        for (bucket, count) in histogram.0.iter_mut().zip(&self.latency) {
            *bucket = *count;
        }
        histogram
    }

    /// Hints of all reasons.
    pub fn hints(&self) -> u64 {
        self.hints.values().sum()
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.workers += other.workers;
        for (reason, count) in &other.hints {
            *self.hints.entry(reason.clone()).or_default() += count;
        }
        self.taken += other.taken;
        self.ignored += other.ignored;
        self.moot += other.moot;
        self.latency_sum_ns += other.latency_sum_ns;
        let mut histogram = self.histogram();
        histogram.add(&other.histogram());
        self.latency = histogram.0.to_vec();
        self.off_cpu_ns += other.off_cpu_ns;
        self.runqueue_wait_ns += other.runqueue_wait_ns;
        self.involuntary_switches += other.involuntary_switches;
        self.escalations += other.escalations;
    }
}

impl Report {
    /// Everything since the start: the workers that live and those that are gone.
    pub fn totals(&self) -> Totals {
        let mut totals = self.gone.clone();
        for worker in self.processes.iter().flat_map(|process| &process.workers) {
            totals.add(&worker.totals);
        }
        totals
    }

    /// Workers that live.
    pub fn workers(&self) -> usize {
        self.processes.iter().map(|process| process.workers.len()).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An agent that nobody uses.
    pub(crate) fn idle() -> Report {
        Report {
            version: REPORT_VERSION,
            mode: ModeName::Observe,
            generation: 7,
            pid: 100,
            time_ns: 1_000_000_000,
            uptime_ns: 90_000_000_000,
            refused: BTreeMap::new(),
            gone: Totals::default(),
            programs: BTreeMap::from([("observe_switch".to_owned(), 1_234)]),
            enforce: None,
            processes: Vec::new(),
        }
    }

    fn worker(slot: u32, name: &str, waiter: u64, taken: u64, ignored: u64) -> WorkerReport {
        let mut latency = vec![0; crate::bpf::layout::BUCKETS];
        latency[14] = taken - taken / 10;
        latency[20] = taken / 10;
        WorkerReport {
            slot,
            tid: 4_000 + slot,
            age_ns: 45_000_000_000,
            name: name.to_owned(),
            state: "running".to_owned(),
            escapable: false,
            critical_depth: 0,
            budget_remaining_ns: 1_500_000,
            yields: BTreeMap::from([("waiter".to_owned(), taken)]),
            totals: Totals {
                workers: 1,
                hints: BTreeMap::from([("waiter".to_owned(), waiter)]),
                taken,
                ignored,
                moot: waiter - taken - ignored,
                latency_sum_ns: taken * 20_000,
                latency,
                off_cpu_ns: 9_000_000_000,
                runqueue_wait_ns: 4_500_000_000,
                involuntary_switches: 17,
                escalations: 0,
            },
        }
    }

    /// Two processes with three workers, one gone.
    pub(crate) fn busy() -> Report {
        let process = |pid, name: &str, workers| ProcessReport { pid, uid: 1000, name: name.to_owned(), workers };
        Report {
            refused: BTreeMap::from([("the agent could not read the request".to_owned(), 2)]),
            gone: Totals { hints: BTreeMap::from([("quota".to_owned(), 3)]), moot: 3, ..worker(0, "", 0, 0, 0).totals },
            processes: vec![
                process(4_000, "axum", vec![worker(0, "tokio-rt-worker", 40, 30, 5), worker(1, "second", 0, 0, 0)]),
                process(
                    5_000,
                    "a-process-with-a-long-name",
                    vec![worker(0, "a worker of a very long name", 90, 90, 0)],
                ),
            ],
            ..idle()
        }
    }

    #[test]
    fn the_json_has_the_versioned_shape() {
        let json = serde_json::to_string_pretty(&busy()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), busy());
        insta::assert_snapshot!(json);
    }

    #[test]
    fn what_gone_workers_did_stays_in_the_totals() {
        let totals = busy().totals();
        assert_eq!(totals.workers, 4);
        assert_eq!(totals.hints["waiter"], 130);
        assert_eq!(totals.hints["quota"], 3);
        assert_eq!(totals.histogram().count(), 120);
    }
}

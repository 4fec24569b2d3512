//! What the scheduler decided about workers, summed over the CPUs: the guardrails seen at work.

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::bpf::BpfError;

/// Numbers of decisions since the scheduler was loaded. In the order of `counts` in the C file: a verdict on a worker with
/// an unanswered hint at each tick, then the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Unused: workers without an unanswered hint are not counted.
    #[serde(skip)]
    pub answered: u64,
    /// No escalation: the worker was not at work, or its line was of another registration.
    pub wrong_state: u64,
    /// No escalation: nobody waited.
    pub nobody_waits: u64,
    /// No escalation: the worker has not consented.
    pub no_consent: u64,
    /// No escalation: inside a critical section.
    pub critical: u64,
    /// No escalation: the grace time was not over.
    pub grace: u64,
    /// Slices ended because a hint was ignored.
    pub escalated: u64,
    /// Hints given.
    pub hints: u64,
    /// Slices extended for a critical section.
    pub deferred: u64,
    /// Extended slices that ended when the section was left.
    pub deferral_ended: u64,
    /// Hints not given though somebody waited: the worker was in the wrong state, or still had one.
    pub hint_withheld: u64,
    /// Hints not given because nobody waited.
    pub unwanted: u64,
}

/// Elements of the map.
const LENGTH: usize = 12;

impl Counts {
    pub(super) fn read(map: &MapHandle) -> Result<Self, BpfError> {
        let mut sums = [0_u64; LENGTH];
        for (index, sum) in sums.iter_mut().enumerate() {
            // A dozen.
            let key = (index as u32).to_ne_bytes();
            let values = map
                .lookup_percpu(&key, MapFlags::ANY)
                .map_err(BpfError::libbpf("cannot read the scheduler's counts"))?
                .unwrap_or_default();
            let numbers = values.iter().filter_map(|value| Some(u64::from_ne_bytes(value.as_slice().try_into().ok()?)));
            *sum = numbers.sum();
        }
        let [
            answered,
            wrong_state,
            nobody_waits,
            no_consent,
            critical,
            grace,
            escalated,
            hints,
            deferred,
            deferral_ended,
            hint_withheld,
            unwanted,
        ] = sums;
        Ok(Self {
            answered,
            wrong_state,
            nobody_waits,
            no_consent,
            critical,
            grace,
            escalated,
            hints,
            deferred,
            deferral_ended,
            hint_withheld,
            unwanted,
        })
    }
}

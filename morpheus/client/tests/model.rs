//! Random histories of one worker and its agent against a small model: what is pending, what is acknowledged, how deep
//! the critical sections are, and what the ledger holds.

use morpheus::{
    Critical, Reason, Worker, WorkerConfig, YieldCause, critical, hint_pending, take_hint, yield_for, yield_thread,
};
use morpheus_abi::WorkerState;
use morpheus_fake_agent::FakeAgent;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Raise(u32),
    Take,
    Enter,
    /// Leaves the section entered at this place, modulo their number: guards may be dropped in any order.
    Leave(usize),
    Yield,
    Park,
    Unpark,
    Hang,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..8).prop_map(Step::Raise),
        4 => Just(Step::Take),
        2 => Just(Step::Enter),
        2 => any::<usize>().prop_map(Step::Leave),
        1 => Just(Step::Yield),
        1 => Just(Step::Park),
        1 => Just(Step::Unpark),
        1 => prop::bool::weighted(0.1).prop_map(|hang| if hang { Step::Hang } else { Step::Take }),
    ]
}

#[derive(Default)]
struct Model {
    raised: u32,
    reason: u32,
    acked: u32,
    yields: [u32; 7],
    running: bool,
    hung: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_worker_does_what_the_model_does(steps in prop::collection::vec(step(), 0..60)) {
        let agent = FakeAgent::start();
        let worker = Worker::register(WorkerConfig::new("model").socket(agent.socket()).polite());
        let seat = agent.running("model");
        let mut model = Model { running: true, ..Model::default() };
        let mut sections: Vec<Critical> = Vec::new();
        for step in steps {
            match step {
                Step::Raise(reason) => {
                    model.raised = agent.raise_number(&seat, reason, 0);
                    model.reason = reason;
                }
                Step::Take => {
                    let expected = (model.raised != model.acked && !model.hung)
                        .then(|| Reason::from_number(model.reason)).flatten();
                    let hint = take_hint();
                    model.acked = model.raised;
                    prop_assert_eq!(hint.map(|hint| hint.reason), expected);
                    if let Some(hint) = hint {
                        prop_assert_eq!(hint.seq, model.raised);
                        prop_assert_eq!(yield_for(&hint), sections.is_empty());
                        let cause = if sections.is_empty() { hint.reason.into() } else { YieldCause::Withheld };
                        model.yields[cause.number() as usize] += 1;
                    }
                }
                Step::Enter => sections.push(critical()),
                Step::Leave(place) => {
                    if !sections.is_empty() {
                        drop(sections.swap_remove(place % sections.len()));
                    }
                }
                Step::Yield => {
                    prop_assert_eq!(yield_thread(), sections.is_empty());
                    let cause = if sections.is_empty() { YieldCause::Voluntary } else { YieldCause::Withheld };
                    model.yields[cause.number() as usize] += 1;
                }
                Step::Park => {
                    worker.park();
                    model.running = false;
                }
                Step::Unpark => {
                    worker.unpark();
                    model.running = true;
                }
                Step::Hang => {
                    agent.hang();
                    model.hung = true;
                }
            }
            let line = agent.runtime_line(&seat);
            prop_assert_eq!(hint_pending(), model.raised != model.acked);
            prop_assert_eq!(line.ack_seq, model.acked);
            prop_assert_eq!(line.critical_depth as usize, sections.len());
            prop_assert_eq!(line.yields, model.yields);
            let state = if model.running { WorkerState::Running } else { WorkerState::Registered };
            prop_assert_eq!(line.state, state.number());
            prop_assert_eq!((line.slot_generation, line.escapable), (seat.slot_generation, 0));
            prop_assert_eq!(worker.is_attached(), !model.hung);
        }
    }
}

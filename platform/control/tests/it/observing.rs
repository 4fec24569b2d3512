//! What becomes of a host's report.

use std::collections::BTreeMap;

use holm_control::observe;
use holm_model::event::{Event, Recorded};
use holm_model::id::{InstanceName, ReleaseNumber, Seq};
use holm_model::report::{End, EndCause, HostReport, Observation, Phase};
use holm_model::state::State;
use jiff::Timestamp;

use crate::fixture::{app, manifest};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn name() -> InstanceName {
    "hello.web.1".parse().unwrap()
}

fn fold(state: &mut State, event: Event) {
    state.apply(&Recorded { seq: state.seq.next(), at: now(), actor: "test".to_owned(), cause: None, event });
}

/// `hello.web.1`, placed by event 2.
fn placed() -> State {
    let mut state = State::default();
    fold(
        &mut state,
        Event::DeployRequested {
            app: app("hello"),
            deployment: holm_model::id::DeploymentNumber(1),
            image: "x".to_owned(),
            manifest: Box::new(manifest("hello")),
        },
    );
    let (release, why) = (ReleaseNumber(1), "test".to_owned());
    fold(&mut state, Event::InstancePlaced { instance: name(), release, epoch: 0, why, task: false });
    state
}

fn seen(phase: Phase) -> Observation {
    Observation { phase, detail: None, endpoints: BTreeMap::new(), end: None }
}

fn report(generation: u64, seen: Option<Observation>) -> HostReport {
    let instances = seen.into_iter().map(|seen| (name(), seen)).collect();
    HostReport { run: 0, number: 0, generation: Seq(generation), instances }
}

fn at_phase(phase: Phase) -> State {
    let mut state = placed();
    for event in observe(&state.clone(), &report(2, Some(seen(phase))), now()) {
        fold(&mut state, event);
    }
    assert_eq!(state.instances[&name()].phase, phase);
    state
}

fn retired(mut state: State) -> State {
    fold(&mut state, Event::InstanceRetired { instance: name(), why: "test".to_owned() });
    state
}

#[test]
fn a_report_says_the_same_thing_once() {
    for phase in [Phase::Preparing, Phase::Booting, Phase::Starting, Phase::Healthy, Phase::Unhealthy, Phase::Stopping]
    {
        let state = at_phase(phase);
        assert_eq!(observe(&state, &report(2, Some(seen(phase))), now()), []);
    }
}

#[test]
fn a_detail_alone_is_news_only_of_an_unhealthy_instance() {
    for (phase, events) in [(Phase::Booting, 0), (Phase::Healthy, 0), (Phase::Unhealthy, 1)] {
        let observation = Observation { detail: Some("connection refused".to_owned()), ..seen(phase) };
        assert_eq!(observe(&at_phase(phase), &report(2, Some(observation)), now()).len(), events, "{phase}");
    }
}

#[test]
fn new_endpoints_are_news() {
    let endpoints = BTreeMap::from([(80, ([127, 0, 0, 1], 4000).into())]);
    let observation = Observation { endpoints, ..seen(Phase::Healthy) };
    assert_eq!(observe(&at_phase(Phase::Healthy), &report(2, Some(observation)), now()).len(), 1);
}

#[test]
fn an_instance_the_host_does_not_have_has_ended_where_its_silence_says_so() {
    let lost = |what: &str| Some(EndCause::Lost { why: format!("it was {what}, and its host no longer has it") });
    for (what, state, generation, expected) in [
        ("not heard of yet", placed(), 1, None),
        ("heard of, not begun yet", placed(), 2, None),
        ("gone", at_phase(Phase::Healthy), 2, lost("healthy")),
        ("gone, an old report", at_phase(Phase::Healthy), 1, None),
        ("retired before it began", retired(placed()), 3, Some(EndCause::Stopped)),
        ("retired, the host has not heard of it", retired(placed()), 2, None),
        ("gone while it was stopped", retired(at_phase(Phase::Stopping)), 4, lost("stopping")),
    ] {
        let events = observe(&state, &report(generation, None), now());
        let causes: Vec<EndCause> = events
            .into_iter()
            .map(|event| match event {
                Event::InstanceEnded { end, .. } => end.cause,
                other => panic!("{what}: {other:?}"),
            })
            .collect();
        assert_eq!(causes, expected.into_iter().collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn an_end_is_recorded_once_and_for_all() {
    let end = End { cause: EndCause::Exited { code: 3 }, at: now(), last_log: vec!["boom".to_owned()] };
    let ended = Observation { end: Some(end.clone()), ..seen(Phase::Ended) };
    let mut state = at_phase(Phase::Healthy);
    let events = observe(&state, &report(2, Some(ended.clone())), now());
    assert_eq!(events, [Event::InstanceEnded { instance: name(), end }]);
    fold(&mut state, events[0].clone());
    for again in [Some(ended), Some(seen(Phase::Healthy)), None] {
        assert_eq!(observe(&state, &report(9, again), now()), []);
    }
    let unsaid = observe(&placed(), &report(2, Some(seen(Phase::Ended))), now());
    assert!(matches!(&unsaid[..], [Event::InstanceEnded { end: End { cause: EndCause::Lost { .. }, .. }, .. }]));
}

#[test]
fn instances_nobody_placed_are_left_alone() {
    assert_eq!(observe(&State::default(), &report(9, Some(seen(Phase::Healthy))), now()), []);
}

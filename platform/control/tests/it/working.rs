//! The control plane at work: deployments, requests, and what they lead to.

use std::sync::Arc;
use std::time::Duration;

use holm_control::{Command, Control, EventQuery, Meta, Refusal, Refused, StoreError};
use holm_model::event::Event;
use holm_model::id::{DeploymentNumber, ReleaseNumber, Seq};
use holm_model::report::{HostReport, Phase};
use holm_model::state::{DeploymentStatus, State};
use jiff::SignedDuration;

use crate::fixture::{House, app, deploy, deploy_image, flaky, hopeless, options, process};

fn succeeded(status: &DeploymentStatus) -> bool {
    *status == DeploymentStatus::Succeeded
}

fn failed(status: &DeploymentStatus) -> bool {
    matches!(status, DeploymentStatus::Failed { .. })
}

#[tokio::test]
async fn a_deployment_reaches_a_healthy_instance_and_says_who_decided_what() {
    let house = House::new().await;
    let accepted = house.ask(deploy("hello")).await.unwrap();
    assert_eq!((accepted.seq, accepted.deployment), (Seq(1), Some(DeploymentNumber(1))));
    let _host = house.host();
    let state = house.until_status("hello", 1, succeeded).await;
    assert_eq!(state.apps[&app("hello")].current, Some(ReleaseNumber(1)));
    assert!(state.instances.values().all(|i| i.phase == Phase::Healthy));
    let events = house.control.events(EventQuery::default()).await.unwrap();
    let actors: Vec<(&str, Option<Seq>)> = events.iter().map(|e| (e.actor.as_str(), e.cause)).collect();
    assert_eq!(actors[..3], [("user:anna", None), ("deployer", Some(Seq(1))), ("planner", Some(Seq(2)))]);
    house.control.close().await;
}

#[tokio::test]
async fn the_same_deployment_again_succeeds_without_a_new_instance_or_release() {
    let house = House::new().await;
    let _host = house.host();
    house.ask(deploy("hello")).await.unwrap();
    let before = house.until_status("hello", 1, succeeded).await;
    house.ask(deploy("hello")).await.unwrap();
    let after = house.until_status("hello", 2, succeeded).await;
    assert_eq!(after.instances, before.instances);
    assert_eq!(after.releases.len(), 1);
    house.ask(deploy_image("hello", "another")).await.unwrap();
    let third = house.until_status("hello", 3, succeeded).await;
    assert_eq!(third.apps[&app("hello")].current, Some(ReleaseNumber(2)));
}

#[tokio::test]
async fn a_rollback_brings_the_earlier_release_back() {
    let house = House::new().await;
    let _host = house.host();
    for (n, image) in [(1, "a"), (2, "b")] {
        house.ask(deploy_image("hello", image)).await.unwrap();
        house.until_status("hello", n, succeeded).await;
    }
    house.ask(Command::Rollback { app: app("hello"), to: None }).await.unwrap();
    let state = house.until_status("hello", 3, succeeded).await;
    assert_eq!(state.apps[&app("hello")].current, Some(ReleaseNumber(1)));
}

#[tokio::test]
async fn a_clock_that_jumps_replaces_nothing_and_stops_nothing() {
    let house = House::new().await;
    let _host = house.host();
    house.ask(deploy("hello")).await.unwrap();
    house.ask(deploy("other")).await.unwrap();
    house.until_status("other", 1, succeeded).await;
    let state = house.until_status("hello", 1, succeeded).await;
    let of_hello = |state: &State| -> Vec<_> {
        state
            .instances
            .iter()
            .filter(|(name, _)| name.app == app("hello"))
            .map(|(name, i)| (name.clone(), i.phase))
            .collect()
    };
    let before = of_hello(&state);
    assert_eq!(before.len(), 1);
    for (number, jump) in [(2, -24 * 30), (3, 24 * 60), (4, -1)] {
        house.clock.turn(SignedDuration::from_hours(jump));
        house.ask(Command::Restart { app: app("other") }).await.unwrap();
        let state = house.until_status("other", number, succeeded).await;
        assert_eq!(of_hello(&state), before, "after a jump of {jump} h");
    }
    let house = house.reopen().await;
    assert_eq!(of_hello(&house.control.state()), before);
    assert!(house.control.verify().await.unwrap().differing.is_empty());
}

#[tokio::test]
async fn a_failing_registry_is_tried_again_for_a_while() {
    let house = House::new().await;
    let script = |n| (0..n).map(|_| flaky("connection refused")).collect();
    house.shelf.script.lock().unwrap().insert("slow".to_owned(), script(3));
    house.shelf.script.lock().unwrap().insert("dead".to_owned(), script(100));
    house.shelf.script.lock().unwrap().insert("bad".to_owned(), vec![hopeless("no such image")]);
    for name in ["slow", "dead", "bad"] {
        house.ask(deploy_image(name, name)).await.unwrap();
    }
    let clock = Arc::clone(&house.clock);
    let turning = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        loop {
            tick.tick().await;
            clock.turn(SignedDuration::from_secs(1));
        }
    });
    house.until_status("slow", 1, |status| *status == DeploymentStatus::RollingOut).await;
    for (name, why, tries) in [("dead", "connection refused", 6), ("bad", "no such image", 1)] {
        let state = house.until_status(name, 1, failed).await;
        let status = &state.deployments[&(app(name), DeploymentNumber(1))].status;
        assert_eq!(*status, DeploymentStatus::Failed { why: why.to_owned(), last_log: Vec::new() });
        assert_eq!(house.shelf.fetches.lock().unwrap().iter().filter(|fetch| *fetch == name).count(), tries);
    }
    turning.abort();
}

#[tokio::test]
async fn a_newer_deployment_cancels_the_fetch_of_the_older_one() {
    let house = House::new().await;
    house.shelf.stuck.lock().unwrap().push("stuck".to_owned());
    house.ask(deploy_image("hello", "stuck")).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let progress = loop {
        match house.control.progress(&app("hello"), DeploymentNumber(1)) {
            Some(progress) => break progress,
            None => assert!(tokio::time::Instant::now() < deadline, "the fetch did not begin"),
        }
        tokio::task::yield_now().await;
    };
    tokio::time::timeout(Duration::from_secs(20), progress.clone().wait_for(|p| p.total == Some(2)))
        .await
        .unwrap()
        .unwrap();
    house.ask(deploy_image("hello", "fine")).await.unwrap();
    house.until_status("hello", 2, |status| *status == DeploymentStatus::RollingOut).await;
    while house.shelf.dropped.lock().unwrap().is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the fetch was not cancelled");
        tokio::task::yield_now().await;
    }
    assert_eq!(*house.shelf.dropped.lock().unwrap(), ["stuck"]);
    assert!(house.control.progress(&app("hello"), DeploymentNumber(1)).is_none());
}

#[tokio::test]
async fn an_unfinished_fetch_begins_again_after_a_restart() {
    let house = House::new().await;
    house.shelf.stuck.lock().unwrap().push("big".to_owned());
    house.ask(deploy_image("hello", "big")).await.unwrap();
    let house = house.reopen().await;
    assert!(house.control.state().active_deployment(&app("hello")).is_some());
    house.shelf.stuck.lock().unwrap().clear();
    let house = house.reopen().await;
    house.until_status("hello", 1, |status| *status == DeploymentStatus::RollingOut).await;
}

#[tokio::test]
async fn a_destroyed_app_is_forgotten_and_can_be_made_anew() {
    let house = House::new().await;
    let _host = house.host();
    house.ask(deploy("hello")).await.unwrap();
    house.until_status("hello", 1, succeeded).await;
    let old = house.control.state().apps[&app("hello")].version;
    house.ask(Command::Destroy { app: app("hello"), volumes: false }).await.unwrap();
    house.until("the app to be forgotten", |state| state.apps.is_empty() && state.instances.is_empty()).await;
    let again = house.ask(deploy("hello")).await.unwrap();
    assert_eq!(again.deployment, Some(DeploymentNumber(1)));
    assert!(again.version > old, "a version is never seen twice");
    let state = house.until_status("hello", 1, succeeded).await;
    assert!(state.instances.keys().all(|name| name.number > 1));
    assert_eq!(house.control.verify().await.unwrap().differing, [""; 0]);
}

#[tokio::test]
async fn the_same_request_is_answered_the_same_and_done_once() {
    let house = House::new().await;
    let meta = Meta::new("user:anna").with_key("k1");
    let first = house.control.submit(deploy("hello"), meta.clone()).await.unwrap();
    let stop = Command::Stop { app: app("hello") };
    house.ask(stop.clone()).await.unwrap();
    // It would be refused by now; a repetition is not judged again, not even after a restart.
    assert_eq!(house.control.submit(deploy("hello"), meta.clone()).await.unwrap(), first);
    let house = house.reopen().await;
    assert_eq!(house.control.submit(deploy("hello"), meta.clone()).await.unwrap(), first);
    assert_eq!(house.control.state().apps[&app("hello")].last_deployment, DeploymentNumber(1));
    let reused = [
        house.control.submit(stop, meta.clone()).await,
        house.control.submit(deploy("hello"), Meta { actor: "user:ben".to_owned(), ..meta.clone() }).await,
        house.control.submit(deploy("hello"), Meta { expected_version: Some(7), ..meta }).await,
    ];
    for answer in reused {
        assert!(matches!(answer, Err(Refused::Refusal(Refusal::KeyReused { .. }))), "{answer:?}");
    }
    for key in [String::new(), "k".repeat(201)] {
        let answer = house.control.submit(deploy("other"), Meta::new("user:anna").with_key(key)).await;
        assert!(matches!(answer, Err(Refused::Refusal(Refusal::BadKey { .. }))), "{answer:?}");
    }
}

#[tokio::test]
async fn of_many_equal_requests_at_once_one_is_done() {
    let house = House::new().await;
    let asking = (0..100).map(|_| house.control.submit(deploy("hello"), Meta::new("user:anna").with_key("same")));
    let answers = futures_util::future::join_all(asking).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().seq == Seq(1)));
    assert_eq!(house.control.state().apps[&app("hello")].last_deployment, DeploymentNumber(1));
}

#[tokio::test]
async fn a_request_from_an_old_version_is_refused_with_both_versions() {
    let house = House::new().await;
    let from = |version| Meta { expected_version: Some(version), ..Meta::new("user:anna") };
    house.shelf.stuck.lock().unwrap().push("x".to_owned());
    let accepted = house.control.submit(deploy_image("hello", "x"), from(0)).await.unwrap();
    let scale = Command::Scale { app: app("hello"), process: process("web"), instances: Some(2) };
    let old = house.control.submit(scale.clone(), from(0)).await;
    let conflict = Refusal::VersionConflict { app: app("hello"), expected: 0, actual: accepted.version };
    assert!(matches!(old, Err(Refused::Refusal(refusal)) if refusal == conflict));
    house.control.submit(scale, from(accepted.version)).await.unwrap();
}

#[tokio::test]
async fn details_are_live_and_not_recorded() {
    let house = House::new().await;
    let _host = house.host();
    house.ask(deploy("hello")).await.unwrap();
    let state = house.until_status("hello", 1, succeeded).await;
    drop(_host);
    let mut report: HostReport = (*house.control.live()).clone();
    let name = state.instances.keys().next().unwrap().clone();
    report.instances.get_mut(&name).unwrap().detail = Some("3 connections".to_owned());
    house.control.report(report.clone()).await.unwrap();
    assert_eq!(*house.control.live(), report);
    assert_eq!(house.control.state().seq, state.seq);
}

#[tokio::test]
async fn targets_grow_in_generation_and_change_only_when_there_is_something_to_do() {
    let house = House::new().await;
    let mut targets = house.control.targets();
    house.ask(deploy("hello")).await.unwrap();
    house.until("an instance", |state| !state.instances.is_empty()).await;
    let target = targets.wait_for(|target| !target.instances.is_empty()).await.unwrap().clone();
    let name = target.instances.keys().next().unwrap();
    assert!(target.generation >= house.control.state().instances[name].decided);
    let start = Event::HostStarted {
        version: "1".to_owned(),
        acceleration: "tcg".to_owned(),
        why: "no kvm".to_owned(),
        network: "user".to_owned(),
        memory: None,
        disk: None,
    };
    targets.mark_unchanged();
    house.control.record_host(start).await.unwrap();
    assert_eq!(house.control.state().site.host.as_ref().unwrap().acceleration, "tcg");
    house.ask(Command::Stop { app: app("hello") }).await.unwrap();
    let stopped = targets.wait_for(|newer| newer.instances != target.instances).await.unwrap().clone();
    assert!(stopped.generation > target.generation);
}

#[tokio::test]
async fn events_are_found_by_place_app_and_instance() {
    let house = House::new().await;
    let _host = house.host();
    for name in ["hello", "hello/staging", "other"] {
        house.ask(deploy(name)).await.unwrap();
        house.until_status(name, 1, succeeded).await;
    }
    let all = house.control.events(EventQuery::default()).await.unwrap();
    assert!(all.iter().map(|e| e.seq.0).eq(1..=all.len() as u64));
    let of = |app_name: &str| EventQuery { app: Some(app(app_name)), ..EventQuery::default() };
    let hello = house.control.events(of("hello")).await.unwrap();
    assert!(!hello.is_empty() && hello.iter().all(|e| e.event.app() == Some(&app("hello"))));
    let name = hello.iter().find_map(|e| e.event.instance()).unwrap().clone();
    let query = EventQuery { instance: Some(name.clone()), ..EventQuery::default() };
    let of_instance = house.control.events(query).await.unwrap();
    assert!(of_instance.len() >= 3 && of_instance.iter().all(|e| e.event.instance() == Some(&name)));
    let last = EventQuery { newest: true, limit: 3, ..EventQuery::default() };
    assert_eq!(house.control.events(last).await.unwrap(), all[all.len() - 3..]);
    let after = EventQuery { after: all[4].seq, limit: 2, ..EventQuery::default() };
    assert_eq!(house.control.events(after).await.unwrap(), all[5..7]);
    let beyond = EventQuery { after: Seq(u64::MAX), ..EventQuery::default() };
    assert_eq!(house.control.events(beyond).await.unwrap(), []);
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_folder() {
    let house = House::new().await;
    let images = Arc::clone(&house.shelf) as Arc<dyn holm_control::Images>;
    let second = Control::open(house.dir.path(), images, options(&house.clock)).await;
    let error = second.err().unwrap();
    assert!(matches!(&error, StoreError::InUse { pid, .. } if *pid == std::process::id().to_string()), "{error}");
    let other = house.control.clone();
    house.control.clone().close().await;
    assert!(matches!(other.submit(deploy("hello"), Meta::new("x")).await, Err(Refused::Closed)));
    house.reopen().await.ask(deploy("hello")).await.unwrap();
}

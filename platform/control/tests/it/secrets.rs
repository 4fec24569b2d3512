//! What becomes of secrets' versions: who gets which, what a failure and a rollback leave in service.

use holm_control::{Command, Refusal, Rules, decide};
use holm_manifest::SecretUse;
use holm_model::event::{Event, Recorded};
use holm_model::id::ReleaseNumber;
use holm_model::secrets::SecretsVersion;
use holm_model::state::State;

use crate::deciding::finish;
use crate::fixture::{app, deploy, image};

fn fold(state: &mut State, events: Vec<Event>) {
    for event in events {
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        state.apply(&Recorded { seq: state.seq.next(), at, actor: "user:anna".to_owned(), cause: None, event });
    }
}

fn ask(state: &mut State, command: &Command) -> Result<(), Refusal> {
    let events = decide(state, &Rules::default(), command)?;
    fold(state, events);
    Ok(())
}

/// A set with the number `n`, in which `changed` is new and `removed` is gone.
fn secrets(n: u8, changed: &[&str], removed: &[&str]) -> Command {
    Command::Secrets {
        app: app("hello"),
        set: format!("00000000-0000-7000-8000-0000000000{n:02x}").parse().unwrap(),
        changed: changed.iter().map(|name| name.parse().unwrap()).collect(),
        removed: removed.iter().map(|name| name.parse().unwrap()).collect(),
        restart: true,
    }
}

/// A deployment of a manifest that asks for the secret `A`.
fn asking() -> Command {
    let Command::Deploy { app, image, mut manifest } = deploy("hello") else { unreachable!() };
    manifest.secrets.insert("A".parse().unwrap(), SecretUse { required: true, ..SecretUse::default() });
    Command::Deploy { app, image, manifest }
}

fn end(state: &mut State, works: bool) {
    let app = app("hello");
    let (deployment, active) = state.active_deployment(&app).unwrap();
    if active.release.is_none() {
        let release = state.apps[&app].last_release.next();
        let found = image(&release.to_string());
        let (digest, reference) = (found.digest, found.reference);
        fold(state, vec![Event::ReleaseReady { app: app.clone(), deployment, release, digest, reference }]);
    }
    finish(state, &app, works);
}

fn number(version: &Option<SecretsVersion>) -> u64 {
    version.as_ref().map_or(0, |version| version.number)
}

/// The newest version, the one in service, and the one an instance would get now.
fn versions(state: &State) -> (u64, u64, u64) {
    let secrets = &state.apps[&app("hello")].secrets;
    let next = state.wanted_release(&app("hello"));
    let next = next.and_then(|release| state.secrets_for_new_instance(&app("hello"), release));
    (number(&secrets.newest), number(&secrets.serving), number(&next))
}

/// `hello` v1 serves with version 1 of its secrets.
fn serving() -> State {
    let mut state = State::default();
    ask(&mut state, &secrets(1, &["A", "B"], &[])).unwrap();
    ask(&mut state, &asking()).unwrap();
    end(&mut state, true);
    state
}

#[test]
fn a_release_does_not_begin_without_its_secrets() {
    let mut state = State::default();
    let refused = ask(&mut state, &asking()).unwrap_err();
    assert!(matches!(&refused, Refusal::SecretsMissing { missing, .. } if missing[0].as_str() == "A"), "{refused}");
    assert!(refused.hint().unwrap().contains("holm secrets set A"));
    ask(&mut state, &secrets(1, &["A"], &[])).unwrap();
    assert!(state.active_deployment(&app("hello")).is_none(), "nothing runs that could be restarted");
    ask(&mut state, &asking()).unwrap();
    end(&mut state, true);
    assert_eq!(versions(&state), (1, 1, 1));
}

#[test]
fn a_rotation_that_fails_leaves_the_old_values_in_service() {
    let mut state = serving();
    ask(&mut state, &secrets(2, &["A"], &[])).unwrap();
    assert_eq!(versions(&state), (2, 1, 2), "the restart brings the new version");
    end(&mut state, false);
    assert_eq!(versions(&state), (2, 1, 1));
    ask(&mut state, &Command::Restart { app: app("hello") }).unwrap();
    end(&mut state, true);
    assert_eq!(versions(&state), (2, 2, 2));
}

#[test]
fn a_rollback_changes_the_code_and_not_the_secrets() {
    let mut state = serving();
    ask(&mut state, &asking()).unwrap();
    end(&mut state, true);
    ask(&mut state, &secrets(2, &["A"], &[])).unwrap();
    end(&mut state, true);
    ask(&mut state, &secrets(3, &["A"], &[])).unwrap();
    end(&mut state, false);
    ask(&mut state, &Command::Rollback { app: app("hello"), to: Some(ReleaseNumber(1)) }).unwrap();
    assert_eq!(versions(&state), (3, 2, 2), "neither the version of then nor the one that failed");
    end(&mut state, true);
    assert_eq!(versions(&state), (3, 2, 2));
}

#[test]
fn a_change_during_a_deployment_waits_for_the_next_one() {
    let mut state = serving();
    ask(&mut state, &asking()).unwrap();
    ask(&mut state, &secrets(2, &["A"], &[])).unwrap();
    end(&mut state, true);
    assert_eq!(versions(&state), (2, 1, 1));
}

#[test]
fn what_runs_keeps_its_secrets_and_unknown_ones_are_not_removed() {
    let mut state = serving();
    assert!(matches!(ask(&mut state, &secrets(2, &[], &["A"])), Err(Refusal::SecretsNeeded { .. })));
    assert!(matches!(ask(&mut state, &secrets(2, &[], &["C"])), Err(Refusal::UnknownSecrets { .. })));
    ask(&mut state, &secrets(2, &[], &["B"])).unwrap();
    assert_eq!(state.apps[&app("hello")].secrets.names.len(), 1);
    let many: Vec<String> = (0..200).map(|n| format!("S{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    end(&mut state, true);
    assert!(matches!(ask(&mut state, &secrets(3, &many, &[])), Err(Refusal::TooManySecrets { .. })));
}

#[test]
fn sets_are_kept_as_long_as_something_needs_them() {
    let mut state = serving();
    ask(&mut state, &secrets(2, &["A"], &[])).unwrap();
    assert_eq!(state.secret_sets().len(), 2);
    end(&mut state, true);
    assert_eq!(state.secret_sets().len(), 1);
    ask(&mut state, &Command::Destroy { app: app("hello"), volumes: false }).unwrap();
    fold(&mut state, vec![Event::AppForgotten { app: app("hello") }]);
    assert!(state.secret_sets().is_empty());
}

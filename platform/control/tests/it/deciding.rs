//! Every command against the states that refuse it, and what it leads to where it is accepted.

use crate::fixture::{app, deploy, deploy_image, image, manifest, process, routed, sni, tcp};
use holm_control::{Command, MAX_INSTANCES, Refusal, Rules, decide};
use holm_manifest::{Environment, Route, RouteMatch};
use holm_model::event::{Event, Recorded};
use holm_model::id::{AppKey, DeploymentNumber, ReleaseNumber, Seq};
use holm_model::state::State;

/// Folds events in, as the writer would.
fn fold(state: &mut State, events: Vec<Event>) {
    for event in events {
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        state.apply(&Recorded { seq: state.seq.next(), at, actor: "user:anna".to_owned(), cause: None, event });
    }
}

fn rules() -> Rules {
    Rules { reserved_ports: [443].into() }
}

fn ask(state: &mut State, command: &Command) {
    let events = decide(state, &rules(), command).unwrap();
    fold(state, events);
}

/// The active deployment ends, well or not.
pub(crate) fn finish(state: &mut State, app: &AppKey, works: bool) {
    let (deployment, _) = state.active_deployment(app).unwrap();
    let app = app.clone();
    fold(
        state,
        vec![match works {
            true => Event::DeploymentSucceeded { app, deployment },
            false => Event::DeploymentFailed {
                app,
                deployment,
                why: "it broke".to_owned(),
                last_log: Vec::new(),
                back_to: None,
            },
        }],
    );
}

fn ready(state: &mut State, app: &AppKey) {
    let (deployment, _) = state.active_deployment(app).unwrap();
    let release = state.apps[app].last_release.next();
    let found = image(&release.to_string());
    let (digest, reference) = (found.digest, found.reference);
    fold(state, vec![Event::ReleaseReady { app: app.clone(), deployment, release, digest, reference }]);
}

/// `hello` with releases v1 (proven), v2 (failed) and v3 (proven, current).
fn three_releases() -> State {
    let mut state = State::default();
    for works in [true, false, true] {
        ask(&mut state, &deploy("hello"));
        ready(&mut state, &app("hello"));
        finish(&mut state, &app("hello"), works);
    }
    state
}

fn serving(command: &Command) -> State {
    let mut state = State::default();
    ask(&mut state, command);
    ready(&mut state, command.app());
    finish(&mut state, command.app(), true);
    state
}

fn deploy_routed(name: &str, routes: &[Route]) -> Command {
    let key = app(name);
    let manifest = Box::new(routed(key.app.as_str(), routes));
    Command::Deploy { app: key, image: None, manifest }
}

#[test]
fn each_command_is_refused_where_it_makes_no_sense() {
    let hello = || app("hello");
    let empty = State::default();
    let current = three_releases();
    let mut stopped = three_releases();
    ask(&mut stopped, &Command::Stop { app: hello() });
    let mut dying = three_releases();
    ask(&mut dying, &Command::Destroy { app: hello(), volumes: false });
    let mut rolling = three_releases();
    ask(&mut rolling, &deploy_image("hello", "another"));
    let mut preparing_first = State::default();
    ask(&mut preparing_first, &deploy("hello"));
    let mut failed_first = preparing_first.clone();
    finish(&mut failed_first, &hello(), false);
    let mut routed_here = serving(&deploy_routed("hello", &[tcp(8000)]));
    ask(&mut routed_here, &Command::RouteAdd { app: hello(), route: tcp(8001) });

    let rollback = |n| Command::Rollback { app: hello(), to: Some(ReleaseNumber(n)) };
    let scale = |p: &str, n| Command::Scale { app: hello(), process: process(p), instances: n };
    let add = |route| Command::RouteAdd { app: hello(), route };
    let remove = |port| Command::RouteRemove { app: hello(), on: RouteMatch::TcpPort(port) };
    let no_image = {
        let manifest = Box::new(holm_manifest::Manifest { image: None, ..manifest("hello") });
        Command::Deploy { app: hello(), image: Some("  ".to_owned()), manifest }
    };
    let others = Command::Deploy { app: hello(), image: None, manifest: Box::new(manifest("other")) };
    let no_process = {
        let manifest = Box::new(holm_manifest::Manifest { processes: Default::default(), ..manifest("hello") });
        Command::Deploy { app: hello(), image: None, manifest }
    };
    let dangling = deploy_routed("hello", &[Route { process: process("nobody"), ..tcp(80) }]);
    let many = |of: fn(AppKey) -> Command| of(hello());

    let table: Vec<(&str, &State, Command, &str)> = vec![
        ("no app", &empty, rollback(1), "unknown_app"),
        ("no app", &empty, many(|app| Command::Restart { app }), "unknown_app"),
        ("no app", &empty, scale("web", Some(1)), "unknown_app"),
        ("no app", &empty, many(|app| Command::Stop { app }), "unknown_app"),
        ("no app", &empty, many(|app| Command::Start { app }), "unknown_app"),
        ("no app", &empty, add(tcp(80)), "unknown_app"),
        ("no app", &empty, remove(80), "unknown_app"),
        ("no app", &empty, many(|app| Command::Destroy { app, volumes: false }), "unknown_app"),
        ("no image", &empty, no_image, "no_image"),
        ("another app's manifest", &empty, others, "other_apps_manifest"),
        ("no process type", &empty, no_process, "bad_manifest"),
        ("a route to nobody", &empty, dangling, "bad_manifest"),
        ("two equal routes", &empty, deploy_routed("hello", &[tcp(80), tcp(80)]), "bad_manifest"),
        ("a reserved port", &empty, deploy_routed("hello", &[tcp(443)]), "port_reserved"),
        ("port 0", &empty, deploy_routed("hello", &[tcp(0)]), "bad_route"),
        ("guest port 0", &empty, deploy_routed("hello", &[Route { port: 0, ..tcp(80) }]), "bad_route"),
        ("a bad host name", &empty, deploy_routed("hello", &[sni("Upper.example")]), "bad_route"),
        ("a trailing dot", &empty, deploy_routed("hello", &[sni("a.example.")]), "bad_route"),
        ("stopped", &stopped, deploy("hello"), "stopped"),
        ("stopped", &stopped, rollback(1), "stopped"),
        ("stopped", &stopped, many(|app| Command::Restart { app }), "stopped"),
        ("destroyed", &dying, deploy("hello"), "being_destroyed"),
        ("destroyed", &dying, rollback(1), "being_destroyed"),
        ("destroyed", &dying, many(|app| Command::Restart { app }), "being_destroyed"),
        ("destroyed", &dying, scale("web", None), "being_destroyed"),
        ("destroyed", &dying, many(|app| Command::Stop { app }), "being_destroyed"),
        ("destroyed", &dying, many(|app| Command::Start { app }), "being_destroyed"),
        ("destroyed", &dying, add(tcp(80)), "being_destroyed"),
        ("destroyed", &dying, remove(80), "being_destroyed"),
        ("another deployment", &rolling, many(|app| Command::Restart { app }), "deployment_under_way"),
        ("never deployed", &failed_first, many(|app| Command::Restart { app }), "nothing_deployed"),
        ("never deployed", &failed_first, scale("web", Some(2)), "nothing_deployed"),
        ("never deployed", &failed_first, add(tcp(80)), "nothing_deployed"),
        (
            "nothing to go back to",
            &preparing_first,
            Command::Rollback { app: hello(), to: None },
            "nothing_to_roll_back_to",
        ),
        ("no such release", &current, rollback(9), "unknown_release"),
        ("serves already", &current, rollback(3), "already_current"),
        ("no such process type", &current, scale("cron", Some(1)), "unknown_process"),
        ("too many", &current, scale("web", Some(MAX_INSTANCES + 1)), "too_many_instances"),
        ("a route to nobody", &current, add(Route { process: process("cron"), ..tcp(80) }), "unknown_process"),
        ("a reserved port", &current, add(tcp(443)), "port_reserved"),
        ("no such route", &current, remove(80), "unknown_route"),
        ("of the manifest", &routed_here, remove(8000), "route_of_manifest"),
        ("its own", &routed_here, add(tcp(8000)), "route_taken"),
        ("its own", &routed_here, add(Route { port: 1, ..tcp(8001) }), "route_taken"),
    ];
    for (name, state, command, code) in table {
        let refusal = decide(state, &rules(), &command).expect_err(&format!("{name}: {command:?}"));
        assert_eq!(refusal.code(), code, "{name}: {command:?}");
        for text in [refusal.what(), refusal.why()].into_iter().chain(refusal.hint()) {
            assert!(!text.is_empty() && !text.ends_with('.') && !text.contains('\n'), "{text}");
        }
    }
}

#[test]
fn what_is_so_already_changes_nothing() {
    let hello = || app("hello");
    let mut state = serving(&deploy("hello"));
    ask(&mut state, &Command::Scale { app: hello(), process: process("web"), instances: Some(2) });
    ask(&mut state, &Command::RouteAdd { app: hello(), route: tcp(80) });
    let mut stopped = state.clone();
    ask(&mut stopped, &Command::Stop { app: hello() });
    let mut dying = state.clone();
    ask(&mut dying, &Command::Destroy { app: hello(), volumes: false });
    for (state, command) in [
        (&state, Command::Start { app: hello() }),
        (&state, Command::Scale { app: hello(), process: process("web"), instances: Some(2) }),
        (&state, Command::Scale { app: hello(), process: process("worker"), instances: None }),
        (&state, Command::RouteAdd { app: hello(), route: tcp(80) }),
        (&stopped, Command::Stop { app: hello() }),
        (&dying, Command::Destroy { app: hello(), volumes: false }),
    ] {
        assert_eq!(decide(state, &rules(), &command), Ok(Vec::new()), "{command:?}");
    }
}

#[test]
fn a_rollback_without_a_number_skips_what_never_worked() {
    let mut state = three_releases();
    let back = Command::Rollback { app: app("hello"), to: None };
    let expected =
        Event::RollbackRequested { app: app("hello"), deployment: DeploymentNumber(4), release: ReleaseNumber(1) };
    assert_eq!(decide(&state, &rules(), &back), Ok(vec![expected]));
    // While another release is on its way, back means: to the one that serves.
    ask(&mut state, &deploy_image("hello", "another"));
    for _ in ["while it is fetched", "while it rolls out"] {
        let Event::RollbackRequested { release, .. } = &decide(&state, &rules(), &back).unwrap()[0] else { panic!() };
        assert_eq!(*release, ReleaseNumber(3));
        if state.active_deployment(&app("hello")).unwrap().1.release.is_none() {
            ready(&mut state, &app("hello"));
        }
    }
}

#[test]
fn a_route_belongs_to_one_app_from_the_request_on() {
    let mut state = State::default();
    let taken = |state: &State, name: &str, route: Route| match decide(state, &rules(), &deploy_routed(name, &[route]))
    {
        Ok(_) => None,
        Err(Refusal::RouteTaken { owner, .. }) => Some(owner.to_string()),
        Err(other) => panic!("{other}"),
    };
    // Asked for, not even fetched yet.
    ask(&mut state, &deploy_routed("hello", &[sni("a.example")]));
    assert_eq!(taken(&state, "other", sni("a.example")), Some("hello".to_owned()));
    assert_eq!(taken(&state, "hello/staging", sni("a.example")), Some("hello".to_owned()));
    assert_eq!(taken(&state, "other", sni("b.example")), None);
    assert_eq!(taken(&state, "hello", sni("a.example")), None, "its own route");
    // Rolling out, then serving.
    ready(&mut state, &app("hello"));
    assert_eq!(taken(&state, "other", sni("a.example")), Some("hello".to_owned()));
    finish(&mut state, &app("hello"), true);
    assert_eq!(taken(&state, "other", sni("a.example")), Some("hello".to_owned()));
    // Added by hand.
    ask(&mut state, &Command::RouteAdd { app: app("hello"), route: tcp(80) });
    assert_eq!(taken(&state, "other", tcp(80)), Some("hello".to_owned()));
    ask(&mut state, &Command::RouteRemove { app: app("hello"), on: RouteMatch::TcpPort(80) });
    assert_eq!(taken(&state, "other", tcp(80)), None);
    // Given up by a newer release: free, and a rollback to the old one is refused once another app has it.
    ask(&mut state, &deploy_routed("hello", &[sni("c.example")]));
    ready(&mut state, &app("hello"));
    assert_eq!(taken(&state, "other", sni("a.example")), Some("hello".to_owned()), "it still serves");
    finish(&mut state, &app("hello"), true);
    ask(&mut state, &deploy_routed("other", &[sni("a.example")]));
    let back = decide(&state, &rules(), &Command::Rollback { app: app("hello"), to: None });
    assert!(matches!(back, Err(Refusal::RouteTaken { owner, .. }) if owner == app("other")));
    // Destroyed: free at once.
    ask(&mut state, &Command::Destroy { app: app("other"), volumes: false });
    assert_eq!(taken(&state, "hello", sni("a.example")), None);
}

#[test]
fn an_environment_claims_its_own_routes_only() {
    let mut state = State::default();
    let mut manifest = routed("hello", &[sni("a.example")]);
    let staging = Environment { routes: Some(vec![sni("b.example")]), ..Environment::default() };
    manifest.environments.insert("staging".parse().unwrap(), staging);
    for env in ["hello", "hello/staging"] {
        let command = Command::Deploy { app: app(env), image: None, manifest: Box::new(manifest.clone()) };
        ask(&mut state, &command);
    }
    assert_eq!(state.apps.len(), 2);
}

#[test]
fn a_refusal_tells_what_why_and_what_to_do() {
    let state = serving(&deploy_routed("hello", &[tcp(80)]));
    let refusal = decide(&state, &rules(), &deploy_routed("other", &[tcp(80)])).unwrap_err();
    assert_eq!(refusal.to_string(), "cannot route `tcp:80`: it belongs to `hello`");
    assert_eq!(refusal.hint().as_deref(), Some("choose another, or remove that one first"));
    let scale = Command::Scale { app: app("hello"), process: process("cron"), instances: None };
    let refusal = decide(&state, &rules(), &scale).unwrap_err();
    assert_eq!(refusal.to_string(), "`hello` has no process type `cron`: its process types are `web`, `worker`");
    assert_eq!(state.seq, Seq(3));
}

#[test]
fn what_the_host_could_never_hold_is_refused_with_figures() {
    let mut state = serving(&deploy("hello"));
    let host = |mib: u64| Event::HostStarted {
        version: "1".to_owned(),
        acceleration: "kvm".to_owned(),
        why: String::new(),
        network: "user".to_owned(),
        memory: Some(mib << 20),
        disk: None,
    };
    // An instance takes 64 MiB for its app, 96 for its guest, 1 for the kernel's books and 32 for QEMU.
    fold(&mut state, vec![host(3 * 193)]);
    let release = ReleaseNumber(1);
    let placed = |number| Event::InstancePlaced {
        instance: format!("hello.web.{number}").parse().unwrap(),
        release,
        epoch: 0,
        why: String::new(),
        task: false,
    };
    fold(&mut state, vec![placed(1)]);
    let scale = |count| Command::Scale { app: app("hello"), process: process("web"), instances: Some(count) };
    assert!(decide(&state, &rules(), &scale(3)).is_ok());
    let refused = decide(&state, &rules(), &scale(4)).unwrap_err();
    assert_eq!(refused.code(), "no_room");
    assert_eq!(refused.why(), "it needs 772 MiB of memory at once, and 579 of the host's 579 MiB are free for it");
    assert!(refused.hint().unwrap().contains("holm up --memory"));
    // The other app may have what the first one leaves.
    let other = |web| {
        let mut manifest = manifest("other");
        manifest.processes.get_mut(&process("web")).unwrap().instances = web;
        Command::Deploy { app: app("other"), image: None, manifest: Box::new(manifest) }
    };
    assert!(decide(&state, &rules(), &other(2)).is_ok());
    assert_eq!(decide(&state, &rules(), &other(3)).unwrap_err().code(), "no_room");
    // A host that came back smaller refuses nothing that asks for less.
    ask(&mut state, &scale(3));
    fold(&mut state, vec![placed(2), placed(3), host(193)]);
    assert!(decide(&state, &rules(), &scale(2)).is_ok());
    assert_eq!(decide(&state, &rules(), &Command::Restart { app: app("hello") }).unwrap_err().code(), "no_room");
}

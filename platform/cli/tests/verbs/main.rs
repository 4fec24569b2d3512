//! What a user of the compiled `holm` sees: exit code, standard output and standard error of every verb, as text and as
//! documents. The server and the client are the real ones, over a real socket.

#![allow(clippy::unwrap_used, reason = "a test ends where its set-up does")]

mod afar;
mod desk;
mod fake;

use std::path::Path;
use std::process::Command;

use desk::Desk;
use fake::{Fake, MANIFEST};
use holm_api::wire;
use holm_model::id::ReleaseNumber;

macro_rules! seen {
    ($desk:expr) => {
        insta::assert_snapshot!($desk.shown.trim_end())
    };
}

#[test]
fn status() {
    let mut desk = Desk::new();
    desk.both(&["status"]);
    desk.both(&["status", "hello"]);
    desk.both(&["status", "hello/staging"]);
    seen!(desk);
}

#[test]
fn ps() {
    let mut desk = Desk::new();
    desk.both(&["ps"]);
    desk.both(&["ps", "--all", "hello"]);
    seen!(desk);
}

#[test]
fn releases() {
    let mut desk = Desk::new();
    desk.both(&["releases"]);
    seen!(desk);
}

#[test]
fn deploy_that_succeeds() {
    let mut desk = Desk::new();
    desk.run(&["deploy"]);
    seen!(desk);
    let submissions = &desk.fake().seen.lock().unwrap().submissions;
    assert!(submissions[0].actor.starts_with("user:"), "{}", submissions[0].actor);
    assert_eq!(submissions[0].key.get_version_num(), 7);
}

#[test]
fn deploy_as_a_document() {
    let mut desk = Desk::new();
    desk.run(&["--json", "-q", "deploy", "registry.example/hello:2"]);
    desk.run(&["--json", "-q", "deploy", "same"]);
    seen!(desk);
}

#[test]
fn deploy_of_nothing_new() {
    let mut desk = Desk::new();
    desk.run(&["deploy", "same"]);
    seen!(desk);
}

#[test]
fn deploy_that_fails() {
    let mut desk = Desk::new();
    assert_eq!(desk.run(&["deploy", "registry.example/broken:1"]), 5);
    assert_eq!(desk.run(&["deploy", "registry.example/missing:1"]), 5);
    assert_eq!(desk.run(&["--json", "-q", "deploy", "registry.example/missing:1"]), 5);
    seen!(desk);
}

#[test]
fn deploy_whose_port_cannot_be_opened() {
    let mut desk = Desk::new();
    let closed = [("[::]:8080".parse().unwrap(), "Address already in use (os error 98)".to_owned())];
    *desk.fake().closed.lock().unwrap() = closed.into();
    assert_eq!(desk.run(&["deploy"]), 1);
    assert_eq!(desk.run(&["--json", "-q", "deploy"]), 1);
    assert_eq!(desk.run(&["deploy", "registry.example/missing:1"]), 5);
    seen!(desk);
}

#[test]
fn deploy_with_a_wrong_manifest() {
    let mut desk = Desk::new();
    std::fs::write(desk.folder().join("wrong.toml"), format!("imgae = \"hello:1\"\n{MANIFEST}")).unwrap();
    desk.both(&["deploy", "-f", "wrong.toml"]);
    desk.run(&["deploy", "-f", "none.toml"]);
    seen!(desk);
}

#[test]
fn a_layout_folder_is_sent_with_its_whole_path() {
    let mut desk = Desk::new();
    desk.run(&["-q", "deploy", "oci:layout"]);
    let wanted = format!("oci:{}", desk.folder().join("layout").display());
    let submissions = &desk.fake().seen.lock().unwrap().submissions;
    assert!(matches!(&submissions[0].command, wire::Command::Deploy { image, .. } if *image == wanted));
}

#[test]
fn rollback_and_restart() {
    let mut desk = Desk::new();
    desk.both(&["rollback"]);
    desk.run(&["rollback", "v1"]);
    desk.run(&["rollback", "hello", "1"]);
    desk.run(&["rollback", "v1", "v2"]);
    desk.run(&["restart", "--detach"]);
    seen!(desk);
    let seen = desk.fake().seen.lock().unwrap();
    assert!(matches!(seen.submissions[2].command, wire::Command::Rollback { to: Some(ReleaseNumber(1)), .. }));
}

#[test]
fn plan() {
    let mut desk = Desk::new();
    desk.both(&["plan"]);
    let digest = fake::digest("one");
    desk.run(&["plan", &format!("registry.example/hello@{digest}")]);
    let changed = MANIFEST.replace("128MiB", "256MiB").replace("listen = 8080", "listen = 9090");
    std::fs::write(desk.folder().join("holm.toml"), changed).unwrap();
    desk.both(&["plan"]);
    desk.run(&["plan", "--env", "staging"]);
    seen!(desk);
}

#[test]
fn logs() {
    let mut desk = Desk::new();
    desk.both(&["logs"]);
    desk.run(&["logs", "hello.web.1", "-n", "5", "--since", "2026-01-02T03:04:00Z"]);
    desk.run(&["logs", "--since", "yesterday"]);
    desk.run(&["logs", "other"]);
    seen!(desk);
    let seen = desk.fake().seen.lock().unwrap();
    assert_eq!(seen.log_queries[2].newest, Some(5));
    assert_eq!(seen.log_queries[2].instance.as_ref().map(ToString::to_string).as_deref(), Some("hello.web.1"));
}

#[test]
fn exec() {
    let mut desk = Desk::new();
    desk.run_with(&["exec", "-i", "hello", "--", "cat"], "one\ntwo\n");
    assert_eq!(desk.run(&["exec", "hello", "--", "fail"]), 3);
    assert_eq!(desk.run(&["exec", "hello.web.1", "--", "kill"]), 137);
    desk.run(&["exec", "hello", "--", "nothing"]);
    desk.run(&["exec", "hello.web.9", "--", "cat"]);
    desk.run(&["exec", "-t", "hello", "--", "cat"]);
    desk.run(&["exec", "hello", "--process", "worker", "--", "cat"]);
    seen!(desk);
}

#[test]
fn exec_carries_much_input_unchanged() {
    let mut desk = Desk::new();
    let input: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    desk.run_with(&["exec", "-i", "hello", "--", "cat"], &input);
    assert_eq!(desk.shown, format!("$ holm exec -i hello -- cat\nexit 0\n-- out --\n{input}\n"));
}

#[test]
fn scale_stop_start_and_destroy() {
    let mut desk = Desk::new();
    desk.run(&["scale", "web=3"]);
    desk.both(&["scale", "web=4", "--no-wait"]);
    desk.run(&["scale", "web=101"]);
    desk.both(&["stop"]);
    desk.both(&["start", "--app", "hello"]);
    desk.run(&["destroy", "hello"]);
    desk.both(&["destroy", "hello", "--yes"]);
    desk.run(&["stop", "other"]);
    seen!(desk);
}

#[test]
fn scale_that_fails() {
    let mut desk = Desk::new();
    desk.run(&["scale", "web=2"]);
    seen!(desk);
}

#[test]
fn explain_an_app() {
    let mut desk = Desk::new();
    desk.both(&["explain", "hello"]);
    desk.run(&["explain", "nobody"]);
    seen!(desk);
}

#[test]
fn routes() {
    let mut desk = Desk::new();
    desk.both(&["route", "list"]);
    desk.both(&["route", "add", "web", "--port", "80", "--listen", "80"]);
    desk.run(&["route", "add", "web", "--port", "80", "--sni", "Hello.example"]);
    desk.run(&["route", "add", "web", "--port", "80"]);
    desk.both(&["route", "remove", "--sni", "hello.example"]);
    seen!(desk);
}

#[test]
fn secrets_are_taken_from_files_and_standard_input_and_never_shown() {
    let mut desk = Desk::new();
    std::fs::write(desk.folder().join("env"), "PASSWORD=hunter2\nKEY='hunter3'\n").unwrap();
    desk.run_with(&["secrets", "set", "PASSWORD"], "hunter2\n");
    desk.run_with(&["--json", "secrets", "set", "PASSWORD", "--stage"], "hunter2\n");
    desk.run_with(&["secrets", "set", "PASSWORD"], "same");
    desk.both(&["secrets", "import", "env", "--stage"]);
    desk.both(&["secrets", "list"]);
    desk.both(&["secrets", "diff", "env"]);
    desk.run(&["secrets", "rotate", "KEY", "--generate", "--detach"]);
    desk.run(&["secrets", "unset", "KEY"]);
    desk.run(&["secrets", "set", "PASSWORD=hunter2"]);
    desk.run_with(&["secrets", "set", "PASSWORD"], "\n");
    desk.run(&["secrets", "set", "../x"]);
    std::fs::write(desk.folder().join("env"), "PASSWORD='hunter2\n").unwrap();
    desk.run(&["secrets", "import", "env"]);
    let seen = desk.fake().seen.lock().unwrap();
    let values = |n: usize| seen.secrets[n].set.0.values().map(|v| v.expose().to_vec()).collect::<Vec<_>>();
    assert_eq!((values(0), values(1)), (vec![b"hunter2".to_vec()], vec![b"hunter2".to_vec()]));
    assert_eq!(values(4)[0].len(), 43);
    drop(seen);
    let said = desk.shown.replace("$ holm secrets set PASSWORD=hunter2", "");
    assert!(!said.contains("hunter"), "{said}");
    seen!(desk);
}

#[test]
fn secrets_are_rendered_as_an_app_finds_them() {
    let mut desk = Desk::without_holm();
    desk.run_with(&["secrets", "render", "-"], "B=2\nA=\"1\\n\"\n");
    desk.run_with(&["secrets", "render", "-", "--out", "out"], "B=2\n");
    desk.run_with(&["secrets", "render", "-", "--out", "out"], "B=3\n");
    seen!(desk);
    let read = |name: &str| std::fs::read_to_string(desk.folder().join("out").join(name)).unwrap();
    assert_eq!(read("B"), "3");
    assert_eq!(read(".all.json"), "{\"schema\":\"holm.secrets/1\",\"version\":0,\"secrets\":{\"B\":\"3\"}}\n");
}

#[test]
fn events() {
    let mut desk = Desk::new();
    desk.both(&["events"]);
    desk.run(&["events", "-n", "2"]);
    desk.run(&["events", "--after", "11", "--app", "hello"]);
    seen!(desk);
}

#[test]
fn explain() {
    let mut desk = Desk::new();
    desk.both(&["explain", "hello.web.3"]);
    desk.run(&["explain", "hello.web.1"]);
    desk.run(&["explain", "hello.web.2"]);
    desk.run(&["explain", "hello.web.99"]);
    seen!(desk);
}

#[test]
fn images() {
    let mut desk = Desk::new();
    desk.both(&["images", "list"]);
    desk.both(&["images", "inspect", "registry.example/hello:1"]);
    desk.run(&["images", "inspect", "nothing"]);
    desk.both(&["images", "prune"]);
    seen!(desk);
}

#[test]
fn guests() {
    let mut desk = Desk::new();
    desk.both(&["guest", "list"]);
    desk.both(&["guest", "import", "linux-image.deb", "--init", "init"]);
    seen!(desk);
}

#[test]
fn doctor() {
    let mut desk = Desk::new();
    desk.both(&["doctor"]);
    seen!(desk);
}

#[test]
fn down_waits_until_nobody_answers() {
    let mut desk = Desk::new();
    desk.run(&["down", "--keep-instances"]);
    desk.run(&["--json", "down"]);
    seen!(desk);
    assert!(desk.fake().seen.lock().unwrap().shutdowns[0].keep_instances);
}

#[test]
fn init_writes_a_manifest_that_plan_reads() {
    let mut desk = Desk::without_holm();
    desk.run(&["init", "hello", "--image", "hello:1", "--port", "8080"]);
    desk.both(&["init", "hello"]);
    desk.run(&["--json", "init", "other", "-f", "other.toml"]);
    desk.shown.push_str(&std::fs::read_to_string(desk.folder().join("holm.toml")).unwrap());
    seen!(desk);
}

#[test]
fn without_a_holm_every_verb_says_so() {
    let mut desk = Desk::without_holm();
    desk.both(&["status"]);
    desk.both(&["version"]);
    desk.run(&["--state", "/nowhere", "ps"]);
    desk.run(&["logs"]);
    desk.run(&["down"]);
    seen!(desk);
}

#[test]
fn wrong_command_lines() {
    let mut desk = Desk::new();
    desk.run(&["deplyo"]);
    desk.run(&["exec", "hello"]);
    desk.run(&["explain", "Hello!"]);
    desk.run(&["status", "Hello"]);
    desk.run(&["status", "hello/prod", "--env", "staging"]);
    seen!(desk);
}

#[test]
fn the_reference_page_is_fresh() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let desk = Desk::without_holm();
    let output = desk.command(&["docs"]).output().unwrap();
    let made = String::from_utf8(output.stdout).unwrap();
    assert!(std::fs::read_to_string(page).unwrap() == made, "run `holm docs > docs/cli.md`");
}

#[test]
fn every_verb_has_a_manual_page() {
    let desk = Desk::without_holm();
    let output = desk.command(&["docs", "--man", "man"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let read = |page: &str| std::fs::read_to_string(desk.folder().join("man").join(page)).unwrap();
    assert!(read("holm.1").contains("holm\\-deploy") && read("holm.1").contains(".TH holm 1"));
    assert!(read("holm-secrets-set.1").contains("standard input"));
    assert!(!desk.folder().join("man/holm-docs.1").exists(), "a hidden verb has a page");
}

/// The unit that ships is one that systemd understands; skipped where there is no systemd to ask.
#[test]
fn the_systemd_unit_is_understood() {
    let desk = Desk::without_holm();
    let unit = include_str!("../../holm.service");
    let lines = unit.lines().filter(|line| !line.starts_with("Documentation=")).map(|line| format!("{line}\n"));
    let unit = lines.collect::<String>().replace("/usr/local/bin/holm", env!("CARGO_BIN_EXE_holm"));
    let path = desk.folder().join("holm.service");
    std::fs::write(&path, &unit).unwrap();
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("holm.service"), "{said}");
    // The command line in it is one that `holm` takes.
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<&str> = start.split(' ').skip(1).chain(["--help"]).collect();
    assert!(desk.command(&words).output().unwrap().status.success());
}

#[test]
fn tokens() {
    let mut desk = Desk::new();
    desk.both(&["tokens", "create", "ci", "--app", "hello"]);
    desk.run(&["tokens", "create", "ci", "--app", "hello", "--allow", "host"]);
    desk.run(&["tokens", "create", "ci", "--app", "hello", "--allow", "everything"]);
    desk.run(&["tokens", "create", "ci"]);
    desk.run(&["tokens", "create", "ci", "--all-apps", "--expires", "soon"]);
    desk.run(&["tokens", "revoke", "0123456789ab"]);
    desk.run(&["tokens", "revoke", "0123456789ab"]);
    desk.run(&["tokens", "list"]);
    desk.run(&["--host", "ftp://x", "status"]);
    desk.run(&["--host", "https://localhost:1", "status"]);
    let ends = desk.fake().seen.lock().unwrap().audits.len();
    assert_eq!(ends, 1, "the refused revocation is taken down");
    seen!(desk);
}

#[test]
fn completions_are_written_for_a_shell() {
    let desk = Desk::without_holm();
    let output = desk.command(&["completions", "bash"]).output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("_holm"));
}

#[test]
fn a_deep_state_folder_works() {
    let mut desk = Desk::without_holm();
    let deep = desk.folder().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    desk.fake = Some(desk.runtime.block_on(Fake::start(&deep)));
    assert_eq!(desk.run(&["--state", deep.to_str().unwrap(), "ps"]), 0);
}

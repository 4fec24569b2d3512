//! What a user of the compiled `holm` sees: exit code, standard output and standard error of every verb, as text and as
//! documents. The server and the client are the real ones, over a real socket.

#![allow(clippy::unwrap_used, reason = "a test ends where its set-up does")]

mod fake;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use fake::{Fake, MANIFEST};
use holm_api::wire;
use holm_model::access::{Permission, Scope};
use holm_model::id::ReleaseNumber;
use tempfile::TempDir;

/// A user's folder with a manifest, a Holm to talk to, and a record of what was seen.
struct Desk {
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
    fake: Option<Arc<Fake>>,
    shown: String,
}

impl Desk {
    fn without_holm() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { folder, runtime, fake: None, shown: String::new() }
    }

    fn new() -> Self {
        let mut desk = Self::without_holm();
        std::fs::write(desk.folder.path().join("holm.toml"), MANIFEST).unwrap();
        let state = desk.folder.path().join("state");
        desk.fake = Some(desk.runtime.block_on(Fake::start(&state)));
        desk
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn fake(&self) -> &Fake {
        self.fake.as_deref().expect("this desk has a Holm")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holm"));
        command.args(arguments).current_dir(self.folder.path()).env_clear().env("HOLM_STATE", "state");
        command
    }

    /// Runs `holm` with `input` and notes what it did.
    fn run_with(&mut self, arguments: &[&str], input: &str) -> i32 {
        let mut command = self.command(arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // Apart, since the command writes while it reads; it may also end without reading everything.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        let status = output.status.code().unwrap();
        let folder = self.folder.path().to_str().unwrap();
        let me = self.fake.as_ref().and_then(|fake| Some(fake.seen.lock().unwrap().submissions.first()?.actor.clone()));
        let me = format!("\"{}\"", me.unwrap_or_default());
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap().replace(folder, "[FOLDER]");
            if me.len() > 2 { text.replace(&me, "\"[ME]\"") } else { text }
        };
        self.shown.push_str(&format!("$ holm {}\nexit {status}\n", arguments.join(" ")));
        for (name, text) in [("out", text(&output.stdout)), ("err", text(&output.stderr))] {
            if !text.is_empty() {
                self.shown.push_str(&format!("-- {name} --\n{text}"));
            }
        }
        self.shown.push('\n');
        status
    }

    fn run(&mut self, arguments: &[&str]) -> i32 {
        self.run_with(arguments, "")
    }

    /// Runs `holm` for text and for the document.
    fn both(&mut self, arguments: &[&str]) {
        self.run(arguments);
        self.run(&[&["--json"], arguments].concat());
    }
}

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
    let unit = include_str!("../holm.service");
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

/// A desk whose Holm is elsewhere too, with a token for `hello` and these permissions.
fn afar(permissions: &[Permission]) -> (Desk, u16, String, String) {
    let desk = Desk::new();
    let scope =
        Scope { permissions: permissions.iter().copied().collect(), apps: Some(["hello".parse().unwrap()].into()) };
    let fake = Arc::clone(desk.fake.as_ref().unwrap());
    let (port, fingerprint, token) = desk.runtime.block_on(fake.serve_from_afar(desk.folder(), scope));
    (desk, port, format!("https://[::1]:{port}#{fingerprint}"), token)
}

fn from_afar(desk: &Desk, host: &str, token: &str, arguments: &[&str]) -> (i32, String) {
    let output = desk.command(arguments).env("HOLM_HOST", host).env("HOLM_TOKEN", token).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn verbs_work_from_afar_as_far_as_the_token_goes() {
    let (desk, _, host, token) = afar(&[Permission::Read, Permission::Deploy, Permission::Exec]);
    let run = |arguments: &[&str]| from_afar(&desk, &host, &token, arguments);
    assert_eq!(run(&["deploy", "registry.example/hello:2"]).0, 0);
    assert_eq!(run(&["exec", "hello", "--", "fail"]), (3, "it failed\n".to_owned()));
    assert_eq!(run(&["explain", "hello.web.3"]).0, 0);
    let before = desk.fake().seen.lock().unwrap().submissions.len();
    for refused in
        [&["logs"][..], &["stop"], &["deploy", "oci:layout"], &["images", "list"], &["secrets", "diff", "holm.toml"]]
    {
        let (status, said) = run(refused);
        assert!(status != 0 && !said.contains("panicked"), "{refused:?}: {said}");
    }
    let seen = desk.fake().seen.lock().unwrap();
    assert_eq!(seen.submissions.len(), before, "a refused command reached the backend");
    assert_eq!(seen.submissions[0].actor, "token:ci");
    let refused = seen.audits.iter().filter(|audit| audit.refused.is_some() && audit.actor == "token:ci").count();
    assert_eq!(refused, 4, "{:?}", seen.audits);
    assert!(seen.audits.iter().any(|audit| audit.verb == "exec" && audit.refused.is_none()));
}

#[test]
fn without_a_sound_token_nothing_is_told_from_afar() {
    let (desk, port, host, token) = afar(&[Permission::Read]);
    for wrong in ["holm_000000000000_00", "x", &token[..token.len() - 1]] {
        let (status, said) = from_afar(&desk, &host, wrong, &["status"]);
        assert!(status == 4 && said.contains("worth nothing"), "{said}");
    }
    assert_eq!(from_afar(&desk, &host, "", &["status"]).0, 2);
    // Another certificate is not trusted, nor is a host's own by who pins nothing.
    let other = format!("https://[::1]:{port}#sha256:{}", "00".repeat(32));
    assert_eq!(from_afar(&desk, &other, &token, &["status"]).0, 3);
    assert_eq!(from_afar(&desk, &format!("https://[::1]:{port}"), &token, &["status"]).0, 3);
    let audits = &desk.fake().seen.lock().unwrap().audits;
    assert!(audits.iter().all(|audit| audit.actor == "remote" && audit.about.as_deref() == Some("::1")), "{audits:?}");
    assert_eq!(audits.len(), 3);
}

#[test]
fn hostile_clients_are_closed_and_the_others_served() {
    let (desk, port, host, token) = afar(&[Permission::Read]);
    let connect = || std::net::TcpStream::connect(("::1", port)).unwrap();
    // More than one source may have: those that are too many are closed at once.
    let idle: Vec<_> = (0..40).map(|_| connect()).collect();
    let closed = |mut stream: &std::net::TcpStream| {
        stream.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        matches!(std::io::Read::read(&mut stream, &mut [0]), Ok(0))
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while idle.iter().filter(|stream| closed(stream)).count() < 8 {
        assert!(std::time::Instant::now() < deadline, "connections beyond the limit stay open");
    }
    drop(idle);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff, 1], &[0xff; 100_000]] {
        let mut stream = connect();
        // It may be closed before everything is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        assert!(answer.len() < 100);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while from_afar(&desk, &host, &token, &["status", "hello"]).0 != 0 {
        assert!(std::time::Instant::now() < deadline, "nobody is served any more");
    }
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

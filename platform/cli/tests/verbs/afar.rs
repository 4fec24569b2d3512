//! What a token's holder elsewhere sees, and what strangers and hostile clients do.

use std::io::Write as _;
use std::sync::Arc;

use holm_model::access::{Permission, Scope};

use crate::desk::Desk;

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

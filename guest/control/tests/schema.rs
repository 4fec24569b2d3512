//! The JSON of every message: a change here is a change of the protocol.

#![allow(clippy::unwrap_used, reason = "the addresses are constants")]

use std::collections::{BTreeMap, BTreeSet};

use holm_guest_control::secrets::{GuestSecret, GuestSecrets};
use holm_guest_control::*;

fn config() -> Config {
    Config {
        instance: "i-1".into(),
        hostname: "web-1".into(),
        command: vec!["/bin/web".into()],
        env: BTreeMap::from([("A".into(), "b".into())]),
        user: "web:www".into(),
        working_dir: "/srv".into(),
        stop_signal: 15,
        grace_ms: 10_000,
        memory_max: Some(1 << 26),
        network: Some(Network {
            mac: Some("52:54:00:00:00:01".into()),
            interface: None,
            v6: Some(Ipv6Address {
                address: "fd00::7".parse().unwrap(),
                prefix: 128,
                gateway: Some("fe80::1".parse().unwrap()),
            }),
            v4: Some(Ipv4Address { address: "10.0.2.15".parse().unwrap(), prefix: 24, gateway: None }),
            dns: vec!["fd00::53".into()],
            search: vec!["app.internal".into()],
            names: true,
        }),
        root: RootOptions { writable_max: Some(1 << 25) },
        health: Some(HealthCheck {
            probe: Probe::Http { port: 8080, path: "/up".into() },
            interval_ms: 1000,
            timeout_ms: 500,
            healthy_after: 1,
            unhealthy_after: 3,
        }),
        files: vec![GuestFile { path: "/run/secrets/a".into(), mode: 0o400, uid: 1, gid: 2, bytes: b"s3cret".into() }],
        volumes: vec![GuestVolume { serial: "vol-7".into(), path: "/data".into() }],
        secrets: Some(GuestSecrets {
            version: 3,
            secrets: BTreeMap::from([(
                "PASSWORD".into(),
                GuestSecret { value: b"hunter2".to_vec(), mode: 0o400, owner: Some("web".into()), env: true },
            )]),
        }),
        linger_ms: 600_000,
    }
}

#[test]
fn host_messages() {
    let request = ExecRequest {
        command: vec!["sh".into()],
        env: BTreeMap::from([("A".into(), "b".into())]),
        user: Some("root".into()),
        working_dir: Some("/".into()),
        terminal: Some(Terminal { rows: 24, cols: 80, term: "xterm".into() }),
    };
    let messages = [
        HostMessage::Hello { protocol: 1, oldest: 1, agent: "holm/0.1.0".into(), unix_ns: 1 },
        HostMessage::Configure { id: 1, config: Box::new(config()) },
        HostMessage::Start { id: 2 },
        HostMessage::Signal { id: 3, signal: 1 },
        HostMessage::Stop { id: 4, grace_ms: Some(1) },
        HostMessage::Metrics { id: 5 },
        HostMessage::Volume { id: 12, serial: "vol-7".into(), action: VolumeAction::Freeze { limit_ms: 5000 } },
        HostMessage::Volume { id: 13, serial: "vol-7".into(), action: VolumeAction::Thaw },
        HostMessage::SetTime { id: 6, unix_ns: 1 },
        HostMessage::Names { id: 7, names: [("web".into(), vec!["fd00::7".parse().unwrap()])].into() },
        HostMessage::LogsFrom { subscription: 1, seq: 2, window: 3 },
        HostMessage::LogsAck { subscription: 1, credit: 2 },
        HostMessage::LogsEnd,
        HostMessage::Exec { id: 7, stream: 2, request, window: 3 },
        HostMessage::ExecEof { stream: 2 },
        HostMessage::ExecResize { stream: 2, rows: 1, cols: 2 },
        HostMessage::ExecSignal { stream: 2, signal: 15 },
        HostMessage::ExecCredit { stream: 2, credit: 1 },
        HostMessage::ExecDetach { stream: 2 },
    ];
    for message in &messages {
        assert_eq!(HostMessage::decode(&message.encode()).as_ref(), Some(message));
    }
    insta::assert_json_snapshot!(messages);
}

#[test]
fn guest_messages() {
    let memory = MemoryFigures { current: 1, peak: 2, max: Some(3), oom_kills: 4 };
    let report = ExitReport { status: ExitStatus::Signal(9), oom: true, start_error: None, memory, at_unix_ns: 5 };
    let health = Health { healthy: true, detail: "ok".into(), since_unix_ns: 1 };
    let event = |what| GuestMessage::Event(Event { seq: 1, at_unix_ns: 2, since_boot_ns: 3, what });
    let error = |code| Outcome::Error(ErrorBody { code, message: "why".into() });
    let mut status = Status::booted();
    status.health = Some(health.clone());
    status.exit = Some(report.clone());
    let messages = [
        GuestMessage::HelloAck(HelloAck {
            protocol: 1,
            boot_id: "b".into(),
            features: BTreeSet::from([Features::EXEC.into(), Features::LOGS.into()]),
            agent: "holm-linux-init/0.1.0".into(),
            kernel: "6.12".into(),
            boot: vec![BootMark { step: "init".into(), since_boot_us: 1 }],
            status,
        }),
        GuestMessage::HelloRefused { protocol: 1, oldest: 1 },
        GuestMessage::Reply { id: 1, outcome: Outcome::Ok(ReplyValue::Done) },
        GuestMessage::Reply { id: 1, outcome: Outcome::Ok(ReplyValue::Started { pid: 9 }) },
        GuestMessage::Reply { id: 1, outcome: Outcome::Ok(ReplyValue::Metrics(Metrics::default())) },
        GuestMessage::Reply { id: 1, outcome: error(ErrorCode::CommandNotFound) },
        GuestMessage::Reply { id: 1, outcome: error(ErrorCode::CannotExecute) },
        GuestMessage::Reply { id: 1, outcome: error(ErrorCode::Invalid) },
        GuestMessage::Reply { id: 1, outcome: error(ErrorCode::Refused) },
        GuestMessage::Reply { id: 1, outcome: error(ErrorCode::Unsupported) },
        GuestMessage::Reply { id: 1, outcome: error(ErrorCode::Failed) },
        event(What::Booted),
        event(What::Configured),
        event(What::Started { pid: 9 }),
        event(What::Health(health)),
        event(What::Stopping),
        event(What::Exited(report)),
        event(What::PoweringOff),
        GuestMessage::LogsDropped { subscription: 1, count: 2, next: 3 },
        GuestMessage::ExecCredit { stream: 1, credit: 2 },
        GuestMessage::ExecExit { stream: 1, status: ExitStatus::Code(0) },
    ];
    for message in &messages {
        assert_eq!(GuestMessage::decode(&message.encode()).as_ref(), Some(message));
    }
    insta::assert_json_snapshot!(messages);
}

#[test]
fn a_newer_side_is_understood_as_far_as_it_goes() {
    for (json, expected) in [
        (r#"{"type":"start","id":1,"later":{"a":[1]}}"#, Some(HostMessage::Start { id: 1 })),
        (r#"{"type":"checkpoint","id":1}"#, Some(HostMessage::Unknown)),
        (r#"{"type":"start"}"#, None),
        ("[]", None),
    ] {
        assert_eq!(HostMessage::decode(json.as_bytes()), expected, "{json}");
    }
    let event = br#"{"type":"event","seq":1,"at_unix_ns":2,"since_boot_ns":3,"what":{"type":"frozen","by":"x"}}"#;
    assert!(matches!(GuestMessage::decode(event), Some(GuestMessage::Event(Event { what: What::Unknown, .. }))));
}

#[test]
fn wrong_configurations_are_refused() {
    let wrong = |change: fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        config.check()
    };
    assert_eq!(wrong(|_| {}), Ok(()));
    let all: [fn(&mut Config); 14] = [
        |c| c.command.clear(),
        |c| c.command[0].clear(),
        |c| c.command.push("a\0b".into()),
        |c| c.hostname = "a b".into(),
        |c| c.hostname = "a".repeat(64),
        |c| drop(c.env.insert("A=B".into(), String::new())),
        |c| drop(c.env.insert("A".into(), "\0".into())),
        |c| c.stop_signal = 65,
        |c| c.memory_max = Some(0),
        |c| c.network.as_mut().unwrap().v6.as_mut().unwrap().prefix = 129,
        |c| c.network.as_mut().unwrap().dns.push("::1\nsearch evil".into()),
        |c| c.files[0].path = "/a/../b".into(),
        |c| c.secrets.as_mut().unwrap().secrets.values_mut().for_each(|s| s.mode = 0o4755),
        |c| c.health.as_mut().unwrap().probe = Probe::Http { port: 1, path: "/ \r\nX: y".into() },
    ];
    for (index, change) in all.into_iter().enumerate() {
        assert!(wrong(change).is_err(), "change {index} must be refused");
    }
}

#[test]
fn contents_of_files_and_secrets_are_not_shown_by_debug() {
    let shown = format!("{:?}", config());
    assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
}

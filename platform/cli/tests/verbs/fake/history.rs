//! What happened before a test begins.

use std::collections::BTreeMap;

use holm_manifest::{Manifest, ProcessName, Route, RouteMatch};
use holm_model::event::Event;
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber};
use holm_model::report::{End, EndCause, Phase};
use jiff::Timestamp;

pub(crate) const MANIFEST: &str = r#"schema = 1
app = "hello"
image = "registry.example/hello:1"

[process.web]
memory = "128MiB"
instances = 2

[[route]]
process = "web"
port = 8080
listen = 8080

[config]
GREETING = "hi"
"#;

pub(crate) fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

fn hello() -> AppKey {
    "hello".parse().unwrap()
}

pub(super) fn instance(number: u64) -> InstanceName {
    format!("hello.web.{number}").parse().unwrap()
}

fn manifest() -> Box<Manifest> {
    Box::new(Manifest::parse(MANIFEST, "holm.toml").unwrap())
}

/// An app with one release, of which one instance is healthy, one still starts, and one went over its memory.
pub(super) fn history() -> Vec<Event> {
    let app = hello();
    let observed = |number, phase, detail: Option<&str>| Event::InstanceObserved {
        instance: instance(number),
        phase,
        detail: detail.map(str::to_owned),
        endpoints: BTreeMap::from([(8080, format!("[fd00::{number}]:8080").parse().unwrap())]),
    };
    let placed = |number, why: &str| Event::InstancePlaced {
        instance: instance(number),
        release: ReleaseNumber(1),
        epoch: 0,
        why: why.to_owned(),
        task: false,
    };
    let at: Timestamp = "2026-01-02T03:04:30Z".parse().unwrap();
    vec![
        Event::HostStarted {
            version: "0.1.0".to_owned(),
            acceleration: "tcg".to_owned(),
            why: "the probe did not boot with kvm".to_owned(),
            network: "user".to_owned(),
            memory: Some(4 << 30),
            disk: Some(20 << 30),
        },
        Event::DeployRequested {
            app: app.clone(),
            deployment: DeploymentNumber(1),
            image: "registry.example/hello:1".to_owned(),
            manifest: manifest(),
        },
        Event::ReleaseReady {
            app: app.clone(),
            deployment: DeploymentNumber(1),
            release: ReleaseNumber(1),
            digest: digest("one"),
            reference: format!("registry.example/hello@{}", digest("one")),
        },
        placed(1, "`web` is to have 2 instances"),
        placed(2, "`web` is to have 2 instances"),
        observed(1, Phase::Healthy, None),
        observed(2, Phase::Healthy, None),
        Event::DeploymentSucceeded { app: app.clone(), deployment: DeploymentNumber(1) },
        Event::RouteAdded {
            app,
            route: Route {
                on: RouteMatch::Sni("hello.example".to_owned()),
                process: ProcessName::new("web").unwrap(),
                port: 8443,
                proxy_protocol: false,
            },
        },
        Event::InstanceEnded {
            instance: instance(2),
            end: End {
                cause: EndCause::OutOfMemory { limit: 128 << 20 },
                at,
                last_log: vec!["allocating\u{1b}[2J".to_owned()],
            },
        },
        placed(3, "hello.web.2 ended by itself"),
        observed(3, Phase::Starting, Some("no answer on port 8080 yet")),
    ]
}

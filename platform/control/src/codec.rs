//! Events as rows: a type, a schema number, a body. Every schema that was ever written stays readable.

use holm_model::event::Event;
use serde_json::Value;

/// The schema in which events are written. A change to an event's shape raises its number here and adds a step to
/// [`upgrade`]; the golden file in `tests/` shows when a shape changes by accident.
pub(crate) const fn schema_of(_kind: &str) -> u32 {
    1
}

/// An event as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) kind: String,
    pub(crate) schema: u32,
    pub(crate) body: String,
}

/// An event that this version of Holm cannot read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A newer version wrote it.
    #[error("event type `{kind}` has schema {schema}, and this version of Holm knows up to {known}")]
    NewerSchema {
        /// Its type.
        kind: String,
        /// Its schema.
        schema: u32,
        /// The newest schema known.
        known: u32,
    },
    /// The type or the body is not one that was ever written.
    #[error("event type `{kind}` cannot be read")]
    Malformed {
        /// Its type.
        kind: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

pub(crate) fn encode(event: &Event) -> Encoded {
    let tagged = serde_json::to_value(event).expect("an event has only text keys and finite numbers");
    let Value::Object(mut tagged) = tagged else { unreachable!("an event is tagged with its type and body") };
    let Some(Value::String(kind)) = tagged.remove("type") else { unreachable!("an event is tagged with its type") };
    let body = tagged.remove("body").unwrap_or_default().to_string();
    Encoded { schema: schema_of(&kind), kind, body }
}

/// Reads a row of any schema up to today's.
pub(crate) fn decode(kind: &str, schema: u32, body: &str) -> Result<Event, DecodeError> {
    let malformed = |source| DecodeError::Malformed { kind: kind.to_owned(), source };
    let known = schema_of(kind);
    if schema == 0 || schema > known {
        return Err(DecodeError::NewerSchema { kind: kind.to_owned(), schema, known });
    }
    // Every event is in its first schema; the first change of one brings its older bodies to today's here.
    let body: Value = serde_json::from_str(body).map_err(malformed)?;
    let tagged = serde_json::json!({ "type": kind, "body": body });
    serde_json::from_value(tagged).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use holm_manifest::{
        Manifest, Memory, Process, ReleaseCommand, RestartPolicy, Route, RouteMatch, Strategy, VolumeSize,
    };
    use holm_model::access::{Permission, Scope};
    use holm_model::event::Recorded;
    use holm_model::id::{DeploymentNumber, Digest, ReleaseNumber, Seq};
    use holm_model::report::{End, EndCause, Phase};
    use holm_model::volume::VolumeOrigin;
    use proptest::prelude::*;

    use super::*;

    /// Events as they were ever written: one line each, `type schema body`. Lines are added and never changed.
    const GOLDEN: &str = include_str!("../golden/events.txt");

    /// One of each type, in order. A new type has to be added here, since `position` has to name it.
    fn samples() -> Vec<Event> {
        let app: holm_model::id::AppKey = "hello/staging".parse().unwrap();
        let instance: holm_model::id::InstanceName = "hello.staging.web.7".parse().unwrap();
        let process = "web".parse::<holm_manifest::ProcessName>().unwrap();
        let (deployment, release) = (DeploymentNumber(3), ReleaseNumber(2));
        let route = Route {
            on: RouteMatch::Sni("hello.example".to_owned()),
            process: process.clone(),
            port: 8443,
            proxy_protocol: false,
        };
        let web = Process {
            command: Some(vec!["serve".to_owned()]),
            cpu_millis: 500,
            instances: 2,
            ..Process::new(Memory::from_mib(128))
        };
        let manifest = Box::new(Manifest {
            image: Some("registry.example/hello:1".to_owned()),
            routes: vec![route.clone()],
            config: BTreeMap::from([("LEVEL".to_owned(), "info".to_owned())]),
            ..Manifest::new(app.app.clone(), BTreeMap::from([(process.clone(), web)]))
        });
        let digest = Digest::of(b"image");
        let reference = format!("registry.example/hello@{digest}");
        let end = End {
            cause: EndCause::Exited { code: 3 },
            at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
            last_log: vec!["boom".to_owned()],
        };
        let why = "a reason".to_owned();
        vec![
            Event::DeployRequested { app: app.clone(), deployment, image: "hello:1".to_owned(), manifest },
            Event::ReleaseReady { app: app.clone(), deployment, release, digest, reference },
            Event::RollbackRequested { app: app.clone(), deployment, release },
            Event::RestartRequested { app: app.clone(), deployment },
            Event::DeploymentSucceeded { app: app.clone(), deployment },
            Event::DeploymentFailed {
                app: app.clone(),
                deployment,
                why: why.clone(),
                last_log: vec!["x".to_owned()],
                back_to: None,
            },
            Event::Scaled { app: app.clone(), process, instances: Some(3) },
            Event::AppStopped { app: app.clone() },
            Event::AppStarted { app: app.clone() },
            Event::RouteAdded { app: app.clone(), route },
            Event::RouteRemoved { app: app.clone(), on: RouteMatch::TcpPort(5432) },
            Event::SecretsChanged {
                app: app.clone(),
                set: "01990000-0000-7000-8000-00000000000a".parse().unwrap(),
                changed: ["PASSWORD".parse().unwrap()].into(),
                removed: ["OLD".parse().unwrap()].into(),
            },
            Event::Ipv4Allocated { app: app.clone() },
            Event::Ipv4Released { app: app.clone() },
            Event::AppDestroyed { app: app.clone(), volumes: false },
            Event::AppForgotten { app },
            Event::InstancePlaced { instance: instance.clone(), release, epoch: 1, why: why.clone(), task: false },
            Event::InstanceRetired { instance: instance.clone(), why: why.clone() },
            Event::InstanceObserved {
                instance: instance.clone(),
                phase: Phase::Healthy,
                detail: Some("fine".to_owned()),
                endpoints: BTreeMap::from([(8443, "[fd00::1]:8443".parse().unwrap())]),
            },
            Event::InstanceEnded { instance: instance.clone(), end },
            Event::InstanceForgotten { instance },
            Event::HostStarted {
                version: "0.1.0".to_owned(),
                acceleration: "tcg".to_owned(),
                why,
                network: "user".to_owned(),
                memory: None,
                disk: None,
            },
            Event::HostStopped { instances_kept: true },
            Event::VolumeCreated {
                volume: "hello/staging:data".parse().unwrap(),
                size: VolumeSize::from_mib(64).unwrap(),
                origin: VolumeOrigin::Staged { key: uuid::Uuid::from_u128(7), what: "a backup".to_owned() },
            },
            Event::VolumeGrown {
                volume: "hello/staging:data".parse().unwrap(),
                size: VolumeSize::from_mib(128).unwrap(),
            },
            Event::VolumeDeleted { volume: "hello/staging:data".parse().unwrap() },
            Event::TokenCreated {
                id: "0123456789ab".parse().unwrap(),
                name: "ci".to_owned(),
                hash: Digest::of(b"token"),
                scope: Scope {
                    permissions: [Permission::Deploy].into(),
                    apps: Some(["hello".parse().unwrap()].into()),
                },
                expires_at: Some("2026-02-01T00:00:00Z".parse().unwrap()),
            },
            Event::TokenRevoked { id: "0123456789ab".parse().unwrap() },
            Event::Asked {
                verb: "exec".to_owned(),
                about: Some("hello.web.1".to_owned()),
                refused: Some("no".to_owned()),
                unrecorded: 2,
            },
            Event::SnapshotsChanged { volume: "hello/staging:data".parse().unwrap(), bytes: 4096 },
        ]
    }

    /// Shapes that came later: the same events with fields that may be absent.
    fn later_shapes() -> Vec<Event> {
        let app: holm_model::id::AppKey = "hello".parse().unwrap();
        let process = "web".parse::<holm_manifest::ProcessName>().unwrap();
        let release = ReleaseCommand {
            command: vec!["migrate".to_owned()],
            cpu_millis: 500,
            memory: Memory::from_mib(64),
            timeout_ms: 60_000,
        };
        let web = Process { cpu_millis: 500, restart: RestartPolicy::OnFailure, ..Process::new(Memory::from_mib(128)) };
        let manifest = Box::new(Manifest {
            strategy: Strategy::BlueGreen,
            release: Some(release),
            ..Manifest::new(app.app.clone(), BTreeMap::from([(process, web)]))
        });
        let why = "a reason".to_owned();
        let (deployment, instance) = (DeploymentNumber(3), "hello.release.8".parse().unwrap());
        vec![
            Event::DeployRequested { app: app.clone(), deployment, image: "hello:1".to_owned(), manifest },
            Event::DeploymentFailed { app, deployment, why: why.clone(), last_log: Vec::new(), back_to: Some(1) },
            Event::InstancePlaced { instance, release: ReleaseNumber(2), epoch: 1, why: why.clone(), task: true },
            Event::HostStarted {
                version: "0.1.0".to_owned(),
                acceleration: "tcg".to_owned(),
                why,
                network: "user".to_owned(),
                memory: Some(8 << 30),
                disk: None,
            },
            Event::HostStarted {
                version: "0.1.0".to_owned(),
                acceleration: "kvm".to_owned(),
                why: "it boots".to_owned(),
                network: "privileged".to_owned(),
                memory: Some(8 << 30),
                disk: Some(100 << 30),
            },
        ]
    }

    const fn position(event: &Event) -> usize {
        match event {
            Event::DeployRequested { .. } => 0,
            Event::ReleaseReady { .. } => 1,
            Event::RollbackRequested { .. } => 2,
            Event::RestartRequested { .. } => 3,
            Event::DeploymentSucceeded { .. } => 4,
            Event::DeploymentFailed { .. } => 5,
            Event::Scaled { .. } => 6,
            Event::AppStopped { .. } => 7,
            Event::AppStarted { .. } => 8,
            Event::RouteAdded { .. } => 9,
            Event::RouteRemoved { .. } => 10,
            Event::SecretsChanged { .. } => 11,
            Event::Ipv4Allocated { .. } => 12,
            Event::Ipv4Released { .. } => 13,
            Event::AppDestroyed { .. } => 14,
            Event::AppForgotten { .. } => 15,
            Event::InstancePlaced { .. } => 16,
            Event::InstanceRetired { .. } => 17,
            Event::InstanceObserved { .. } => 18,
            Event::InstanceEnded { .. } => 19,
            Event::InstanceForgotten { .. } => 20,
            Event::HostStarted { .. } => 21,
            Event::HostStopped { .. } => 22,
            Event::TokenCreated { .. } => 26,
            Event::TokenRevoked { .. } => 27,
            Event::Asked { .. } => 28,
            Event::SnapshotsChanged { .. } => 29,
            Event::VolumeCreated { .. } => 23,
            Event::VolumeGrown { .. } => 24,
            Event::VolumeDeleted { .. } => 25,
        }
    }

    #[test]
    fn every_event_is_written_as_it_always_was_and_read_back() {
        let golden: BTreeSet<&str> = GOLDEN.lines().collect();
        let mut missing = String::new();
        let samples = samples();
        assert!(samples.iter().map(position).eq(0..samples.len()));
        for event in samples.into_iter().chain(later_shapes()) {
            let Encoded { kind, schema, body } = encode(&event);
            assert_eq!(decode(&kind, schema, &body).unwrap(), event);
            let at = "2026-01-01T00:00:00Z".parse().unwrap();
            let recorded = Recorded { seq: Seq(1), at, actor: "user:anna".to_owned(), cause: None, event };
            let json = serde_json::to_string(&recorded).unwrap();
            assert_eq!(serde_json::from_str::<Recorded>(&json).unwrap(), recorded, "as the API hands it on");
            let line = format!("{kind} {schema} {body}");
            if !golden.contains(line.as_str()) {
                missing += &format!("{line}\n");
            }
        }
        assert!(missing.is_empty(), "the format of an event has changed: raise its schema and add\n{missing}");
    }

    #[test]
    fn every_event_that_was_ever_written_can_be_read() {
        for line in GOLDEN.lines() {
            let mut parts = line.splitn(3, ' ');
            let [kind, schema, body] = std::array::from_fn(|_| parts.next().unwrap());
            decode(kind, schema.parse().unwrap(), body).unwrap();
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused() {
        let Encoded { kind, schema, body } = encode(&Event::HostStopped { instances_kept: true });
        assert!(matches!(decode(&kind, schema + 1, &body), Err(DecodeError::NewerSchema { .. })));
        assert!(matches!(decode("invented", 1, &body), Err(DecodeError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn no_row_makes_the_decoder_panic(kind in ".{0,20}", schema in any::<u32>(), body in ".{0,200}") {
            let _ = decode(&kind, schema, &body);
            let _ = decode("deploy_requested", 1, &body);
        }
    }
}

//! A manifest that is written reads back as the same, and no text makes the parser panic.

use std::collections::BTreeMap;

use holm_manifest::{
    AppName, BackupPolicy, EnvName, Environment, HealthCheck, HealthProbe, IngressLimits, Manifest, Memory, Process,
    ProcessName, ReleaseCommand, RestartPolicy, Route, RouteMatch, SecretName, SecretUse, StopPolicy,
    Strategy as Rollout, Volume, VolumeName, VolumeSize,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

const FULL: &str = r#"schema = 1
app = "hello"
image = "registry.example/hello:1"

[process.web]
command = ["hello", "--port", "8080"]
cpu = 0.5
memory = "128MiB"
instances = 2
[process.web.health]
http = { port = 8080, path = "/healthz" }
interval = "2s"
timeout = "1s"
startup = "1m30s"
failures = 3
[process.web.stop]
signal = "SIGTERM"
grace = "10s"
drain = "30s"

[process.worker]
restart = "on-failure"

[deploy]
strategy = "blue-green"

[release]
command = ["migrate", "--all"]
memory = "64MiB"
timeout = "5m"

[[route]]
process = "web"
port = 8080
listen = 8080

[[route]]
process = "web"
port = 8443
sni = "hello.example"
proxy_protocol = true

[ingress]
connections = 2000
connections_per_source = 200
connects_per_second = 500

[config]
GREETING = "hi"

[environment.staging]
instances = { web = 1, worker = 0 }
[environment.staging.config]
GREETING = "hi, staging"
[[environment.staging.route]]
process = "web"
port = 8080
listen = 9090

[environment.quiet]
route = []
"#;

#[test]
fn a_full_manifest_is_read() {
    let manifest = Manifest::parse(FULL, "holm.toml").unwrap();
    insta::assert_json_snapshot!(manifest);
    assert_eq!(Manifest::parse(&manifest.to_toml(), "holm.toml").unwrap(), manifest);
}

#[test]
fn a_process_without_fields_gets_the_defaults() {
    let manifest = Manifest::parse("schema = 1\napp = \"a\"\n[process.web]\n", "holm.toml").unwrap();
    let web = &manifest.processes[&ProcessName::new("web").unwrap()];
    let expected = Process {
        command: None,
        cpu_millis: 1000,
        memory: Memory::from_mib(256),
        instances: 1,
        health: None,
        stop: StopPolicy::default(),
        restart: RestartPolicy::Always,
        mounts: BTreeMap::new(),
    };
    assert_eq!(*web, expected);
}

#[test]
fn an_environment_with_an_empty_route_list_has_no_routes() {
    let manifest = Manifest::parse(FULL, "holm.toml").unwrap();
    assert!(manifest.routes_in(&EnvName::new("quiet").unwrap()).is_empty());
    assert_eq!(manifest.routes_in(&EnvName::default()).len(), 2);
}

fn command() -> impl Strategy<Value = Vec<String>> {
    ("[^\0]{1,12}", vec("[^\0]{0,12}", 0..3)).prop_map(|(program, rest)| {
        let mut words = vec![program];
        words.extend(rest);
        words
    })
}

fn probe() -> impl Strategy<Value = HealthProbe> {
    prop_oneof![
        (1u16..).prop_map(|port| HealthProbe::Tcp { port }),
        (1u16.., "/[a-z/?=&]{0,12}").prop_map(|(port, path)| HealthProbe::Http { port, path }),
        command().prop_map(|command| HealthProbe::Exec { command }),
    ]
}

fn health() -> impl Strategy<Value = HealthCheck> {
    (probe(), 100u64..=3_600_000, 100u64..=600_000, 1000u64..=3_600_000, 1u32..=100).prop_map(
        |(probe, interval_ms, timeout_ms, startup_ms, failures)| HealthCheck {
            probe,
            interval_ms,
            timeout_ms,
            startup_ms,
            failures,
        },
    )
}

fn restart() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)]
}

fn release() -> impl Strategy<Value = ReleaseCommand> {
    (command(), 50u32..=64_000, 16u64..=1 << 20, 1000u64..=86_400_000).prop_map(
        |(command, cpu_millis, mib, timeout_ms)| ReleaseCommand {
            command,
            cpu_millis,
            memory: Memory::from_mib(mib),
            timeout_ms,
        },
    )
}

fn process() -> impl Strategy<Value = Process> {
    let signal = option::of(prop_oneof![Just("SIGTERM".to_owned()), Just("SIGINT".to_owned())]);
    let stop = (signal, 0u64..=3_600_000, 0u64..=3_600_000).prop_map(|(signal, grace_ms, drain_ms)| StopPolicy {
        signal,
        grace_ms,
        drain_ms,
    });
    (option::of(command()), 50u32..=64_000, 16u64..=1 << 20, 0u32..=100, option::of(health()), stop, restart())
        .prop_map(|(command, cpu_millis, mib, instances, health, stop, restart)| Process {
            command,
            cpu_millis,
            memory: Memory::from_mib(mib),
            instances,
            health,
            stop,
            restart,
            mounts: BTreeMap::new(),
        })
}

fn routes(names: Vec<ProcessName>) -> impl Strategy<Value = Vec<Route>> {
    let on = prop_oneof![(1u16..).prop_map(RouteMatch::TcpPort), "[a-z]{1,8}\\.example".prop_map(RouteMatch::Sni)];
    btree_map(on, (proptest::sample::select(names), 1u16.., any::<bool>()), 0..4).prop_map(|map| {
        let route = |(on, (process, port, proxy_protocol))| Route { on, process, port, proxy_protocol };
        map.into_iter().map(route).collect()
    })
}

fn ingress() -> impl Strategy<Value = IngressLimits> {
    let limit = || option::of(1u32..=1_000_000);
    (limit(), limit(), limit()).prop_map(|(connections, connections_per_source, connects_per_second)| IngressLimits {
        connections,
        connections_per_source,
        connects_per_second,
    })
}

fn volumes() -> impl Strategy<Value = BTreeMap<VolumeName, Volume>> {
    let name = "[a-z][a-z0-9]{0,8}".prop_map(|n| VolumeName::new(n).expect("made of the right letters"));
    let policy = (60_000u64..=2_592_000_000, 1u32..=1000).prop_map(|(every_ms, keep)| BackupPolicy { every_ms, keep });
    let size = (16u64..=1 << 20).prop_map(|mib| VolumeSize::from_mib(mib).expect("within the range"));
    btree_map(name, (size, option::of(policy)).prop_map(|(size, backup)| Volume { size, backup }), 0..3)
}

fn config() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map("[A-Za-z_][A-Za-z0-9_]{0,8}", "[^\0]{0,16}", 0..4)
}

fn secrets() -> impl Strategy<Value = BTreeMap<SecretName, SecretUse>> {
    let name = "[A-Za-z_][A-Za-z0-9_]{0,8}".prop_map(|n| SecretName::new(n).expect("made of the right letters"));
    let how = (any::<bool>(), any::<bool>(), 0u32..=0o777, option::of("[a-z0-9]{1,8}(:[0-9]{1,4})?"));
    btree_map(name, how.prop_map(|(required, env, mode, owner)| SecretUse { required, env, mode, owner }), 0..4)
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let name = || "[a-z]([a-z0-9-]{0,8}[a-z0-9])?";
    let processes =
        btree_map(name().prop_map(|n| ProcessName::new(n).expect("made of the right letters")), process(), 1..4);
    processes.prop_flat_map(move |processes| {
        let names: Vec<_> = processes.keys().cloned().collect();
        let instances = btree_map(proptest::sample::select(names.clone()), 0u32..=100, 0..3);
        let environment = (config(), option::of(routes(names.clone())), instances)
            .prop_map(|(config, routes, instances)| Environment { config, routes, instances });
        let environments =
            btree_map(name().prop_map(|n| EnvName::new(n).expect("made of the right letters")), environment, 0..3);
        let image = option::of("[a-z]{1,8}(:[a-z0-9]{1,4})?");
        let strategy = prop_oneof![Just(Rollout::Rolling), Just(Rollout::BlueGreen)];
        let coming = (strategy, option::of(release()));
        let kept = (volumes(), config(), secrets());
        (name(), image, Just(processes), coming, routes(names), ingress(), kept, environments).prop_map(
            |(
                app,
                image,
                processes,
                (strategy, release),
                routes,
                ingress,
                (volumes, config, secrets),
                environments,
            )| Manifest {
                app: AppName::new(app).expect("made of the right letters"),
                image,
                release: release.filter(|_| processes.keys().all(|name| name.as_str() != ReleaseCommand::PROCESS)),
                processes,
                strategy,
                routes,
                ingress,
                volumes,
                config,
                secrets,
                environments,
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_written_manifest_reads_back_as_the_same(manifest in manifest()) {
        let text = manifest.to_toml();
        let read = Manifest::parse(&text, "holm.toml");
        prop_assert_eq!(read.map_err(|e| format!("{e}\n{text}")), Ok(manifest));
    }

    #[test]
    fn any_bytes_are_read_or_refused_with_a_picture(bytes in vec(any::<u8>(), 0..400)) {
        if let Err(error) = Manifest::from_bytes(&bytes, "holm.toml") {
            prop_assert!(error.render(false).starts_with("error: "));
        }
    }

    #[test]
    fn a_damaged_manifest_is_read_or_refused_with_a_picture(
        cuts in vec((0usize..FULL.len(), 0usize..12, "[\\[\\]{}=\"\\.#,\n a-z0-9é\u{1b}]{0,6}"), 1..6)
    ) {
        let mut text = FULL.to_owned();
        for (at, length, with) in cuts {
            let mut at = at.min(text.len());
            while !text.is_char_boundary(at) { at -= 1; }
            let mut end = (at + length).min(text.len());
            while !text.is_char_boundary(end) { end -= 1; }
            text.replace_range(at..end.max(at), &with);
        }
        if let Err(error) = Manifest::parse(&text, "holm.toml") {
            let picture = error.render(false);
            prop_assert!(picture.starts_with("error: ") && !picture.contains('\u{1b}'), "{}", picture);
        }
    }
}

//! The agent on the real world: Debian's kernel and our PID 1 in QEMU, an image from the packer, the user network.
//!
//! Needs three things, named by environment variables; without them each test says so and does nothing:
//! `HOLM_TEST_DEB` (the packages of one Debian cloud kernel, separated by colons), `HOLM_TEST_INIT` (a static
//! `holm-linux-init`) and `HOLM_TEST_BUSYBOX` (a static busybox). They run under TCG, so that they run everywhere.
//!
//! With `HOLM_TEST_PRIVILEGED` they use taps and the firewall instead: as root, in a network namespace of their own.
#![allow(clippy::unwrap_used, reason = "test code, also outside of test functions")]
#![allow(clippy::print_stderr, reason = "says why a test is skipped")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use holm_agent::{
    Agent, AgentConfig, AgentHandle, ExecInput, ExecOutput, Limits, LogQuery, LogStream, NetworkMode, NoConnections,
};
use holm_guest_control::{ExecRequest, ExitStatus};
use holm_image::pack::{Compression, LayerBuilder, add_image};
use holm_image::{ImageConfig, ImageStore, StoreOptions};
use holm_manifest::{HealthCheck, HealthProbe, Memory, StopPolicy};
use holm_model::id::{Digest, InstanceName, ReleaseNumber};
use holm_model::report::{EndCause, Observation, Phase};
use holm_model::target::{HostTarget, InstanceSpec, InstanceTarget, Want};
use holm_network::{Config, Network};
use holm_vmm::{Acceleration, GuestStore, QemuConfig, QemuVmm, Vmm};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// Far beyond what a busy machine with emulated guests needs.
const DEADLINE: Duration = Duration::from_secs(300);

struct Artefacts {
    packages: Vec<PathBuf>,
    init: PathBuf,
    busybox: PathBuf,
}

fn artefacts() -> Option<Artefacts> {
    let named = |name: &str| {
        let value: Option<OsString> = std::env::var_os(name);
        if value.is_none() {
            eprintln!("skipped: set {name}; the head of this file says what to");
        }
        value
    };
    let (packages, init, busybox) = (named("HOLM_TEST_DEB")?, named("HOLM_TEST_INIT")?, named("HOLM_TEST_BUSYBOX")?);
    Some(Artefacts { packages: std::env::split_paths(&packages).collect(), init: init.into(), busybox: busybox.into() })
}

/// A host in a folder: everything an agent needs, and what to say to it.
struct Bench {
    dir: tempfile::TempDir,
    tag: String,
    image: Digest,
    targets: watch::Sender<Arc<HostTarget>>,
}

impl Bench {
    fn new(tag: &str) -> Option<Self> {
        let artefacts = artefacts()?;
        let dir = tempfile::tempdir().unwrap();
        let guests = GuestStore::open(&dir.path().join("guests")).unwrap();
        guests.import_debian(&artefacts.packages, &artefacts.init).unwrap();
        let mut layer = LayerBuilder::new();
        layer.file("bin/busybox", std::fs::read(&artefacts.busybox).unwrap()).mode(0o755);
        for tool in ["sh", "cat", "echo", "httpd", "sleep", "kill", "env", "ls"] {
            layer.symlink(format!("bin/{tool}"), "busybox");
        }
        layer.file("www/index.html", "hello from a microVM\n");
        let config = ImageConfig {
            entrypoint: vec!["/bin/sh".into(), "-c".into()],
            cmd: vec!["echo from the image; exec httpd -f -p 8080 -h /www".into()],
            env: vec!["PATH=/bin".into(), "FROM=image".into()],
            ..ImageConfig::default()
        };
        let layout = dir.path().join("layout");
        let image = add_image(&layout, "busybox", &[layer.to_tar()], Compression::Zstd, &config).unwrap();
        // Unique over test runs, so that a leftover of one is not taken for another's.
        let tag = format!("{tag}-{}", std::process::id());
        Some(Self { dir, tag, image: image.to_string().parse().unwrap(), targets: watch::Sender::default() })
    }

    async fn agent(&self) -> AgentHandle {
        start(self.dir.path(), &self.tag, self.targets.subscribe()).await
    }

    fn spec(&self, number: u64, script: &str) -> InstanceSpec {
        InstanceSpec {
            instance: name(number),
            release: ReleaseNumber(1),
            image: self.image.clone(),
            image_reference: format!("oci:{}", self.dir.path().join("layout").display()),
            command: Some(vec![script.to_owned()]),
            config: [("FROM".to_owned(), "release".to_owned())].into(),
            cpu_millis: 500,
            memory: Memory::from_mib(32),
            health: None,
            stop: StopPolicy { signal: None, grace_ms: 5_000, drain_ms: 0 },
            volumes: Vec::new(),
            secrets: None,
        }
    }

    fn set(&self, specs: &[(&InstanceSpec, Want)], ports: &[u16]) {
        let ports: BTreeSet<u16> = ports.iter().copied().collect();
        let target = |(spec, want): &(&InstanceSpec, Want)| {
            let target = InstanceTarget { want: *want, spec: (*spec).clone(), ports: ports.clone() };
            (spec.instance.clone(), target)
        };
        let instances = specs.iter().map(target).collect();
        let generation = self.targets.borrow().generation.next();
        self.targets.send_replace(Arc::new(HostTarget { generation, instances, ..HostTarget::default() }));
    }

    /// The process ids of this host's microVMs.
    fn machines(&self) -> Vec<u32> {
        let vmm = QemuVmm::new(QemuConfig::new(Acceleration::tcg("a test")));
        vmm.find_leftovers(&self.tag).unwrap().iter().map(|record| record.process.pid).collect()
    }
}

impl Drop for Bench {
    /// A test that failed leaves no microVM behind.
    fn drop(&mut self) {
        self.machines().into_iter().for_each(|pid| signal(pid, rustix::process::Signal::KILL));
    }
}

async fn start(dir: &Path, tag: &str, targets: watch::Receiver<Arc<HostTarget>>) -> AgentHandle {
    let images = ImageStore::open(dir.join("images"), StoreOptions::default()).await.unwrap();
    let guests = GuestStore::open(&dir.join("guests")).unwrap();
    let limits = Limits { silence: Duration::from_secs(20), ping: Duration::from_secs(1), ..Limits::emulated(2) };
    let config = AgentConfig {
        state_dir: dir.join("agent"),
        host_tag: tag.to_owned(),
        images,
        guests,
        volumes: holm_volume::VolumeStore::open(dir.join("volumes")).unwrap(),
        secrets: Arc::new(holm_secrets::Vault::open(&dir.join("secrets")).unwrap()),
        acceleration: Acceleration::tcg("a test"),
        network: network(tag),
        dns: Vec::new(),
        run_as: None,
        connections: Arc::new(NoConnections),
        limits,
    };
    Agent::start(config, targets).await.unwrap()
}

fn privileged() -> bool {
    std::env::var_os("HOLM_TEST_PRIVILEGED").is_some()
}

fn network(tag: &str) -> NetworkMode {
    if !privileged() {
        return NetworkMode::User;
    }
    NetworkMode::Privileged(Arc::new(Network::privileged(&Config { host_id: tag.to_owned() }).unwrap()))
}

fn name(number: u64) -> InstanceName {
    format!("hello.web.{number}").parse().unwrap()
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    // Gone already is as good.
    let _ = rustix::process::kill_process(pid, signal);
}

async fn wait(agent: &AgentHandle, number: u64, what: impl Fn(&Observation) -> bool) -> Observation {
    let mut reports = agent.reports();
    let seen = timeout(DEADLINE, reports.wait_for(|r| r.instances.get(&name(number)).is_some_and(&what))).await;
    match seen {
        Ok(report) => report.unwrap().instances[&name(number)].clone(),
        Err(_) => panic!("never came about; last seen: {:#?}", agent.reports().borrow()),
    }
}

async fn wait_phase(agent: &AgentHandle, number: u64, phase: Phase) -> Observation {
    let seen = wait(agent, number, |seen| seen.phase == phase || seen.phase == Phase::Ended).await;
    assert_eq!(seen.phase, phase, "{seen:#?}");
    seen
}

async fn end(agent: &AgentHandle, number: u64) -> holm_model::report::End {
    wait_phase(agent, number, Phase::Ended).await.end.unwrap()
}

async fn http_get(seen: &Observation, port: u16) -> String {
    let mut stream = TcpStream::connect(seen.endpoints[&port]).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

async fn lines(agent: &AgentHandle, number: u64) -> Vec<(LogStream, String)> {
    let mut lines = agent.logs(&name(number), LogQuery::default()).unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        all.push((line.stream, String::from_utf8(line.text).unwrap()));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_serves_answers_and_stops() {
    let Some(bench) = Bench::new("life") else { return };
    let script = "echo out $FROM $HOLM_INSTANCE; echo err >&2; trap 'echo bye; exit 0' TERM; \
                  httpd -f -p 8080 -h /www & wait";
    let mut spec = bench.spec(1, script);
    let probe = HealthProbe::Http { port: 8080, path: "/".to_owned() };
    spec.health = Some(HealthCheck { probe, interval_ms: 500, timeout_ms: 5_000, startup_ms: 120_000, failures: 3 });
    bench.set(&[(&spec, Want::Run)], &[8080]);
    let agent = bench.agent().await;
    let seen = wait_phase(&agent, 1, Phase::Healthy).await;
    let answer = http_get(&seen, 8080).await;
    assert!(answer.contains("hello from a microVM"), "{answer}");
    let written = lines(&agent, 1).await;
    assert!(written.contains(&(LogStream::Stdout, "out release hello.web.1".to_owned())), "{written:?}");
    assert!(written.contains(&(LogStream::Stderr, "err".to_owned())), "{written:?}");

    let command = ["/bin/sh", "-c", "cat; echo $HOLM_RELEASE; exit 5"].map(str::to_owned).to_vec();
    let mut session = agent.exec(&name(1), ExecRequest { command, ..ExecRequest::default() }).await.unwrap();
    session.input.send(ExecInput::Data("typed\n".into())).await.unwrap();
    session.input.send(ExecInput::Eof).await.unwrap();
    let (mut text, mut status) = (Vec::new(), None);
    while let Some(output) = timeout(DEADLINE, session.output.recv()).await.unwrap() {
        match output {
            ExecOutput::Stdout(bytes) => text.extend_from_slice(&bytes),
            ExecOutput::Stderr(bytes) => panic!("{bytes:?}"),
            ExecOutput::Exited(ended) => status = Some(ended),
        }
    }
    assert_eq!((String::from_utf8(text).unwrap().as_str(), status), ("typed\nv1\n", Some(ExitStatus::Code(5))));
    let metrics = agent.metrics(&name(1)).await.unwrap();
    assert_eq!(metrics.memory.max, Some(32 << 20));
    let used = (metrics.guest_memory_total - metrics.guest_memory_available) >> 20;
    eprintln!(
        "guest: {} MiB in all, {used} MiB in use, app {} KiB",
        metrics.guest_memory_total >> 20,
        metrics.memory.current >> 10
    );

    bench.set(&[(&spec, Want::Run)], &[8080, 8081]);
    let seen = wait(&agent, 1, |seen| seen.endpoints.len() == 2).await;
    // QEMU's user network answers itself before it asks the guest.
    assert_eq!(TcpStream::connect(seen.endpoints[&8081]).await.is_ok(), !privileged());

    bench.set(&[(&spec, Want::Stop)], &[]);
    let end = end(&agent, 1).await;
    assert_eq!(end.cause, EndCause::Stopped);
    assert_eq!(end.last_log.last().map(String::as_str), Some("bye"));
    assert_eq!(bench.machines(), Vec::<u32>::new());
    bench.set(&[], &[]);
    timeout(DEADLINE, agent.reports().wait_for(|report| report.instances.is_empty())).await.unwrap().unwrap();
    assert!(!bench.dir.path().join("agent/instances/hello.web.1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_are_told_apart() {
    let Some(bench) = Bench::new("ends") else { return };
    let crash = bench.spec(1, "echo last words; exit 3");
    let hungry = bench.spec(2, "x=aaaaaaaa; while :; do x=$x$x; done");
    let mut missing = bench.spec(3, "");
    missing.command = None;
    missing.image_reference = "oci:/nowhere".to_owned();
    missing.image = Digest::of(b"no such image");
    let frozen = bench.spec(4, "sleep 1000000");
    let stubborn = bench.spec(5, "trap '' TERM; while :; do sleep 1; done");
    let run = |spec| (spec, Want::Run);
    let all = [run(&crash), run(&hungry), run(&missing), run(&frozen), run(&stubborn)];
    bench.set(&all, &[]);
    let agent = bench.agent().await;
    let ended = end(&agent, 1).await;
    assert_eq!((ended.cause, ended.last_log), (EndCause::Exited { code: 3 }, vec!["last words".to_owned()]));
    assert_eq!(end(&agent, 2).await.cause, EndCause::OutOfMemory { limit: 32 << 20 });
    let cause = end(&agent, 3).await.cause;
    assert!(matches!(&cause, EndCause::CouldNotStart { why } if why.contains("/nowhere")), "{cause:?}");
    wait_phase(&agent, 4, Phase::Healthy).await;
    wait_phase(&agent, 5, Phase::Healthy).await;

    bench.set(&[all[0], all[1], all[2], all[3], (&stubborn, Want::Stop)], &[]);
    assert_eq!(end(&agent, 5).await.cause, EndCause::StoppedByForce);
    for pid in bench.machines() {
        signal(pid, rustix::process::Signal::STOP);
    }
    assert_eq!(end(&agent, 4).await.cause, EndCause::Hung { why: "the guest did not answer for 20 s".to_owned() });
    assert_eq!(bench.machines(), Vec::<u32>::new());
}

/// The agent of `a_killed_agents_microvm_is_taken_over`, in a process of its own. Says `healthy` and goes on until killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test as its child"]
async fn agent_process() {
    let dir = PathBuf::from(std::env::var_os("HOLM_TEST_CHILD_DIR").unwrap());
    let tag = std::env::var("HOLM_TEST_CHILD_TAG").unwrap();
    let target: HostTarget = serde_json::from_slice(&std::fs::read(dir.join("target.json")).unwrap()).unwrap();
    let (_keep, targets) = watch::channel(Arc::new(target));
    let agent = start(&dir, &tag, targets).await;
    wait_phase(&agent, 1, Phase::Healthy).await;
    std::fs::write(dir.join("healthy"), "").unwrap();
    std::future::pending::<()>().await;
}

fn agent_process_of(bench: &Bench) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_process", "--ignored", "--nocapture"])
        .env("HOLM_TEST_CHILD_DIR", bench.dir.path())
        .env("HOLM_TEST_CHILD_TAG", &bench.tag)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agents_microvm_is_taken_over() {
    let Some(bench) = Bench::new("kill") else { return };
    let script = "n=0; while :; do echo line $n; n=$((n+1)); [ -e /end ] && exit 7; sleep 1; done";
    let spec = bench.spec(1, script);
    bench.set(&[(&spec, Want::Run)], &[]);
    let target = serde_json::to_vec(&**bench.targets.borrow()).unwrap();
    std::fs::write(bench.dir.path().join("target.json"), target).unwrap();
    let mut child = agent_process_of(&bench);
    let healthy = bench.dir.path().join("healthy");
    let came = timeout(DEADLINE, async {
        while !healthy.exists() && child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    came.await.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(healthy.exists(), "{said}");
    let machines = bench.machines();
    assert_eq!(machines.len(), 1, "the microVM did not outlive its agent");

    let agent = bench.agent().await;
    wait_phase(&agent, 1, Phase::Healthy).await;
    assert_eq!(bench.machines(), machines);
    let command = ["/bin/sh", "-c", "echo > /end"].map(str::to_owned).to_vec();
    agent.exec(&name(1), ExecRequest { command, ..ExecRequest::default() }).await.unwrap();
    let end = end(&agent, 1).await;
    assert_eq!(end.cause, EndCause::Exited { code: 7 });
    let written = lines(&agent, 1).await;
    let expected: Vec<_> = (0..written.len()).map(|n| (LogStream::Stdout, format!("line {n}"))).collect();
    assert_eq!(written, expected, "lines were lost or repeated over the kill");
    assert_eq!(bench.machines(), Vec::<u32>::new());
}

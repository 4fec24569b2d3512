//! A Holm made of fixed facts: a state folded from events, and answers that never change.

mod history;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use holm_api::access::{NewToken, TokenWish, mint};
use holm_api::backend::{Audit, LogStream};
use holm_api::exec::{ExecExit, ExecInput, ExecOutput, ExecRequest, ExecSession, QUEUE};
use holm_api::secrets::{SecretDifferences, SecretsChange, SecretsComparison, compare};
use holm_api::wire::{
    Accepted, Command, EventQuery, Finding, FindingLevel, GuestImport, GuestSummary, ImageDetail, ImageProgress,
    ImageStep, ImageSummary, LayerSummary, LiveInstance, LogLine, LogQuery, PruneReport, Shutdown, Submission,
};
use holm_api::{Backend, Problem, remote, server, socket, tls};
use holm_model::access::{Scope, TokenId};
use holm_model::event::{Event, Recorded};
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, ReleaseNumber, Seq};
use holm_model::report::{End, EndCause, Phase};
use holm_model::state::State;
use holm_secrets::{SecretValue, Secrets};
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use history::{MANIFEST, digest};
use history::{history, instance};

/// What a test can look at afterwards.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) submissions: Vec<Submission>,
    pub(crate) log_queries: Vec<LogQuery>,
    pub(crate) shutdowns: Vec<Shutdown>,
    pub(crate) secrets: Vec<SecretsChange>,
    pub(crate) audits: Vec<Audit>,
}

pub(crate) struct Fake {
    state: Mutex<Arc<State>>,
    log: Mutex<Vec<Recorded>>,
    changes: watch::Sender<Seq>,
    pub(crate) seen: Mutex<Seen>,
    /// Listeners that cannot be opened.
    pub(crate) closed: Mutex<BTreeMap<SocketAddr, String>>,
    stop: CancellationToken,
}

impl Fake {
    /// Serves on the folder `state` until the test's runtime ends.
    pub(crate) async fn start(state: &Path) -> Arc<Self> {
        let stop = CancellationToken::new();
        let fake = Arc::new(Self {
            state: Mutex::default(),
            log: Mutex::default(),
            changes: watch::Sender::new(Seq(0)),
            seen: Mutex::default(),
            closed: Mutex::default(),
            stop: stop.clone(),
        });
        for event in history() {
            fake.record("user:anna", event);
        }
        let listener = socket::bind(state, None).await.unwrap();
        let folder = state.to_owned();
        let backend = Arc::clone(&fake);
        tokio::spawn(async move {
            server::serve(listener, backend, "0.1.0", stop).await.unwrap();
            socket::remove(&folder).unwrap();
        });
        fake
    }

    /// Serves from afar too; gives the port, the certificate's fingerprint, and a token with `scope`.
    pub(crate) async fn serve_from_afar(self: &Arc<Self>, folder: &Path, scope: Scope) -> (u16, String, String) {
        let (tls, fingerprint) = tls::server_of_host(folder).unwrap();
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (id, token, hash) = mint().unwrap();
        self.record("user:anna", Event::TokenCreated { id, name: "ci".to_owned(), hash, scope, expires_at: None });
        tokio::spawn(remote::serve(listener, tls, Arc::clone(self), "0.1.0", self.stop.clone()));
        (port, fingerprint.to_string(), token)
    }

    pub(crate) fn record(&self, actor: &str, event: Event) -> Seq {
        let mut log = self.log.lock().unwrap();
        let seq = Seq(log.len() as u64 + 1);
        let begin: Timestamp = "2026-01-02T03:04:00Z".parse().unwrap();
        let at = begin + SignedDuration::from_secs(seq.0.cast_signed());
        let recorded = Recorded { seq, at, actor: actor.to_owned(), cause: None, event };
        let mut state = self.state.lock().unwrap();
        Arc::make_mut(&mut state).apply(&recorded);
        log.push(recorded);
        drop((log, state));
        self.changes.send_replace(seq);
        seq
    }

    /// Brings `web` to `wanted` healthy instances; with 2, the first new one dies.
    fn scale_out(&self, wanted: u32) {
        let (release, epoch, task) = (ReleaseNumber(1), 0, false);
        let healthy = |number| Event::InstanceObserved {
            instance: instance(number),
            phase: Phase::Healthy,
            detail: None,
            endpoints: BTreeMap::new(),
        };
        if wanted == 2 {
            let end = End {
                cause: EndCause::Exited { code: 7 },
                at: "2026-01-02T03:05:00Z".parse().unwrap(),
                last_log: Vec::new(),
            };
            let why = "scaled by hand".to_owned();
            self.record("planner", Event::InstancePlaced { instance: instance(9), release, epoch, why, task });
            self.record("host", Event::InstanceEnded { instance: instance(9), end });
            return;
        }
        self.record("host", healthy(3));
        for number in 5..5 + u64::from(wanted).saturating_sub(2) {
            let why = "scaled by hand".to_owned();
            self.record("planner", Event::InstancePlaced { instance: instance(number), release, epoch, why, task });
            self.record("host", healthy(number));
        }
    }

    /// Brings a deployment to its end, as the control plane would.
    fn roll_out(&self, app: &AppKey, deployment: DeploymentNumber, image: &str) {
        let app = app.clone();
        if image.contains("missing") {
            let why = format!("cannot find the image `{image}`");
            self.record(
                "control",
                Event::DeploymentFailed { app, deployment, why, last_log: Vec::new(), back_to: None },
            );
            return;
        }
        let (release, digest) = (ReleaseNumber(2), digest("two"));
        let reference = format!("registry.example/hello@{digest}");
        self.record("control", Event::ReleaseReady { app: app.clone(), deployment, release, digest, reference });
        let why = "release v2 is rolled out".to_owned();
        self.record("planner", Event::InstancePlaced { instance: instance(4), release, epoch: 0, why, task: false });
        if image.contains("broken") {
            let cause = EndCause::Exited { code: 7 };
            let last_log = vec!["cannot open /etc/hello".to_owned()];
            let end = End { cause, at: "2026-01-02T03:05:00Z".parse().unwrap(), last_log: last_log.clone() };
            self.record("host", Event::InstanceEnded { instance: instance(4), end });
            let why = "hello.web.4 exited with status 7".to_owned();
            self.record("planner", Event::DeploymentFailed { app, deployment, why, last_log, back_to: None });
        } else {
            let healthy = Event::InstanceObserved {
                instance: instance(4),
                phase: Phase::Healthy,
                detail: None,
                endpoints: BTreeMap::new(),
            };
            self.record("host", healthy);
            self.record("planner", Event::DeploymentSucceeded { app, deployment });
        }
    }
}

fn summary() -> ImageSummary {
    ImageSummary {
        digest: digest("one"),
        references: vec!["registry.example/hello:1".to_owned()],
        size: 12 << 20,
        created_at: "2026-01-02T03:04:00Z".parse().unwrap(),
        used_by: vec!["hello v1".to_owned()],
    }
}

fn guest(name: &str) -> GuestSummary {
    GuestSummary {
        name: name.to_owned(),
        kernel: "6.12.48+deb13-cloud-amd64".to_owned(),
        id: "6a4591d29255d63d".to_owned(),
        size: 24 << 20,
        default: true,
    }
}

impl Backend for Fake {
    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().unwrap())
    }

    fn changes(&self) -> watch::Receiver<Seq> {
        self.changes.subscribe()
    }

    async fn submit(&self, submission: Submission) -> Result<Accepted, Problem> {
        self.seen.lock().unwrap().submissions.push(submission.clone());
        let state = self.state();
        let app = submission.command.app().clone();
        let Some(doc) = state.apps.get(&app) else {
            return Err(Problem::not_found(format!("there is no app `{app}`")).hint("`holm status` lists the apps"));
        };
        let deployment = doc.last_deployment.next();
        let seq = match submission.command {
            Command::Deploy { image, manifest, .. } if image == "same" => {
                drop(manifest);
                return Ok(Accepted { seq: state.seq, deployment: None, changed: false });
            }
            Command::Deploy { image, manifest, .. } => {
                let manifest = manifest.into_manifest();
                let event = Event::DeployRequested { app: app.clone(), deployment, image: image.clone(), manifest };
                let seq = self.record(&submission.actor, event);
                self.roll_out(&app, deployment, &image);
                return Ok(Accepted { seq, deployment: Some(deployment), changed: true });
            }
            Command::Rollback { to: None, .. } => {
                return Err(Problem::refused("there is no earlier release that was ever healthy")
                    .because("`hello` has had 1 release")
                    .hint("`holm releases hello` lists them"));
            }
            Command::Rollback { to: Some(release), .. } => {
                let event = Event::RollbackRequested { app: app.clone(), deployment, release };
                self.record(&submission.actor, event);
                let seq = self.record("planner", Event::DeploymentSucceeded { app, deployment });
                return Ok(Accepted { seq, deployment: Some(deployment), changed: true });
            }
            Command::Restart { .. } => {
                self.record(&submission.actor, Event::RestartRequested { app: app.clone(), deployment });
                let seq = self.record("planner", Event::DeploymentSucceeded { app, deployment });
                return Ok(Accepted { seq, deployment: Some(deployment), changed: true });
            }
            Command::Scale { process, instances, .. } => {
                let seq = self.record(&submission.actor, Event::Scaled { app, process, instances });
                self.scale_out(instances.unwrap_or(1));
                seq
            }
            _ => state.seq,
        };
        Ok(Accepted { seq, deployment: None, changed: true })
    }

    async fn create_token(&self, actor: String, wish: TokenWish) -> Result<NewToken, Problem> {
        let id: TokenId = "0123456789ab".parse().unwrap();
        let TokenWish { name, scope, expires_at } = wish;
        let hash = digest("token");
        self.record(&actor, Event::TokenCreated { id: id.clone(), name, hash, scope, expires_at });
        let (fingerprint, listen) = (Some(format!("sha256:{}", "0a".repeat(32))), Some("[::]:7443".to_owned()));
        Ok(NewToken { id, token: "holm_0123456789ab_secret".to_owned(), fingerprint, listen })
    }

    async fn revoke_token(&self, actor: String, id: TokenId) -> Result<(), Problem> {
        if !self.state().site.tokens.contains_key(&id) {
            return Err(Problem::not_found(format!("there is no token {id}")));
        }
        self.record(&actor, Event::TokenRevoked { id });
        Ok(())
    }

    async fn audit(&self, audit: Audit) {
        self.seen.lock().unwrap().audits.push(audit);
    }

    async fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    async fn change_secrets(&self, _key: Uuid, actor: String, change: SecretsChange) -> Result<Accepted, Problem> {
        let state = self.state();
        let app = change.app.clone();
        if change.set.0.values().any(|value| value.expose() == b"same") {
            return Ok(Accepted { seq: state.seq, deployment: None, changed: false });
        }
        let set = "01990000-0000-7000-8000-00000000000a".parse().unwrap();
        let changed = change.set.0.keys().cloned().collect();
        let event = Event::SecretsChanged { app: app.clone(), set, changed, removed: change.unset.clone() };
        let mut seq = self.record(&actor, event);
        let deployment = change.restart.then(|| state.apps[&app].last_deployment.next());
        if let Some(deployment) = deployment {
            self.record(&actor, Event::RestartRequested { app: app.clone(), deployment });
            seq = self.record("planner", Event::DeploymentSucceeded { app, deployment });
        }
        self.seen.lock().unwrap().secrets.push(change);
        Ok(Accepted { seq, deployment, changed: true })
    }

    async fn compare_secrets(&self, comparison: SecretsComparison) -> Result<SecretDifferences, Problem> {
        let set = Secrets([("PASSWORD".parse().unwrap(), SecretValue::new("hunter2"))].into());
        Ok(compare(&set, &comparison.secrets))
    }

    async fn events(&self, query: EventQuery, limit: u32) -> Result<Vec<Recorded>, Problem> {
        let log = self.log.lock().unwrap();
        let fits = |recorded: &&Recorded| {
            query.after.is_none_or(|after| recorded.seq > after)
                && query.since.is_none_or(|since| recorded.at >= since)
                && query.app.as_ref().is_none_or(|app| recorded.event.app() == Some(app))
                && query.instance.as_ref().is_none_or(|name| recorded.event.instance() == Some(name))
        };
        let fitting: Vec<Recorded> = log.iter().filter(fits).cloned().collect();
        let skip = query.newest.map_or(0, |newest| fitting.len().saturating_sub(newest as usize));
        Ok(fitting.into_iter().skip(skip).take(limit as usize).collect())
    }

    async fn routed(&self, _: &AppKey, _: Seq) -> BTreeMap<SocketAddr, String> {
        self.closed.lock().unwrap().clone()
    }

    fn image_progress(&self, _app: &AppKey, _deployment: DeploymentNumber) -> Option<ImageProgress> {
        Some(ImageProgress { step: ImageStep::Pulling, done: 1 << 20, total: Some(2 << 20) })
    }

    async fn live(&self, instance: &InstanceName) -> Option<LiveInstance> {
        (instance.number == 3).then(|| LiveInstance {
            pid: Some(4242),
            address: Some("fd00::3".parse().unwrap()),
            memory_used: Some(20 << 20),
            host_memory: Some(30 << 20),
            health: Some("connection refused on port 8080".to_owned()),
            waits_for: Some("its first healthy answer".to_owned()),
        })
    }

    async fn logs(&self, query: LogQuery) -> Result<LogStream, Problem> {
        self.seen.lock().unwrap().log_queries.push(query);
        let line = |second: i64, stream, text: &str| LogLine {
            at: "2026-01-02T03:04:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second),
            instance: instance(1),
            stream,
            text: text.to_owned(),
        };
        let lines = vec![
            line(1, holm_api::wire::LogStream::Stdout, "listening on 8080"),
            line(2, holm_api::wire::LogStream::Stderr, "\u{1b}]0;title\u{7}careful"),
            line(3, holm_api::wire::LogStream::Holm, "2 lines were lost"),
        ];
        Ok(futures_util::stream::iter(lines.into_iter().map(Ok)).boxed())
    }

    /// Commands: `cat` echoes its input to standard output, `fail` writes to standard error and exits with 3, `kill`
    /// dies of a signal, anything else does not exist.
    async fn exec(&self, name: InstanceName, request: ExecRequest) -> Result<ExecSession, Problem> {
        if name != instance(1) {
            return Err(Problem::refused(format!("`{name}` does not run")));
        }
        let (input, mut inputs) = mpsc::channel(QUEUE);
        let (outputs, output) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let last = match request.command[0].as_str() {
                "cat" => {
                    while let Some(ExecInput::Stdin(bytes)) = inputs.recv().await {
                        outputs.send(ExecOutput::Stdout(bytes)).await.unwrap();
                    }
                    ExecOutput::Exit(ExecExit::Code(0))
                }
                "fail" => {
                    outputs.send(ExecOutput::Stderr("it failed\n".into())).await.unwrap();
                    ExecOutput::Exit(ExecExit::Code(3))
                }
                "kill" => ExecOutput::Exit(ExecExit::Signal(9)),
                other => ExecOutput::Failed(Problem::not_found(format!("there is no program `{other}` in the image"))),
            };
            outputs.send(last).await.unwrap();
        });
        Ok(ExecSession { input, output })
    }

    async fn images(&self) -> Result<Vec<ImageSummary>, Problem> {
        Ok(vec![summary()])
    }

    async fn image(&self, digest: Digest) -> Result<ImageDetail, Problem> {
        assert_eq!(digest, self::digest("one"));
        Ok(ImageDetail {
            summary: summary(),
            architecture: "amd64".to_owned(),
            entrypoint: vec!["/bin/hello".to_owned(), "two words".to_owned()],
            cmd: Vec::new(),
            env: vec!["PATH=/bin".to_owned()],
            user: "1000".to_owned(),
            working_dir: String::new(),
            stop_signal: Some("SIGTERM".to_owned()),
            exposed_ports: vec!["8080/tcp".to_owned()],
            layers: vec![LayerSummary { digest: self::digest("layer"), size: 1 << 20 }],
        })
    }

    async fn prune_images(&self) -> Result<PruneReport, Problem> {
        Ok(PruneReport { removed: vec![digest("old")], freed: 5 << 20 })
    }

    async fn guests(&self) -> Result<Vec<GuestSummary>, Problem> {
        Ok(vec![guest("linux-6.12.48")])
    }

    async fn import_guest(&self, import: GuestImport) -> Result<GuestSummary, Problem> {
        assert!(import.packages.iter().all(|path| path.is_absolute()));
        Ok(guest("linux-6.12.48"))
    }

    async fn doctor(&self) -> Vec<Finding> {
        let finding = |subject: &str, level, text: &str, hint: Option<&str>| Finding {
            subject: subject.to_owned(),
            level,
            text: text.to_owned(),
            hint: hint.map(str::to_owned),
        };
        vec![
            finding("qemu", FindingLevel::Ok, "10.0.2", None),
            finding("kvm", FindingLevel::Warn, "the probe did not boot", Some("microVMs run with tcg, slowly")),
            finding("guest", FindingLevel::Fail, "there is none", Some("`holm guest import`")),
        ]
    }

    async fn shutdown(&self, how: Shutdown) -> Result<(), Problem> {
        self.seen.lock().unwrap().shutdowns.push(how);
        self.stop.cancel();
        Ok(())
    }
}

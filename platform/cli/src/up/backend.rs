//! The running Holm as the API sees it: control plane, agent, images and guests behind one trait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use holm_agent::AgentHandle;
use holm_api::access::{NewToken, TokenWish};
use holm_api::backend::{Audit, LogStream};
use holm_api::exec::{ExecRequest, ExecSession};
use holm_api::secrets::{SecretDifferences, SecretsChange, SecretsComparison};
use holm_api::storage::{StorageAnswer, StorageRequest};
use holm_api::wire::{
    Accepted, Command, EventQuery, Finding, GuestImport, GuestSummary, ImageDetail, ImageProgress, ImageStep,
    ImageSummary, LayerSummary, LiveInstance, LogQuery, PruneReport, Shutdown, Submission, VolumeChange,
};
use holm_api::{Backend, Problem, ProblemCode};
use holm_control::{Control, Meta, Refused, VolumeCommand};
use holm_image::{ImageRecord, ImageStore};
use holm_model::access::TokenId;
use holm_model::event::Recorded;
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, Seq};
use holm_model::state::State;
use holm_model::volume::VolumeOrigin;
use holm_vmm::GuestStore;
use tokio::sync::watch;
use uuid::Uuid;

use super::access::Desk;
use super::checks::Clocks;
use super::findings;
use super::front::Front;
use super::images::chain;
use super::secrets::Keeper;
use super::storage::Storage;
use super::{exec, guest, logs, metrics};

/// Most events read from the log at once.
const EVENT_PAGE: u32 = 10_000;

/// What the API works on.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) state_dir: PathBuf,
    pub(crate) control: Control,
    pub(crate) agent: Arc<AgentHandle>,
    pub(crate) images: ImageStore,
    pub(crate) guests: GuestStore,
    pub(crate) secrets: Keeper,
    pub(crate) desk: Arc<Desk>,
    /// How the clocks stood when Holm started.
    pub(crate) clocks: Clocks,
    pub(crate) front: Arc<Front>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) stop: watch::Sender<Option<Shutdown>>,
}

pub(super) fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::Refusal(refusal) => {
            let problem = Problem::new(code(refusal.code()), refusal.what()).because(refusal.why());
            match refusal.hint() {
                Some(hint) => problem.hint(hint),
                None => problem,
            }
        }
        Refused::Store(error) => Problem::failed("the state cannot be written").because(chain(&*error)),
        Refused::Closed => Problem::unavailable("Holm is going down"),
    }
}

/// The kind of problem that goes with a refusal's machine-readable code.
fn code(refusal: &str) -> ProblemCode {
    match refusal {
        "unknown_app" | "unknown_process" | "unknown_release" | "unknown_route" | "unknown_secrets"
        | "unknown_volume" => ProblemCode::NotFound,
        "version_conflict" | "route_taken" | "key_reused" | "volume_exists" => ProblemCode::Conflict,
        "bad_key" | "no_image" | "bad_manifest" | "bad_route" | "other_apps_manifest" => ProblemCode::BadRequest,
        _ => ProblemCode::Refused,
    }
}

fn to_control(command: Command) -> holm_control::Command {
    use holm_control::Command as To;
    match command {
        Command::Deploy { app, image, manifest } => {
            To::Deploy { app, image: Some(image), manifest: manifest.into_manifest() }
        }
        Command::Rollback { app, to } => To::Rollback { app, to },
        Command::Restart { app } => To::Restart { app },
        Command::Scale { app, process, instances } => To::Scale { app, process, instances },
        Command::Stop { app } => To::Stop { app },
        Command::Start { app } => To::Start { app },
        Command::AddRoute { app, route } => To::RouteAdd { app, route },
        Command::RemoveRoute { app, on } => To::RouteRemove { app, on },
        Command::Ipv4 { app, allocated } => To::Ipv4 { app, allocated },
        Command::Destroy { app, volumes } => To::Destroy { app, volumes },
        Command::Volume { volume, change } => {
            let change = match change {
                VolumeChange::Create { size } => VolumeCommand::Create { size, origin: VolumeOrigin::Empty },
                VolumeChange::Grow { size } => VolumeCommand::Grow { size },
                VolumeChange::Delete => VolumeCommand::Delete,
            };
            To::Volume { volume, change }
        }
    }
}

impl Backend for Host {
    fn state(&self) -> Arc<State> {
        self.control.state()
    }

    fn changes(&self) -> watch::Receiver<Seq> {
        self.control.changes()
    }

    async fn submit(&self, submission: Submission) -> Result<Accepted, Problem> {
        let meta = Meta::new(submission.actor).with_key(submission.key.to_string());
        let routed = match &submission.command {
            Command::AddRoute { app, .. } | Command::RemoveRoute { app, .. } | Command::Ipv4 { app, .. } => {
                Some(app.clone())
            }
            _ => None,
        };
        let accepted = self.control.submit(to_control(submission.command), meta).await.map_err(refused)?;
        if let Some(app) = routed {
            // Who was told that there is a route finds it open. One that cannot be opened is `doctor`'s to tell.
            self.front.routed(&app, accepted.seq).await;
        }
        Ok(Accepted { seq: accepted.seq, deployment: accepted.deployment, changed: accepted.changed })
    }

    async fn create_token(&self, actor: String, wish: TokenWish) -> Result<NewToken, Problem> {
        self.desk.create(&self.control, &actor, wish).await
    }

    async fn revoke_token(&self, actor: String, id: TokenId) -> Result<(), Problem> {
        self.desk.revoke(&self.control, &actor, id).await
    }

    async fn audit(&self, audit: Audit) {
        self.desk.audit(&self.control, audit).await;
    }

    async fn metrics(&self) -> String {
        metrics::text(self).await
    }

    async fn change_secrets(&self, key: Uuid, actor: String, change: SecretsChange) -> Result<Accepted, Problem> {
        self.secrets.change(&self.control, key, actor, change).await
    }

    async fn compare_secrets(&self, comparison: SecretsComparison) -> Result<SecretDifferences, Problem> {
        self.secrets.compare(&self.control.state(), comparison).await
    }

    async fn events(&self, query: EventQuery, limit: u32) -> Result<Vec<Recorded>, Problem> {
        let asked = holm_control::EventQuery {
            after: query.after.unwrap_or_default(),
            since: query.since,
            app: query.app,
            instance: query.instance,
            limit: query.newest.unwrap_or(limit).min(limit).clamp(1, EVENT_PAGE),
            newest: query.newest.is_some(),
        };
        let events = self.control.events(asked).await;
        events.map_err(|error| Problem::failed("cannot read the event log").because(chain(&error)))
    }

    async fn routed(&self, app: &AppKey, seq: Seq) -> BTreeMap<SocketAddr, String> {
        self.front.routed(app, seq).await
    }

    fn image_progress(&self, app: &AppKey, deployment: DeploymentNumber) -> Option<ImageProgress> {
        let progress = self.control.progress(app, deployment)?.borrow().clone();
        let step = match progress.step.as_str() {
            "pulling" => ImageStep::Pulling,
            "building" => ImageStep::Building,
            _ => ImageStep::Resolving,
        };
        Some(ImageProgress { step, done: progress.done, total: progress.total })
    }

    async fn live(&self, instance: &InstanceName) -> Option<LiveInstance> {
        let report = self.agent.reports().borrow().clone();
        let seen = report.instances.get(instance)?;
        let metrics = self.agent.metrics(instance).await.ok();
        let pid = self.agent.pid(instance);
        let routed = seen.endpoints.values().find_map(|endpoint| match endpoint.ip() {
            IpAddr::V6(address) if !address.is_loopback() => Some(address),
            _ => None,
        });
        Some(LiveInstance {
            pid,
            address: routed,
            memory_used: metrics.as_ref().map(|m| m.memory.current),
            host_memory: pid.and_then(proportional_set_size),
            health: seen.detail.clone(),
            waits_for: seen.detail.clone().filter(|_| seen.phase < holm_model::report::Phase::Starting),
        })
    }

    async fn logs(&self, query: LogQuery) -> Result<LogStream, Problem> {
        logs::stream(self.control.clone(), Arc::clone(&self.agent), query)
    }

    async fn exec(&self, instance: InstanceName, request: ExecRequest) -> Result<ExecSession, Problem> {
        exec::start(&self.agent, &instance, request).await
    }

    async fn images(&self) -> Result<Vec<ImageSummary>, Problem> {
        let used_by = self.users_of_images();
        let mut records = self.images.list().await.map_err(image_problem("list the images"))?;
        records.sort_by_key(|record| std::cmp::Reverse(record.created));
        records.iter().map(|record| summary(record, &used_by)).collect()
    }

    async fn image(&self, digest: Digest) -> Result<ImageDetail, Problem> {
        let wanted = to_image_digest(&digest)?;
        let record = self.images.inspect(wanted).await.map_err(image_problem("read the image"))?;
        let summary = summary(&record, &self.users_of_images())?;
        let layer = |layer: &holm_image::LayerRecord| {
            Ok(LayerSummary { digest: to_model_digest(layer.digest)?, size: layer.bytes })
        };
        Ok(ImageDetail {
            summary,
            architecture: "amd64".to_owned(),
            entrypoint: record.config.entrypoint.clone(),
            cmd: record.config.cmd.clone(),
            env: record.config.env.clone(),
            user: record.config.user.clone(),
            working_dir: record.config.working_dir.clone(),
            stop_signal: record.config.stop_signal.clone(),
            exposed_ports: record.config.exposed_ports.clone(),
            layers: record.layers.iter().map(layer).collect::<Result<_, Problem>>()?,
        })
    }

    async fn prune_images(&self) -> Result<PruneReport, Problem> {
        let keep: HashSet<_> = self.users_of_images().keys().map(to_image_digest).collect::<Result<_, Problem>>()?;
        let pruned = self.images.prune(keep).await.map_err(image_problem("remove images"))?;
        let removed = pruned.images.into_iter().map(to_model_digest).collect::<Result<_, Problem>>()?;
        Ok(PruneReport { removed, freed: pruned.bytes })
    }

    async fn guests(&self) -> Result<Vec<GuestSummary>, Problem> {
        let guests = self.guests.clone();
        let listing = tokio::task::spawn_blocking(move || guest::list(&guests)).await;
        listing.map_err(|error| Problem::failed("cannot list the guests").because(error))?
    }

    async fn import_guest(&self, import: GuestImport) -> Result<GuestSummary, Problem> {
        guest::import(&self.guests, import).await
    }

    async fn storage(&self, request: StorageRequest, actor: String) -> Result<StorageAnswer, Problem> {
        self.storage.answer(request, actor).await
    }

    async fn doctor(&self) -> Vec<Finding> {
        findings::of_running_host(self).await
    }

    async fn shutdown(&self, how: Shutdown) -> Result<(), Problem> {
        self.stop.send_replace(Some(how));
        Ok(())
    }
}

impl Host {
    /// The releases that use each image, as `hello v3`.
    fn users_of_images(&self) -> HashMap<Digest, Vec<String>> {
        let state = self.control.state();
        let mut users: HashMap<Digest, Vec<String>> = HashMap::new();
        for ((app, number), release) in &state.releases {
            users.entry(release.digest.clone()).or_default().push(format!("{app} {number}"));
        }
        users
    }
}

fn image_problem(what: &'static str) -> impl Fn(holm_image::StoreError) -> Problem {
    move |error| {
        let code = match error {
            holm_image::StoreError::Unknown(_) => ProblemCode::NotFound,
            _ => ProblemCode::Failed,
        };
        Problem::new(code, format!("cannot {what}")).because(chain(&error))
    }
}

fn summary(record: &ImageRecord, used_by: &HashMap<Digest, Vec<String>>) -> Result<ImageSummary, Problem> {
    let digest = to_model_digest(record.digest)?;
    let created_at = i64::try_from(record.created).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    Ok(ImageSummary {
        used_by: used_by.get(&digest).cloned().unwrap_or_default(),
        digest,
        references: vec![record.reference.to_string()],
        size: record.erofs_bytes,
        created_at: created_at.unwrap_or_default(),
    })
}

fn to_model_digest(digest: holm_image::Digest) -> Result<Digest, Problem> {
    digest.to_string().parse().map_err(|error| Problem::failed("an image has an odd digest").because(error))
}

pub(super) fn to_image_digest(digest: &Digest) -> Result<holm_image::Digest, Problem> {
    digest.as_str().parse().map_err(|error| Problem::bad_request("not an image digest").because(error))
}

/// What a process takes of the host's memory, shared pages counted by share, in bytes.
fn proportional_set_size(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

//! What the server asks of the running Holm: the control plane and the host behind one trait.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use holm_model::access::TokenId;
use holm_model::event::Recorded;
use holm_model::id::{AppKey, DeploymentNumber, Digest, InstanceName, Seq};
use holm_model::state::State;
use tokio::sync::watch;
use uuid::Uuid;

use crate::access::{NewToken, TokenWish};
use crate::exec::{ExecRequest, ExecSession};
use crate::problem::Problem;
use crate::secrets::{SecretDifferences, SecretsChange, SecretsComparison};
use crate::storage::{StorageAnswer, StorageRequest};
use crate::wire::{
    Accepted, EventQuery, Finding, GuestImport, GuestSummary, ImageDetail, ImageProgress, ImageSummary, LiveInstance,
    LogLine, LogQuery, PruneReport, Shutdown, Submission,
};

/// A stream of log lines. It ends by itself unless the query follows.
pub type LogStream = BoxStream<'static, Result<LogLine, Problem>>;

/// The [`Audit::actor`] from afar who showed no token that is worth something.
pub const STRANGER: &str = "remote";

/// Something that was asked for, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Who asked.
    pub actor: String,
    /// What for.
    pub verb: String,
    /// About what.
    pub about: Option<String>,
    /// Why it was refused; `None`: it was done.
    pub refused: Option<String>,
}

/// The running Holm, as the server sees it. Implementations write the methods as `async fn`.
pub trait Backend: Send + Sync + 'static {
    /// The state now. Cheap: a shared snapshot.
    fn state(&self) -> Arc<State>;

    /// Tells the newest event's number each time it changes; the state is at least as new when it tells.
    fn changes(&self) -> watch::Receiver<Seq>;

    /// Records a command, or refuses it. `Submission::command` has passed `Command::check`.
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<Accepted, Problem>> + Send;

    /// Makes an access token. The wish has passed [`TokenWish::check`].
    fn create_token(&self, actor: String, wish: TokenWish) -> impl Future<Output = Result<NewToken, Problem>> + Send;

    /// Makes a token worthless at once.
    fn revoke_token(&self, actor: String, id: TokenId) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Takes down in the event log what leaves no event by itself.
    fn audit(&self, audit: Audit) -> impl Future<Output = ()> + Send;

    /// Figures in the text form of Prometheus.
    fn metrics(&self) -> impl Future<Output = String> + Send;

    /// Changes the secrets of an app. The change has passed [`SecretsChange::check`]; the same key again changes nothing.
    fn change_secrets(
        &self,
        key: Uuid,
        actor: String,
        change: SecretsChange,
    ) -> impl Future<Output = Result<Accepted, Problem>> + Send;

    /// Compares values with those of the newest version. Tells names, never values.
    fn compare_secrets(
        &self,
        comparison: SecretsComparison,
    ) -> impl Future<Output = Result<SecretDifferences, Problem>> + Send;

    /// At most `limit` events that fit, oldest first. With `newest`, the newest of all that fit, still oldest first.
    fn events(&self, query: EventQuery, limit: u32) -> impl Future<Output = Result<Vec<Recorded>, Problem>> + Send;

    /// Waits until the ingress goes by the state as of `seq` or a newer one. Answers on which addresses of the routes of `app`
    /// it cannot listen, and why.
    fn routed(&self, app: &AppKey, seq: Seq) -> impl Future<Output = BTreeMap<SocketAddr, String>> + Send;

    /// How far the image of a deployment is, while it is being fetched or built. Cheap: asked a few times per second.
    fn image_progress(&self, app: &AppKey, deployment: DeploymentNumber) -> Option<ImageProgress>;

    /// What the host sees of an instance; `None` when it has nothing of it.
    fn live(&self, instance: &InstanceName) -> impl Future<Output = Option<LiveInstance>> + Send;

    /// The lines that fit. Bounded in memory: a reader that is too slow is waited for, or told what it lost.
    fn logs(&self, query: LogQuery) -> impl Future<Output = Result<LogStream, Problem>> + Send;

    /// Runs a command in `instance`, which the server has chosen by the request's target. Both queues are bounded
    /// ([`crate::exec::QUEUE`]); when the session's `input` is dropped the user is gone and the command is ended.
    fn exec(
        &self,
        instance: InstanceName,
        request: ExecRequest,
    ) -> impl Future<Output = Result<ExecSession, Problem>> + Send;

    /// The images on this host, newest first.
    fn images(&self) -> impl Future<Output = Result<Vec<ImageSummary>, Problem>> + Send;

    /// One image.
    fn image(&self, digest: Digest) -> impl Future<Output = Result<ImageDetail, Problem>> + Send;

    /// Removes every image that no release uses, and what was left of cut downloads.
    fn prune_images(&self) -> impl Future<Output = Result<PruneReport, Problem>> + Send;

    /// The guest bundles on this host.
    fn guests(&self) -> impl Future<Output = Result<Vec<GuestSummary>, Problem>> + Send;

    /// Makes a guest bundle. Takes as long as it takes; the client waits.
    fn import_guest(&self, import: GuestImport) -> impl Future<Output = Result<GuestSummary, Problem>> + Send;

    /// Does what is asked of volumes, snapshots and backups for `actor`. Takes as long as it takes, and goes on when the
    /// client leaves.
    fn storage(
        &self,
        request: StorageRequest,
        actor: String,
    ) -> impl Future<Output = Result<StorageAnswer, Problem>> + Send {
        let _ = (request, actor);
        std::future::ready(Err(Problem::refused("this Holm has no storage")))
    }

    /// Looks at everything that can be wrong with this host.
    fn doctor(&self) -> impl Future<Output = Vec<Finding>> + Send;

    /// Begins to go down and returns; the socket disappears when it is done.
    fn shutdown(&self, how: Shutdown) -> impl Future<Output = Result<(), Problem>> + Send;
}

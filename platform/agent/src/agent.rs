//! The agent: one task per instance, told what to do by whole targets, and the handle to all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holm_guest_control::host::ConnectOptions;
use holm_guest_control::{ExecRequest, Metrics};
use holm_model::id::{InstanceName, Seq};
use holm_model::report::{HostReport, Phase};
use holm_model::target::{HostTarget, InstanceSpec, Want};
use holm_model::volume::VolumeNumber;
use holm_vmm::{CpuShares, QemuConfig, QemuVmm, VmName, VmSpec};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::board::Board;
use crate::config::{AgentConfig, Connections, Limits};
use crate::exec::ExecSession;
use crate::folder::{self, Folder};
use crate::host::Host;
use crate::life::{Life, Shared, Wish};
use crate::log::{LogLines, LogQuery};
use crate::target_file::TargetFile;
use crate::world::{GuestFailure, World};

/// How long figures of a guest are waited for: whoever asks shows the rest without them.
const FIGURES: Duration = Duration::from_secs(5);

/// Why the agent could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The agent's folder cannot be used; nothing was started.
    #[error("cannot use the agent's folder {}", path.display())]
    State {
        /// Which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another agent uses the folder; nothing was started.
    #[error("another agent is using {}", .0.display())]
    InUse(PathBuf),
    /// A part the agent stands on could not be made ready; nothing was started.
    #[error("cannot get ready: {0}")]
    Prepare(String),
    /// This host has nothing of that instance.
    #[error("there is no instance `{0}` on this host")]
    UnknownInstance(InstanceName),
    /// The instance has no guest that answers: it is being prepared, boots, or has ended.
    #[error("`{instance}` is {phase} and cannot be asked")]
    NotRunning {
        /// The instance.
        instance: InstanceName,
        /// Where it stands.
        phase: Phase,
    },
    /// A volume could not be worked on.
    #[error("cannot copy the volume {number}: {why}")]
    Volume {
        /// Its number.
        number: VolumeNumber,
        /// What was said.
        why: String,
    },
    /// The guest did not do it.
    #[error("the guest of `{instance}` cannot {what}: {why}")]
    Guest {
        /// The instance.
        instance: InstanceName,
        /// What it was asked for.
        what: &'static str,
        /// What it answered.
        why: String,
    },
}

/// How long a task that panicked rests before its instance is taken up again from its journal.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Runs instances on this host.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts an agent: takes over what an earlier one left, removes what belongs to nobody, and follows `targets`.
    ///
    /// Until a newer target comes, the newest one an earlier agent saw is followed.
    ///
    /// # Errors
    /// [`AgentError::State`] or [`AgentError::Prepare`].
    pub async fn start(
        config: AgentConfig,
        targets: watch::Receiver<Arc<HostTarget>>,
    ) -> Result<AgentHandle, AgentError> {
        let AgentConfig {
            state_dir,
            host_tag,
            images,
            guests,
            volumes,
            secrets,
            acceleration,
            network,
            dns,
            run_as,
            connections,
            limits,
        } = config;
        // The name of an instance that cannot be: only the tag is checked.
        VmName::new(&host_tag, "tag").map_err(|error| AgentError::Prepare(error.to_string()))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let cmdline = holm_vmm::guest::base_cmdline(acceleration.kind);
        let qemu =
            QemuConfig { run_as_uids: run_as.iter().map(|user| user.uid).collect(), ..QemuConfig::new(acceleration) };
        // The agent has its own deadlines for greetings and answers; these only keep nothing for ever.
        let forever = Duration::from_secs(600);
        let connect =
            ConnectOptions { greeting_timeout: forever, request_timeout: forever, ..ConnectOptions::default() };
        let host = Host {
            shares: CpuShares::detect(&host_tag),
            vmm: Arc::new(QemuVmm::new(qemu)),
            processors: u32::try_from(processors).unwrap_or(VmSpec::MAX_VCPUS).min(VmSpec::MAX_VCPUS),
            tag: host_tag,
            images,
            guests,
            volumes,
            secrets,
            cmdline,
            network,
            dns,
            run_as,
            connect,
        };
        start(state_dir, Arc::new(host), connections, limits, targets).await
    }
}

/// What the handle tells the executor.
#[derive(Debug)]
enum Order {
    /// Stop every instance and say when none runs.
    StopAll(oneshot::Sender<()>),
    /// End, and leave everything as it is.
    Detach,
}

/// A running agent. Dropping it ends the agent a moment later; [`AgentHandle::detach`] waits for that.
#[derive(Debug)]
pub struct AgentHandle {
    pub(crate) shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    executor: AbortOnDropHandle<()>,
}

impl AgentHandle {
    /// What the agent sees, now and as it changes. Level-triggered: a receiver sees the newest only.
    #[must_use]
    pub fn reports(&self) -> watch::Receiver<Arc<HostReport>> {
        self.shared.board.reports()
    }

    /// Lines of an instance's log, also of one that has ended and is kept.
    ///
    /// # Errors
    /// [`AgentError::UnknownInstance`].
    pub fn logs(&self, instance: &InstanceName, query: LogQuery) -> Result<LogLines, AgentError> {
        let reach = self.shared.board.reach(instance);
        let view = reach.and_then(|r| r.logs).ok_or_else(|| AgentError::UnknownInstance(instance.clone()))?;
        Ok(LogLines::start(view, query))
    }

    /// Runs a command beside the app of an instance.
    ///
    /// # Errors
    /// [`AgentError::UnknownInstance`], [`AgentError::NotRunning`] or [`AgentError::Guest`].
    pub async fn exec(&self, instance: &InstanceName, request: ExecRequest) -> Result<ExecSession, AgentError> {
        let guest = self.guest_of_serving(instance).await?;
        guest.exec(request).await.map_err(guest_error(instance, "run the command"))
    }

    /// The process of an instance's microVM, while it runs.
    #[must_use]
    pub fn pid(&self, instance: &InstanceName) -> Option<u32> {
        self.shared.board.reach(instance)?.pid
    }

    /// The instances that are paused since a volume of theirs found the host's disk full. They go on by themselves.
    #[must_use]
    pub fn starved(&self) -> Vec<InstanceName> {
        self.shared.board.starved()
    }

    /// Figures of an instance's guest and app.
    ///
    /// # Errors
    /// As [`AgentHandle::exec`].
    pub async fn metrics(&self, instance: &InstanceName) -> Result<Metrics, AgentError> {
        let guest = self.guest(instance)?;
        // One that is paused answers when it goes on.
        let figures = timeout(FIGURES, guest.metrics()).await;
        let figures = figures.unwrap_or_else(|_| Err(GuestFailure::Refused("it does not answer".to_owned())));
        figures.map_err(guest_error(instance, "give its figures"))
    }

    /// Stops every instance as its stop policy says, whatever the target; from now on targets are not followed. Returns
    /// when none runs and nothing of the agent is left on the host but its folder. The target's generation stays, so a
    /// later agent follows it again.
    pub async fn stop_all(&self) {
        let (done, stopped) = oneshot::channel();
        if self.orders.send(Order::StopAll(done)).await.is_ok() {
            // An executor that is gone has no instances.
            let _ = stopped.await;
        }
        if let Err(failure) = self.shared.world.leave().await {
            tracing::warn!(%failure, "cannot remove all that instances shared");
        }
    }

    /// Ends the agent and leaves every microVM running, for a later agent to take over.
    pub async fn detach(self) {
        // An executor that is gone already has ended what it had.
        let _ = self.orders.send(Order::Detach).await;
        let _ = self.executor.await;
    }

    /// The guest of an instance that serves is waited for: an agent that took it over has yet to reach it.
    pub(crate) async fn guest_of_serving(
        &self,
        instance: &InstanceName,
    ) -> Result<Arc<dyn crate::world::Guest>, AgentError> {
        let (mut reached, mut reports) = (self.shared.board.reached(), self.shared.board.reports());
        let found = async {
            loop {
                match self.guest(instance) {
                    Err(AgentError::NotRunning { phase: Phase::Healthy | Phase::Unhealthy, .. }) => tokio::select! {
                        Ok(()) = reached.changed() => {}
                        Ok(()) = reports.changed() => {}
                    },
                    found => return found,
                }
            }
        };
        timeout(self.shared.limits.silence, found).await.unwrap_or_else(|_| self.guest(instance))
    }

    fn guest(&self, instance: &InstanceName) -> Result<Arc<dyn crate::world::Guest>, AgentError> {
        let report = self.shared.board.reports().borrow().clone();
        let seen = report.instances.get(instance).ok_or_else(|| AgentError::UnknownInstance(instance.clone()))?;
        let guest = self.shared.board.reach(instance).and_then(|reach| reach.guest);
        guest.ok_or_else(|| AgentError::NotRunning { instance: instance.clone(), phase: seen.phase })
    }
}

fn guest_error(instance: &InstanceName, what: &'static str) -> impl FnOnce(GuestFailure) -> AgentError {
    let instance = instance.clone();
    move |failure| AgentError::Guest { instance, what, why: failure.to_string() }
}

/// Starts an agent on `state_dir` in the given world.
pub(crate) async fn start(
    state_dir: PathBuf,
    world: Arc<dyn World>,
    connections: Arc<dyn Connections>,
    limits: Limits,
    targets: watch::Receiver<Arc<HostTarget>>,
) -> Result<AgentHandle, AgentError> {
    let root = state_dir.join("instances");
    let wrong = |path: &PathBuf| {
        let path = path.clone();
        move |source| AgentError::State { path, source }
    };
    std::fs::create_dir_all(&root).map_err(wrong(&root))?;
    let lock_path = state_dir.join("lock");
    let lock = File::create(&lock_path).map_err(wrong(&lock_path))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => AgentError::InUse(state_dir.clone()),
        TryLockError::Error(source) => AgentError::State { path: lock_path, source },
    })?;
    folder::sweep(&root).map_err(wrong(&root))?;
    let target = TargetFile::open(&state_dir).map_err(wrong(&state_dir))?;
    let folders = Folder::list(&root).map_err(wrong(&root))?;
    let shared = Arc::new(Shared {
        board: Board::new(target.newest().generation),
        boots: Arc::new(Semaphore::new(limits.boots.max(1))),
        world,
        connections,
        limits,
        idle_copies: tokio::sync::Mutex::new(()),
        volumes: watch::Sender::new(Arc::new(target.newest().volumes.clone())),
    });
    let known: BTreeSet<InstanceName> = folders.iter().map(|(name, _)| name.clone()).collect();
    match shared.world.sweep(&known).await {
        Ok(removed) => removed.iter().for_each(|what| tracing::warn!("removed a leftover: {what}")),
        Err(failure) => tracing::warn!(%failure, "cannot look for leftovers of an earlier agent"),
    }
    let mut executor = Executor {
        shared: shared.clone(),
        root,
        target,
        wishes: BTreeMap::new(),
        tasks: JoinSet::new(),
        names: BTreeMap::new(),
        halted: false,
        waiting: Vec::new(),
        swept: None,
        _lock: lock,
    };
    executor.take_up(folders);
    let (orders, inbox) = mpsc::channel(1);
    let executor = AbortOnDropHandle::new(tokio::spawn(executor.run(targets, inbox)));
    Ok(AgentHandle { shared, orders, executor })
}

/// Keeps one task per instance and tells each what the newest target wants of it.
struct Executor {
    shared: Arc<Shared>,
    root: PathBuf,
    target: TargetFile,
    wishes: BTreeMap<InstanceName, watch::Sender<Wish>>,
    tasks: JoinSet<()>,
    names: BTreeMap<Id, InstanceName>,
    /// Everything is to stop; targets are not followed any more.
    halted: bool,
    /// Who waits for every instance to have ended.
    waiting: Vec<oneshot::Sender<()>>,
    /// The generation up to which deleted volumes were removed.
    swept: Option<Seq>,
    /// Held while the agent's folder is in use; the last to be dropped.
    _lock: File,
}

impl Executor {
    /// Goes on with the instances an earlier agent left.
    fn take_up(&mut self, folders: Vec<(InstanceName, Folder)>) {
        for (name, folder) in folders {
            let spec = match folder.spec() {
                Ok(spec) => spec,
                Err(error) => match self.target.newest().instances.get(&name) {
                    Some(target) => target.spec.clone(),
                    None => {
                        tracing::warn!(instance = %name, %error, "removing a folder without a readable specification");
                        self.remove_unreadable(folder);
                        continue;
                    }
                },
            };
            self.begin(&spec);
        }
    }

    fn remove_unreadable(&self, folder: Folder) {
        if let Err(error) = folder.remove() {
            tracing::warn!(%error, "cannot remove the folder");
        }
    }

    async fn run(mut self, mut targets: watch::Receiver<Arc<HostTarget>>, mut inbox: mpsc::Receiver<Order>) {
        let mut reports = self.shared.board.reports();
        // Without a sender there are no more targets: what runs is kept going.
        let mut more_targets = true;
        loop {
            if more_targets {
                let target = targets.borrow_and_update().clone();
                self.follow(&target);
                self.sweep_volumes().await;
            }
            self.answer_if_stopped();
            tokio::select! {
                changed = targets.changed(), if more_targets => more_targets = changed.is_ok(),
                Some(order) = inbox.recv() => match order {
                    Order::StopAll(done) => self.stop_all(done),
                    Order::Detach => return self.tasks.shutdown().await,
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    let (id, panicked) = match &ended {
                        Ok((id, ())) => (*id, false),
                        Err(error) => (error.id(), error.is_panic()),
                    };
                    self.ended(id, panicked).await;
                }
                Ok(()) = reports.changed(), if self.halted => {}
            }
        }
    }

    /// Takes a target, unless it is old, and tells every instance what it wants of it.
    fn follow(&mut self, target: &HostTarget) {
        match self.target.accept(target) {
            Ok(true) => self.shared.board.set_generation(target.generation),
            Ok(false) => {
                let newest = self.target.newest().generation;
                if target.generation < newest {
                    tracing::debug!(generation = %target.generation, %newest, "refused an old target");
                }
            }
            Err(error) => {
                // Not followed, so that a restart does not fall back behind what was done. The next one is tried again.
                tracing::warn!(%error, "cannot keep the target");
            }
        }
        self.reconcile();
    }

    /// Removes what was deleted. A failure is told, and tried again with the next target.
    async fn sweep_volumes(&mut self) {
        let target = self.target.newest();
        if self.swept != Some(target.generation) {
            match self.shared.world.sweep_volumes(target).await {
                Ok(()) => self.swept = Some(target.generation),
                Err(failure) => tracing::warn!(%failure, "cannot remove deleted volumes"),
            }
        }
    }

    fn reconcile(&mut self) {
        if self.halted {
            return;
        }
        let target = self.target.newest().clone();
        self.shared.volumes.send_if_modified(|volumes| {
            let changed = **volumes != target.volumes;
            if changed {
                *volumes = Arc::new(target.volumes.clone());
            }
            changed
        });
        for (name, wanted) in &target.instances {
            if !self.wishes.contains_key(name) {
                self.begin(&wanted.spec);
            }
        }
        let shown = self.shared.board.reports().borrow().clone();
        for name in shown.instances.keys() {
            // Shown because its folder could not be made, and not wanted any more.
            if !self.wishes.contains_key(name) && !target.instances.contains_key(name) {
                self.shared.board.forget(name);
            }
        }
        for (name, wish) in &self.wishes {
            let new = wish_of(&target, name);
            wish.send_if_modified(|old| {
                // A removal goes through to its end.
                let changes = *old != Wish::Remove && *old != new;
                if changes {
                    *old = new;
                }
                changes
            });
        }
    }

    /// Begins or takes up the life of an instance.
    fn begin(&mut self, spec: &InstanceSpec) {
        let name = spec.instance.clone();
        let wish = watch::Sender::new(wish_of(self.target.newest(), &name));
        let opened = Folder::make(&self.root, spec)
            .and_then(|folder| Life::open(self.shared.clone(), folder.spec()?, folder, wish.subscribe()));
        match opened {
            Ok(life) => {
                let id = self.tasks.spawn(life.run()).id();
                self.names.insert(id, name.clone());
                self.wishes.insert(name, wish);
            }
            Err(error) => self.cannot_begin(&name, &error),
        }
    }

    fn cannot_begin(&self, name: &InstanceName, error: &std::io::Error) {
        use holm_model::report::{End, EndCause, Observation};
        tracing::warn!(instance = %name, %error, "cannot use the instance's folder");
        let why = format!("cannot use the instance's folder on the host: {error}");
        let end = End { cause: EndCause::CouldNotStart { why }, at: self.shared.world.now(), last_log: Vec::new() };
        let seen = Observation { phase: Phase::Ended, detail: None, endpoints: BTreeMap::new(), end: Some(end) };
        self.shared.board.show(name, &seen);
    }

    /// A task is over: its instance is gone, or its task panicked and is begun again.
    async fn ended(&mut self, id: Id, panicked: bool) {
        let Some(name) = self.names.remove(&id) else { return };
        self.wishes.remove(&name);
        if panicked {
            tracing::error!(instance = %name, "the instance's task panicked; taking it up again from its journal");
            tokio::time::sleep(AFTER_PANIC).await;
            let folders = Folder::list(&self.root).unwrap_or_default();
            self.take_up(folders.into_iter().filter(|(found, _)| *found == name).collect());
        }
        self.reconcile();
    }

    fn stop_all(&mut self, done: oneshot::Sender<()>) {
        self.halted = true;
        self.waiting.push(done);
        for wish in self.wishes.values() {
            wish.send_if_modified(|old| {
                let changes = matches!(old, Wish::Run(_));
                if changes {
                    *old = Wish::Stop;
                }
                changes
            });
        }
    }

    fn answer_if_stopped(&mut self) {
        let report = self.shared.board.reports().borrow().clone();
        let ended = |name| report.instances.get(name).is_none_or(|seen| seen.phase == Phase::Ended);
        if self.halted && self.wishes.keys().all(ended) {
            // A caller that has gone away needs no answer.
            for done in self.waiting.drain(..) {
                let _ = done.send(());
            }
        }
    }
}

fn wish_of(target: &HostTarget, name: &InstanceName) -> Wish {
    match target.instances.get(name) {
        None => Wish::Remove,
        Some(wanted) if wanted.want == Want::Run => Wish::Run(wanted.ports.clone()),
        Some(_) => Wish::Stop,
    }
}

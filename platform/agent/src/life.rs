//! The life of one instance, from target to folder removed, going on from wherever the last agent was killed.
//!
//! ```text
//! prepare ── boot ── serve ── stop ── end ── (removed)
//! ```
//! Each stage is one file. A stage reads the journal to know what was done, writes a step before and after what must not
//! happen twice, and ends in the next stage or in the reason why the instance ends. What the world is asked for may be
//! asked again after a kill: the journal says when it may have happened, never that it surely has not.

mod boot;
mod names;
mod prepare;
mod serve;
pub(crate) mod starved;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holm_manifest::VolumeSize;
use holm_model::report::{End, EndCause, Observation, Phase};
use holm_model::target::InstanceSpec;
use holm_model::volume::{VolumeNumber, VolumeTarget};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::board::Board;
use crate::config::{Connections, Limits};
use crate::folder::Folder;
use crate::journal::{Journal, Step};
use crate::log::{self, LogStore};
use crate::world::{Guest, Machine, World};

/// What should become of an instance, as its task sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Run, reachable on these ports of the guest.
    Run(BTreeSet<u16>),
    /// Stop and keep what it left.
    Stop,
    /// Stop and leave nothing.
    Remove,
}

impl Wish {
    fn ports(&self) -> BTreeSet<u16> {
        match self {
            Self::Run(ports) => ports.clone(),
            Self::Stop | Self::Remove => BTreeSet::new(),
        }
    }
}

/// Time between two tries of something that must succeed before the life can go on.
const RETRY: Duration = Duration::from_secs(5);

/// Lines and bytes of the log that go into an instance's end.
const LAST_LINES: usize = 20;
const LAST_LINE_BYTES: usize = 500;

/// What all instances of an agent share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) world: Arc<dyn World>,
    pub(crate) connections: Arc<dyn Connections>,
    pub(crate) board: Board,
    pub(crate) limits: Limits,
    pub(crate) boots: Arc<Semaphore>,
    /// Held while a volume that nobody has is copied, and while an instance gets its volumes.
    pub(crate) idle_copies: tokio::sync::Mutex<()>,
    /// What the host should have of each volume, by the newest target.
    pub(crate) volumes: watch::Sender<Arc<BTreeMap<VolumeNumber, VolumeTarget>>>,
}

/// One instance's task.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) shared: Arc<Shared>,
    pub(crate) spec: Arc<InstanceSpec>,
    folder: Folder,
    journal: Journal,
    logs: Arc<Mutex<LogStore>>,
    wish: watch::Receiver<Wish>,
    seen: Observation,
    /// The size to which each volume was grown in the running guest.
    pub(crate) grown: BTreeMap<VolumeNumber, VolumeSize>,
    /// Why a volume could not be grown yet.
    pub(crate) behind: Option<String>,
}

/// A machine with a guest that answers and an app that was started.
#[derive(Debug)]
struct Session {
    guest: Arc<dyn Guest>,
    status: watch::Receiver<holm_guest_control::Status>,
    pump: AbortOnDropHandle<()>,
    /// Tells the guest where the other instances of its app are.
    _names: AbortOnDropHandle<()>,
}

impl Life {
    /// Opens what the folder holds of an instance.
    pub(crate) fn open(
        shared: Arc<Shared>,
        spec: InstanceSpec,
        folder: Folder,
        wish: watch::Receiver<Wish>,
    ) -> io::Result<Self> {
        let journal = Journal::open(&folder.journal())?;
        let logs = LogStore::open(folder.logs(), shared.limits.logs)?;
        let past = journal.past();
        let phase = match past {
            _ if past.ended.is_some() => Phase::Ended,
            _ if past.stopping || past.ending.is_some() => Phase::Stopping,
            // It counts as what it was until something else is seen: an agent that begins again takes no app out of service.
            _ if past.healthy => Phase::Healthy,
            _ if past.machine.is_some() => Phase::Booting,
            _ => Phase::Preparing,
        };
        let network = past.network.as_ref().filter(|_| phase == Phase::Healthy);
        let endpoints = network.map(|network| network.endpoints(&wish.borrow().ports())).unwrap_or_default();
        let seen = Observation { phase, detail: None, endpoints, end: past.ended.clone() };
        // Also of one that is yet to start, or that an earlier agent started: nobody else may take them for free.
        let held =
            if past.ended.is_none() { spec.volumes.iter().map(|mount| mount.number).collect() } else { Vec::new() };
        shared.board.set_reach(&spec.instance, |reach| (reach.logs, reach.volumes) = (Some(logs.view()), held));
        shared.board.show(&spec.instance, &seen);
        Ok(Self {
            shared,
            spec: Arc::new(spec),
            folder,
            journal,
            logs: Arc::new(Mutex::new(logs)),
            wish,
            seen,
            grown: BTreeMap::new(),
            behind: None,
        })
    }

    /// Lives until the folder is removed.
    pub(crate) async fn run(mut self) {
        if self.journal.past().ended.is_none() {
            let cause = self.until_end().await;
            self.end(cause).await;
        }
        self.close_logs();
        self.shared.connections.cut(&self.spec.instance);
        if !self.journal.past().cleaned {
            self.clean().await;
        }
        let end = self.journal.past().ended.clone();
        self.show(|seen| *seen = Observation { phase: Phase::Ended, detail: None, endpoints: Default::default(), end });
        // The sender is gone only when the agent is: then the folder is not to be touched.
        if self.wish.wait_for(|wish| *wish == Wish::Remove).await.is_err() {
            return;
        }
        while let Err(error) = self.folder.clone().remove() {
            self.rest_after("remove the instance's folder", &error).await;
        }
        self.shared.board.forget(&self.spec.instance);
    }

    /// Everything until the reason of the end is known and written down.
    async fn until_end(&mut self) -> EndCause {
        if let Some(cause) = self.journal.past().ending.clone() {
            return cause;
        }
        let (machine, turn) = match self.machine().await {
            Ok(made) => made,
            Err(cause) => return cause,
        };
        let pid = machine.record().pid;
        self.shared.board.set_reach(&self.spec.instance, |reach| {
            (reach.pid, reach.machine) = (Some(pid), Some(machine.clone()));
        });
        let going = starved::keep_going(self.shared.clone(), self.spec.instance.clone(), machine.clone());
        let _going = AbortOnDropHandle::new(tokio::spawn(going));
        let booted = self.boot(&machine).await;
        drop(turn);
        let cause = match booted {
            Ok(mut session) => match self.serve(&machine, &mut session).await {
                serve::Then::End(cause) => {
                    self.note(Step::Ending { cause: cause.clone() });
                    self.dismiss(&machine, &mut session).await;
                    cause
                }
                serve::Then::Stop => self.stop(&machine, &mut session).await,
            },
            Err(cause) => cause,
        };
        self.shared.board.set_reach(&self.spec.instance, |reach| {
            (reach.guest, reach.pid, reach.machine) = (None, None, None);
        });
        if self.journal.past().ending.is_none() {
            self.note(Step::Ending { cause: cause.clone() });
        }
        cause
    }

    /// The machine is surely gone, then the end is written down.
    async fn end(&mut self, cause: EndCause) {
        self.remove_machines().await;
        self.shared.board.set_reach(&self.spec.instance, |reach| reach.volumes.clear());
        let last_log = log::last_lines(&self.folder.logs(), LAST_LINES, LAST_LINE_BYTES).unwrap_or_else(|error| {
            tracing::warn!(instance = %self.spec.instance, %error, "cannot read the last lines of the log");
            Vec::new()
        });
        tracing::info!(instance = %self.spec.instance, %cause, "instance ended");
        let end = End { cause, at: self.shared.world.now(), last_log };
        while let Err(error) = self.try_note(Step::Ended { end: end.clone() }) {
            self.rest_after("write down the instance's end", &error).await;
        }
    }

    /// Takes away what the instance had outside its folder.
    async fn clean(&mut self) {
        self.remove_machines().await;
        while let Err(failure) = self.shared.world.detach_network(&self.spec.instance).await {
            self.rest_after("remove the instance's network", &failure).await;
        }
        if let Err(error) = self.folder.remove_sockets() {
            tracing::warn!(instance = %self.spec.instance, %error, "cannot remove the sockets of an ended instance");
        }
        self.note(Step::Cleaned);
    }

    async fn remove_machines(&mut self) {
        while let Err(failure) = self.shared.world.remove_machines(&self.spec.instance).await {
            self.rest_after("end the instance's microVM", &failure).await;
        }
    }

    /// Before the next try of something that must succeed; the report says meanwhile what does not.
    async fn rest_after(&mut self, what: &str, error: &(dyn std::error::Error + Sync)) {
        tracing::warn!(instance = %self.spec.instance, %error, "cannot {what}, trying again");
        let detail = format!("cannot {what}: {error}");
        self.show(|seen| seen.detail = Some(detail));
        tokio::time::sleep(RETRY).await;
    }

    /// Ends a machine whose app has ended by itself: lets the guest send its last output and power off, then makes sure.
    async fn dismiss(&mut self, machine: &Arc<dyn Machine>, session: &mut Session) {
        let limit = self.power_off();
        let asked = timeout(limit, session.guest.stop(Duration::ZERO)).await;
        if !matches!(asked, Ok(Ok(()))) || timeout(limit, machine.wait_exit()).await.is_err() {
            self.kill(machine).await;
        }
        session.finish_logs(limit).await;
    }

    async fn kill(&self, machine: &Arc<dyn Machine>) {
        if let Err(failure) = machine.kill().await {
            // `end` finds it again by its marker and goes on trying.
            tracing::warn!(instance = %self.spec.instance, %failure, "cannot kill a microVM");
        }
    }

    fn try_note(&mut self, step: Step) -> io::Result<()> {
        self.journal.append(self.shared.world.now(), step)
    }

    /// Writes down a step that only speeds up or enriches what a restart finds out by itself.
    fn note(&mut self, step: Step) {
        if let Err(error) = self.try_note(step) {
            tracing::warn!(instance = %self.spec.instance, %error, "cannot write the journal");
        }
    }

    /// Writes down a step that must be on disk before the life goes on.
    fn must_note(&mut self, step: Step) -> Result<(), EndCause> {
        self.try_note(step)
            .map_err(|error| EndCause::CouldNotStart { why: format!("cannot write the journal: {error}") })
    }

    fn show(&mut self, change: impl FnOnce(&mut Observation)) {
        change(&mut self.seen);
        self.shared.board.show(&self.spec.instance, &self.seen);
    }

    fn show_phase(&mut self, phase: Phase, detail: Option<String>) {
        if self.seen.phase != phase {
            tracing::info!(instance = %self.spec.instance, %phase, "instance is now");
        }
        self.show(|seen| (seen.phase, seen.detail) = (phase, detail));
    }

    /// Resolves when the instance shall not run any more.
    async fn stop_wished(wish: &mut watch::Receiver<Wish>) {
        if wish.wait_for(|wish| !matches!(wish, Wish::Run(_))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.wish.borrow().ports()
    }

    fn close_logs(&self) {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner).close();
    }
}

impl Session {
    /// Waits until the guest's output is on disk: the machine is gone, so the connection is about to end.
    async fn finish_logs(&mut self, limit: Duration) {
        let _ = timeout(limit, &mut self.pump).await;
    }
}

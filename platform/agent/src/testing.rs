//! A simulated host for tests: images, machines and guests in virtual time, with faults and kills of the agent.
//!
//! The simulation survives the agent. A kill is chosen by the number of the call into the world, before or after its
//! effect, which covers every place between two journal steps: that call then never returns.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use holm_guest_control::{
    BootMark, Config, ExecRequest, ExitReport, ExitStatus, Health, MemoryFigures, Metrics, Status, VolumeAction,
};
use holm_model::id::{AppKey, InstanceName, SecretSetId};
use holm_model::target::{HostTarget, InstanceSpec};
use holm_model::volume::{VolumeNumber, VolumeTarget};
use holm_secrets::Secrets;
use holm_vmm::DiskCopy;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::exec::ExecSession;
use crate::log::{LogStream, Record};
use crate::world::{
    Attachment, Failure, Guest, GuestFailure, Image, LaunchOrder, LogSource, Machine, MachineRecord, Progress, World,
};

/// How an instance's guest and app behave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) image_fails: bool,
    pub(crate) launch_fails: bool,
    /// The guest never greets.
    pub(crate) boot_hangs: bool,
    /// The app ends by itself after this time.
    pub(crate) exits_after: Option<(Duration, ExitStatus, bool)>,
    /// The app cannot be started.
    pub(crate) start_error: bool,
    /// Health verdicts and when, after the start, they come.
    pub(crate) health: Vec<(Duration, bool)>,
    /// The app does not heed its stop signal, and the guest kills it after the grace.
    pub(crate) ignores_stop: bool,
    /// From then on the guest answers nothing, also no stop.
    pub(crate) freezes_after: Option<Duration>,
    /// The machine vanishes.
    pub(crate) vanishes_after: Option<Duration>,
    /// A volume finds the disk full; the machine is paused until it is told to go on and there is room.
    pub(crate) starves_after: Option<Duration>,
    /// The connection breaks once.
    pub(crate) breaks_after: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct SimMachine {
    name: InstanceName,
    record: MachineRecord,
    script: Script,
    born: Instant,
    status: Arc<watch::Sender<Status>>,
    connection: Mutex<Option<Arc<watch::Sender<Status>>>>,
    end: watch::Sender<Option<String>>,
    configured: Mutex<Option<Config>>,
    app_starts: Mutex<u32>,
    stopping: Mutex<bool>,
    starved: watch::Sender<bool>,
    sim: Weak<Sim>,
}

#[derive(Debug, Default)]
struct Books {
    machines: BTreeMap<u32, Arc<SimMachine>>,
    networks: BTreeSet<InstanceName>,
    scripts: BTreeMap<InstanceName, Script>,
    launches: BTreeMap<InstanceName, u32>,
    app_starts: BTreeMap<InstanceName, u32>,
    next_pid: u32,
    calls: u64,
    kill_at: Option<u64>,
    violations: Vec<String>,
    shared_removed: bool,
    disk_full: bool,
}

/// The simulated host.
#[derive(Debug)]
pub(crate) struct Sim {
    me: Weak<Sim>,
    books: Mutex<Books>,
    born: Instant,
    image: PathBuf,
    pub(crate) killed: Notify,
}

impl Sim {
    /// `image`: any file that exists, taken for every image.
    pub(crate) fn new(image: PathBuf) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            books: Mutex::default(),
            born: Instant::now(),
            image,
            killed: Notify::new(),
        })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub(crate) fn script(&self, name: &InstanceName, script: Script) {
        self.books().scripts.insert(name.clone(), script);
    }

    /// The agent is killed at the `at`-th half call from now; `None`: never.
    pub(crate) fn kill_at(&self, at: Option<u64>) {
        let mut books = self.books();
        books.calls = 0;
        books.kill_at = at;
    }

    /// Running machines and attached networks, by instance.
    pub(crate) fn left(&self) -> (Vec<InstanceName>, Vec<InstanceName>) {
        let books = self.books();
        let mut machines: Vec<_> = books.machines.values().map(|m| m.name.clone()).collect();
        machines.sort();
        (machines, books.networks.iter().cloned().collect())
    }

    /// The disk has room again.
    pub(crate) fn make_room(&self) {
        self.books().disk_full = false;
    }

    /// Whether what instances share was removed.
    pub(crate) fn shared_removed(&self) -> bool {
        self.books().shared_removed
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.books().violations.clone()
    }

    pub(crate) fn app_starts(&self, name: &InstanceName) -> u32 {
        self.books().app_starts.get(name).copied().unwrap_or(0)
    }

    /// A machine and a network nobody knows.
    pub(crate) fn leave_behind(&self, name: &InstanceName) {
        self.boot(name, PathBuf::from("/nowhere"));
        self.books().networks.insert(name.clone());
    }

    fn boot(&self, name: &InstanceName, run_dir: PathBuf) -> Arc<SimMachine> {
        let mut books = self.books();
        if books.machines.values().any(|m| m.name == *name) {
            books.violations.push(format!("two machines for {name}"));
        }
        *books.launches.entry(name.clone()).or_default() += 1;
        books.next_pid += 1;
        let pid = books.next_pid;
        let script = books.scripts.get(name).cloned().unwrap_or_default();
        let machine = Arc::new(SimMachine {
            name: name.clone(),
            record: MachineRecord { pid, start_time: u64::from(pid), run_dir },
            script: script.clone(),
            born: Instant::now(),
            status: Arc::new(watch::Sender::new(Status::booted())),
            connection: Mutex::default(),
            end: watch::Sender::new(None),
            configured: Mutex::default(),
            app_starts: Mutex::default(),
            stopping: Mutex::default(),
            starved: watch::Sender::new(false),
            sim: self.me.clone(),
        });
        books.machines.insert(pid, machine.clone());
        drop(books);
        if let Some(after) = script.vanishes_after {
            later(&machine, after, |m| m.end("it vanished"));
        }
        if let Some(after) = script.starves_after {
            self.books().disk_full = true;
            later(&machine, after, |m| m.starved.send_modify(|starved| *starved = true));
        }
        if let Some(after) = script.breaks_after {
            later(&machine, after, |m| drop(m.connection.lock().unwrap().take()));
        }
        machine
    }

    /// One half of a call: the agent may be killed here.
    async fn step(&self) {
        let killed = {
            let mut books = self.books();
            books.calls += 1;
            books.kill_at.is_some_and(|at| books.calls >= at)
        };
        if killed {
            self.killed.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
    }

    fn call<'a, T: Send + 'a>(&'a self, effect: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
        async move {
            self.step().await;
            let answer = effect.await;
            self.step().await;
            answer
        }
        .boxed()
    }
}

fn later(machine: &Arc<SimMachine>, after: Duration, what: impl FnOnce(&Arc<SimMachine>) + Send + 'static) {
    let machine = machine.clone();
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        if machine.end.borrow().is_none() {
            what(&machine);
        }
    });
}

impl SimMachine {
    fn end(&self, how: &str) {
        if let Some(sim) = self.sim.upgrade() {
            sim.books().machines.remove(&self.record.pid);
        }
        self.connection.lock().unwrap().take();
        self.end.send_replace(Some(how.to_owned()));
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
        if let Some(connection) = &*self.connection.lock().unwrap() {
            connection.send_replace(self.status.borrow().clone());
        }
    }

    fn frozen(&self) -> bool {
        self.script.freezes_after.is_some_and(|after| self.born.elapsed() >= after)
    }

    fn app_ends(&self, status: ExitStatus, oom: bool, start_error: Option<String>) {
        self.change(|s| {
            if s.exit.is_none() {
                s.phase = holm_guest_control::Phase::Exited;
                let memory = MemoryFigures::default();
                s.exit = Some(ExitReport { status, oom, start_error, memory, at_unix_ns: 0 });
            }
        });
    }
}

#[derive(Debug)]
struct SimGuest {
    machine: Arc<SimMachine>,
    connection: watch::Receiver<Status>,
}

impl SimGuest {
    async fn ask<T>(
        &self,
        answer: impl FnOnce(&Arc<SimMachine>) -> Result<T, GuestFailure>,
    ) -> Result<T, GuestFailure> {
        if self.machine.frozen() {
            std::future::pending::<()>().await;
        }
        let mut starved = self.machine.starved.subscribe();
        let _ = starved.wait_for(|starved| !starved).await;
        if self.connection.has_changed().is_err() {
            return Err(GuestFailure::Closed);
        }
        answer(&self.machine)
    }
}

impl World for Sim {
    fn open_secrets<'a>(&'a self, _app: &'a AppKey, _set: &'a SecretSetId) -> BoxFuture<'a, Result<Secrets, Failure>> {
        async move {
            self.step().await;
            Ok(Secrets::default())
        }
        .boxed()
    }

    fn free_disk(&self) -> u64 {
        if self.books().disk_full { 0 } else { 1 << 30 }
    }

    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(self.born.elapsed()).unwrap()
    }

    fn prepare_image<'a>(
        &'a self,
        spec: &'a InstanceSpec,
        progress: Progress,
    ) -> BoxFuture<'a, Result<Image, Failure>> {
        self.call(async move {
            progress("pulling".to_owned());
            tokio::time::sleep(Duration::from_millis(500)).await;
            if self.books().scripts.get(&spec.instance).is_some_and(|s| s.image_fails) {
                return Err(Failure("no such image".to_owned()));
            }
            Ok(Image { root: self.image.clone(), cmd: vec!["/app".to_owned()], ..Image::default() })
        })
    }

    fn attach_network<'a>(
        &'a self,
        instance: &'a InstanceName,
        ports: &'a BTreeSet<u16>,
    ) -> BoxFuture<'a, Result<Attachment, Failure>> {
        self.call(async move {
            self.books().networks.insert(instance.clone());
            let forwards = ports.iter().map(|port| (*port, SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port))).collect();
            Ok(Attachment::User { forwards })
        })
    }

    fn detach_network<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, Result<(), Failure>> {
        self.call(async move {
            self.books().networks.remove(instance);
            Ok(())
        })
    }

    fn launch<'a>(&'a self, order: LaunchOrder<'a>) -> BoxFuture<'a, Result<Arc<dyn Machine>, Failure>> {
        self.call(async move {
            let name = &order.spec.instance;
            if self.books().scripts.get(name).is_some_and(|s| s.launch_fails) {
                return Err(Failure("no room".to_owned()));
            }
            Ok(self.boot(name, order.run_dir.to_owned()) as Arc<dyn Machine>)
        })
    }

    fn adopt<'a>(
        &'a self,
        _instance: &'a InstanceName,
        record: &'a MachineRecord,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn Machine>>, Failure>> {
        self.call(async move { Ok(self.books().machines.get(&record.pid).map(|m| m.clone() as Arc<dyn Machine>)) })
    }

    fn remove_machines<'a>(&'a self, instance: &'a InstanceName) -> BoxFuture<'a, Result<(), Failure>> {
        self.call(async move {
            let found: Vec<_> = self.books().machines.values().filter(|m| m.name == *instance).cloned().collect();
            found.iter().for_each(|m| m.end("killed"));
            Ok(())
        })
    }

    fn sweep<'a>(&'a self, known: &'a BTreeSet<InstanceName>) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        self.call(async move {
            let found: Vec<_> = self.books().machines.values().filter(|m| !known.contains(&m.name)).cloned().collect();
            found.iter().for_each(|m| m.end("swept"));
            self.books().networks.retain(|name| known.contains(name));
            Ok(Vec::new())
        })
    }

    fn grow_volume<'a>(
        &'a self,
        _number: VolumeNumber,
        target: &'a VolumeTarget,
    ) -> BoxFuture<'a, Result<u64, Failure>> {
        self.call(async move { Ok(target.size.bytes()) })
    }

    fn sweep_volumes<'a>(&'a self, _target: &'a HostTarget) -> BoxFuture<'a, Result<(), Failure>> {
        async { Ok(()) }.boxed()
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.call(async move {
            let mut books = self.books();
            if !books.machines.is_empty() {
                books.violations.push("what instances share was removed while one runs".to_owned());
            }
            books.networks.clear();
            books.shared_removed = true;
            Ok(())
        })
    }
}

impl Machine for SimMachine {
    fn record(&self) -> MachineRecord {
        self.record.clone()
    }

    fn wait_exit(&self) -> BoxFuture<'_, String> {
        let mut end = self.end.subscribe();
        async move {
            let how = end.wait_for(Option::is_some).await.map(|how| how.clone()).ok().flatten();
            how.unwrap_or_default()
        }
        .boxed()
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), Failure>> {
        let sim = self.sim.upgrade().unwrap();
        async move {
            sim.step().await;
            self.end("killed");
            sim.step().await;
            Ok(())
        }
        .boxed()
    }

    fn starved(&self) -> watch::Receiver<bool> {
        self.starved.subscribe()
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async move {
            let full = self.sim.upgrade().is_some_and(|sim| sim.books().disk_full);
            self.starved.send_replace(full);
            Ok(())
        }
        .boxed()
    }

    fn last_words(&self) -> BoxFuture<'_, String> {
        async { "Kernel panic".to_owned() }.boxed()
    }

    fn forward(&self, port: u16) -> BoxFuture<'_, Result<SocketAddrV4, Failure>> {
        async move { Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) }.boxed()
    }

    fn resize_disk<'a>(&'a self, _serial: &'a str, _bytes: u64) -> BoxFuture<'a, Result<(), Failure>> {
        async { Ok(()) }.boxed()
    }

    fn begin_copy<'a>(&'a self, _copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), Failure>> {
        async { Ok(()) }.boxed()
    }

    fn finish_copy<'a>(&'a self, _copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), Failure>> {
        async { Ok(()) }.boxed()
    }

    fn drop_copy<'a>(&'a self, _serial: &'a str) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }

    fn change_records<'a>(&'a self, _serial: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn drop_record<'a>(&'a self, _serial: &'a str, _record: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async { Ok(()) }.boxed()
    }

    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Guest>, Failure>> {
        async move {
            let sim = self.sim.upgrade().unwrap();
            sim.step().await;
            tokio::time::sleep_until(self.born + Duration::from_secs(3)).await;
            if self.script.boot_hangs || self.frozen() || self.end.borrow().is_some() {
                std::future::pending::<()>().await;
            }
            let sender = Arc::new(watch::Sender::new(self.status.borrow().clone()));
            let connection = sender.subscribe();
            *self.connection.lock().unwrap() = Some(sender);
            let machine = sim.books().machines.get(&self.record.pid).cloned();
            let Some(machine) = machine else { return std::future::pending().await };
            Ok(Arc::new(SimGuest { machine, connection }) as Arc<dyn Guest>)
        }
        .boxed()
    }
}

impl Guest for SimGuest {
    fn status(&self) -> watch::Receiver<Status> {
        self.connection.clone()
    }

    fn boot_marks(&self) -> Vec<BootMark> {
        Vec::new()
    }

    fn can(&self, _feature: &str) -> bool {
        true
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        let mut connection = self.connection.clone();
        async move { while connection.changed().await.is_ok() {} }.boxed()
    }

    fn configure<'a>(&'a self, config: &'a Config) -> BoxFuture<'a, Result<(), GuestFailure>> {
        let sim = self.machine.sim.upgrade().unwrap();
        async move {
            sim.step().await;
            let answer = self.ask(|m| {
                *m.configured.lock().unwrap() = Some(config.clone());
                m.change(|s| s.phase = holm_guest_control::Phase::Configured);
                Ok(())
            });
            let answer = answer.await;
            sim.step().await;
            answer
        }
        .boxed()
    }

    fn start(&self) -> BoxFuture<'_, Result<(), GuestFailure>> {
        let sim = self.machine.sim.upgrade().unwrap();
        async move {
            sim.step().await;
            let answer = self.ask(|m| {
                if std::mem::replace(&mut *m.app_starts.lock().unwrap(), 1) == 1 {
                    return Ok(());
                }
                *sim.books().app_starts.entry(m.name.clone()).or_default() += 1;
                if m.script.start_error {
                    m.app_ends(ExitStatus::Code(127), false, Some("no such command `/app`".to_owned()));
                    return Err(GuestFailure::Refused("not found".to_owned()));
                }
                m.change(|s| s.phase = holm_guest_control::Phase::Running);
                for (after, healthy) in m.script.health.clone() {
                    later(m, after, move |m| {
                        let detail = if healthy { "200" } else { "connection refused" }.to_owned();
                        m.change(|s| s.health = Some(Health { healthy, detail, since_unix_ns: 0 }));
                    });
                }
                if let Some((after, status, oom)) = m.script.exits_after {
                    later(m, after, move |m| m.app_ends(status, oom, None));
                }
                Ok(())
            });
            let answer = answer.await;
            sim.step().await;
            answer
        }
        .boxed()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), GuestFailure>> {
        let sim = self.machine.sim.upgrade().unwrap();
        async move {
            sim.step().await;
            let answer = self.ask(|m| {
                if std::mem::replace(&mut *m.stopping.lock().unwrap(), true) {
                    return Ok(());
                }
                let (after, status) = if m.script.ignores_stop {
                    (grace, ExitStatus::Signal(9))
                } else {
                    (grace.min(Duration::from_millis(200)), ExitStatus::Code(0))
                };
                later(m, after, move |m| {
                    m.app_ends(status, false, None);
                    later(m, Duration::from_millis(100), |m| m.end("the guest powered off"));
                });
                Ok(())
            });
            let answer = answer.await;
            sim.step().await;
            answer
        }
        .boxed()
    }

    fn metrics(&self) -> BoxFuture<'_, Result<Metrics, GuestFailure>> {
        self.ask(|_| Ok(Metrics::default())).boxed()
    }

    fn volume<'a>(&'a self, _serial: &'a str, _action: VolumeAction) -> BoxFuture<'a, Result<(), GuestFailure>> {
        self.ask(|_| Ok(())).boxed()
    }

    fn exec(&self, _request: ExecRequest) -> BoxFuture<'_, Result<ExecSession, GuestFailure>> {
        async { Err(GuestFailure::Refused("this guest cannot run commands".to_owned())) }.boxed()
    }

    fn logs(&self, seq: u64) -> BoxFuture<'_, Result<Box<dyn LogSource>, GuestFailure>> {
        let connection = self.connection.clone();
        async move { Ok(Box::new(SimLogs { next: seq, connection }) as Box<dyn LogSource>) }.boxed()
    }
}

/// Three records, then silence until the connection ends.
struct SimLogs {
    next: u64,
    connection: watch::Receiver<Status>,
}

impl LogSource for SimLogs {
    fn next(&mut self) -> BoxFuture<'_, Option<Record>> {
        async {
            if self.next >= 3 {
                while self.connection.changed().await.is_ok() {}
                return None;
            }
            let seq = self.next;
            self.next += 1;
            Some(Record { seq, at_ns: seq, stream: LogStream::Stdout, bytes: format!("line {seq}\n").into_bytes() })
        }
        .boxed()
    }
}

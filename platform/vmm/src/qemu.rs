//! The QEMU `microvm` driver.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use holm_process::{Process, ProcessEnd};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, watch};

use crate::disk_copy::{self, CopyError, DiskCopy};
use crate::probe::Acceleration;
use crate::process;
use crate::qemu_command::{self, Descriptors, node_name};
use crate::qmp::{Event, QmpClient, QmpError};
use crate::socket_dir::{bind_unix_in, connect_unix_in};
use crate::spec::{HostForward, NetSpec, VmSpec};
use crate::syscalls;
use crate::vmm::{ExitReason, Vm, VmError, VmExit, VmRecord, VmStatus, Vmm};
use crate::watch::{Console, Watched};

/// How the driver runs QEMU.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// The program: a path, or a name to be found in `PATH`.
    pub program: PathBuf,
    /// What the probe found; see [`crate::probe::probe`].
    pub acceleration: Acceleration,
    /// How long QEMU may take from start to its monitor's greeting.
    pub ready_deadline: Duration,
    /// Users besides this process's own whose processes may be leftovers: those of [`VmSpec::run_as`].
    pub run_as_uids: Vec<u32>,
}

impl QemuConfig {
    /// Name of the program in `PATH`.
    pub const PROGRAM: &str = "qemu-system-x86_64";

    /// The program from `PATH`, 20 s to get ready.
    pub fn new(acceleration: Acceleration) -> Self {
        Self {
            program: Self::PROGRAM.into(),
            acceleration,
            ready_deadline: Duration::from_secs(20),
            run_as_uids: Vec::new(),
        }
    }
}

/// Runs each VM as one QEMU process.
#[derive(Debug, Clone)]
pub struct QemuVmm {
    config: QemuConfig,
}

impl QemuVmm {
    /// A driver. Starts nothing.
    pub fn new(config: QemuConfig) -> Self {
        Self { config }
    }

    /// How VMs are accelerated.
    pub fn acceleration(&self) -> &Acceleration {
        &self.config.acceleration
    }

    async fn launch(&self, spec: &VmSpec) -> Result<Arc<dyn Vm>, VmError> {
        spec.check().map_err(|source| VmError::Spec { name: spec.name.clone(), source })?;
        let mut starting = self.spawn(spec)?;
        let not_ready = |reason: String| VmError::NotReady { name: spec.name.clone(), reason };
        let connected = connect_monitor(&spec.run_dir, self.config.ready_deadline).await;
        let monitor = match connected {
            Ok(monitor) => monitor,
            Err(error) => {
                let how = match starting.end() {
                    Some(end) => format!("{error}; {end}"),
                    None => error.to_string(),
                };
                return Err(not_ready(format!("{how}: {}", log_tail(&spec.run_dir))));
            }
        };
        let Some(process) = starting.process.take() else {
            return Err(not_ready(log_tail(&spec.run_dir)));
        };
        let record = VmRecord { name: spec.name.clone(), process: process.identity(), run_dir: spec.run_dir.clone() };
        Ok(Arc::new(QemuVm::new(record, process, Some(monitor))))
    }

    /// Opens everything, starts QEMU and closes what only QEMU needs.
    fn spawn(&self, spec: &VmSpec) -> Result<Starting, VmError> {
        let prepare = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| VmError::Prepare { what, path, source }
        };
        let run_dir = &spec.run_dir;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(run_dir).map_err(prepare("run folder", run_dir))?;
        let log_path = run_dir.join(VmSpec::QEMU_LOG);
        let log = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(prepare("log", &log_path))?;
        let log_twin = log.try_clone().map_err(prepare("log", &log_path))?;

        let mut keep: Vec<OwnedFd> = Vec::new();
        let mut kept = |fd: OwnedFd| {
            let number = fd.as_raw_fd();
            keep.push(fd);
            number
        };
        let read = |what, path: &Path| File::open(path).map_err(prepare(what, path));
        let fds = Descriptors {
            kernel: kept(read("kernel", &spec.kernel)?.into()),
            initrd: match &spec.initrd {
                Some(path) => Some(kept(read("initial ramdisk", path)?.into())),
                None => None,
            },
            disks: spec
                .disks
                .iter()
                .map(|disk| {
                    let file = File::options().read(true).write(!disk.read_only).open(&disk.path);
                    Ok(kept(file.map_err(prepare("disk", &disk.path))?.into()))
                })
                .collect::<Result<_, _>>()?,
            tap: match &spec.net {
                NetSpec::Tap { ifname, .. } => {
                    Some(kept(syscalls::open_tap(ifname).map_err(prepare("tap interface", Path::new(ifname)))?))
                }
                NetSpec::TapFd { fd, .. } => {
                    Some(kept(fd.try_clone().map_err(prepare("tap interface", Path::new("(open)")))?))
                }
                NetSpec::None | NetSpec::User { .. } => None,
            },
            qmp: kept(bind_unix_in(run_dir, VmSpec::QMP_SOCKET).map_err(prepare("monitor socket in", run_dir))?.into()),
            control: kept(
                bind_unix_in(run_dir, VmSpec::CONTROL_SOCKET).map_err(prepare("control socket in", run_dir))?.into(),
            ),
        };

        let mut command = Command::new(&self.config.program);
        command
            .args(qemu_command::arguments(spec, &self.config.acceleration, &fds))
            .env_clear()
            .current_dir(run_dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_twin);
        let mut child = syscalls::spawn_apart(&mut command, &keep, spec.nice, spec.run_as)
            .map_err(|source| VmError::Spawn { program: self.config.program.clone(), source })?;
        drop(keep);
        match Process::open(child.id()) {
            Ok(Some(process)) => Ok(Starting { process: Some(process) }),
            Ok(None) => {
                let _ = child.wait();
                Err(VmError::NotReady { name: spec.name.clone(), reason: log_tail(run_dir) })
            }
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(VmError::Prepare { what: "process watch in", path: run_dir.clone(), source })
            }
        }
    }

    async fn adopt(&self, record: &VmRecord) -> Result<Option<Arc<dyn Vm>>, VmError> {
        let Some(process) = Process::open(record.process.pid).map_err(VmError::Scan)? else {
            return Ok(None);
        };
        // The pidfd is open: what the next line finds to be true stays true of the process it stands for.
        if process.identity() != record.process || process::marker_of(record.process.pid).as_ref() != Some(&record.name)
        {
            return Ok(None);
        }
        let monitor = match connect_monitor(&record.run_dir, self.config.ready_deadline).await {
            Ok(monitor) => Some(monitor),
            Err(error) => {
                tracing::warn!(name = %record.name, %error, "adopting a VM whose monitor does not answer");
                None
            }
        };
        Ok(Some(Arc::new(QemuVm::new(record.clone(), process, monitor))))
    }
}

impl Vmm for QemuVmm {
    fn launch<'a>(&'a self, spec: &'a VmSpec) -> BoxFuture<'a, Result<Arc<dyn Vm>, VmError>> {
        self.launch(spec).boxed()
    }

    fn adopt<'a>(&'a self, record: &'a VmRecord) -> BoxFuture<'a, Result<Option<Arc<dyn Vm>>, VmError>> {
        self.adopt(record).boxed()
    }

    fn find_leftovers(&self, host_tag: &str) -> Result<Vec<VmRecord>, VmError> {
        let mut uids = self.config.run_as_uids.clone();
        uids.push(rustix::process::geteuid().as_raw());
        process::scan(host_tag, &uids).map_err(VmError::Scan)
    }
}

/// A QEMU that is not known to be ready; killed when dropped before it is.
struct Starting {
    process: Option<Process>,
}

impl Starting {
    /// Kills it if it still runs; says how it ended.
    fn end(&mut self) -> Option<String> {
        let process = self.process.take()?;
        let _ = process.kill();
        match process.reap() {
            ProcessEnd::Code(code) => Some(format!("QEMU ended with code {code}")),
            ProcessEnd::Signal(libc::SIGKILL) => Some("QEMU was killed".to_owned()),
            ProcessEnd::Signal(signal) => Some(format!("QEMU ended by signal {signal}")),
            ProcessEnd::NotOurChild => None,
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.end();
    }
}

async fn connect_monitor(
    run_dir: &Path,
    deadline: Duration,
) -> Result<(QmpClient, broadcast::Receiver<Event>), QmpError> {
    // The socket listens since before QEMU started: its greeting comes when QEMU is up, an end of file when it died.
    let stream = UnixStream::from_std(connect_unix_in(run_dir, VmSpec::QMP_SOCKET)?)?;
    QmpClient::handshake(stream, deadline).await
}

/// The last lines of QEMU's own log, as one line.
fn log_tail(run_dir: &Path) -> String {
    let log = std::fs::read(run_dir.join(VmSpec::QEMU_LOG)).unwrap_or_default();
    let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
    let lines: Vec<&str> = tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match &lines[lines.len().saturating_sub(4)..] {
        [] => "QEMU wrote nothing".to_owned(),
        last => last.join("; "),
    }
}

/// The handle to a running QEMU.
#[derive(Debug)]
struct QemuVm {
    record: VmRecord,
    process: Arc<Process>,
    monitor: Option<QmpClient>,
    console: Arc<Console>,
    quit: mpsc::Sender<()>,
    exit: watch::Receiver<Option<VmExit>>,
    starved: watch::Receiver<bool>,
}

impl QemuVm {
    fn new(record: VmRecord, process: Process, monitor: Option<(QmpClient, broadcast::Receiver<Event>)>) -> Self {
        let process = Arc::new(process);
        let console = Arc::new(Console::default());
        let (quit, quit_requests) = mpsc::channel(1);
        let (tell_starved, starved) = watch::channel(false);
        let client = monitor.as_ref().map(|(client, _)| client.clone());
        let exit = crate::watch::start(Watched {
            process: Arc::clone(&process),
            monitor,
            console: Arc::clone(&console),
            run_dir: record.run_dir.clone(),
            quit_requests,
            starved: tell_starved,
        });
        Self { record, process, monitor: client, console, quit, exit, starved }
    }

    fn monitor(&self) -> Result<&QmpClient, VmError> {
        self.monitor.as_ref().ok_or_else(|| VmError::Unresponsive { name: self.record.name.clone() })
    }

    fn refused(&self, command: &'static str) -> impl FnOnce(QmpError) -> VmError + use<'_> {
        move |source| VmError::Monitor { name: self.record.name.clone(), command, source }
    }

    async fn ask(&self, command: &'static str) -> Result<Value, VmError> {
        self.monitor()?.execute(command, Value::Null).await.map_err(self.refused(command))
    }

    fn copy_failed(&self, serial: &str, error: CopyError) -> VmError {
        let (name, serial) = (self.record.name.clone(), serial.to_owned());
        match error {
            CopyError::Monitor { command, source } => VmError::Monitor { name, command, source },
            CopyError::Failed(why) => VmError::Copy { name, serial, why },
        }
    }

    async fn end(&self) -> VmExit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(exit)) => exit.clone(),
            // The watcher could not watch, or its runtime is shutting down.
            Ok(None) | Err(_) => VmExit { reason: ExitReason::Unknown, console: String::new() },
        }
    }

    async fn kill_now(&self) -> Result<VmExit, VmError> {
        if self.exited().is_none() {
            let failed = |source| VmError::Kill { name: self.record.name.clone(), source };
            self.process.kill().map_err(failed)?;
        }
        Ok(self.end().await)
    }
}

impl Vm for QemuVm {
    fn record(&self) -> &VmRecord {
        &self.record
    }

    fn status(&self) -> BoxFuture<'_, VmStatus> {
        async move {
            if self.exited().is_some() {
                return VmStatus::Gone;
            }
            let answer = self.ask("query-status").await;
            match (answer, self.exited()) {
                (_, Some(_)) => VmStatus::Gone,
                (Err(_), None) => VmStatus::Unresponsive,
                (Ok(answer), None) => match answer["status"].as_str() {
                    Some("running") => VmStatus::Running,
                    Some("shutdown" | "guest-panicked" | "internal-error") => VmStatus::Ending,
                    _ => VmStatus::Paused,
                },
            }
        }
        .boxed()
    }

    fn wait_exit(&self) -> BoxFuture<'_, VmExit> {
        self.end().boxed()
    }

    fn exited(&self) -> Option<VmExit> {
        self.exit.borrow().clone()
    }

    fn pause(&self) -> BoxFuture<'_, Result<(), VmError>> {
        async { self.ask("stop").await.map(drop) }.boxed()
    }

    fn resume(&self) -> BoxFuture<'_, Result<(), VmError>> {
        async { self.ask("cont").await.map(drop) }.boxed()
    }

    fn starved(&self) -> watch::Receiver<bool> {
        self.starved.clone()
    }

    fn powerdown(&self) -> BoxFuture<'_, Result<(), VmError>> {
        async { self.ask("system_powerdown").await.map(drop) }.boxed()
    }

    fn quit(&self, grace: Duration) -> BoxFuture<'_, Result<VmExit, VmError>> {
        async move {
            // A full queue means that someone else has asked already.
            let _ = self.quit.try_send(());
            match tokio::time::timeout(grace, self.end()).await {
                Ok(exit) => Ok(exit),
                Err(_) => self.kill_now().await,
            }
        }
        .boxed()
    }

    fn kill(&self) -> BoxFuture<'_, Result<VmExit, VmError>> {
        self.kill_now().boxed()
    }

    fn console(&self) -> BoxFuture<'_, Result<String, VmError>> {
        async {
            if let Some(exit) = self.exited() {
                return Ok(exit.console);
            }
            self.console.fetch(self.monitor()?).await.map_err(self.refused("ringbuf-read"))
        }
        .boxed()
    }

    fn forward(&self, forward: HostForward) -> BoxFuture<'_, Result<(), VmError>> {
        async move {
            let command = "human-monitor-command";
            let line = format!("hostfwd_add net tcp:{}-:{}", forward.listen, forward.guest_port);
            let arguments = serde_json::json!({ "command-line": line });
            let answer = self.monitor()?.execute(command, arguments).await.map_err(self.refused(command))?;
            // The human monitor says nothing when all is well.
            match answer.as_str().map(str::trim) {
                None | Some("") => Ok(()),
                Some(why) => {
                    let (name, why) = (self.record.name.clone(), why.to_owned());
                    Err(VmError::Forward { name, forward, why })
                }
            }
        }
        .boxed()
    }

    fn resize_disk<'a>(&'a self, serial: &'a str, bytes: u64) -> BoxFuture<'a, Result<(), VmError>> {
        async move {
            let arguments = serde_json::json!({ "node-name": node_name(serial), "size": bytes });
            self.monitor()?.execute("block_resize", arguments).await.map_err(self.refused("block_resize")).map(drop)
        }
        .boxed()
    }

    fn begin_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), VmError>> {
        async move { copy.begin(self.monitor()?).await.map_err(|error| self.copy_failed(&copy.serial, error)) }.boxed()
    }

    fn finish_copy<'a>(&'a self, copy: &'a DiskCopy) -> BoxFuture<'a, Result<(), VmError>> {
        async move { copy.finish(self.monitor()?).await.map_err(|error| self.copy_failed(&copy.serial, error)) }.boxed()
    }

    fn drop_copy<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, ()> {
        async move {
            if let Some(monitor) = &self.monitor {
                disk_copy::drop_copy(monitor, serial).await;
            }
        }
        .boxed()
    }

    fn change_records<'a>(&'a self, serial: &'a str) -> BoxFuture<'a, Result<Vec<String>, VmError>> {
        async move {
            let found = disk_copy::change_records(self.monitor()?, serial).await;
            found.map_err(self.refused("query-named-block-nodes"))
        }
        .boxed()
    }

    fn drop_record<'a>(&'a self, serial: &'a str, record: &'a str) -> BoxFuture<'a, Result<(), VmError>> {
        async move {
            let dropped = disk_copy::drop_record(self.monitor()?, serial, record).await;
            dropped.map_err(self.refused("block-dirty-bitmap-remove"))
        }
        .boxed()
    }

    fn connect_control(&self) -> BoxFuture<'_, Result<UnixStream, VmError>> {
        async {
            connect_unix_in(&self.record.run_dir, VmSpec::CONTROL_SOCKET)
                .and_then(UnixStream::from_std)
                .map_err(|source| VmError::Control { name: self.record.name.clone(), source })
        }
        .boxed()
    }
}

//! `holm up`: control plane and agent in one process, the ingress in another, from start to end.
//!
//! | module | concept |
//! | --- | --- |
//! | `access` | tokens, the audit log, and the interface from afar |
//! | `archive` | Holm's own state in one file, and back |
//! | `backend` | everything behind the API |
//! | `checks` | what `holm doctor` looks at beside microVMs |
//! | `detach` | `--detach`: the same in the background |
//! | `disk` | how much disk may be promised |
//! | `exec`, `logs` | the two streams of the API |
//! | `findings` | what `holm doctor` looks at |
//! | `front` | the ingress, following the state |
//! | `guest` | guest kernels: listed and imported |
//! | `metrics` | figures for Prometheus |
//! | `notify` | the service manager hears that Holm answers |
//! | `second` | a Holm beside one that runs is refused |
//! | `secrets` | changes of secrets, and which sets are kept |
//! | `images` | the image store, for the control plane |
//! | `storage` | volumes, snapshots and backups |

mod access;
mod archive;
mod backend;
mod checks;
mod detach;
mod disk;
mod exec;
mod findings;
mod front;
mod guest;
mod images;
mod logs;
mod metrics;
mod notify;
mod second;
mod secrets;
mod storage;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holm_agent::{Agent, AgentConfig, AgentHandle, Limits, NetworkMode};
use holm_api::Problem;
use holm_api::wire::{Finding, GuestImport, GuestSummary, Shutdown};
use holm_control::{Control, Options, Rules};
use holm_image::{ImageStore, RegistryOptions, StoreOptions};
use holm_ingress::apart::Apart;
use holm_manifest::Memory;
use holm_model::event::Event;
use holm_secrets::Vault;
use holm_vmm::{AccelKind, Acceleration, GuestStore};
use holm_volume::VolumeStore;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::{Acceleration as AccelChoice, Network as NetworkChoice};
pub(crate) use access::RemoteOptions;
use access::{Desk, Remote};
pub(crate) use archive::Contents;
use backend::Host;
use checks::Clocks;
use front::{Front, Listen};
pub(crate) use front::{ProxyFrom, ipv4_beside};
use secrets::Keeper;
pub(crate) use storage::BackupOptions;
use storage::Storage;

/// What `holm up` was told.
#[derive(Debug, Clone)]
pub(crate) struct UpOptions {
    /// The state folder.
    pub(crate) state: PathBuf,
    /// Whether to go on in the background once Holm answers.
    pub(crate) detach: bool,
    /// The port for TLS connections that are told apart by host name.
    pub(crate) sni_port: u16,
    /// The address the ingress listens on.
    pub(crate) listen: IpAddr,
    /// The address it listens on for apps with IPv4.
    pub(crate) listen_ipv4: Ipv4Addr,
    /// Proxies in front whose PROXY headers are believed.
    pub(crate) proxies: Vec<ProxyFrom>,
    /// How instances are connected.
    pub(crate) network: NetworkChoice,
    /// The memory that all microVMs together may take; `None`: what the host can spare.
    pub(crate) memory: Option<Memory>,
    /// The disk that may be promised; `None`: what the host can spare.
    pub(crate) disk: Option<Memory>,
    /// What runs the microVMs' processors.
    pub(crate) accel: AccelChoice,
    /// A file with credentials for registries, in the form of Docker's `config.json`.
    pub(crate) registry_auth: Option<PathBuf>,
    /// Registries that are spoken to without TLS, as `host:port`.
    pub(crate) insecure_registries: Vec<String>,
    /// Whether messages are lines of JSON.
    pub(crate) log_json: bool,
    /// Where backups go.
    pub(crate) backups: BackupOptions,
    /// The group whose members may talk to Holm too.
    pub(crate) socket_group: Option<String>,
    /// The interface from afar.
    pub(crate) remote: Option<RemoteOptions>,
    /// Where metrics are served.
    pub(crate) metrics: Option<SocketAddr>,
}

/// The program that runs microVMs.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// Time that connections get to end when Holm goes down with its instances.
const FAREWELL: Duration = Duration::from_secs(5);

/// Runs Holm until it is told to go down, or starts it in the background.
pub(crate) fn run(options: UpOptions) -> Result<(), Problem> {
    let not_started = |error: anyhow::Error| problem("cannot start holm", &error);
    restrict_files();
    if options.detach {
        let started = runtime().and_then(|runtime| runtime.block_on(detach::start(&options.state)));
        return started.map_err(not_started);
    }
    tell(options.log_json);
    runtime().and_then(|runtime| runtime.block_on(run_to_the_end(&options))).map_err(not_started)
}

/// Runs the ingress alone, for a Holm that talks to it over `socket`.
pub(crate) fn run_ingress(socket: &Path, log_json: bool) -> Result<(), Problem> {
    restrict_files();
    tell(log_json);
    raise_descriptors();
    let serve = holm_ingress::apart::serve(socket, holm_ingress::Config::default());
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the ingress");
    let served = runtime.and_then(|runtime| runtime.block_on(serve).context("the ingress failed"));
    served.map_err(|error| problem("cannot serve", &error))
}

/// Says what happens on standard error.
fn tell(log_json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOLM_LOG").unwrap_or_else(|_| "info".into());
    let messages = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A message that cannot be written, as on a full disk, is lost; telling that on the same stream would panic.
    let messages = messages.log_internal_errors(false);
    if log_json { messages.json().init() } else { messages.init() }
}

fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread().enable_all().build().context("cannot start worker threads")
}

async fn run_to_the_end(options: &UpOptions) -> Result<()> {
    raise_descriptors();
    let state_dir = &options.state;
    second::refuse(state_dir).await?;
    std::fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    Site::start(options).await?.serve().await
}

/// Lets this process make files for its user and group only: logs of apps, events and settings are not for everybody.
fn restrict_files() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
}

/// Lets this process have as many file descriptors as the system allows: each connection takes two.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // What cannot be had is done without: the ingress refuses what it has no descriptors for.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// What failed with the chain of its causes.
fn problem(what: &str, error: &anyhow::Error) -> Problem {
    Problem::failed(what).because(format!("{error:#}"))
}

/// The guest bundles of a state folder on which no Holm runs.
pub(crate) fn guests(state: &Path) -> Result<Vec<GuestSummary>, Problem> {
    guest::list(&guest::open(state)?)
}

/// Makes a guest bundle in a state folder on which no Holm runs.
pub(crate) async fn import_guest(state: &Path, import: &GuestImport) -> Result<GuestSummary, Problem> {
    restrict_files();
    guest::import(&guest::open(state)?, import.clone()).await
}

/// Writes the state in `folder` to the new file `file`, with the key of its secrets or without.
pub(crate) fn export_state(folder: &Path, file: &Path, key: bool) -> Result<Contents, Problem> {
    archive::export(folder, file, key).map_err(|error| problem("cannot export the state", &error))
}

/// Makes the state in `folder`, where there must be none, from `file`.
pub(crate) fn import_state(folder: &Path, file: &Path) -> Result<Contents, Problem> {
    restrict_files();
    archive::import(folder, file).map_err(|error| problem("cannot import the state", &error))
}

/// What can be wrong with this host, looked at without a running Holm.
pub(crate) async fn doctor(state: &Path) -> Vec<Finding> {
    findings::of_machine(state).await
}

/// Everything that runs.
struct Site {
    host: Arc<Host>,
    remote: Option<Remote>,
    /// Where metrics are scraped.
    scraped: Option<TcpListener>,
    socket_group: Option<u32>,
    stopping: watch::Receiver<Option<Shutdown>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Site {
    async fn start(options: &UpOptions) -> Result<Self> {
        let dir = &options.state;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();

        let images = ImageStore::open(dir.join("images"), store_options(options)).await;
        let images = images.context("cannot open the image store")?;
        let guests = GuestStore::open(&dir.join("guests")).context("cannot open the store of guests")?;
        let volumes = VolumeStore::open(dir.join("volumes")).context("cannot open the store of volumes")?;
        let socket_group = options.socket_group.as_deref().map(group_id).transpose()?;
        let remote = match &options.remote {
            Some(remote) => Some(Remote::bind(remote, dir).await?),
            None => None,
        };
        let scraped = match options.metrics {
            Some(at) => Some(TcpListener::bind(at).await.with_context(|| format!("cannot listen on {at}"))?),
            None => None,
        };
        let desk = Arc::new(Desk::new(remote.as_ref()));
        let vault = Vault::open(&dir.join("secrets")).context("cannot open the vault of secrets")?;
        let secrets = Keeper::new(vault);
        let rules = Rules { reserved_ports: [options.sni_port].into() };
        let control =
            Control::open(dir, Arc::new(images::HostImages(images.clone())), Options { rules, ..Options::default() });
        let control = control.await.with_context(|| format!("cannot open the state in {}", dir.display()))?;

        let acceleration = acceleration(options.accel).await?;
        let host_id = host_id(dir)?;
        let (network, network_name) = network(options.network, &host_id)?;
        let launch = front::launch(dir, options.log_json).context("cannot find this program")?;
        let ingress = Apart::start(launch).await.context("cannot start the ingress")?;
        let front = Front::new(ingress, {
            let proxies = options.proxies.clone();
            Listen { address: options.listen, ipv4: options.listen_ipv4, sni_port: options.sni_port, proxies }
        });

        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let limits = match acceleration.kind {
            AccelKind::Kvm => Limits::hardware(processors),
            AccelKind::Tcg => Limits::emulated(processors),
        };
        let started = Event::HostStarted {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            acceleration: acceleration.kind.to_string().to_lowercase(),
            why: acceleration.reason.clone(),
            network: network_name.to_owned(),
            memory: Some(memory(options.memory)?),
            disk: Some(disk::cap(options.disk, dir)?),
        };
        let agent = Agent::start(
            AgentConfig {
                state_dir: dir.join("agent"),
                host_tag: host_id,
                images: images.clone(),
                guests: guests.clone(),
                volumes: volumes.clone(),
                secrets: Arc::clone(&secrets.vault),
                acceleration,
                network,
                dns: name_servers(),
                run_as: None,
                connections: Arc::clone(&front) as Arc<dyn holm_agent::Connections>,
                limits,
            },
            control.targets(),
        );
        let agent = Arc::new(agent.await.context("cannot start the agent")?);
        control.record_host(started).await.context("cannot write the state")?;

        tasks.spawn(Arc::clone(&front).follow(control.clone(), stop.clone()));
        tasks.spawn(pass_reports(Arc::clone(&agent), control.clone(), stop.clone()));
        let storage = Storage::new(dir, &options.backups, (control.clone(), Arc::clone(&agent), volumes));
        let storage = Arc::new(storage.context("cannot use the store of backups")?);
        storage.measure_all().await;
        tasks.spawn(Arc::clone(&storage).follow_schedule(stop.clone()));
        let (told, stopping) = watch::channel(None);
        tasks.spawn(secrets.clone().sweep(control.clone(), stop.clone()));
        let host = Host {
            state_dir: dir.clone(),
            control,
            agent,
            images,
            guests,
            secrets,
            desk,
            clocks: Clocks::now(),
            front,
            storage,
            stop: told,
        };
        Ok(Self { host: Arc::new(host), remote, scraped, socket_group, stopping, stop, tasks })
    }

    /// Serves the API until somebody or a signal says stop, then ends everything in order: instances (unless kept), log,
    /// ingress, and the API last, so that whoever waits for the end sees how far it is.
    async fn serve(mut self) -> Result<()> {
        let state_dir = self.host.state_dir.clone();
        let listener = holm_api::socket::bind(&state_dir, self.socket_group).await;
        let listener = listener.with_context(|| format!("cannot listen in {}", state_dir.display()))?;
        let served = CancellationToken::new();
        let api = holm_api::server::serve(listener, Arc::clone(&self.host), env!("CARGO_PKG_VERSION"), served.clone());
        let mut api = tokio::spawn(api);
        if let Some(Remote { listener, tls, address, fingerprint }) = self.remote.take() {
            tracing::info!(%address, %fingerprint, "the remote interface is up");
            let (host, version) = (Arc::clone(&self.host), env!("CARGO_PKG_VERSION"));
            self.tasks.spawn(holm_api::remote::serve(listener, tls, host, version, self.stop.clone()));
        }
        if let Some(listener) = self.scraped.take() {
            self.tasks.spawn(metrics::serve(listener, Arc::clone(&self.host), self.stop.clone()));
        }
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for signals")?;
        tracing::info!(state = %state_dir.display(), "holm is up");
        if let Err(error) = notify::ready() {
            tracing::warn!(%error, "the service manager cannot be told that holm is up");
        }
        let how = tokio::select! {
            ended = &mut api => {
                ended.context("the API panicked")?.context("the API failed")?;
                bail!("the API ended by itself")
            }
            _ = interrupt.recv() => Shutdown { keep_instances: false },
            _ = terminate.recv() => Shutdown { keep_instances: true },
            Ok(told) = self.stopping.wait_for(Option::is_some) => told.unwrap_or_default(),
        };
        tracing::info!(keep_instances = how.keep_instances, "holm is going down");
        let recorded = self.end(how).await;
        served.cancel();
        api.await.context("the API panicked")?.context("the API failed")?;
        holm_api::socket::remove(&state_dir).context("cannot remove the socket")?;
        recorded
    }

    async fn end(&self, how: Shutdown) -> Result<()> {
        let host = &self.host;
        if !how.keep_instances {
            host.agent.stop_all().await;
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // What the agent saw last: the ends of the instances it stopped.
        let last = host.control.report((**host.agent.reports().borrow()).clone()).await;
        let stopped = host.control.record_host(Event::HostStopped { instances_kept: how.keep_instances }).await;
        // Instances that go on are reached as before.
        if !how.keep_instances {
            host.front.ingress().shutdown(FAREWELL).await;
        }
        host.control.clone().close().await;
        last.and(stopped).context("cannot write the state")
    }
}

/// Rest before a report is handed on again that was not recorded, as on a full disk.
const AGAIN: Duration = Duration::from_secs(1);

/// Hands every report of the agent to the control plane.
async fn pass_reports(agent: Arc<AgentHandle>, control: Control, stop: CancellationToken) {
    let mut reports = agent.reports();
    loop {
        let report = reports.borrow_and_update().clone();
        let recorded = control.report((*report).clone()).await;
        if let Err(error) = &recorded {
            tracing::error!(%error, "a report of this host was not recorded; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN), if recorded.is_err() => {}
            changed = reports.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// What microVMs may take together, in bytes: what was asked for, else the host's memory less a sixteenth of it, and less
/// at least 512 MiB, for the host itself and for Holm.
fn memory(asked: Option<Memory>) -> Result<u64> {
    if let Some(asked) = asked {
        return Ok(asked.bytes());
    }
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read how much memory the host has")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok()).context("no MemTotal")?;
    let total = kib << 10;
    Ok(total.saturating_sub((total / 16).max(512 << 20)))
}

/// The id of this installation, made once: taps, addresses and process markers are derived from it.
fn host_id(dir: &Path) -> Result<String> {
    let path = dir.join("host-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if id.trim().parse::<uuid::Uuid>().is_ok() => return Ok(id.trim().to_owned()),
        Ok(_) => bail!("{} is not a host id; an installation cannot go on under another one", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let id = uuid::Uuid::now_v7().to_string();
    let written = write_durably(&path, &id);
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(id)
}

/// The number of a group by its name, or as it was given.
fn group_id(name: &str) -> Result<u32> {
    let groups = std::fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.or_else(|| name.parse().ok()).with_context(|| format!("there is no group `{name}`"))
}

/// Writes a small file so that it is there whole or not at all, also after a power cut.
fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{text}")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()
}

fn store_options(options: &UpOptions) -> StoreOptions {
    let registry = RegistryOptions {
        credentials_file: options.registry_auth.clone().or_else(|| default_auth(&options.state)),
        insecure_registries: options.insecure_registries.clone(),
        ..RegistryOptions::default()
    };
    StoreOptions { registry, ..StoreOptions::default() }
}

/// Credentials for registries when none are named: the installation's own file, else that of the user Holm runs as.
fn default_auth(state_dir: &Path) -> Option<PathBuf> {
    let own = state_dir.join("registry-auth.json");
    let config = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    [Some(own), config.map(|folder| folder.join("config.json"))].into_iter().flatten().find(|path| path.exists())
}

async fn acceleration(choice: AccelChoice) -> Result<Acceleration> {
    let probed = match choice {
        AccelChoice::Tcg => return Ok(Acceleration::tcg("asked for with --accel tcg")),
        AccelChoice::Auto | AccelChoice::Kvm => holm_vmm::probe::probe(Path::new(QEMU)).await,
    };
    if choice == AccelChoice::Kvm && probed.kind != AccelKind::Kvm {
        bail!("KVM does not work on this host: {}", probed.reason);
    }
    Ok(probed)
}

fn network(choice: NetworkChoice, host_id: &str) -> Result<(NetworkMode, &'static str)> {
    let missing = match choice {
        NetworkChoice::User => return Ok((NetworkMode::User, "user")),
        NetworkChoice::Auto | NetworkChoice::Privileged => holm_network::privileges().err(),
    };
    match (choice, missing) {
        (_, None) => {
            let config = holm_network::Config { host_id: host_id.to_owned() };
            let network = holm_network::Network::privileged(&config).context("cannot set up the network")?;
            Ok((NetworkMode::Privileged(Arc::new(network)), "privileged"))
        }
        (NetworkChoice::Privileged, Some(missing)) => bail!("the privileged network is not possible: {missing}"),
        (_, Some(missing)) => {
            tracing::warn!(missing = %images::chain(&missing), "instances use QEMU's user network");
            Ok((NetworkMode::User, "user"))
        }
    }
}

/// The host's IPv6 name servers, for guests with a routed network: they have no IPv4.
fn name_servers() -> Vec<String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let reachable = |address: &std::net::Ipv6Addr| !address.is_loopback() && !address.is_unicast_link_local();
    servers.filter_map(|server| server.trim().parse().ok()).filter(reachable).map(|a| a.to_string()).collect()
}

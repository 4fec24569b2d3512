//! The command line: every verb with its arguments. The reference page is made from this.

mod access;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use holm_manifest::{AppName, EnvName, Memory, ProcessName};

use crate::storage_args::{Backups, Snapshots, Volumes};

pub(crate) use access::{Rollout, Secrets, SecretsDiff, SecretsRender, Tokens, TokensCreate};

/// Runs each app on an island of its own: OCI images as microVMs on your own machines
#[derive(Debug, Parser)]
#[command(name = "holm", disable_version_flag = true, disable_help_subcommand = true, after_help = crate::exit::TABLE)]
#[command(max_term_width = 100)]
pub(crate) struct Cli {
    /// What holds for every verb
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What holds for every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// State folder of the Holm to talk to [default: /var/lib/holm for root, else ~/.local/state/holm]
    #[arg(long, global = true, value_name = "DIR", env = "HOLM_STATE", hide_env_values = true)]
    pub(crate) state: Option<PathBuf>,
    /// Holm on another machine, `https://NAME[:PORT][#sha256:FINGERPRINT]`; the token is read from HOLM_TOKEN
    #[arg(long, global = true, value_name = "URL", env = "HOLM_HOST", hide_env_values = true)]
    pub(crate) host: Option<String>,
    /// Write versioned JSON documents instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to use colour; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColourChoice,
    /// Say nothing but data and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColourChoice {
    /// On a terminal
    Auto,
    /// Not at all
    Never,
    /// Also into files and pipes
    Always,
}

/// How instances are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// `privileged` where Holm may, else `user`
    Auto,
    /// A tap per instance, routed IPv6, nftables
    Privileged,
    /// QEMU's user network
    User,
}

/// What runs the microVMs' processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acceleration {
    /// `kvm` where a probe boots with it, else `tcg`
    Auto,
    /// The host's virtualisation
    Kvm,
    /// Translation in software
    Tcg,
}

/// An app, by name or from the manifest.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AppArgs {
    /// The app [default: the one of ./holm.toml]
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<String>,
    /// Its environment [default: prod]
    #[arg(long, value_name = "ENV")]
    pub(crate) env: Option<EnvName>,
}

/// An app, also without `--app`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NamedApp {
    /// The app, `APP` or `APP/ENV` [default: the one of ./holm.toml]
    #[arg(value_name = "APP")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) args: AppArgs,
}

/// Every verb.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a holm.toml to start from
    Init(Init),
    /// Start Holm on this host
    Up(Up),
    /// Stop Holm, and the microVMs unless told otherwise
    Down(Down),
    /// Bring out an image, and follow until it serves or has failed
    Deploy(Deploy),
    /// Show what a deploy would change, without doing it
    Plan(Plan),
    /// Show the apps, or one of them
    Status(NamedApp),
    /// List instances
    Ps(Ps),
    /// Show what apps wrote
    Logs(Logs),
    /// Run a command inside an instance
    Exec(Exec),
    /// Set how many instances of process types run
    Scale(Scale),
    /// Replace every instance by a new one of the same release
    Restart(Follow),
    /// Stop an app; releases, routes and configuration stay
    Stop(NamedApp),
    /// Start a stopped app
    Start(NamedApp),
    /// List the releases of an app
    Releases(NamedApp),
    /// Go back to an earlier release: the last healthy one, or the one that is named
    Rollback(Rollback),
    /// Add, list and remove routes
    #[command(subcommand)]
    Route(Route),
    /// Set, rotate, list and compare secrets; apps find them in /run/secrets
    #[command(subcommand)]
    Secrets(Secrets),
    /// Make, list and revoke access tokens for the interface from afar
    #[command(subcommand)]
    Tokens(Tokens),
    /// Show the running Holm's figures in the text form of Prometheus
    Metrics,
    /// Allocate IPv4 to an app and give it back; without, an app is reached over IPv6 only
    #[command(subcommand)]
    Ipv4(Ipv4),
    /// Keep what an app writes: list, make, grow and delete volumes
    #[command(subcommand)]
    Volumes(Volumes),
    /// Copy volumes on this host, and make new ones from the copies
    #[command(subcommand)]
    Snapshots(Snapshots),
    /// Back volumes up to an object store, verify and restore
    #[command(subcommand)]
    Backups(Backups),
    /// Show what happened, who caused it and when
    Events(Events),
    /// Tell why an instance or an app is where it is, why it waits, or why it ended
    Explain(Explain),
    /// List, inspect and prune the images on this host
    #[command(subcommand)]
    Images(Images),
    /// List and import the kernels that microVMs boot
    #[command(subcommand)]
    Guest(Guest),
    /// Look for what is wrong with this host; works also when Holm is not running
    Doctor,
    /// Copy Holm's own state to a file, and go on from such a file
    #[command(subcommand)]
    State(StateCopy),
    /// Remove an app with its releases, routes and instances
    Destroy(Destroy),
    /// Write the completions of a shell
    Completions(Completions),
    /// Show the versions of this program and of the running Holm
    Version,
    /// Run the ingress of a Holm, which starts it itself
    #[command(hide = true)]
    Ingress(Ingress),
    /// Write the reference page of the command line, or its manual pages
    #[command(hide = true)]
    Docs {
        /// Folder for the manual pages, one for each verb
        #[arg(long, value_name = "DIR")]
        man: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The app's name [default: the folder's name]
    #[arg(value_name = "APP")]
    pub(crate) name: Option<AppName>,
    /// The image to put in
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// The port the app listens on, which gets a route and a health check
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "holm.toml")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Go on in the background, and return once Holm answers
    #[arg(long)]
    pub(crate) detach: bool,
    /// Port for TLS connections that are told apart by host name [default: 443 for root, else 8443]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) sni_port: Option<u16>,
    /// Address the ingress listens on
    #[arg(long, value_name = "ADDR", default_value = "::", value_parser = parse_address)]
    pub(crate) listen: IpAddr,
    /// IPv4 address the ingress listens on for apps with IPv4 [default: 127.0.0.1 with --listen ::1, else 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen_ipv4: Option<std::net::Ipv4Addr>,
    /// Proxy in front, whose PROXY header is believed: a network, or for one port PORT=NETWORK; may be repeated
    #[arg(long, value_name = "NETWORK")]
    pub(crate) proxy_from: Vec<crate::up::ProxyFrom>,
    /// How instances are connected
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub(crate) network: Network,
    /// Memory that all microVMs together may take, such as `8GiB` [default: the host's, less a sixteenth and at least
    /// 512 MiB]
    #[arg(long, value_name = "AMOUNT", value_parser = parse_memory)]
    pub(crate) memory: Option<Memory>,
    /// Disk that volumes, their snapshots and logs may be promised together, such as `100GiB` [default: what is free on the
    /// state folder's file system, less a sixteenth of it and at least 1 GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    pub(crate) disk: Option<Memory>,
    /// What runs the microVMs' processors
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub(crate) accel: Acceleration,
    /// File with credentials for registries, as Docker's config.json
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_auth: Option<PathBuf>,
    /// Registry that is spoken to without TLS; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) insecure_registry: Vec<String>,
    /// Write messages as lines of JSON; HOLM_LOG says which, such as `debug` [default: info]
    #[arg(long)]
    pub(crate) log_json: bool,
    /// Where backups of volumes go: an absolute folder, or `s3://BUCKET/FOLDER` with the usual AWS_ variables
    #[arg(long, value_name = "STORE", env = "HOLM_BACKUPS", hide_env_values = true)]
    pub(crate) backups: Option<String>,
    /// File with the key of backups; made when missing. Keep a copy elsewhere [default: backup.key in the state folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) backup_key: Option<PathBuf>,
    /// MiB per second a backup reads and sends at most
    #[arg(long, value_name = "MIB", default_value_t = 0, hide_default_value = true)]
    pub(crate) backup_rate: u32,
    /// Group whose members may talk to Holm too [default: the group Holm runs as]
    #[arg(long, value_name = "GROUP")]
    pub(crate) socket_group: Option<String>,
    /// Serve the interface from afar over TLS, on this address and port, to whoever has a token
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) remote: Option<SocketAddr>,
    /// Certificate of the interface from afar, as a PEM file [default: one of the host's own]
    #[arg(long, value_name = "FILE", requires = "remote", requires = "remote_key")]
    pub(crate) remote_cert: Option<PathBuf>,
    /// Key of the certificate, as a PEM file
    #[arg(long, value_name = "FILE", requires = "remote_cert")]
    pub(crate) remote_key: Option<PathBuf>,
    /// Serve metrics for Prometheus over HTTP, on this address and port, to whoever can reach it
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct Ingress {
    /// The Unix socket on which it takes orders
    #[arg(long, value_name = "FILE")]
    pub(crate) socket: PathBuf,
    /// Write messages as lines of JSON
    #[arg(long)]
    pub(crate) log_json: bool,
}

/// An amount of memory or disk, as in a manifest.
fn parse_memory(text: &str) -> Result<Memory, String> {
    Memory::parse(text).ok_or_else(|| "write it as a whole number of MiB or GiB, such as `512MiB` or `8GiB`".to_owned())
}

/// An address, also in the brackets that it has in front of a port.
fn parse_address(text: &str) -> Result<IpAddr, std::net::AddrParseError> {
    text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).parse()
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Leave the microVMs running, for the next `holm up` to adopt
    #[arg(long)]
    pub(crate) keep_instances: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    #[command(flatten)]
    pub(crate) plan: Plan,
    /// Return once the server has accepted it
    #[arg(long, visible_alias = "no-wait")]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The image: a registry's name, or `oci:FOLDER` [default: the manifest's]
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// The manifest
    #[arg(short, long, value_name = "FILE", default_value = "holm.toml")]
    pub(crate) file: PathBuf,
    /// The environment [default: prod]
    #[arg(long, value_name = "ENV")]
    pub(crate) env: Option<EnvName>,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    pub(crate) app: NamedApp,
    /// Also those that have ended and are remembered
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// `APP`, `APP/ENV` or an instance [default: the app of ./holm.toml]
    #[arg(value_name = "APP|INSTANCE")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) args: AppArgs,
    /// Only of this process type
    #[arg(long, value_name = "PROCESS")]
    pub(crate) process: Option<ProcessName>,
    /// Go on with new lines as they are written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only since then: a time such as `2026-01-31T12:00:00Z`, or how long ago, such as `10m`
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Only the newest N lines of the past
    #[arg(short = 'n', long = "lines", value_name = "N")]
    pub(crate) newest: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Give the command this standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// An instance, or an app: then the oldest healthy instance of it
    #[arg(value_name = "INSTANCE|APP")]
    pub(crate) name: String,
    /// The app's environment [default: prod]
    #[arg(long, value_name = "ENV")]
    pub(crate) env: Option<EnvName>,
    /// The app's process type [default: any]
    #[arg(long, value_name = "PROCESS")]
    pub(crate) process: Option<ProcessName>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Scale {
    #[command(flatten)]
    pub(crate) app: AppArgs,
    /// A process type and its count, 0 to 100, or `manifest` for what the manifest says
    #[arg(required = true, value_name = "PROCESS=N", value_parser = parse_count)]
    pub(crate) counts: Vec<(ProcessName, Option<u32>)>,
    /// Return once the server has accepted it
    #[arg(long, visible_alias = "detach")]
    pub(crate) no_wait: bool,
}

fn parse_count(text: &str) -> Result<(ProcessName, Option<u32>), String> {
    let (process, count) = text.split_once('=').ok_or("write it as PROCESS=N, such as `web=2`")?;
    let process = ProcessName::new(process).map_err(|error| error.to_string())?;
    if count == "manifest" {
        return Ok((process, None));
    }
    let count = count.parse().ok().filter(|count| *count <= 100).ok_or("a count is 0 to 100, or `manifest`")?;
    Ok((process, Some(count)))
}

#[derive(Debug, Args)]
pub(crate) struct Follow {
    #[command(flatten)]
    pub(crate) app: NamedApp,
    /// Return once the server has accepted it
    #[arg(long, visible_alias = "no-wait")]
    pub(crate) detach: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The app [default: the one of ./holm.toml], and the release, `3` or `v3` [default: the last healthy one]
    #[arg(value_name = "APP|RELEASE", num_args = 0..=2)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) app: AppArgs,
    /// Return once the server has accepted it
    #[arg(long, visible_alias = "no-wait")]
    pub(crate) detach: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// Add a route beside those of the manifest
    Add(RouteAdd),
    /// List the routes that are in force
    List(NamedApp),
    /// Remove a route that was added
    Remove(RouteRemove),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ipv4 {
    /// Let the routes of an app be reached over IPv4 too
    Allocate(NamedApp),
    /// List the apps that are reached over IPv4
    List,
    /// Let the routes of an app be reached over IPv6 only
    Release(NamedApp),
}

/// What a route listens for.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct RouteOn {
    /// A TCP port of the host
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) listen: Option<u16>,
    /// A TLS host name on the shared port
    #[arg(long, value_name = "HOST")]
    pub(crate) sni: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RouteAdd {
    #[command(flatten)]
    pub(crate) app: AppArgs,
    /// The process type that serves
    #[arg(value_name = "PROCESS")]
    pub(crate) process: ProcessName,
    /// The port inside the guest
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Tell the app who connects, by a PROXY header of version 2
    #[arg(long)]
    pub(crate) proxy_protocol: bool,
    #[command(flatten)]
    pub(crate) on: RouteOn,
}

#[derive(Debug, Args)]
pub(crate) struct RouteRemove {
    #[command(flatten)]
    pub(crate) app: AppArgs,
    #[command(flatten)]
    pub(crate) on: RouteOn,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only about this app, `APP` or `APP/ENV`
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<String>,
    /// The app's environment [default: prod]
    #[arg(long, value_name = "ENV", requires = "app")]
    pub(crate) env: Option<EnvName>,
    /// Go on with new events as they happen
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only since then: a time, or how long ago, such as `10m`
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Only after the event with this number
    #[arg(long, value_name = "N")]
    pub(crate) after: Option<u64>,
    /// Only the newest N [default: 100, unless `--since` or `--after` is given]
    #[arg(short = 'n', long = "lines", value_name = "N")]
    pub(crate) newest: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// An instance such as `hello.web.7`, also one that has ended; or an app, `APP` or `APP/ENV`
    #[arg(value_name = "INSTANCE|APP")]
    pub(crate) name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Images {
    /// List the images on this host
    List,
    /// Show what an image says about itself
    Inspect {
        /// Its digest, the first digits of it, or its name
        #[arg(value_name = "IMAGE")]
        image: String,
    },
    /// Remove every image that no release uses
    Prune,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Guest {
    /// List the kernels that microVMs can boot
    List,
    /// Make one from Debian's kernel packages and Holm's PID 1
    Import {
        /// The packages, `.deb` [default: Debian's newest cloud kernel, fetched with apt]
        #[arg(value_name = "PACKAGE")]
        packages: Vec<PathBuf>,
        /// The guest's PID 1 [default: the one beside this program]
        #[arg(long, value_name = "FILE")]
        init: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StateCopy {
    /// Copy the event log, secrets, tokens and certificate to a tar archive; a running Holm goes on
    Export {
        /// The archive; it must not exist yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Leave out the keys that open the secrets and the backups; keep copies of them elsewhere
        #[arg(long)]
        without_key: bool,
    },
    /// Make a state folder from an archive; there must be no Holm in it yet
    Import {
        /// The archive
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// The app, `APP` or `APP/ENV`
    #[arg(value_name = "APP")]
    pub(crate) name: String,
    /// Its environment [default: prod]
    #[arg(long, value_name = "ENV")]
    pub(crate) env: Option<EnvName>,
    /// Yes, really
    #[arg(long)]
    pub(crate) yes: bool,
    /// Its volumes too, with everything in them
    #[arg(long)]
    pub(crate) volumes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

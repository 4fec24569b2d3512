//! `morpheusd`: the command line.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use morpheus_abi::protocol::{SOCKET_PATH, SOCKET_VARIABLE};
use morpheus_agent::enforce::Enforce;
use morpheus_agent::enforce::settings::Settings;
use morpheus_agent::mode::{Mode, ModeName};
use morpheus_agent::observe::Observe;
use morpheus_agent::server::{Daemon, Ending, operator};
use morpheus_agent::worker::Limits;
use morpheus_agent::{bpf, check, metrics, notify, status, top};
use rustix::event::{PollFd, PollFlags, poll};

/// This kernel cannot do what was asked for.
const EXIT_KERNEL: u8 = 3;
/// The kernel ended the mode while it ran.
const EXIT_ENDED: u8 = 4;

/// Yield hints from the kernel's scheduler to the worker threads of runtimes.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 this kernel cannot do it, 4 the kernel ended the mode.
#[derive(Debug, Parser)]
#[command(name = "morpheusd", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct SocketArgument {
    /// The agent's socket
    #[arg(long, value_name = "PATH", env = SOCKET_VARIABLE, default_value = SOCKET_PATH)]
    socket: PathBuf,
}

#[derive(Debug, clap::Args)]
struct DaemonArguments {
    #[command(flatten)]
    socket: SocketArgument,
    /// Give out Prometheus metrics at this loopback address
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Log in JSON lines
    #[arg(long)]
    json: bool,
    /// Processes one user may have registered
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().processes_per_user)]
    processes_per_user: usize,
    /// Worker threads one user may have registered
    #[arg(long, value_name = "NUMBER", default_value_t = Limits::default().workers_per_user)]
    workers_per_user: usize,
}

#[derive(Debug, clap::Args)]
struct EnforceArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// A thread's time on a CPU before the next one's turn [default: 5, or three ticks]
    #[arg(long, value_name = "MILLISECONDS")]
    slice_ms: Option<u64>,
    /// The longest a thread may wait before the kernel ends the scheduler, up to 30000
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 30_000)]
    watchdog_ms: u64,
    /// Never run this thread: for tests of the watchdog
    #[arg(long, value_name = "TID", hide = true)]
    never_run: Option<u32>,
}

impl EnforceArguments {
    fn settings(&self) -> Settings {
        let default = Settings::default();
        Settings {
            slice: self.slice_ms.map_or(default.slice, Duration::from_millis),
            watchdog: Duration::from_millis(self.watchdog_ms),
            never_run: self.never_run,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Give hints; change nothing about scheduling
    Observe(DaemonArguments),
    /// Be the scheduler: also defer for critical sections, and escalate by consent (needs sched_ext)
    Enforce(EnforceArguments),
    /// Tell what the agent does
    Status {
        #[command(flatten)]
        socket: SocketArgument,
        /// Print the whole report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the workers, their hints and what became of them
    Top {
        #[command(flatten)]
        socket: SocketArgument,
        /// Show one table and end
        #[arg(long)]
        once: bool,
        /// Seconds between two tables
        #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
    },
    /// Tell what this kernel can do; exit code 3 when the mode does not work
    Check {
        /// The mode the exit code is about
        #[arg(value_parser = ["observe", "enforce"], default_value = "observe")]
        mode: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Load each mode's programs and tell how many instructions the verifier went through
    Verifier {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Observe(arguments) => daemon(ModeName::Observe, observe, arguments),
        Verb::Enforce(arguments) => {
            let settings = arguments.settings();
            daemon(ModeName::Enforce, || enforce(&settings), arguments.daemon)
        }
        Verb::Status { socket, json } => {
            let report = operator::ask(&socket.socket)?;
            out(&if json { serde_json::to_string_pretty(&report)? + "\n" } else { status::render(&report) })
        }
        Verb::Top { socket, once, interval } => show(&socket.socket, once, interval),
        Verb::Check { mode, json } => {
            bpf::log::install();
            let verdict = check::decide(&check::probe());
            out(&if json { serde_json::to_string_pretty(&verdict)? + "\n" } else { check::render(&verdict) })?;
            let mode = if mode == "enforce" { ModeName::Enforce } else { ModeName::Observe };
            Ok(if verdict.works(mode) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_KERNEL) })
        }
        Verb::Verifier { json } => {
            bpf::log::install();
            let mut counts = observe()?.verified_instructions();
            // Where the kernel cannot have it, or another scheduler is loaded, there is nothing to count.
            if let Ok(enforce) = enforce(&Settings::default()) {
                counts.extend(enforce.verified_instructions());
            }
            if json {
                let counts: std::collections::BTreeMap<_, _> = counts.into_iter().collect();
                return out(&(serde_json::to_string_pretty(&counts)? + "\n"));
            }
            out(&counts.iter().map(|(name, count)| format!("{name:<24} {count:>8}\n")).collect::<String>())
        }
    }
}

fn out(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // `| head` has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn observe() -> anyhow::Result<Box<dyn Mode>> {
    Ok(Box::new(Observe::load()?))
}

fn enforce(settings: &Settings) -> anyhow::Result<Box<dyn Mode>> {
    Ok(Box::new(Enforce::load(settings)?))
}

/// A descriptor that becomes readable when the process is asked to end.
fn stop_signal() -> anyhow::Result<UnixStream> {
    let (near, far) = UnixStream::pair().context("cannot make a socket pair")?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::low_level::pipe::register(signal, far.try_clone().context("cannot duplicate a socket")?)
            .context("cannot watch for signals")?;
    }
    Ok(near)
}

fn daemon(
    mode: ModeName,
    load: impl FnOnce() -> anyhow::Result<Box<dyn Mode>>,
    arguments: DaemonArguments,
) -> anyhow::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MORPHEUS_LOG").unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A message that cannot be written, as on a full disk, is lost; telling that on the same stream would panic.
    let log = log.log_internal_errors(false);
    if arguments.json {
        log.json().init()
    } else {
        log.init()
    }
    bpf::log::install();
    // A descriptor or two for each worker, four for each process.
    raise_descriptor_limit();
    let stop = stop_signal()?;
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!("cannot {mode}: {error:#}\nhint: `morpheusd check` tells what this kernel can do");
            return Ok(ExitCode::from(EXIT_KERNEL));
        }
    };
    let limits =
        Limits { processes_per_user: arguments.processes_per_user, workers_per_user: arguments.workers_per_user };
    let socket = arguments.socket.socket;
    let daemon = Daemon::new(loaded, &socket, limits, stop.into())?;
    if let Some(address) = arguments.metrics {
        let bound = metrics::serve(address, socket.clone())?;
        tracing::info!("metrics at http://{bound}/metrics");
    }
    tracing::info!(%mode, socket = %socket.display(), "listening");
    notify::ready();
    match daemon.run()? {
        Ending::Asked => {
            tracing::info!("asked to end: everything is detached");
            Ok(ExitCode::SUCCESS)
        }
        Ending::Mode(reason) => {
            tracing::error!(%reason, "the kernel ended the mode");
            Ok(ExitCode::from(EXIT_ENDED))
        }
    }
}

fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

fn show(socket: &std::path::Path, once: bool, interval: u64) -> anyhow::Result<ExitCode> {
    let first = operator::ask(socket)?;
    let terminal = std::io::stdout().is_terminal();
    if once || !terminal {
        return out(&top::render(&first, None, 0));
    }
    let stop = stop_signal()?;
    let mut previous = None;
    let mut report = first;
    loop {
        let rows = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(24, |size| usize::from(size.ws_row));
        // Home, the table, and nothing below it.
        let table = top::render(&report, previous.as_ref(), rows).replace('\n', "\x1b[K\n");
        out(&format!("\x1b[H{table}\x1b[J"))?;
        std::io::stdout().flush().context("cannot write")?;
        let wait = Duration::from_secs(interval).try_into().context("the interval is too long")?;
        if poll(&mut [PollFd::new(&stop, PollFlags::IN)], Some(&wait)).is_ok_and(|ready| ready > 0) {
            return Ok(ExitCode::SUCCESS);
        }
        previous = Some(std::mem::replace(&mut report, operator::ask(socket)?));
    }
}

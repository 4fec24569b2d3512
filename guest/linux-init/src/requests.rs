//! What the host asks for, and what is done about it.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use holm_guest_control::secrets::GuestSecret;
use holm_guest_control::{
    Config, ErrorBody, ErrorCode, ExecRequest, ExitReport, ExitStatus, Features, GuestMessage, HelloAck, HostMessage,
    LogStream, Metrics, Outcome, PROTOCOL, PROTOCOL_OLDEST, ReplyValue, VolumeAction, What,
};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::console::say;
use crate::exec::{Ends, Exec};
use crate::health::Checks;
use crate::output::OutputPipe;
use crate::process::{Launch, Role};
use crate::root::Root;
use crate::secrets::{self, Owned};
use crate::supervisor::{Configured, Subscription, Supervisor, working_dir};
use crate::users::{self, Identity};
use crate::volumes::{Asked, Volumes};
use crate::{cgroup, clock, names, netlink, process};

/// Commands that may run beside the app at once.
const MAX_EXECS: usize = 32;

type Answer = Result<ReplyValue, ErrorBody>;

fn error(code: ErrorCode, message: impl ToString) -> ErrorBody {
    ErrorBody { code, message: message.to_string() }
}

impl Supervisor {
    /// Takes one message of the host. Those of another session than the present one are dropped.
    pub(crate) fn take_message(&mut self, from: u64, json: &[u8]) {
        let Some(message) = HostMessage::decode(json) else {
            return;
        };
        if let HostMessage::Hello { protocol, oldest, agent: _, unix_ns } = message {
            self.greet(from, protocol, oldest, unix_ns);
            return;
        }
        if self.session != Some(from) {
            return;
        }
        match message {
            HostMessage::Configure { id, config } => {
                let answer = self.configure(*config);
                self.reply(id, answer);
            }
            HostMessage::Start { id } => {
                let answer = self.start();
                self.reply(id, answer);
            }
            HostMessage::Signal { id, signal } => {
                let answer = self.signal_app(signal);
                self.reply(id, answer);
            }
            HostMessage::Stop { id, grace_ms } => {
                self.reply(id, Ok(ReplyValue::Done));
                self.stop(grace_ms);
            }
            HostMessage::Metrics { id } => {
                let metrics = self.metrics();
                self.reply(id, Ok(ReplyValue::Metrics(metrics)));
            }
            HostMessage::SetTime { id, unix_ns } => {
                let set =
                    clock::follow(unix_ns).map_err(|e| error(ErrorCode::Failed, format!("cannot set the clock: {e}")));
                self.reply(id, set.map(|()| ReplyValue::Done));
            }
            HostMessage::Volume { id, serial, action } => {
                self.act_on_volume(Asked { session: from, id }, &serial, action)
            }
            HostMessage::Names { id, names } => {
                *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
                self.reply(id, Ok(ReplyValue::Done));
            }
            HostMessage::LogsFrom { subscription, seq, window } => {
                self.subscription = Some(Subscription { number: subscription, next: seq, credit: window });
            }
            HostMessage::LogsAck { subscription, credit } => {
                if let Some(current) = self.subscription.as_mut().filter(|s| s.number == subscription) {
                    current.credit = current.credit.saturating_add(credit);
                }
            }
            HostMessage::LogsEnd => self.subscription = None,
            HostMessage::Exec { id, stream, request, window } => {
                let answer = self.exec(stream, request, window);
                self.reply(id, answer);
            }
            HostMessage::ExecEof { stream } => {
                if let Some(exec) = self.execs.get_mut(&stream) {
                    exec.end_stdin();
                }
                self.feed_exec(stream);
            }
            HostMessage::ExecResize { stream, rows, cols } => {
                if let Some(exec) = self.execs.get(&stream) {
                    exec.resize(rows, cols);
                }
            }
            HostMessage::ExecSignal { stream, signal } => {
                if let (Some(exec), Some(signal)) = (self.execs.get(&stream), process::signal(signal)) {
                    // A command that has just ended needs no signal.
                    let _ = rustix::process::kill_process_group(exec.pid, signal);
                }
            }
            HostMessage::ExecCredit { stream, credit } => {
                if let Some(exec) = self.execs.get_mut(&stream) {
                    exec.add_credit(credit);
                }
            }
            HostMessage::ExecDetach { stream } => {
                if let Some(mut exec) = self.execs.remove(&stream) {
                    self.detach(&mut exec);
                    self.orphans.push(exec);
                }
            }
            HostMessage::Hello { .. } | HostMessage::Unknown => {}
        }
    }

    fn act_on_volume(&mut self, asked: Asked, serial: &str, action: VolumeAction) {
        let ending = self.is_ending();
        let acted = match &mut self.configured {
            None => Err(error(ErrorCode::Refused, "the guest is not configured yet")),
            Some(_) if ending && matches!(action, VolumeAction::Freeze { .. }) => {
                Err(error(ErrorCode::Refused, "the guest is about to end"))
            }
            Some(configured) => configured.volumes.act(asked, serial, action, &self.wake),
        };
        match acted {
            Ok(false) => {}
            Ok(true) => self.reply(asked.id, Ok(ReplyValue::Done)),
            Err(why) => self.reply(asked.id, Err(why)),
        }
    }

    /// Answers for the volumes that are frozen by now.
    pub(crate) fn tell_frozen(&mut self) {
        let session = self.session;
        let answers = self.configured.as_mut().map(|configured| configured.volumes.flushed(session));
        for (id, frozen) in answers.unwrap_or_default() {
            self.reply(id, frozen.map(|()| ReplyValue::Done));
        }
    }

    fn reply(&mut self, id: u32, answer: Answer) {
        let outcome = match answer {
            Ok(value) => Outcome::Ok(value),
            Err(body) => Outcome::Error(body),
        };
        self.tell(&GuestMessage::Reply { id, outcome });
    }

    /// Opens the session, or repeats the acknowledgement of the present one.
    fn greet(&mut self, session: u64, newest: u32, oldest: u32, unix_ns: u64) {
        if self.session != Some(session) {
            self.end_session();
            self.port.begin_session();
            self.session = Some(session);
        }
        let protocol = newest.min(PROTOCOL);
        if protocol < oldest.max(PROTOCOL_OLDEST) {
            self.tell(&GuestMessage::HelloRefused { protocol: PROTOCOL, oldest: PROTOCOL_OLDEST });
            return;
        }
        if let Err(why) = clock::follow(unix_ns) {
            say(format_args!("cannot set the clock: {why}"));
        }
        let features = [
            Features::EXEC,
            Features::EXEC_TTY,
            Features::LOGS,
            Features::HEALTH,
            Features::METRICS,
            Features::SET_TIME,
            Features::FILES,
            Features::SECRETS,
            Features::NAMES,
            Features::VOLUMES,
        ];
        let mut status = self.status.clone();
        status.next_log = self.ring.next_seq();
        let ack = HelloAck {
            protocol,
            boot_id: self.boot_id.clone(),
            features: features.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
            agent: concat!("holm-linux-init/", env!("CARGO_PKG_VERSION")).to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            boot: self.marks.0.clone(),
            status,
        };
        self.tell(&GuestMessage::HelloAck(ack));
    }

    fn configure(&mut self, config: Config) -> Answer {
        if let Some(present) = &self.configured {
            return if present.config == config {
                Ok(ReplyValue::Done)
            } else {
                Err(error(ErrorCode::Refused, "the guest has another configuration already; start a new microVM"))
            };
        }
        config.check().map_err(|e| error(ErrorCode::Invalid, e))?;
        self.image.clone().map_err(|e| error(ErrorCode::Failed, e))?;
        let failed = |e: &dyn std::fmt::Display| error(ErrorCode::Failed, e);

        rustix::system::sethostname(config.hostname.as_bytes())
            .map_err(|e| failed(&format!("cannot set the host name: {e}")))?;
        cgroup::set_up(config.memory_max).map_err(|e| failed(&format!("cannot make the app's control group: {e}")))?;
        if let Some(network) = &config.network {
            netlink::bring_up(network).map_err(|e| failed(&e))?;
        }
        // From here on a second try would find half a root: a failure is remembered.
        let made = make_root(&config);
        self.image = made.as_ref().map(|_| ()).map_err(|e| e.message.clone());
        let Made { root, place, identity, volumes } = made?;
        if config.network.as_ref().is_some_and(|network| network.names) {
            names::serve(self.names.clone());
        }
        self.configured = Some(Configured { config, root, place, identity, volumes });
        self.marks.set("configured");
        self.emit(What::Configured);
        Ok(ReplyValue::Done)
    }

    fn start(&mut self) -> Answer {
        if let Some(app) = self.app {
            return Ok(ReplyValue::Started { pid: app.as_raw_nonzero().get().unsigned_abs() });
        }
        if self.status.exit.is_some() {
            return Ok(ReplyValue::Done);
        }
        let Some(configured) = self.configured.as_ref().filter(|_| self.may_start()) else {
            return Err(error(ErrorCode::Refused, "the guest is not configured, or is stopping"));
        };
        let failed = |e: Errno| error(ErrorCode::Failed, format!("cannot make pipes for the app: {e}"));
        let config = &configured.config;
        let null =
            fs::File::open("/dev/null").map_err(|e| error(ErrorCode::Failed, format!("cannot open /dev/null: {e}")))?;
        let (stdout, app_stdout) = output_pipe(&configured.identity).map_err(failed)?;
        let (stderr, app_stderr) = output_pipe(&configured.identity).map_err(failed)?;
        let launch = Launch {
            role: Role::App,
            command: &config.command,
            env: &environment(config),
            identity: &configured.identity,
            working_dir: working_dir(config),
            stdin: null.into(),
            stdout: app_stdout,
            stderr: app_stderr,
            terminal: false,
        };
        match process::launch(&configured.place, launch) {
            Ok(app) => {
                let pid = app.as_raw_nonzero().get().unsigned_abs();
                self.outputs =
                    vec![OutputPipe::new(stdout, LogStream::Stdout), OutputPipe::new(stderr, LogStream::Stderr)];
                self.checks = config.health.clone().map(|check| Checks::new(check, clock::since_boot_ns()));
                self.app = Some(app);
                self.marks.set("started");
                self.emit(What::Started { pid });
                Ok(ReplyValue::Started { pid })
            }
            Err(body) => {
                let code = if body.code == ErrorCode::CommandNotFound { 127 } else { 126 };
                say(format_args!("app could not start: {}", body.message));
                self.exited(ExitReport {
                    status: ExitStatus::Code(code),
                    oom: false,
                    start_error: Some(body.message.clone()),
                    memory: cgroup::memory(),
                    at_unix_ns: clock::unix_ns(),
                });
                Err(body)
            }
        }
    }

    fn signal_app(&mut self, number: i32) -> Answer {
        let signal = process::signal(number)
            .ok_or_else(|| error(ErrorCode::Invalid, format!("signal {number} is not in 1..=64")))?;
        let app = self.app.ok_or_else(|| error(ErrorCode::Refused, "the app does not run"))?;
        rustix::process::kill_process(app, signal)
            .map_err(|e| error(ErrorCode::Failed, format!("cannot signal the app: {e}")))?;
        Ok(ReplyValue::Done)
    }

    fn exec(&mut self, stream: u32, request: ExecRequest, window: u32) -> Answer {
        let Some(configured) = &self.configured else {
            return Err(error(ErrorCode::Refused, "the guest is not configured yet"));
        };
        if stream == 0 || self.execs.contains_key(&stream) {
            return Err(error(ErrorCode::Invalid, format!("exec stream {stream} is in use")));
        }
        if self.execs.len() + self.orphans.len() >= MAX_EXECS {
            return Err(error(ErrorCode::Refused, format!("{MAX_EXECS} commands run already")));
        }
        let zero = |text: &String| text.contains('\0');
        let strings = request.command.iter().chain(request.env.keys()).chain(request.env.values());
        if strings.chain(&request.working_dir).any(zero) || request.env.keys().any(|k| k.is_empty() || k.contains('='))
        {
            return Err(error(ErrorCode::Invalid, "command, environment or working directory is malformed"));
        }
        let config = &configured.config;
        let identity = match &request.user {
            Some(user) => identity(&configured.root, user)?,
            None => configured.identity.clone(),
        };
        let dir = request.working_dir.as_deref().filter(|d| !d.is_empty()).unwrap_or_else(|| working_dir(config));
        if !configured.root.has_folder(dir) {
            return Err(error(
                ErrorCode::Invalid,
                format!("working directory `{dir}` is not a folder in the instance"),
            ));
        }
        let mut env = environment(config);
        if let Some(terminal) = &request.terminal {
            let term = if terminal.term.is_empty() { "xterm" } else { &terminal.term };
            env.insert("TERM".to_owned(), term.to_owned());
        }
        env.extend(request.env.clone());

        let failed = |e: Errno| error(ErrorCode::Failed, format!("cannot make the command's pipes: {e}"));
        let (ends, stdin, stdout, stderr) = match &request.terminal {
            Some(_) => terminal_ends(&configured.root, &identity),
            None => pipe_ends(&identity),
        }
        .map_err(failed)?;
        let launch = Launch {
            role: Role::Beside,
            command: &request.command,
            env: &env,
            identity: &identity,
            working_dir: dir,
            stdin,
            stdout,
            stderr,
            terminal: request.terminal.is_some(),
        };
        // The size is the terminal's before the command can ask for it.
        if let (Some(terminal), Ends::Terminal(master, _)) = (&request.terminal, &ends) {
            let size =
                rustix::termios::Winsize { ws_row: terminal.rows, ws_col: terminal.cols, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(master, size).map_err(failed)?;
        }
        let pid = process::launch(&configured.place, launch)?;
        self.execs.insert(stream, Exec::new(pid, ends, window));
        Ok(ReplyValue::Started { pid: pid.as_raw_nonzero().get().unsigned_abs() })
    }

    fn metrics(&self) -> Metrics {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |key| cgroup::keyed(&meminfo, key).unwrap_or(0) * 1024;
        let (cpu_usec, processes) = cgroup::usage();
        Metrics {
            memory: cgroup::memory(),
            cpu_usec,
            processes,
            load_hundredths: load(&fs::read_to_string("/proc/loadavg").unwrap_or_default()),
            guest_memory_total: kib("MemTotal"),
            guest_memory_available: kib("MemAvailable"),
            uptime_ns: clock::since_boot_ns(),
            logs_dropped: self.ring.dropped(),
        }
    }
}

/// What a configuration becomes.
struct Made {
    root: Root,
    place: process::Place,
    identity: Identity,
    volumes: Volumes,
}

fn make_root(config: &Config) -> Result<Made, ErrorBody> {
    let failed = |e: crate::root::RootError| error(ErrorCode::Failed, e);
    let root = Root::assemble(&config.root).map_err(failed)?;
    let identity = identity(&root, &config.user)?;
    root.write_files(config).map_err(failed)?;
    if let Some(all) = &config.secrets {
        let owned = |(name, secret)| own(&root, &identity, name, secret);
        let files: Vec<Owned<'_>> = all.secrets.iter().map(owned).collect::<Result<_, ErrorBody>>()?;
        secrets::deliver(&root, all, &files, &identity).map_err(failed)?;
    }
    root.make_folders(working_dir(config), identity.uid, identity.gid).map_err(failed)?;
    let volumes = Volumes::mount(&root, &config.volumes, &identity).map_err(|why| error(ErrorCode::Failed, why))?;
    let place = root.enter_place().map_err(failed)?;
    Ok(Made { root, place, identity, volumes })
}

/// The secret's file with its owner: the app's user, or another one of the image.
fn own<'s>(root: &Root, app: &Identity, name: &'s String, secret: &'s GuestSecret) -> Result<Owned<'s>, ErrorBody> {
    let owner = match &secret.owner {
        Some(user) => identity(root, user)?,
        None => app.clone(),
    };
    Ok(Owned { name, value: &secret.value, mode: secret.mode, owner })
}

fn identity(root: &Root, user: &str) -> Result<Identity, ErrorBody> {
    users::resolve(user, &root.read_text("/etc/passwd"), &root.read_text("/etc/group"))
        .map_err(|e| error(ErrorCode::Invalid, e))
}

/// The app's environment, with its host name.
pub(crate) fn environment(config: &Config) -> std::collections::BTreeMap<String, String> {
    let mut env = config.env.clone();
    for (name, value) in config.secrets.iter().flat_map(|secrets| secrets.variables()) {
        env.insert(name.to_owned(), value.to_owned());
    }
    env.entry("HOSTNAME".to_owned()).or_insert_with(|| config.hostname.clone());
    env
}

/// A pipe whose reading end is PID 1's and does not block. The writing end belongs to the app's user, so that the
/// app may open `/dev/stdout`.
fn output_pipe(identity: &Identity) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&read, true)?;
    let owner = (rustix::fs::Uid::from_raw(identity.uid), rustix::fs::Gid::from_raw(identity.gid));
    rustix::fs::fchown(&write, Some(owner.0), Some(owner.1))?;
    Ok((read, write))
}

type AllEnds = (Ends, OwnedFd, OwnedFd, OwnedFd);

fn pipe_ends(identity: &Identity) -> rustix::io::Result<AllEnds> {
    let (stdin, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&write, true)?;
    let (read_out, stdout) = output_pipe(identity)?;
    let (read_err, stderr) = output_pipe(identity)?;
    Ok((Ends::Pipes(write, read_out, read_err), stdin, stdout, stderr))
}

fn terminal_ends(root: &Root, identity: &Identity) -> rustix::io::Result<AllEnds> {
    let (master, process_end) = root.open_terminal()?;
    let again = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    rustix::fs::fchown(&process_end, Some(rustix::fs::Uid::from_raw(identity.uid)), None)?;
    let (stdout, stderr) = (again(&process_end)?, again(&process_end)?);
    let output = again(&master)?;
    Ok((Ends::Terminal(master, output), process_end, stdout, stderr))
}

/// The three averages of `/proc/loadavg` in hundredths.
fn load(text: &str) -> [u32; 3] {
    let mut averages = [0; 3];
    for (slot, field) in averages.iter_mut().zip(text.split_whitespace()) {
        let (whole, hundredths) = field.split_once('.').unwrap_or((field, "0"));
        *slot = whole.parse::<u32>().unwrap_or(0) * 100 + hundredths.parse::<u32>().unwrap_or(0);
    }
    averages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_averages_are_read_in_hundredths() {
        assert_eq!(load("0.07 1.50 12.00 1/80 200\n"), [7, 150, 1200]);
        assert_eq!(load(""), [0; 3]);
    }
}

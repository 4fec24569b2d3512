//! The main loop: waits for whatever comes next and keeps the guest's state.

mod ending;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holm_guest_control::{
    Config, Event, ExitStatus, GuestMessage, Kind, LogRing, MessageAssembler, Phase, ReadLog, Status, What, frame_cost,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use crate::boot::Marks;
use crate::console::say;
use crate::exec::Exec;
use crate::health::Checks;
use crate::output::OutputPipe;
use crate::port::Port;
use crate::presence::Presence;
use crate::process::{Launch, Place, Role};
use crate::requests::environment;
use crate::root::Root;
use crate::users::Identity;
use crate::volumes::Volumes;
use crate::{cgroup, clock, names, process};
use ending::Ending;

/// Bytes of output the guest keeps for a host that is away.
const LOG_RING: usize = 1024 * 1024;

/// What `Configure` made.
pub(crate) struct Configured {
    pub(crate) config: Config,
    pub(crate) root: Root,
    pub(crate) place: Place,
    pub(crate) identity: Identity,
    pub(crate) volumes: Volumes,
}

/// The host's wish for logs.
pub(crate) struct Subscription {
    pub(crate) number: u32,
    pub(crate) next: u64,
    pub(crate) credit: u32,
}

/// Everything PID 1 knows.
pub(crate) struct Supervisor {
    pub(crate) port: Port,
    pub(crate) session: Option<u64>,
    presence: Presence,
    assembler: MessageAssembler,
    pub(crate) status: Status,
    pub(crate) marks: Marks,
    pub(crate) boot_id: String,
    /// Why the image could not be mounted, told when it is needed.
    pub(crate) image: Result<(), String>,
    pub(crate) configured: Option<Configured>,
    pub(crate) app: Option<Pid>,
    pub(crate) outputs: Vec<OutputPipe>,
    pub(crate) ring: LogRing,
    pub(crate) subscription: Option<Subscription>,
    pub(crate) execs: BTreeMap<u32, Exec>,
    /// Commands whose session is over, still to be reaped.
    pub(crate) orphans: Vec<Exec>,
    pub(crate) checks: Option<Checks>,
    /// What the host said of the app's own instances.
    pub(crate) names: names::Shared,
    ending: Ending,
    linger_until: Option<u64>,
    signals: UnixStream,
    pub(crate) wake: UnixStream,
    told_to_end: Arc<AtomicBool>,
}

/// What a poll entry stands for.
#[derive(Clone, Copy)]
enum Token {
    Port,
    Wake,
    Output(usize),
    ExecOutput(u32, usize),
    ExecInput(u32),
    OrphanOutput(usize, usize),
}

impl Supervisor {
    pub(crate) fn new(port: Port, marks: Marks, image: Result<(), String>) -> std::io::Result<Self> {
        let (signals, wake) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let told_to_end = Arc::new(AtomicBool::new(false));
        signal_hook::low_level::pipe::register(SIGCHLD, wake.try_clone()?)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, told_to_end.clone())?;
            signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        if let Err(why) = &image {
            say(format_args!("{why}"));
        }
        let mut supervisor = Self {
            port,
            session: None,
            presence: Presence::default(),
            assembler: MessageAssembler::default(),
            status: Status::booted(),
            marks,
            boot_id: boot_id.trim().to_owned(),
            image,
            configured: None,
            app: None,
            outputs: Vec::new(),
            ring: LogRing::new(LOG_RING),
            subscription: None,
            execs: BTreeMap::new(),
            orphans: Vec::new(),
            checks: None,
            names: names::Shared::default(),
            ending: Ending::No,
            linger_until: None,
            signals,
            wake,
            told_to_end,
        };
        supervisor.emit(What::Booted);
        Ok(supervisor)
    }

    /// Runs until the guest shall power off.
    pub(crate) fn run(&mut self) {
        loop {
            self.pump_logs();
            self.port.flush();
            if self.may_leave() {
                return;
            }
            if self.port.is_due() {
                self.receive();
                continue;
            }
            for token in self.wait() {
                self.handle(token);
            }
            if self.told_to_end.swap(false, Ordering::Relaxed) {
                self.stop(None);
            }
            self.reap();
            self.keep_deadlines();
        }
    }

    /// Takes a change of state, tells the host, and gives the event.
    pub(crate) fn emit(&mut self, what: What) {
        let seq = self.status.last_event + 1;
        let event = Event { seq, at_unix_ns: clock::unix_ns(), since_boot_ns: clock::since_boot_ns(), what };
        self.status.apply(&event);
        self.tell(&GuestMessage::Event(event));
    }

    /// Sends a message to the host, if one is there.
    pub(crate) fn tell(&mut self, message: &GuestMessage) {
        if let Some(session) = self.session {
            self.port.queue_message(session, message);
        }
    }

    fn wait(&mut self) -> Vec<Token> {
        let timeout = self.next_deadline().map(|at| {
            let left = at.saturating_sub(clock::since_boot_ns());
            // Rounded up to the next microsecond, so that a deadline has passed when poll returns.
            let left = left + 1000;
            Timespec {
                tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
            }
        });
        let room = self.port.has_room();
        let mut entries: Vec<(Token, BorrowedFd<'_>, PollFlags)> = vec![
            (Token::Port, self.port.attention(), PollFlags::IN),
            (Token::Wake, self.signals.as_fd(), PollFlags::IN),
        ];
        for (index, output) in self.outputs.iter().enumerate() {
            entries.push((Token::Output(index), output.fd.as_fd(), PollFlags::IN));
        }
        for (&stream, exec) in &self.execs {
            for output in 0..2 {
                if let Some(fd) = exec.readable(output, room) {
                    entries.push((Token::ExecOutput(stream, output), fd, PollFlags::IN));
                }
            }
            if let Some(fd) = exec.writable() {
                entries.push((Token::ExecInput(stream), fd, PollFlags::OUT));
            }
        }
        for (index, exec) in self.orphans.iter().enumerate() {
            for output in 0..2 {
                if let Some(fd) = exec.readable(output, true) {
                    entries.push((Token::OrphanOutput(index, output), fd, PollFlags::IN));
                }
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            entries.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = entries.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|((token, ..), _)| *token).collect()
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Port => self.receive(),
            Token::Wake => {
                let mut bytes = [0u8; 64];
                while matches!(self.signals.read(&mut bytes), Ok(1..)) {}
            }
            Token::Output(index) => {
                // Closed outputs are taken out by `keep_deadlines`, so that indices stay true meanwhile.
                if let Some(output) = self.outputs.get_mut(index)
                    && !output.read(&mut self.ring)
                {
                    output.flush_at = Some(0);
                }
            }
            Token::ExecOutput(stream, output) => {
                if let Some(exec) = self.execs.get_mut(&stream) {
                    exec.read_output(output, stream, self.session, &mut self.port);
                }
            }
            Token::ExecInput(stream) => self.feed_exec(stream),
            Token::OrphanOutput(index, output) => {
                if let Some(exec) = self.orphans.get_mut(index) {
                    exec.read_output(output, 0, None, &mut self.port);
                }
            }
        }
    }

    /// Writes waiting input of a command and returns its credit.
    pub(crate) fn feed_exec(&mut self, stream: u32) {
        let mut returned = None;
        if let Some(exec) = self.execs.get_mut(&stream) {
            exec.write_stdin(|credit| returned = Some(credit));
        }
        if let Some(credit) = returned {
            self.tell(&GuestMessage::ExecCredit { stream, credit });
        }
    }

    fn receive(&mut self) {
        let (frames, closed) = self.port.receive();
        for frame in frames {
            match frame.kind {
                Kind::Message => {
                    let from = frame.session;
                    if let Some(json) = self.assembler.push(frame) {
                        self.take_message(from, &json);
                    }
                }
                Kind::Stdin if self.session == Some(frame.session) => {
                    if let Some(exec) = self.execs.get_mut(&frame.stream) {
                        exec.push_stdin(&frame.payload);
                    }
                    self.feed_exec(frame.stream);
                }
                _ => {}
            }
        }
        self.presence.note(closed && self.session.is_some(), clock::since_boot_ns());
    }

    /// The host is gone or another one came: its commands lose their listener, its subscription ends.
    pub(crate) fn end_session(&mut self) {
        self.session = None;
        self.subscription = None;
        if let Some(configured) = &mut self.configured {
            configured.volumes.let_go();
        }
        for (_, mut exec) in std::mem::take(&mut self.execs) {
            self.detach(&mut exec);
            self.orphans.push(exec);
        }
    }

    /// Ends the host's interest in one command.
    pub(crate) fn detach(&self, exec: &mut Exec) {
        if exec.is_attached() {
            exec.detach();
        }
    }

    /// Sends as many log records as window and port allow.
    fn pump_logs(&mut self) {
        let (Some(session), Some(subscription)) = (self.session, &mut self.subscription) else {
            return;
        };
        while self.port.has_room() {
            match self.ring.read(subscription.next) {
                ReadLog::End => break,
                ReadLog::Dropped { oldest } => {
                    let count = oldest - subscription.next;
                    let message = GuestMessage::LogsDropped { subscription: subscription.number, count, next: oldest };
                    self.port.queue_message(session, &message);
                    subscription.next = oldest;
                }
                ReadLog::Record(record) => {
                    let cost = frame_cost(record.wire_len());
                    if subscription.credit < cost {
                        break;
                    }
                    subscription.credit -= cost;
                    subscription.next += 1;
                    self.port.queue_bytes(session, Kind::Log, subscription.number, record.encode());
                }
            }
        }
    }

    /// Takes in every process that has ended: the app, commands, checks, and what they left behind.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some(status) = exit_status(status) else {
                continue;
            };
            let now = clock::since_boot_ns();
            if self.app == Some(pid) {
                self.app_ended(status);
                continue;
            }
            if let Some(exec) = self.execs.values_mut().chain(&mut self.orphans).find(|e| e.pid == pid) {
                exec.reaped(status);
                continue;
            }
            let verdict = self.checks.as_mut().and_then(|c| c.reaped(pid, status.shell_code(), now, clock::unix_ns()));
            if let Some(health) = verdict {
                self.emit(What::Health(health));
            }
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let ending = match self.ending {
            Ending::No => self.linger_until,
            Ending::Asked { kill_at } => Some(kill_at),
            Ending::Farewell { until } => Some(until),
        };
        let room = self.port.has_room();
        let outputs = self.outputs.iter().filter_map(|o| o.flush_at);
        let execs = self.execs.values().filter_map(|e| e.deadline(room));
        let orphans = self.orphans.iter().filter_map(|e| e.deadline(true));
        let checks = self.checks.as_ref().and_then(Checks::deadline);
        let host = self.presence.deadline();
        let frozen = self.configured.as_ref().and_then(|configured| configured.volumes.deadline());
        ending.into_iter().chain(host).chain(frozen).chain(outputs).chain(execs).chain(orphans).chain(checks).min()
    }

    /// Does what is due.
    fn keep_deadlines(&mut self) {
        let now = clock::since_boot_ns();
        if let Some(configured) = &mut self.configured {
            configured.volumes.thaw_due(Some(now));
        }
        self.tell_frozen();
        if self.presence.is_gone(now) {
            // A last look: the port may be open again without anything to read.
            self.receive();
            if self.presence.is_gone(now) {
                self.end_session();
                self.port.begin_session();
                self.presence = Presence::default();
            }
        }
        for output in &mut self.outputs {
            if output.flush_at.is_some_and(|at| at > 0 && at <= now) {
                output.flush(&mut self.ring);
            }
        }
        self.outputs.retain(|output| output.flush_at != Some(0));

        let room = self.port.has_room();
        let mut over = Vec::new();
        for (&stream, exec) in &mut self.execs {
            over.extend(exec.finish(stream, now, room).map(|message| (stream, message)));
        }
        for (stream, message) in over {
            self.execs.remove(&stream);
            self.tell(&message);
        }
        self.orphans.retain_mut(|exec| exec.finish(0, now, true).is_none());

        match self.ending {
            Ending::Asked { kill_at } if kill_at <= now => {
                say(format_args!("grace is over, killing the app"));
                self.ending = Ending::Asked { kill_at: u64::MAX };
                cgroup::kill_all();
                if let Some(app) = self.app {
                    // Also where the kernel has no `cgroup.kill`.
                    let _ = rustix::process::kill_process(app, Signal::KILL);
                }
            }
            Ending::No if self.linger_until.is_some_and(|at| at <= now) => {
                say(format_args!("nobody fetched the exit status in time, powering off"));
                self.say_farewell();
            }
            _ => {}
        }
        self.check_health(now);
    }

    fn check_health(&mut self, now: u64) {
        let (Some(checks), Some(configured)) = (&mut self.checks, &self.configured) else {
            return;
        };
        let verdict = checks.step(now, clock::unix_ns(), &self.wake, |command| {
            let null = || std::fs::File::options().read(true).write(true).open("/dev/null");
            let ends = (|| Ok::<_, std::io::Error>((null()?.into(), null()?.into(), null()?.into())))();
            let (stdin, stdout, stderr) = ends.map_err(|e| e.to_string())?;
            let launch = Launch {
                role: Role::Beside,
                command,
                env: &environment(&configured.config),
                identity: &configured.identity,
                working_dir: working_dir(&configured.config),
                stdin,
                stdout,
                stderr,
                terminal: false,
            };
            process::launch(&configured.place, launch).map_err(|e| e.message)
        });
        if let Some(health) = verdict {
            self.emit(What::Health(health));
        }
    }

    /// The app's phase allows a start.
    pub(crate) fn may_start(&self) -> bool {
        self.status.phase == Phase::Configured && matches!(self.ending, Ending::No)
    }
}

/// The folder the app starts in.
pub(crate) fn working_dir(config: &Config) -> &str {
    if config.working_dir.is_empty() { "/" } else { &config.working_dir }
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(ExitStatus::Code(code)),
        (None, Some(signal)) => Some(ExitStatus::Signal(signal)),
        (None, None) => None,
    }
}

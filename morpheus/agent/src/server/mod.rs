//! The daemon: one thread, one epoll, a socket of packets. It takes a process from the socket's credentials and a thread
//! from the kernel, never from a message; hands out pages; beats; and undoes everything when a thread, a connection, a
//! process or the daemon itself ends.

pub mod credentials;
pub mod operator;
mod request;
mod session;
mod snapshot;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use morpheus_abi::protocol::{Message, Refusal};
use morpheus_abi::{ABI_VERSION, HEARTBEAT_PERIOD_NS};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::mode::{Health, Mode};
use crate::pressure::Pressure;
use crate::report::Totals;
use crate::worker::{Limits, Table};
use session::Session;

/// Connections of one user beyond which further ones are closed at once; each takes a few descriptors.
const CONNECTIONS_PER_USER: usize = 512;
/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// How the daemon ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to.
    Asked,
    /// The kernel ended the mode.
    Mode(String),
}

/// What an epoll event is about; packed into its 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Listener,
    Stop,
    Beat,
    /// A connection, by its number.
    Connection(u64),
    /// The process of a connection has ended.
    Process(u64),
    /// A worker's thread has ended, by generation.
    Worker(u32),
}

impl Source {
    fn data(self) -> epoll::EventData {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Stop => (1, 0),
            Self::Beat => (2, 0),
            Self::Connection(number) => (3, number),
            Self::Process(number) => (4, number),
            Self::Worker(generation) => (5, u64::from(generation)),
        };
        epoll::EventData::new_u64(kind << 56 | number)
    }

    fn of(data: epoll::EventData) -> Self {
        let number = data.u64() & ((1 << 56) - 1);
        match data.u64() >> 56 {
            0 => Self::Listener,
            1 => Self::Stop,
            2 => Self::Beat,
            3 => Self::Connection(number),
            4 => Self::Process(number),
            // Only `data` writes these numbers, and a generation has 32 bits.
            _ => Self::Worker(number as u32),
        }
    }
}

/// Now, as the pages have it: CLOCK_MONOTONIC in ns.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative on this clock.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The running daemon.
pub struct Daemon {
    mode: Box<dyn Mode>,
    path: PathBuf,
    epoll: OwnedFd,
    listener: OwnedFd,
    beat: OwnedFd,
    /// Epoll watches it; it only has to stay open.
    _stop: OwnedFd,
    table: Table,
    sessions: HashMap<u64, Session>,
    /// Each worker's connection, by the worker's generation.
    sessions_of_workers: HashMap<u32, u64>,
    last_session: u64,
    generation: u64,
    started_ns: u64,
    /// Refusals by their number.
    refused: BTreeMap<u32, u64>,
    /// The counts of workers that are gone.
    gone: Totals,
    /// Whether the system is short of CPU.
    pressure: Pressure,
}

impl Daemon {
    /// Starts the mode and listens. `stop`: a descriptor that becomes readable when the daemon is to end.
    ///
    /// # Errors
    /// When another agent listens there, or the kernel refuses.
    pub fn new(mut mode: Box<dyn Mode>, path: &Path, limits: Limits, stop: OwnedFd) -> anyhow::Result<Self> {
        let listener = listen_at(path)?;
        mode.start().context("cannot start the mode")?;
        let beat = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .context("cannot make a timer")?;
        // Half a second fits.
        let period = Timespec { tv_sec: 0, tv_nsec: HEARTBEAT_PERIOD_NS as _ };
        timerfd_settime(&beat, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: period, it_value: period })
            .context("cannot set a timer")?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot make an epoll")?;
        for (fd, source) in [(&listener, Source::Listener), (&beat, Source::Beat), (&stop, Source::Stop)] {
            epoll::add(&epoll, fd, source.data(), epoll::EventFlags::IN).context("cannot watch a descriptor")?;
        }
        let started_ns = now_ns();
        Ok(Self {
            mode,
            path: path.to_owned(),
            epoll,
            listener,
            beat,
            _stop: stop,
            table: Table::new(limits),
            sessions: HashMap::new(),
            sessions_of_workers: HashMap::new(),
            last_session: 0,
            // Another one at each start: the clock moves on, and it has been running for at least a nanosecond.
            generation: started_ns,
            started_ns,
            refused: BTreeMap::new(),
            gone: Totals::default(),
            pressure: Pressure::default(),
        })
    }

    /// Serves until asked to stop, or until the kernel ends the mode; then undoes everything.
    ///
    /// # Errors
    /// When waiting for events fails; everything is undone then, too.
    pub fn run(mut self) -> anyhow::Result<Ending> {
        let ending = self.serve_all();
        self.shut_down();
        ending
    }

    fn serve_all(&mut self) -> anyhow::Result<Ending> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for events"),
            }
            for event in &events {
                match Source::of(event.data) {
                    Source::Stop => return Ok(Ending::Asked),
                    Source::Listener => self.accept(),
                    Source::Beat => {
                        self.beat();
                        if let Health::Ended(reason) = self.mode.health() {
                            return Ok(Ending::Mode(reason));
                        }
                    }
                    Source::Connection(number) => {
                        if !self.serve(number) {
                            self.close(number);
                        }
                    }
                    Source::Process(number) => self.close(number),
                    Source::Worker(generation) => self.end_worker(generation),
                }
            }
        }
    }

    fn accept(&mut self) {
        loop {
            let socket = match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    return;
                }
            };
            if let Err(error) = self.admit(socket) {
                tracing::warn!("a connection is refused: {error:#}");
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) -> anyhow::Result<()> {
        sockopt::set_socket_passcred(&socket, true).context("cannot ask for credentials")?;
        let peer = credentials::peer(socket.as_fd()).context("the peer is unknown")?;
        if self.sessions.values().filter(|session| session.peer.uid == peer.uid).count() >= CONNECTIONS_PER_USER {
            *self.refused.entry(Refusal::Full as u32).or_default() += 1;
            let refused = Message::Refused { refusal: Refusal::Full, abi_version: ABI_VERSION };
            operator::send_with(&socket, &refused.encode(), &[]).context("cannot answer")?;
            anyhow::bail!("user {} has {CONNECTIONS_PER_USER} connections", peer.uid);
        }
        self.last_session += 1;
        let source = Source::Connection(self.last_session).data();
        epoll::add(&self.epoll, &socket, source, epoll::EventFlags::IN).context("cannot watch a connection")?;
        self.sessions.insert(self.last_session, Session { socket, peer, served: None });
        Ok(())
    }

    /// Every half second: the heartbeat, and slots that have rested.
    fn beat(&mut self) {
        let mut expirations = [0; 8];
        let _: Result<usize, Errno> = rustix::io::read(&self.beat, &mut expirations);
        self.heartbeat();
        if !self.sessions.is_empty() && self.pressure.look(now_ns()) {
            self.mode.maps().press(now_ns() + 2 * HEARTBEAT_PERIOD_NS);
        }
        let resting: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.served.as_ref().is_some_and(|served| self.table.rests(served.index)))
            .map(|(number, _)| *number)
            .collect();
        for number in resting {
            self.rest(number);
        }
    }

    /// Writes the time into every page 0. Also called after each step that waits for the kernel, so that many of them in a
    /// row do not make us look dead.
    fn heartbeat(&self) {
        let now = now_ns();
        for served in self.sessions.values().filter_map(|session| session.served.as_ref()) {
            self.mode.maps().beat(served.index, now);
        }
    }

    /// The programs first: once they are detached nothing needs to be undone place by place.
    fn shut_down(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "cannot remove the socket");
        }
        self.mode.stop();
        for served in self.sessions.values().filter_map(|session| session.served.as_ref()) {
            self.mode.maps().retire(served.index);
        }
        self.sessions.clear();
    }
}

/// Listens at a path, which every user may connect to. A socket that nobody listens at any more is replaced.
fn listen_at(path: &Path) -> anyhow::Result<OwnedFd> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        anyhow::ensure!(metadata.file_type().is_socket(), "{} exists and is no socket", path.display());
        match operator::dial(path) {
            Ok(_) => anyhow::bail!("another morpheusd listens at {}", path.display()),
            Err(Errno::CONNREFUSED) => fs::remove_file(path).context("cannot remove the old socket")?,
            Err(error) => return Err(error).context("cannot tell whether another morpheusd listens"),
        }
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).context("cannot make a socket")?;
    bind(&socket, &SocketAddrUnix::new(path)?).with_context(|| format!("cannot listen at {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).context("cannot open the socket to all users")?;
    // Set before anybody can connect: inherited by what is accepted, so no packet comes without its sender.
    sockopt::set_socket_passcred(&socket, true).context("cannot ask for credentials")?;
    listen(&socket, 128).context("cannot listen")?;
    Ok(socket)
}

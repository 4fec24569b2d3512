//! A real `morpheusd` on this machine's kernel, and a client made by hand, so that tests can also send what no client would.

// Each test binary uses its own part.
#![allow(dead_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

use morpheus_abi::protocol::{MAX_MESSAGE, Message, Registration, WorkerName};
use morpheus_abi::{
    ABI_VERSION, Direction, EscalationPolicy, PAGE_SIZE, SharedKernelLine, SharedKernelPage, SharedRuntimeLine,
    SharedRuntimePage, Slot, WorkerState,
};
use morpheus_agent::observe::Observe;
use morpheus_agent::report::Report;
use morpheus_agent::server::operator;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

/// How long a condition may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether BPF is permitted here; says `skipped` when not, and fails when `MORPHEUS_REQUIRE_BPF=1`.
pub(crate) fn bpf_is_permitted() -> bool {
    match Observe::load() {
        Ok(_) => true,
        Err(error) => {
            let why = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            assert!(
                std::env::var_os("MORPHEUS_REQUIRE_BPF").is_none_or(|value| value != "1"),
                "MORPHEUS_REQUIRE_BPF=1, but {error}{why}"
            );
            eprintln!("skipped: {error}{why}");
            false
        }
    }
}

/// Waits until the condition gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // Lets whatever is waited for run; parked rather than asleep, so a wake-up would end it.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A running `morpheusd observe`.
pub(crate) struct Agent {
    child: Child,
    folder: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    /// Starts an agent whose socket lies in this folder.
    pub(crate) fn start_in(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        use std::os::unix::fs::PermissionsExt;
        // Other users' tests come through here.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("socket");
        let child = Command::new(env!("CARGO_BIN_EXE_morpheusd"))
            .arg("observe")
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut agent = Self { child, folder };
        wait_for("the agent to listen", || {
            assert_eq!(agent.child.try_wait().unwrap(), None, "the agent ended");
            operator::ask(&socket).ok()
        });
        agent
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn report(&self) -> Report {
        operator::ask(&self.socket()).unwrap()
    }

    /// Waits until the report is as wanted.
    pub(crate) fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(&Report) -> Option<T>) -> T {
        wait_for(what, || wanted(&self.report()))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, tempfile::TempDir) {
        self.signal(signal);
        let status = self.child.wait().unwrap();
        // Keep the folder: what is left in it is the test's matter.
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        (status, folder)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::to(&self.socket())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that sends whatever it is told to.
pub(crate) struct Connection(pub(crate) OwnedFd);

impl Connection {
    pub(crate) fn to(path: &Path) -> Self {
        Self(operator::dial(path).unwrap())
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        let mut control = SendAncillaryBuffer::default();
        sendmsg(&self.0, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next message and its descriptors; `None` at the end of the connection.
    pub(crate) fn receive(&self) -> Option<(Message, Vec<OwnedFd>)> {
        let mut buffer = [0; MAX_MESSAGE + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let fds = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<_>>()),
                _ => None,
            })
            .flatten()
            .collect();
        (received.bytes > 0).then(|| (Message::decode(&buffer[..received.bytes]).unwrap(), fds))
    }

    /// Sends bytes and takes the answer.
    pub(crate) fn ask_raw(&self, packet: &[u8]) -> Message {
        self.send(packet);
        self.receive().expect("an answer").0
    }

    pub(crate) fn ask(&self, message: &Message) -> Message {
        self.ask_raw(&message.encode())
    }

    pub(crate) fn hello(self) -> Client {
        self.send(&Message::Hello { abi_version: ABI_VERSION }.encode());
        let (welcome, fds) = self.receive().expect("an answer");
        let Message::Welcome { generation, .. } = welcome else { panic!("not welcome: {welcome:?}") };
        let [kernel_fd, runtime_fd] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
        let kernel = map(&kernel_fd, ProtFlags::READ).unwrap();
        let runtime = map(&runtime_fd, ProtFlags::READ | ProtFlags::WRITE).unwrap();
        let client = Client { connection: self, generation, kernel_fd, runtime_fd, kernel, runtime };
        client.kernel().header.snapshot().check(Direction::KernelToRuntime).unwrap();
        client.runtime().header.snapshot().check(Direction::RuntimeToKernel).unwrap();
        client
    }
}

/// Maps a page of an agent, for the life of the test process.
pub(crate) fn map(fd: &OwnedFd, access: ProtFlags) -> rustix::io::Result<usize> {
    // SAFETY: no address is asked for, so no other mapping is touched; pages are never unmapped by these tests.
    unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE_SIZE, access, MapFlags::SHARED, fd.as_fd(), 0) }
        .map(|address| address as usize)
}

/// A process's side after HELLO.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) generation: u64,
    pub(crate) kernel_fd: OwnedFd,
    pub(crate) runtime_fd: OwnedFd,
    pub(crate) kernel: usize,
    pub(crate) runtime: usize,
}

impl Client {
    pub(crate) fn kernel(&self) -> &'static SharedKernelPage {
        // SAFETY: a whole page, mapped readable and never unmapped; the type is atomics only, and nobody writes through it.
        unsafe { &*(self.kernel as *const SharedKernelPage) }
    }

    pub(crate) fn runtime(&self) -> &'static SharedRuntimePage {
        // SAFETY: a whole page, mapped writable and never unmapped; the type is atomics only.
        unsafe { &*(self.runtime as *const SharedRuntimePage) }
    }

    pub(crate) fn register(&self, tid: u32, name: &str) -> Message {
        self.register_rotating(tid, name, 0)
    }

    /// The same for a worker that wants LOCAL after so many ns of its own.
    pub(crate) fn register_rotating(&self, tid: u32, name: &str, rotation_ns: u32) -> Message {
        self.connection.ask(&Message::Register(Registration {
            tid,
            escapable: false,
            policy: EscalationPolicy::None,
            grace_ns: 0,
            rotation_ns,
            name: WorkerName::new(name),
        }))
    }

    pub(crate) fn lines(&self, slot: Slot) -> Lines {
        Lines { kernel: &self.kernel().lines[slot.index()], runtime: &self.runtime().lines[slot.index()] }
    }
}

pub(crate) fn own_tid() -> u32 {
    gettid().as_raw_nonzero().get() as u32
}

/// A worker's two lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines {
    pub(crate) kernel: &'static SharedKernelLine,
    pub(crate) runtime: &'static SharedRuntimeLine,
}

impl Lines {
    /// What a client writes after it is registered.
    pub(crate) fn begin(&self, generation: u32, state: WorkerState) {
        self.runtime.ack_seq.store(self.kernel.hint_seq.load(Relaxed), Relaxed);
        self.runtime.slot_generation.store(generation, Relaxed);
        self.runtime.state.store(state.number(), Release);
    }

    pub(crate) fn hints(&self) -> u32 {
        self.kernel.hint_seq.load(Relaxed)
    }

    /// Takes a pending hint, as a runtime does at a safe point.
    pub(crate) fn take(&self) -> bool {
        let seq = self.hints();
        if seq == self.runtime.ack_seq.load(Relaxed) {
            return false;
        }
        self.runtime.ack_seq.store(seq, Relaxed);
        self.runtime.last_yield_ns.store(morpheus_agent::server::now_ns(), Relaxed);
        std::thread::yield_now();
        true
    }
}

/// The first CPU this process may use.
pub(crate) fn first_cpu() -> CpuSet {
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
    one
}

/// A thread on one CPU with others, doing something again and again until dropped.
pub(crate) struct Repeating {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Repeating {
    pub(crate) fn on(cpu: CpuSet, mut body: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                sched_setaffinity(None, &cpu).unwrap();
                while !stop.load(Relaxed) {
                    body();
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }

    /// One that wants the CPU often and for a short time: it makes others wait and is waited for.
    pub(crate) fn competitor(cpu: CpuSet) -> Self {
        Self::on(cpu, || {
            let end = Instant::now() + Duration::from_micros(200);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            std::thread::park_timeout(Duration::from_micros(500));
        })
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A registered worker on one CPU that spins in `state`, taking hints or not, until dropped.
pub(crate) struct Spinner {
    pub(crate) lines: Lines,
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
    pub(crate) rounds: Arc<std::sync::atomic::AtomicU64>,
    _repeating: Repeating,
}

impl Spinner {
    pub(crate) fn on(cpu: CpuSet, client: &Client, state: WorkerState, takes: bool) -> Self {
        Self::with(cpu, client, state, takes, 0)
    }

    /// One that takes hints and wants LOCAL after so many ns of its own.
    pub(crate) fn rotating(cpu: CpuSet, client: &Client, rotation_ns: u32) -> Self {
        Self::with(cpu, client, WorkerState::Running, true, rotation_ns)
    }

    fn with(cpu: CpuSet, client: &Client, state: WorkerState, takes: bool, rotation_ns: u32) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let (give, given) = std::sync::mpsc::channel::<Lines>();
        let rounds = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let mut lines = None;
        let repeating = Repeating::on(cpu, {
            let rounds = Arc::clone(&rounds);
            move || {
                let lines: &Lines = lines.get_or_insert_with(|| {
                    tell.send(own_tid()).unwrap();
                    given.recv().unwrap()
                });
                if takes {
                    lines.take();
                }
                rounds.fetch_add(1, Relaxed);
            }
        });
        let tid = told.recv().unwrap();
        let Message::Registered { slot, slot_generation } = client.register_rotating(tid, "spinner", rotation_ns)
        else {
            panic!("not registered")
        };
        let lines = client.lines(slot);
        lines.begin(slot_generation, state);
        give.send(lines).unwrap();
        Self { lines, slot, generation: slot_generation, rounds, _repeating: repeating }
    }
}

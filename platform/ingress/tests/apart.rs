//! The ingress in a process of its own: this program again, when it is started with a socket in the environment.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use holm_ingress::apart::{Apart, Launch, serve};
use holm_ingress::{AppLimits, Backend, BackendState, Config, Listener, Route, RouteLimits, RoutingTable};
use holm_process::Process;
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::Signal;
use tokio::runtime::{Builder, Runtime};

/// The last argument that makes this program the ingress.
const ROLE: &str = "--be-the-ingress";
/// Longest wait for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if let [_, role, socket] = &*words
        && role == ROLE
    {
        let served = runtime().block_on(serve(Path::new(socket), Config::default()));
        return served.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let tests: [(&str, fn()); 8] = [
        ("it_serves_on_without_its_caller_and_is_found_again", it_serves_on_without_its_caller_and_is_found_again),
        ("a_process_that_died_is_started_again_with_the_last_table", a_process_that_died_is_started_again),
        ("another_program_takes_over_without_a_lost_connection", another_program_takes_over_without_a_lost_connection),
        ("a_replaced_process_is_counted_and_cut_by_later_callers", a_replaced_process_is_counted_by_later_callers),
        ("a_process_that_hangs_is_replaced", a_process_that_hangs_is_replaced),
        ("connections_are_counted_and_cut_from_outside", connections_are_counted_and_cut_from_outside),
        ("shutdown_ends_the_process_and_removes_its_socket", shutdown_ends_the_process_and_removes_its_socket),
        ("rubbish_on_the_socket_harms_nothing", rubbish_on_the_socket_harms_nothing),
    ];
    let trials = tests.map(|(name, test)| Trial::test(name, move || caught(test)));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn caught(test: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(test).map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Failed::from(said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A place for a socket, and a backend that sends back what it gets.
struct Stage {
    runtime: Runtime,
    folder: tempfile::TempDir,
    backend: SocketAddr,
    /// Where the ingress listens.
    front: SocketAddr,
}

impl Stage {
    fn new() -> Self {
        let backend = TcpListener::bind("[::1]:0").unwrap();
        let address = backend.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in backend.incoming() {
                std::thread::spawn(move || {
                    let (mut from, mut bytes) = (stream.unwrap(), [0; 256]);
                    // A client that was reset is gone.
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        if from.write_all(&bytes[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        // Free a moment ago; nobody else here asks for a port by number.
        let front = TcpListener::bind("[::1]:0").unwrap().local_addr().unwrap();
        Self { runtime: runtime(), folder: tempfile::tempdir().unwrap(), backend: address, front }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("ingress.sock")
    }

    /// This program as the ingress, or a copy of it.
    fn launch(&self, program: &Path) -> Launch {
        let arguments = vec![ROLE.into(), self.socket().into()];
        Launch { socket: self.socket(), program: program.to_owned(), arguments, environment: Vec::new() }
    }

    /// A copy of this program. It is made by another process: what this one has open for writing, a process that another test
    /// is just starting has open too, and then nobody can run it.
    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        let made = std::process::Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status();
        assert!(made.unwrap().success());
        copy
    }

    fn start(&self) -> Apart {
        self.start_as(&std::env::current_exe().unwrap())
    }

    fn start_as(&self, program: &Path) -> Apart {
        self.runtime.block_on(Apart::start(self.launch(program))).unwrap()
    }

    fn table(&self) -> RoutingTable {
        let backend =
            Backend { id: "b".to_owned(), addr: self.backend, state: BackendState::Healthy, proxy_protocol: false };
        let route = Route { backends: vec![backend], limits: RouteLimits::default(), app: Some("app".to_owned()) };
        RoutingTable {
            listeners: BTreeMap::from([(self.front, Listener::Tcp { route: "r".to_owned() })]),
            routes: BTreeMap::from([("r".to_owned(), route)]),
            apps: BTreeMap::from([("app".to_owned(), AppLimits::default())]),
            proxies: BTreeMap::new(),
        }
    }

    fn serve(&self, ingress: &Apart) {
        let report = self.runtime.block_on(ingress.apply(self.table())).unwrap();
        assert_eq!(report.failed, BTreeMap::new());
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.front).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The process that has the socket.
    fn process(&self) -> Process {
        let stream = UnixStream::connect(self.socket()).unwrap();
        let number = rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().get();
        Process::open(number.unsigned_abs()).unwrap().unwrap()
    }

    fn stats(&self, ingress: &Apart) -> holm_ingress::Stats {
        self.runtime.block_on(ingress.stats()).unwrap()
    }

    fn end(self, ingress: &Apart) {
        self.runtime.block_on(ingress.shutdown(Duration::ZERO));
    }
}

/// Sends a word and waits for it to come back.
fn echo(stream: &mut TcpStream, word: &str) -> std::io::Result<()> {
    stream.write_all(word.as_bytes())?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back)?;
    assert_eq!(back, word.as_bytes());
    Ok(())
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Whoever started it here reaps it only while its runtime runs: it may be a zombie by then.
fn must_end(process: &Process, which: &str) {
    assert!(process.ends_within(PATIENCE).unwrap(), "{which} is still there");
}

fn it_serves_on_without_its_caller_and_is_found_again() {
    let stage = Stage::new();
    let ingress = stage.start();
    stage.serve(&ingress);
    let (process, mut open) = (stage.process(), stage.connect());
    echo(&mut open, "before").unwrap();
    drop(ingress);
    echo(&mut open, "between").unwrap();
    echo(&mut stage.connect(), "anew").unwrap();
    let ingress = stage.start();
    assert_eq!(stage.process().pid(), process.pid());
    echo(&mut open, "after").unwrap();
    stage.serve(&ingress);
    echo(&mut open, "with the table again").unwrap();
    assert_eq!(stage.stats(&ingress).accepted, 2);
    stage.end(&ingress);
}

fn a_process_that_died_is_started_again() {
    let stage = Stage::new();
    let ingress = stage.start();
    stage.serve(&ingress);
    let process = stage.process();
    process.kill().unwrap();
    // Nobody has to give the table again. Connections that the dead one had accepted are lost.
    stage.runtime.block_on(async {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(stage.front).and_then(|mut stream| echo(&mut stream, "again")).is_err() {
            assert!(Instant::now() < deadline, "nobody serves again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_ne!(stage.process().pid(), process.pid());
    stage.end(&ingress);
}

fn another_program_takes_over_without_a_lost_connection() {
    let stage = Stage::new();
    let copy = stage.copy("older");
    let older = stage.start_as(&copy);
    stage.serve(&older);
    let (process, mut open) = (stage.process(), stage.connect());
    echo(&mut open, "before").unwrap();
    drop(older);

    // New connections all the while, each of them served.
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = std::thread::spawn({
        let (stop, done, front) = (Arc::clone(&stop), Arc::clone(&done), stage.front);
        move || {
            while !stop.load(Relaxed) {
                let mut stream = TcpStream::connect(front)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                echo(&mut stream, "load")?;
                done.fetch_add(1, Relaxed);
            }
            std::io::Result::Ok(())
        }
    });
    wait_for("load", || done.load(Relaxed) > 20);
    let newer = stage.start();
    assert_ne!(stage.process().pid(), process.pid());
    stage.serve(&newer);
    let before = done.load(Relaxed);
    wait_for("load after it", || done.load(Relaxed) > before + 20 || load.is_finished());
    stop.store(true, Relaxed);
    load.join().unwrap().unwrap();

    // The old process keeps what it had, is counted, and ends with it.
    echo(&mut open, "still there").unwrap();
    let mut count = newer.connections("b");
    stage.runtime.block_on(async { count.wait_for(|open| *open == Some(1)).await.map(drop) }).unwrap();
    drop(open);
    stage.runtime.block_on(async { count.wait_for(|open| *open == Some(0)).await.map(drop) }).unwrap();
    must_end(&process, "the old process");
    echo(&mut stage.connect(), "the new one").unwrap();
    stage.end(&newer);
}

fn a_replaced_process_is_counted_by_later_callers() {
    let stage = Stage::new();
    let copy = stage.copy("older");
    let older = stage.start_as(&copy);
    stage.serve(&older);
    let (process, mut one, mut other) = (stage.process(), stage.connect(), stage.connect());
    echo(&mut one, "one").unwrap();
    echo(&mut other, "other").unwrap();
    drop(older);
    let newer = stage.start();
    stage.serve(&newer);
    drop(newer);
    // What a killed process leaves behind is in nobody's way.
    let dead = stage.folder.path().join("ingress-1.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());

    let later = stage.start();
    assert_ne!(stage.process().pid(), process.pid());
    stage.serve(&later);
    assert!(!dead.exists());
    let mut count = later.connections("b");
    let mut until = |wanted| {
        let counted =
            async { tokio::time::timeout(PATIENCE, count.wait_for(|open| *open == Some(wanted))).await.is_ok() };
        assert!(stage.runtime.block_on(counted), "not {wanted} connections");
    };
    until(2);
    drop(one);
    until(1);
    echo(&mut other, "still there").unwrap();
    later.close_backend("b");
    until(0);
    assert!(echo(&mut other, "cut").is_err());
    must_end(&process, "the old process");
    echo(&mut stage.connect(), "the new one").unwrap();
    let names = std::fs::read_dir(stage.folder.path()).unwrap();
    let names =
        names.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().starts_with("ingress-")).count();
    assert_eq!(names, 1, "the name of the one that serves alone");
    stage.end(&later);
}

fn a_process_that_hangs_is_replaced() {
    let stage = Stage::new();
    drop(stage.start());
    let process = stage.process();
    process.signal(Signal::STOP).unwrap();
    let ingress = stage.start();
    assert_ne!(stage.process().pid(), process.pid());
    must_end(&process, "the one that hung");
    stage.serve(&ingress);
    echo(&mut stage.connect(), "hello").unwrap();
    stage.end(&ingress);
}

fn connections_are_counted_and_cut_from_outside() {
    let stage = Stage::new();
    let ingress = stage.start();
    stage.serve(&ingress);
    let mut count = ingress.connections("b");
    let mut open = stage.connect();
    echo(&mut open, "one").unwrap();
    stage.runtime.block_on(async { count.wait_for(|open| *open == Some(1)).await.map(drop) }).unwrap();
    ingress.close_backend("b");
    stage.runtime.block_on(async { count.wait_for(|open| *open == Some(0)).await.map(drop) }).unwrap();
    assert!(echo(&mut open, "cut").is_err());
    stage.end(&ingress);
}

fn shutdown_ends_the_process_and_removes_its_socket() {
    let stage = Stage::new();
    let ingress = stage.start();
    stage.serve(&ingress);
    let process = stage.process();
    let mut open = stage.connect();
    echo(&mut open, "open").unwrap();
    let report = stage.runtime.block_on(ingress.shutdown(Duration::from_millis(10)));
    assert_eq!(report.cut, 1);
    must_end(&process, "the process");
    assert!(!stage.socket().exists());
    assert!(TcpStream::connect(stage.front).is_err());
    assert!(stage.runtime.block_on(ingress.apply(stage.table())).is_err());
    assert_eq!(stage.runtime.block_on(ingress.stats()), None);
}

fn rubbish_on_the_socket_harms_nothing() {
    let stage = Stage::new();
    let ingress = stage.start();
    stage.serve(&ingress);
    let process = stage.process();
    for rubbish in [
        &b"\n"[..],
        b"{}\n",
        b"{\"number\":1,\"ask\":{\"take_over\":[{\"wanted\":\"[::1]:1\",\"local\":\"[::1]:1\",\"sockets\":9}]}}\n",
        &[0xff; 4096],
    ] {
        let mut stream = UnixStream::connect(stage.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may hang up in the middle.
        let _ = stream.write_all(rubbish);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(stage.process().pid(), process.pid());
    echo(&mut stage.connect(), "unharmed").unwrap();
    assert_eq!(stage.stats(&ingress).routes["r"].accepted, 1);
    stage.end(&ingress);
}

//! Who may do what: real processes of other users, forged messages, descriptors that are pulled at from all sides.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "helpers of tests are tests")]

mod support;

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering::Relaxed;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use morpheus_abi::protocol::{MAX_MESSAGE, Message, Refusal};
use morpheus_abi::{ABI_VERSION, LINE_SIZE, PAGE_SIZE, SharedRuntimePage};
use morpheus_agent::server::operator;
use rustix::io::Errno;
use rustix::mm::{MprotectFlags, ProtFlags};
use support::{Agent, Connection, bpf_is_permitted, map, own_tid};

/// Runs one of this file's ignored tests as the user nobody, with the socket's path and a word in its environment.
fn as_nobody(test: &str, socket: &Path, word: &str, stdin: Stdio) -> Output {
    // Nobody may not read the build folder.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("test");
    // Copied by another process: what this one has open for writing, a process that another test is just starting has open
    // too, and then nobody can run it.
    assert!(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap().success());
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(program)
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("TEST_SOCKET", socket)
        .env("TEST_WORD", word)
        .current_dir("/")
        .stdin(stdin)
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap()
}

fn assert_success(output: &Output) {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn socket() -> PathBuf {
    std::env::var_os("TEST_SOCKET").expect("run by another test").into()
}

fn word() -> String {
    std::env::var("TEST_WORD").expect("run by another test")
}

fn map_id(fd: &OwnedFd) -> u32 {
    MapHandle::try_from_fd(fd).info().unwrap().info.id
}

trait TryFromFd {
    fn try_from_fd(fd: &OwnedFd) -> MapHandle;
}
impl TryFromFd for MapHandle {
    /// libbpf-rs makes a handle of a descriptor only through its number or its pin.
    fn try_from_fd(fd: &OwnedFd) -> MapHandle {
        let info = libbpf_rs::MapInfo::new(fd.as_fd()).unwrap();
        MapHandle::from_map_id(info.info.id).unwrap()
    }
}

/// Writes an element through this very descriptor, as any holder may try.
fn update(fd: &OwnedFd) -> std::io::Result<()> {
    let (key, value) = (1u32, [0xffu8; LINE_SIZE]);
    // SAFETY: key and value are as long as the array's and live until the call returns.
    let result =
        unsafe { libbpf_sys::bpf_map_update_elem(fd.as_raw_fd(), (&raw const key).cast(), value.as_ptr().cast(), 0) };
    if result < 0 { Err(std::io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

fn refused(answer: &Message) -> Refusal {
    match answer {
        Message::Refused { refusal, abi_version: ABI_VERSION } => *refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// What a holder of both descriptors can and cannot do; root tries this, and nobody.
fn pull_at_the_pages() {
    let client = Connection::to(&socket()).hello();
    // Page 0: no writable mapping, none made writable later, no update, no way to open it anew.
    assert_eq!(map(&client.kernel_fd, ProtFlags::READ | ProtFlags::WRITE), Err(Errno::PERM));
    // SAFETY: the page is ours, mapped and never unmapped; nothing relies on its protection but this test.
    let protect =
        unsafe { rustix::mm::mprotect(client.kernel as *mut _, PAGE_SIZE, MprotectFlags::READ | MprotectFlags::WRITE) };
    assert_eq!(protect, Err(Errno::ACCESS));
    assert_eq!(update(&client.kernel_fd).unwrap_err().raw_os_error(), Some(libc::EPERM));
    let reopened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", client.kernel_fd.as_raw_fd()));
    assert!(reopened.is_err());
    assert_eq!(client.kernel().lines[0].snapshot(), morpheus_abi::KernelLine::default());
    // Neither descriptor reaches beyond its page.
    for fd in [&client.kernel_fd, &client.runtime_fd] {
        // SAFETY: no address is asked for; the mapping is expected to fail.
        let beyond = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE_SIZE,
                ProtFlags::READ,
                rustix::mm::MapFlags::SHARED,
                fd,
                PAGE_SIZE as u64,
            )
        };
        assert_eq!(beyond.map(|_| ()), Err(Errno::INVAL));
    }
    // Page 1 is the process's own.
    update(&client.runtime_fd).unwrap();
    assert_eq!(client.runtime().lines[0].snapshot().ack_seq, u32::MAX);
}

#[test]
#[ignore = "run as another user by a_process_cannot_read_or_write_another_page"]
fn nobody_pulls_at_the_pages() {
    assert_eq!(rustix::process::geteuid().as_raw(), 65_534);
    pull_at_the_pages();
    // Nor can it open what is not its own by number.
    for id in word().split(',').map(|id| id.parse::<u32>().unwrap()) {
        assert!(MapHandle::from_map_id(id).is_err(), "map {id}");
    }
    // The operator's report names other users' processes.
    assert_eq!(refused(&Connection::to(&socket()).ask_raw(&operator::bare(operator::STATUS))), Refusal::Permission);
}

/// Seed: only that process's page descriptors; design 2.
#[test]
fn a_process_cannot_read_or_write_another_page() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let ours = agent.connect().hello();
    let ids = [map_id(&ours.kernel_fd), map_id(&ours.runtime_fd)];
    let word = ids.map(|id| id.to_string()).join(",");
    assert_success(&as_nobody("nobody_pulls_at_the_pages", &agent.socket(), &word, Stdio::null()));
    // What nobody wrote into its page is not in ours, and each connection has maps of its own.
    let clean = SharedRuntimePage::zeroed().lines[0].snapshot();
    assert!(ours.runtime().lines.iter().all(|line| line.snapshot() == clean));
    let theirs = agent.connect().hello();
    let their_ids = [map_id(&theirs.kernel_fd), map_id(&theirs.runtime_fd)];
    assert!(ids.iter().all(|id| !their_ids.contains(id)));
    ours.runtime().lines[5].ack_seq.store(77, Relaxed);
    assert_eq!(theirs.runtime().lines[5].ack_seq.load(Relaxed), 0);
    // Root's descriptor of page 0 is as powerless.
    assert_eq!(update(&ours.kernel_fd).unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert_eq!(map(&ours.kernel_fd, ProtFlags::READ | ProtFlags::WRITE), Err(Errno::PERM));
    let read = MapHandle::from_map_id(ids[0]).unwrap().lookup(&0u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
    assert_eq!(read[..8], *b"MORPHEUS");
}

#[test]
#[ignore = "run as another user by forged_or_old_peer_is_refused"]
fn nobody_registers_what_is_not_its_own() {
    let client = Connection::to(&socket()).hello();
    for tid in word().split(',').map(|tid| tid.parse::<u32>().unwrap()) {
        assert_eq!(refused(&client.register(tid, "stolen")), Refusal::NotYourThread, "{tid}");
    }
    assert!(matches!(client.register(own_tid(), "own"), Message::Registered { .. }));
}

#[test]
#[ignore = "run with an inherited socket by forged_or_old_peer_is_refused"]
fn an_heir_speaks_for_its_parent() {
    // SAFETY: standard input is the socket that the parent connected, and nothing else in this process uses it.
    let socket = Connection(unsafe { OwnedFd::from_raw_fd(0) });
    let answer = socket.ask(&Message::Unregister { slot: morpheus_abi::Slot::new(0).unwrap(), slot_generation: 1 });
    assert_eq!(refused(&answer), Refusal::Permission);
    assert!(socket.receive().is_none(), "the connection is over");
}

/// Issue: a forged or old-version peer is refused.
#[test]
fn forged_or_old_peer_is_refused() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    // An old ABI, an old protocol.
    let old = agent.connect();
    assert_eq!(refused(&old.ask(&Message::Hello { abi_version: ABI_VERSION - 1 })), Refusal::Version);
    assert!(old.receive().is_none(), "the connection is over");
    let hello = Message::Hello { abi_version: ABI_VERSION }.encode();
    let mut packet = hello.to_vec();
    packet[4] = packet[4].wrapping_sub(1);
    assert_eq!(refused(&agent.connect().ask_raw(&packet)), Refusal::Version);
    // Garbage, too short, too long, longer than any buffer, and longer than it says.
    let mut magic = hello.to_vec();
    magic[0] ^= 1;
    let longer = [&hello[..], &[0]].concat();
    for packet in [&magic[..], b"x", &hello[..11], &longer, &[0; MAX_MESSAGE + 1], &[0; 100_000]] {
        let peer = agent.connect();
        assert_eq!(refused(&peer.ask_raw(packet)), Refusal::Malformed, "{} bytes", packet.len());
        assert!(peer.receive().is_none(), "the connection is over");
    }
    // An agent's own message.
    assert_eq!(refused(&agent.connect().ask(&Message::Ok)), Refusal::Malformed);
    let client = agent.connect().hello();
    assert_eq!(refused(&client.connection.ask_raw(&hello)), Refusal::Order);
    assert_eq!(
        refused(
            &agent
                .connect()
                .ask(&Message::Unregister { slot: morpheus_abi::Slot::new(0).unwrap(), slot_generation: 1 })
        ),
        Refusal::Order
    );
    // Threads of others: init's, the agent's, nobody's; root is no exception.
    for tid in [1, agent.pid(), 0, u32::MAX] {
        assert_eq!(refused(&client.register(tid, "stolen")), Refusal::NotYourThread, "{tid}");
    }
    let Message::Registered { slot, slot_generation } = client.register(own_tid(), "own") else { panic!() };
    assert_eq!(refused(&client.register(own_tid(), "twice")), Refusal::AlreadyRegistered);
    let second = agent.connect().hello();
    assert_eq!(refused(&second.register(own_tid(), "twice")), Refusal::AlreadyRegistered);
    // A slot of another connection, or of another generation.
    assert_eq!(refused(&second.connection.ask(&Message::Unregister { slot, slot_generation })), Refusal::NoSuchSlot);
    let stale = Message::Unregister { slot, slot_generation: slot_generation.wrapping_add(1) };
    assert_eq!(refused(&client.connection.ask(&stale)), Refusal::NoSuchSlot);
    // Another user asks for our threads.
    let threads = format!("1,{},{}", own_tid(), std::process::id());
    assert_success(&as_nobody("nobody_registers_what_is_not_its_own", &agent.socket(), &threads, Stdio::null()));
    // A child speaks over the socket it inherited.
    let third = agent.connect().hello();
    let inherited = third.connection.0.try_clone().unwrap();
    assert_success(&as_nobody("an_heir_speaks_for_its_parent", &agent.socket(), "", inherited.into()));
    // After all this the first registration still stands, and every refusal was counted.
    let report = agent.report();
    assert_eq!(report.workers(), 1);
    assert_eq!(client.connection.ask(&Message::Unregister { slot, slot_generation }), Message::Ok);
    for (refusal, at_least) in
        [(Refusal::Version, 2), (Refusal::Malformed, 7), (Refusal::NotYourThread, 7), (Refusal::Order, 2)]
    {
        assert!(report.refused[&refusal.to_string()] >= at_least, "{refusal}: {:?}", report.refused);
    }
}

#[test]
fn one_user_cannot_take_all_places() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&["--processes-per-user", "2", "--workers-per-user", "3"]);
    let clients = [agent.connect().hello(), agent.connect().hello()];
    assert_eq!(refused(&agent.connect().ask(&Message::Hello { abi_version: ABI_VERSION })), Refusal::Full);
    // Another user still gets in.
    assert_success(&as_nobody("nobody_registers_what_is_not_its_own", &agent.socket(), "1", Stdio::null()));
    let (stop, stopped) = (std::sync::Barrier::new(5), std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (tell, stop) = (stopped.0.clone(), &stop);
            scope.spawn(move || {
                tell.send(own_tid()).unwrap();
                stop.wait();
            });
        }
        let tids: Vec<u32> = stopped.1.iter().take(4).collect();
        for (index, tid) in tids[..3].iter().enumerate() {
            let answer = clients[index % 2].register(*tid, "w");
            assert!(matches!(answer, Message::Registered { .. }), "{answer:?}");
        }
        assert_eq!(refused(&clients[1].register(tids[3], "w")), Refusal::Full);
        stop.wait();
    });
}

#[test]
fn a_process_has_as_many_workers_as_a_page_has_lines() {
    if !bpf_is_permitted() {
        return;
    }
    let agent = Agent::start(&[]);
    let client = agent.connect().hello();
    let (stop, told) = (std::sync::Barrier::new(65), std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        for _ in 0..64 {
            let (tell, stop) = (told.0.clone(), &stop);
            scope.spawn(move || {
                tell.send(own_tid()).unwrap();
                stop.wait();
            });
        }
        let tids: Vec<u32> = told.1.iter().take(64).collect();
        let mut slots = std::collections::BTreeSet::new();
        for tid in &tids[..63] {
            let Message::Registered { slot, .. } = client.register(*tid, "w") else { panic!() };
            assert!(slots.insert(slot));
        }
        assert_eq!(refused(&client.register(tids[63], "w")), Refusal::Full);
        stop.wait();
    });
}

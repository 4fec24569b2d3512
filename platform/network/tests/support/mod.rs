//! A host, guests and an outside, each a network namespace of its own, removed at the end.
#![allow(dead_code)] // each test binary uses its part
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holm_network::{Attachment, Config, Network, privileges};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long a packet that must arrive may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Why these tests cannot run here, said on standard error.
#[allow(clippy::print_stderr)]
pub(crate) fn skipped() -> bool {
    let reason = match privileges() {
        Err(reason) => reason.to_string(),
        Ok(()) if Command::new("socat").arg("-V").output().is_err() => "`socat` is not installed".to_owned(),
        Ok(()) => return false,
    };
    eprintln!("skipped: {reason}");
    true
}

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new(role: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holm-test-{}-{number}-{role}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let namespace = Self(name);
        namespace.inside(|| run("ip", &["link", "set", "lo", "up"]));
        namespace
    }

    /// Runs the closure on a thread inside the namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            let file = File::open(Path::new("/run/netns").join(&self.0)).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        let done = thread::scope(|scope| scope.spawn(entered).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A UDP socket inside, on a free port of the address.
    pub(crate) fn udp(&self, addr: Ipv6Addr) -> UdpSocket {
        let socket = self.inside(|| UdpSocket::bind((addr, 0)).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

/// Runs a program that must succeed, and answers what it said.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// The packet that arrives first.
pub(crate) fn first(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut packet = [0; 64];
    let (length, from) = socket.recv_from(&mut packet).unwrap();
    (String::from_utf8(packet[..length].to_vec()).unwrap(), from)
}

/// A namespace with a privileged network, and what it is connected to.
#[derive(Debug)]
pub(crate) struct Host {
    // Dropped first: their ends of the taps are processes.
    pub(crate) guests: Vec<Guest>,
    pub(crate) namespace: Namespace,
    outside: Option<Namespace>,
    folder: tempfile::TempDir,
}

/// Addresses of the wire between host and outside (RFC 3849).
pub(crate) const HOST_OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// A namespace at the other end of an attached tap.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) attachment: Attachment,
    pub(crate) namespace: Namespace,
    wire: [Child; 2],
}

impl Host {
    pub(crate) fn new() -> Self {
        let (guests, namespace, outside) = (Vec::new(), Namespace::new("host"), None);
        Self { guests, namespace, outside, folder: tempfile::tempdir().unwrap() }
    }

    /// Opens the privileged network inside the host.
    pub(crate) fn network(&self, host_id: &str) -> Network {
        let config = Config { host_id: host_id.to_owned() };
        self.namespace.inside(|| Network::privileged(&config)).unwrap()
    }

    /// A namespace on the other side of an interface of the host that is not Holm's.
    pub(crate) fn outside(&mut self) {
        let outside = Namespace::new("outside");
        self.namespace.inside(|| {
            let add = ["link", "add", "wan0", "type", "veth", "peer", "name", "eth0", "netns"];
            run("ip", &[&add[..], &[&outside.0]].concat());
            run("ip", &["address", "add", &format!("{HOST_OUTSIDE}/64"), "dev", "wan0", "nodad"]);
            run("ip", &["link", "set", "wan0", "up"]);
        });
        outside.inside(|| {
            run("ip", &["address", "add", &format!("{OUTSIDE}/64"), "dev", "eth0", "nodad"]);
            run("ip", &["link", "set", "eth0", "up"]);
        });
        self.outside = Some(outside);
    }

    /// The namespace made by `outside`.
    pub(crate) fn outside_namespace(&self) -> &Namespace {
        self.outside.as_ref().unwrap()
    }

    /// Attaches an instance and puts a guest at the other end of its tap.
    pub(crate) fn guest(&mut self, network: &Network, instance: &str, index: u64, app: &str) -> &Guest {
        let attachment = self.namespace.inside(|| network.attach(instance, index, app)).unwrap();
        let guest = Guest::at(attachment, &self.namespace, self.folder.path());
        self.guests.push(guest);
        self.guests.last().unwrap()
    }

    /// Names of the host's interfaces.
    pub(crate) fn links(&self) -> BTreeSet<String> {
        let links = self.namespace.inside(|| run("ip", &["-brief", "link"]));
        let name = |line: &str| Some(line.split([' ', '@']).next()?.to_owned());
        links.lines().filter_map(name).collect()
    }

    /// The host's firewall.
    pub(crate) fn ruleset(&self) -> String {
        self.namespace.inside(|| run("nft", &["list", "ruleset"]))
    }

    pub(crate) fn forwarding(&self) -> String {
        let path = "/proc/sys/net/ipv6/conf/all/forwarding";
        self.namespace.inside(|| std::fs::read_to_string(path)).unwrap().trim().to_owned()
    }
}

impl Guest {
    /// Connects a tap in a new namespace to the attached one, frame by frame, and configures it as a guest would.
    fn at(attachment: Attachment, host: &Namespace, folder: &Path) -> Self {
        let namespace = Namespace::new("guest");
        let Attachment { tap, mac, guest, gateway, .. } = &attachment;
        let socket = folder.join(tap);
        let end = |tap: &str, wire: &str| {
            let tap = format!("TUN,tun-name={tap},tun-type=tap,iff-no-pi");
            // Type 5 is SOCK_SEQPACKET, which keeps frames apart.
            // The socket file is there a moment before it is listened on, hence the retries.
            let wire = format!("{wire}:{},type=5,retry=200,interval=0.05", socket.display());
            let mut socat = Command::new("socat");
            socat.arg("-b65536").args([tap, wire]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let start = Instant::now();
        let listening = host.inside(|| end(tap, "UNIX-LISTEN"));
        while !socket.exists() {
            assert!(start.elapsed() < DEADLINE, "socat does not listen");
            thread::yield_now();
        }
        let connecting = namespace.inside(|| end("eth0", "UNIX-CONNECT"));
        let this = Self { attachment: attachment.clone(), namespace, wire: [listening, connecting] };
        let device = Path::new("/proc/sys/net/ipv6/conf/eth0");
        this.namespace.inside(|| {
            while !device.exists() {
                assert!(start.elapsed() < DEADLINE, "socat makes no tap");
                thread::yield_now();
            }
            run("ip", &["link", "set", "eth0", "address", &mac.to_string(), "up"]);
            this.add_address(*guest);
            let route = ["-6", "route", "add", "default", "via", &gateway.to_string(), "dev", "eth0"];
            run("ip", &route);
        });
        this
    }

    /// To be called inside the guest.
    pub(crate) fn add_address(&self, address: Ipv6Addr) {
        run("ip", &["address", "add", &format!("{address}/128"), "dev", "eth0", "nodad"]);
    }

    /// A UDP socket on the guest's address.
    pub(crate) fn udp(&self) -> UdpSocket {
        self.namespace.udp(self.attachment.guest)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        for end in &mut self.wire {
            let _ = end.kill();
            let _ = end.wait();
        }
    }
}

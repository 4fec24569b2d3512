//! A host and what is outside of it, each a network namespace of the test's own, joined by a wire.

use std::fs::File;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::wait_for;

/// The host's address on the wire (from the block for documentation, RFC 3849).
pub const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The outside's address on the wire.
pub const OUTSIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// The host's end of the wire.
pub const WAN: &str = "wan0";

/// Time between two router advertisements.
const ADVERTISEMENTS: Duration = Duration::from_secs(5);

/// A network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self(name);
        namespace.inside(|| ip(&["link", "set", "lo", "up"]))??;
        Ok(namespace)
    }

    /// Its name, as `ip netns` has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `work` on a thread inside the namespace. Sockets stay in the namespace they were made in.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let enter = || {
            let file = File::open(Path::new("/run/netns").join(&self.0))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            std::io::Result::Ok(work())
        };
        let done = std::thread::scope(|scope| scope.spawn(enter).join());
        let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.with_context(|| format!("cannot enter the network namespace {}", self.0))
    }

    /// Serves `GET` on `[::]:port`, for as long as the test program runs: the answer is the client's address as seen here.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn serve_mirror(&self, port: u16) -> Result<()> {
        let listener = self.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?;
        let listener = listener.with_context(|| format!("cannot listen on port {port} in {}", self.0))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away early has its reasons.
                let _ = reflect(&stream);
            }
        });
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.0]);
    }
}

fn reflect(mut stream: &TcpStream) -> std::io::Result<()> {
    use std::io::{BufRead, BufReader, Write};
    let peer = stream.peer_addr()?.ip();
    for line in BufReader::new(stream).lines() {
        if line?.is_empty() {
            break;
        }
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{peer}", peer.to_string().len())
}

/// A host and what is outside of it.
#[derive(Debug)]
pub struct World {
    /// Where Holm runs.
    pub host: Namespace,
    /// What the host reaches by its wire.
    pub outside: Namespace,
}

impl World {
    /// Makes both and the wire between them. The host learns its default route from a router advertisement, the way
    /// hosts in the field do.
    ///
    /// # Errors
    /// When `ip` refuses something.
    pub fn new() -> Result<Self> {
        let name = format!("holm-e2e-{}", std::process::id());
        let outside = Namespace::new(format!("{name}-out"))?;
        let host = Namespace::new(name)?;
        host.inside(|| {
            ip(&["link", "add", WAN, "type", "veth", "peer", "name", "eth0", "netns", outside.name()])?;
            ip(&["address", "add", &format!("{HOST}/64"), "dev", WAN, "nodad"])?;
            ip(&["link", "set", WAN, "up"])
        })??;
        outside.inside(|| {
            // It is the host's router. One that does not forward says so when it is asked for its link address, and the
            // host then drops its default route (RFC 4861 section 7.3.3).
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            ip(&["address", "add", &format!("{OUTSIDE}/64"), "dev", "eth0", "nodad"])?;
            ip(&["address", "add", "fe80::2/64", "dev", "eth0", "nodad"])?;
            ip(&["link", "set", "eth0", "up"])
        })??;
        Ok(Self { host, outside })
    }

    /// Sends the host router advertisements from the outside, with `prefix` to take an address from, until it `heard` one:
    /// a wire that was just plugged in carries nothing for a moment, and advertisements are repeated in the field too.
    ///
    /// # Errors
    /// When none can be sent, or none is heard in time.
    pub fn advertise(&self, prefix: Ipv6Addr, heard: impl Fn() -> Result<bool>) -> Result<()> {
        let mut next = Instant::now();
        wait_for("an address from a router advertisement", || {
            if Instant::now() >= next && self.outside.inside(|| advertise(prefix))?? {
                next = Instant::now() + ADVERTISEMENTS;
            }
            Ok(heard()?.then_some(()))
        })
    }

    /// What `program` writes inside the host.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask_host(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.host.inside(|| output(program, arguments))?
    }
}

/// RFC 4861 section 4.2, with the options source link address left out and one prefix (section 4.6.2).
///
/// False when the kernel has not seen the wire's signal yet.
fn advertise(prefix: Ipv6Addr) -> Result<bool> {
    use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
    const LIFETIME: u16 = 1800;
    let interface = std::fs::read_to_string("/proc/thread-self/net/if_inet6")?;
    let index = interface.lines().find(|line| line.ends_with(" eth0")).and_then(|line| line.split(' ').nth(1));
    let index = index.and_then(|hex| u32::from_str_radix(hex, 16).ok()).context("eth0 has no address")?;
    // Type 134, no code, a checksum that the kernel fills in, hop limit 64, no flags.
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(LIFETIME.to_be_bytes());
    message.extend([0; 8]);
    // Option 3, 4 × 8 bytes, /64, on link and for addresses; both lifetimes; reserved.
    message.extend([3, 4, 64, 0xc0]);
    message.extend(u32::from(LIFETIME).to_be_bytes());
    message.extend(u32::from(LIFETIME).to_be_bytes());
    message.extend([0; 4]);
    message.extend(prefix.octets());
    let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6))?;
    // Receivers drop what may have been forwarded.
    sockopt::set_ipv6_multicast_hops(&socket, 255)?;
    sockopt::set_ipv6_multicast_if(&socket, index)?;
    let everyone = std::net::SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
    match sendto(&socket, &message, SendFlags::empty(), &everyone) {
        Ok(sent) => {
            ensure!(sent == message.len(), "{sent} of {} bytes were sent", message.len());
            Ok(true)
        }
        Err(Errno::NETUNREACH | Errno::ADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(error).context("cannot send a router advertisement"),
    }
}

/// Why network namespaces and taps cannot be used by this process, if so.
#[must_use]
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may make network namespaces".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    if output("nft", &["--version"]).is_err() {
        return Some("`nft` is not installed".to_owned());
    }
    let tried = Namespace::new(format!("holm-e2e-{}-try", std::process::id()));
    tried.err().map(|error| format!("{error:#}"))
}

fn ip(arguments: &[&str]) -> Result<()> {
    output("ip", arguments).map(drop)
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run `{program}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

//! A fresh machine for the guide: Debian with systemd in a container (systemd-nspawn), in a network namespace of its own that
//! reaches the outside through slirp4netns. Nothing of the host is changed, and everything ends with the value.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command::{command, output};
use crate::workspace::cache;

/// The suite that the guide is for.
const SUITE: &str = "bookworm";

/// What a server has that the installer set up, beyond what `apt` needs.
const INCLUDED: &str = "systemd-sysv,dbus,udev,procps";

/// The name server that slirp4netns answers as.
const NAME_SERVER: &str = "nameserver 10.0.2.3\n";

/// Longest wait for the machine to come up or go down.
const PATIENCE: Duration = Duration::from_secs(180);

/// A machine that runs.
#[derive(Debug)]
pub(super) struct Machine {
    root: PathBuf,
    namespace: String,
    network: Option<Child>,
    container: Option<Child>,
    /// The machine's PID 1, as the host sees it.
    init: u32,
}

impl Machine {
    /// Unpacks a fresh Debian into `folder` and boots it.
    pub(super) fn boot(folder: &Path) -> Result<Self> {
        for (program, package) in
            [("mmdebstrap", "mmdebstrap"), ("systemd-nspawn", "systemd-container"), ("slirp4netns", "slirp4netns")]
        {
            let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            ensure!(found.is_ok(), "there is no `{program}`: `apt-get install --no-install-recommends {package}`");
        }
        ensure!(rustix::process::geteuid().is_root(), "only root can boot a container");
        let root = folder.join("root");
        fs::create_dir_all(&root)?;
        output(command(folder, "tar", &["--numeric-owner", "-xf"]).arg(debian()?).arg("-C").arg(&root))?;
        fs::write(root.join("etc/resolv.conf"), NAME_SERVER)?;
        let namespace = format!("holm-guide-{}", std::process::id());
        let mut machine = Self { root, namespace, network: None, container: None, init: 0 };
        machine.connect()?;
        machine.start(folder)?;
        Ok(machine)
    }

    /// The machine's root folder on this one.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn connect(&mut self) -> Result<()> {
        ip(&["netns", "add", &self.namespace])?;
        ip(&["-n", &self.namespace, "link", "set", "lo", "up"])?;
        let path = format!("/run/netns/{}", self.namespace);
        let mut slirp = Command::new("slirp4netns");
        slirp.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd=1", "--netns-type=path"]);
        slirp.args([&path, "tap0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut slirp = slirp.spawn().context("cannot start slirp4netns")?;
        let ready = slirp.stdout.take().context("slirp4netns has no output")?.read(&mut [0; 1]);
        self.network = Some(slirp);
        ensure!(ready? == 1, "slirp4netns did not come up");
        Ok(())
    }

    fn start(&mut self, folder: &Path) -> Result<()> {
        let console = File::create(folder.join("console.log"))?;
        let mut nspawn = Command::new("systemd-nspawn");
        // Addresses and forwarding are set there, of its own network only.
        nspawn.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
        nspawn.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--resolv-conf=off", "--bind=/dev/net/tun"]);
        // A server has it; a container that is given a network does not.
        nspawn.arg("--capability=CAP_NET_ADMIN");
        nspawn.arg(format!("--machine={}", self.namespace)).arg("--directory").arg(&self.root);
        nspawn.arg(format!("--network-namespace-path=/run/netns/{}", self.namespace)).arg("--console=read-only");
        nspawn.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        let nspawn = nspawn.spawn().context("cannot start systemd-nspawn")?;
        let pid = nspawn.id();
        self.container = Some(nspawn);
        let told = || fs::read_to_string(folder.join("console.log")).unwrap_or_default();
        let up = until("systemd in the container", || {
            let ended = self.container.as_mut().and_then(|nspawn| nspawn.try_wait().transpose());
            ensure!(ended.is_none(), "the container has ended");
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let Some(init) = children.split_whitespace().next().and_then(|child| child.parse().ok()) else {
                return Ok(false);
            };
            self.init = init;
            let state = self.shell("systemctl is-system-running").output()?;
            Ok(["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim()))
        });
        up.with_context(|| format!("the container said:\n{}", told()))
    }

    /// A shell inside that runs `script`; not started yet.
    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("nsenter");
        shell.arg(format!("--target={}", self.init));
        shell.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"]);
        shell.args([
            "/usr/bin/env",
            "-i",
            "HOME=/root",
            "TERM=dumb",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        shell.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").args(["bash", "-c", script]);
        shell.stdin(Stdio::null());
        shell
    }

    /// Runs `script` as root in a shell, line by line until one fails, and gives what it wrote; shows that meanwhile.
    pub(super) fn run(&self, script: &str) -> Result<String> {
        let mut shell = self.shell(&format!("set -euo pipefail; exec 2>&1\n{script}"));
        let mut shell = shell.stdout(Stdio::piped()).spawn().context("cannot start a shell in the container")?;
        let mut all = String::new();
        for line in BufReader::new(shell.stdout.take().context("no output")?).lines() {
            let line = line.unwrap_or_default();
            println!("    {line}");
            all += &line;
            all.push('\n');
        }
        let status = shell.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(all)
    }

    /// Runs `work` on a thread in the machine's network; the threads and sockets it makes stay there.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let enter = || {
            let file = File::open(Path::new("/run/netns").join(&self.namespace))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            std::io::Result::Ok(work())
        };
        let done = std::thread::scope(|scope| scope.spawn(enter).join());
        let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.context("cannot enter the container's network")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut nspawn) = self.container.take() {
            // Asks the machine to power off.
            let pid = i32::try_from(nspawn.id()).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            if until("the container's end", || Ok(nspawn.try_wait()?.is_some())).is_err() {
                let _ = nspawn.kill();
                let _ = nspawn.wait();
            }
        }
        if let Some(mut slirp) = self.network.take() {
            let _ = slirp.kill();
            let _ = slirp.wait();
        }
        let _ = ip(&["netns", "delete", &self.namespace]);
    }
}

/// An archive of a fresh Debian, made once.
fn debian() -> Result<PathBuf> {
    let archive = cache().join(format!("debian-{SUITE}.tar"));
    if !archive.exists() {
        println!("making a fresh Debian ({SUITE}) in {}", archive.display());
        fs::create_dir_all(cache())?;
        let half = archive.with_extension("new.tar");
        let mut make = command(&cache(), "mmdebstrap", &["--variant=minbase", "--quiet", "--include", INCLUDED, SUITE]);
        output(make.arg(&half).arg("http://deb.debian.org/debian"))?;
        fs::rename(half, &archive)?;
    }
    Ok(archive)
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(&mut command(Path::new("/"), "ip", arguments)).map(drop)
}

fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    Ok(())
}

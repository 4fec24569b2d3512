//! Programs that run while something is measured, each ended when dropped: the agent, servers, whoever computes beside them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::release;
use crate::command::command;
use crate::workspace::{target, workspace};

/// How long `morpheusd` may take to listen.
const START: Duration = Duration::from_secs(30);

/// A child that is ended when dropped.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let shown = format!("{command:?}");
        Ok(Self(command.spawn().with_context(|| format!("cannot start {shown}"))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `morpheusd observe` with a socket of its own.
#[derive(Debug)]
pub(super) struct Agent {
    _running: Running,
    socket: PathBuf,
}

impl Agent {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead.
    pub(super) fn start() -> Result<Self> {
        let socket = target().join(format!("bench-morpheus-{}.sock", std::process::id()));
        let mut morpheusd = command(&workspace(), release("morpheusd"), &["observe", "--socket"]);
        let mut running = Running::start(morpheusd.arg(&socket).stderr(Stdio::null()))?;
        let deadline = Instant::now() + START;
        while !socket.exists() {
            if let Some(status) = running.0.try_wait()? {
                bail!("morpheusd ended with {status}; `morpheusd check` tells what this kernel can do (run as root)");
            }
            if Instant::now() > deadline {
                bail!("morpheusd did not listen within {START:?}");
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(Self { _running: running, socket })
    }

    /// Where it listens.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

/// A server of the examples, and what it said when it began to listen.
#[derive(Debug)]
pub(super) struct Server {
    _running: Running,
    pub(super) address: SocketAddr,
    pub(super) said: String,
}

impl Server {
    /// Starts `program` on the first CPU and waits for its line `listening at http://ADDRESS`.
    ///
    /// # Errors
    /// When it says something else.
    pub(super) fn start(program: &Path, arguments: &[&str], socket: &Path) -> Result<Self> {
        let mut server = on_first_cpu(program);
        server.args(arguments).env("MORPHEUS_SOCKET", socket).stdout(Stdio::piped());
        let mut running = Running::start(&mut server)?;
        let mut said = String::new();
        let stdout = running.0.stdout.take().context("the server has no output")?;
        BufReader::new(stdout).read_line(&mut said)?;
        let address = listening(&said).with_context(|| format!("{} said {said:?}", program.display()))?;
        Ok(Self { _running: running, address, said })
    }
}

/// The address in `listening at http://[::1]:8080, and more`.
fn listening(said: &str) -> Option<SocketAddr> {
    let address = said.strip_prefix("listening at http://")?.trim();
    address.split_once(", ").map_or(address, |(address, _)| address).parse().ok()
}

/// A program that stays on the first CPU: whoever is to compete there must be there.
fn on_first_cpu(program: &Path) -> Command {
    let mut taskset = command(&workspace(), "taskset", &["--cpu-list", "0"]);
    taskset.arg(program);
    taskset
}

/// Another process that computes on the first CPU without an end: with it the CPU is wanted twice.
pub(super) fn competitor() -> Result<Running> {
    Running::start(on_first_cpu(Path::new("/bin/sh")).args(["-c", "while :; do :; done"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_first_line_tells_its_address() {
        let address = Some("[::1]:8080".parse().unwrap());
        assert_eq!(listening("listening at http://[::1]:8080\n"), address);
        assert_eq!(listening("listening at http://[::1]:8080, 12 iterations per ms\n"), address);
        assert_eq!(listening("error: in use\n"), None);
    }
}

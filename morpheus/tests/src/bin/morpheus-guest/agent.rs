//! The real agent as a child of the guest's PID 1, and what it and the kernel say.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use morpheus_e2e::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest wait for anything in the translated guest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Number of the latest agent. Each has a socket of its own: a client that lost its agent takes its time before it asks at
/// the same place again.
static RUN: AtomicU32 = AtomicU32::new(0);

/// The latest agent's socket.
pub(crate) fn socket() -> String {
    format!("/run/morpheus/{}.sock", RUN.load(Ordering::Relaxed))
}

/// A running agent.
pub(crate) struct Agent {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts the agent as the machine's scheduler and waits until it is.
    pub(crate) fn enforce(options: &[&str]) -> Result<Self> {
        Self::start(options)?.up("the agent to be the scheduler", "morpheus")
    }

    /// Starts the agent in observe mode and waits until it listens.
    pub(crate) fn observe() -> Result<Self> {
        Self::start_as("observe", &[])?.up("the agent to listen", "")
    }

    fn up(mut self, what: &str, scheduled_by: &str) -> Result<Self> {
        let socket = socket();
        let up = wait_for(what, PATIENCE, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the agent ended with {status}: {}", self.said());
            }
            let asked = Command::new("/morpheusd").args(["status", "--json", "--socket", &socket]).output()?;
            Ok((asked.status.success() && scheduler()? == scheduled_by).then_some(()))
        });
        up.with_context(|| self.said())?;
        Ok(self)
    }

    /// Starts the agent that shall be the scheduler, without waiting.
    pub(crate) fn start(options: &[&str]) -> Result<Self> {
        Self::start_as("enforce", options)
    }

    fn start_as(mode: &str, options: &[&str]) -> Result<Self> {
        fs::create_dir_all("/run/morpheus")?;
        let mut command = Command::new("/morpheusd");
        command.arg(mode).args(options);
        if !options.contains(&"--socket") {
            RUN.fetch_add(1, Ordering::Relaxed);
            command.args(["--socket", &socket()]);
        }
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start /morpheusd")?;
        let stderr = child.stderr.take().context("the agent has no standard error")?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                println!("agent: {line}");
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Ok(Self { child, said, reader: Some(reader) })
    }

    /// Everything it wrote to standard error.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).join("; ")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("the agent has no number")?;
        kill_process(pid, signal).context("cannot signal the agent")
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let status = wait_for("the agent's end", PATIENCE, || Ok(self.child.try_wait()?))?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(status)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The agent's report.
pub(crate) fn report() -> Result<Value> {
    let asked = Command::new("/morpheusd").args(["status", "--json", "--socket", &socket()]).output()?;
    ensure!(asked.status.success(), "status failed: {}", String::from_utf8_lossy(&asked.stderr).trim());
    serde_json::from_slice(&asked.stdout).context("the report is no JSON")
}

/// One of the scheduler's counts.
pub(crate) fn count(name: &str) -> Result<u64> {
    let report = report()?;
    report["enforce"][name].as_u64().with_context(|| format!("the report has no count {name}: {}", report["enforce"]))
}

/// The workers in the report.
pub(crate) fn workers() -> Result<Vec<Value>> {
    let report = report()?;
    let processes = report["processes"].as_array().context("the report has no processes")?;
    Ok(processes.iter().filter_map(|process| process["workers"].as_array()).flatten().cloned().collect())
}

/// The state of sched_ext: `disabled` or `enabled`.
pub(crate) fn state() -> Result<String> {
    Ok(fs::read_to_string("/sys/kernel/sched_ext/state").context("this kernel has no sched_ext")?.trim().to_owned())
}

/// The loaded scheduler; empty without one.
pub(crate) fn scheduler() -> Result<String> {
    if state()? != "enabled" {
        return Ok(String::new());
    }
    Ok(fs::read_to_string("/sys/kernel/sched_ext/root/ops").unwrap_or_default().trim().to_owned())
}

/// Waits until the kernel schedules by itself again.
pub(crate) fn wait_until_disabled() -> Result<()> {
    wait_for("the kernel's own scheduler to take over", PATIENCE, || Ok((state()? == "disabled").then_some(())))
}

//! Scenarios of threads that end, by hundreds and by force, and of numbers that come again.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, anyhow, ensure};
use morpheus::{Worker, WorkerConfig};
use morpheus_e2e::wait_for;

use crate::Stage;
use crate::agent::{PATIENCE, socket, workers};
use crate::threads::{Bystander, SHARED, Subject, bind, work};

/// What this program does as one of a scenario's processes.
pub(crate) fn play(role: &str) -> ExitCode {
    let played = match role {
        "worker" => be_a_worker(),
        "spinner" => spin(),
        other => Err(anyhow!("no role is called {other}")),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Registers, says its slot, and wants the shared CPU without ever answering.
fn be_a_worker() -> Result<()> {
    let worker =
        Worker::try_register(WorkerConfig::new("mortal")).map_err(|why| anyhow!("cannot register: {why:?}"))?;
    println!("slot {}", worker.slot().context("a registered worker without a slot")?);
    std::io::stdout().flush()?;
    spin()
}

fn spin() -> Result<()> {
    bind(None, SHARED)?;
    loop {
        work();
    }
}

/// A process of this program in a role; killed when dropped.
pub(crate) struct Actor(Child);

impl Actor {
    pub(crate) fn start(role: &str) -> Result<Self> {
        let mut command = Command::new("/init");
        command.env("MORPHEUS_ROLE", role).env("MORPHEUS_SOCKET", socket()).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(command.spawn().context("cannot start /init again")?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The slot it says it has.
    fn slot(&mut self) -> Result<u64> {
        let said = self.0.stdout.take().context("the process says nothing")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        line.trim().strip_prefix("slot ").with_context(|| format!("it said {line:?}"))?.parse().context("no number")
    }

    /// Whether the kernel has let it run since it was asked last.
    pub(crate) fn ticks(&self) -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid()))?;
        stat.split_whitespace().next().context("no run time")?.parse().context("no number")
    }

    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the report has so many workers.
fn wait_for_workers(number: usize) -> Result<()> {
    wait_for(&format!("{number} workers in the report"), PATIENCE, || Ok((workers()?.len() == number).then_some(())))
}

/// A process is killed while it is a worker with a hint. Its number is given to a process that is none, and its slot to
/// others: neither may inherit anything.
pub(crate) fn dead_or_reused_ids_never_leak(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    wait_for_workers(0)?;
    let _waiting = Bystander::start(0);
    for _ in 0..3 {
        let mut dying = Actor::start("worker")?;
        let (pid, slot) = (dying.pid(), dying.slot()?);
        let of_pid = |worker: &serde_json::Value| worker["tid"].as_u64() == Some(u64::from(pid));
        wait_for("it to have a hint", PATIENCE, || {
            let known = workers()?.into_iter().find(of_pid);
            let hints = known.as_ref().and_then(|worker| worker["totals"]["hints"]["waiter"].as_u64());
            Ok((hints > Some(0)).then_some(()))
        })?;
        dying.kill()?;
        let heir = again(pid)?;
        // The same number wants the same CPU: long enough for many hints, had it any right to them.
        let before = heir.ticks()?;
        wait_for("the heir to run", PATIENCE, || Ok((heir.ticks()? > before + 200_000_000).then_some(())))?;
        ensure!(!workers()?.iter().any(of_pid), "process {pid} inherited a worker");
        wait_for_workers(0)?;
        drop(heir);
        // A new worker in this process: nothing of the old one is in its slot.
        let fresh = Subject::start(WorkerConfig::new("fresh"), |worker, _| {
            ensure!(worker.slot().is_some(), "it has no slot");
            worker.park();
            Ok(())
        })?;
        let told = workers()?;
        let escalations = fresh.escalations();
        fresh.end()?;
        ensure!(told.len() == 1, "the report has {} workers", told.len());
        ensure!(told[0]["tid"].as_u64() != Some(u64::from(pid)) && escalations == 0, "it inherited: {}", told[0]);
        println!("process {pid} had slot {slot}");
        wait_for_workers(0)?;
    }
    Ok(())
}

/// A process that spins and has this number.
fn again(pid: u32) -> Result<Actor> {
    let set = || std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string());
    wait_for(&format!("the number {pid} to be given again"), PATIENCE, || {
        set().context("the kernel's next number cannot be set")?;
        let actor = Actor::start("spinner")?;
        Ok((actor.pid() == pid).then_some(actor))
    })
}

/// Half of the threads end as they should, half without a word. After all of them every slot is free, and each worker that
/// registers then has one of its own.
pub(crate) fn ten_thousand_threads_come_and_go(stage: &mut Stage) -> Result<()> {
    const AT_ONCE: usize = 50;
    const THREADS: usize = 10_000;
    stage.agent()?;
    wait_for_workers(0)?;
    let mut registered = 0;
    for round in 0..THREADS / AT_ONCE {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                std::thread::spawn(move || {
                    // Every twentieth is a worker; the others are what a machine is full of.
                    if number % 20 != round % 20 {
                        return Ok(false);
                    }
                    let worker = Worker::try_register(WorkerConfig::new("mayfly").socket(socket()));
                    let worker = worker.map_err(|why| anyhow!("thread {number} of round {round}: {why:?}"))?;
                    work();
                    if round % 2 == 0 {
                        // The thread ends as a worker.
                        std::mem::forget(worker);
                    }
                    Ok::<bool, anyhow::Error>(true)
                })
            })
            .collect();
        for thread in threads {
            registered += usize::from(thread.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
    }
    println!("{registered} of {THREADS} threads were workers");
    ensure!(registered >= THREADS / AT_ONCE, "only {registered} threads were workers");
    wait_for_workers(0)?;
    let all = Barrier::new(60);
    let slots: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..60)
            .map(|_| {
                scope.spawn(|| {
                    let worker = Worker::try_register(WorkerConfig::new("crowd").socket(socket()));
                    let slot = worker.as_ref().ok().and_then(Worker::slot);
                    all.wait();
                    slot
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    });
    ensure!(slots.len() == 60, "only {} of 60 threads got a slot after all that", slots.len());
    ensure!(slots.iter().collect::<HashSet<_>>().len() == 60, "two workers had one slot: {slots:?}");
    // And hints still go where they belong.
    let _waiting = Bystander::start(0);
    let subject = Subject::start(WorkerConfig::new("last"), |_, _| Ok(()))?;
    let hinted = subject.wait_for("a hint", |shown| shown.pending.load(Relaxed));
    subject.end()?;
    hinted
}

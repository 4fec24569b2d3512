//! Scenarios of the scheduler's end: by order, by force, by the kernel's watchdog, by SysRq. Each time the kernel's own
//! scheduler takes over, every thread runs on, and a worker sees no more hints.

use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result, ensure};
use morpheus::WorkerConfig;
use morpheus_e2e::wait_for;
use rustix::process::Signal;

use crate::Stage;
use crate::agent::{Agent, PATIENCE, scheduler, wait_until_disabled};
use crate::identities::Actor;
use crate::threads::{Bystander, Subject};

/// A worker that takes every hint and never stops.
fn witness() -> Result<Subject> {
    Subject::start(WorkerConfig::new("witness"), |_, shown| {
        if let Some(hint) = morpheus::take_hint() {
            morpheus::yield_for(&hint);
            shown.taken.fetch_add(1, Relaxed);
        }
        Ok(())
    })
}

/// The worker and the bystander still run, and no hint comes any more.
fn all_run_on(worker: &Subject, bystander: &Bystander) -> Result<()> {
    let (rounds, ran) = (worker.shown.rounds.load(Relaxed), bystander.ran());
    let taken = worker.shown.taken.load(Relaxed);
    wait_for("everybody to run on", PATIENCE, || {
        Ok((worker.shown.rounds.load(Relaxed) > rounds + 100 && bystander.ran() > ran).then_some(()))
    })?;
    ensure!(worker.shown.taken.load(Relaxed) <= taken + 1, "hints come from nowhere");
    Ok(())
}

/// Ends the agent in some way while a worker and a bystander run, and gives the agent after its end.
fn ended(stage: &mut Stage, how: impl FnOnce(&mut Agent) -> Result<()>) -> Result<Agent> {
    let mut agent = stage.take_agent()?;
    let bystander = Bystander::start(0);
    let worker = witness()?;
    let outcome = (|| {
        worker.wait_for("a hint before the end", |shown| shown.taken.load(Relaxed) > 0)?;
        how(&mut agent)?;
        wait_until_disabled()?;
        all_run_on(&worker, &bystander)
    })();
    worker.end()?;
    outcome.map(|()| agent)
}

pub(crate) fn clean_exit_unregisters_scheduler(stage: &mut Stage) -> Result<()> {
    ended(stage, |agent| {
        agent.signal(Signal::TERM)?;
        let status = agent.wait()?;
        ensure!(status.success(), "the agent ended with {status}: {}", agent.said());
        Ok(())
    })?;
    Ok(())
}

pub(crate) fn sigkill_of_the_loader_falls_back(stage: &mut Stage) -> Result<()> {
    ended(stage, |agent| {
        agent.signal(Signal::KILL)?;
        agent.wait().map(drop)
    })?;
    // Nothing is left that would keep a new one out.
    stage.agent()?;
    ensure!(scheduler()? == "morpheus", "no new scheduler could be loaded");
    Ok(())
}

pub(crate) fn watchdog_stall_falls_back(stage: &mut Stage) -> Result<()> {
    if let Some(agent) = stage.agent.take() {
        drop(agent);
        wait_until_disabled()?;
    }
    let victim = Actor::start("spinner")?;
    let options = ["--watchdog-ms", "2000", "--never-run", &victim.pid().to_string()];
    let mut agent = Agent::start(&options)?;
    let status = agent.wait()?;
    ensure!(!status.success(), "the agent ended with {status} though its scheduler was ejected");
    let said = agent.said();
    ensure!(said.contains("the kernel ended the scheduler: runnable task stall"), "it said: {said}");
    wait_until_disabled()?;
    let before = victim.ticks()?;
    wait_for("the stalled thread to run again", PATIENCE, || Ok((victim.ticks()? > before).then_some(())))
}

pub(crate) fn sysrq_falls_back(stage: &mut Stage) -> Result<()> {
    let mut said = String::new();
    ended(stage, |agent| {
        std::fs::write("/proc/sysrq-trigger", "S").context("SysRq cannot be pressed")?;
        let status = agent.wait()?;
        ensure!(!status.success(), "the agent ended with {status} though its scheduler was ejected");
        said = agent.said();
        Ok(())
    })?;
    ensure!(said.contains("the kernel ended the scheduler"), "it said: {said}");
    Ok(())
}

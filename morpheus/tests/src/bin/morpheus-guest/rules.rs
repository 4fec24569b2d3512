//! Scenarios of hints, consent, critical sections and grace.

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use morpheus::{Critical, Reason, WorkerConfig};
use morpheus_e2e::{VERIFIED, wait_for};
use rustix::process::Signal;

use crate::Stage;
use crate::agent::{Agent, PATIENCE, count, report, scheduler, state, workers};
use crate::threads::{Bystander, Subject, cpu_time, work};

thread_local! {
    /// A section that a worker stays in for many rounds.
    static HELD: RefCell<Option<Critical>> = const { RefCell::new(None) };
}

pub(crate) fn loads_and_attaches(stage: &mut Stage) -> Result<()> {
    ensure!(state()? == "disabled", "sched_ext was {} before", state()?);
    stage.agent()?;
    ensure!(scheduler()? == "morpheus", "the scheduler is {:?}", scheduler()?);
    ensure!(report()?["mode"] == "enforce", "the report's mode is {}", report()?["mode"]);
    // Full switch: an ordinary thread of this process is ours, without having asked for it.
    let sched = std::fs::read_to_string("/proc/self/sched").context("the kernel shows no scheduling facts")?;
    let ours =
        sched.lines().find(|line| line.starts_with("ext.enabled")).context("no ext.enabled in /proc/self/sched")?;
    ensure!(ours.trim_end().ends_with('1'), "this process is not scheduled by us: {ours}");
    Ok(())
}

pub(crate) fn another_scheduler_is_refused(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let mut second = Agent::start(&["--socket", "/run/second.sock"])?;
    let status = second.wait()?;
    ensure!(!status.success(), "a second scheduler was started");
    ensure!(second.said().contains("another sched_ext scheduler is loaded: morpheus"), "it said: {}", second.said());
    ensure!(scheduler()? == "morpheus", "the first one is gone");
    Ok(())
}

/// Ticks at which a hint would have been due but nobody waited are counted; hints, that somebody did. Everything but the
/// worker and the kernel's own threads keeps off the worker's CPU, so hints must be rare.
pub(crate) fn no_hint_when_nobody_waits(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let subject = Subject::start(WorkerConfig::new("alone"), |_, shown| {
        if let Some(hint) = morpheus::take_hint() {
            morpheus::yield_for(&hint);
            shown.taken.fetch_add(1, Relaxed);
        }
        Ok(())
    })?;
    let waited = subject.wait_for_count("unwanted", 200);
    let taken = subject.shown.taken.load(Relaxed);
    subject.end()?;
    waited?;
    println!("{taken} hints while 200 ticks past a hint's time found nobody waiting");
    ensure!(taken < 20, "{taken} hints came while 200 ticks past a hint's time found nobody waiting");
    Ok(())
}

pub(crate) fn hint_is_raised_when_somebody_waits(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let _waiting = Bystander::start(0);
    let subject = Subject::start(WorkerConfig::new("asked"), |_, shown| {
        if let Some(hint) = morpheus::take_hint() {
            ensure!(hint.reason == Reason::Waiter, "the reason is {:?}", hint.reason);
            ensure!(
                hint.deadline_ns.is_some_and(|deadline| deadline > hint.time_ns),
                "the deadline is wrong: {hint:?}"
            );
            morpheus::yield_for(&hint);
            shown.taken.fetch_add(1, Relaxed);
        }
        Ok(())
    })?;
    let got = subject.wait_for("20 hints", |shown| shown.taken.load(Relaxed) >= 20);
    subject.end()?;
    got
}

pub(crate) fn acknowledged_hint_clears(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let _waiting = Bystander::start(0);
    let mut last: Option<u32> = None;
    let subject = Subject::start(WorkerConfig::new("answers"), move |_, shown| {
        if !morpheus::hint_pending() {
            return Ok(());
        }
        // Between the look and the taking no further hint comes: one is pending at most.
        let hint = morpheus::take_hint().context("a pending hint could not be taken")?;
        ensure!(last.is_none_or(|last| hint.seq == last.wrapping_add(1)), "hint {} came after {last:?}", hint.seq);
        last = Some(hint.seq);
        // Another one may come with the next tick; its number then says that it is another one.
        if !morpheus::hint_pending() {
            shown.step.fetch_add(1, Relaxed);
        }
        morpheus::yield_for(&hint);
        shown.taken.fetch_add(1, Relaxed);
        Ok(())
    })?;
    let got = subject.wait_for("10 hints", |shown| shown.taken.load(Relaxed) >= 10);
    let (tid, clear) = (subject.shown.tid.load(Relaxed), subject.shown.step.load(Relaxed));
    let told = workers()?.into_iter().find(|worker| worker["tid"].as_i64() == Some(i64::from(tid)));
    subject.end()?;
    got?;
    ensure!(clear > 0, "a hint was pending right after each was taken");
    let taken = told.context("the report does not know the worker")?["totals"]["taken"].as_u64();
    ensure!(taken >= Some(9), "the agent counted {taken:?} hints as taken");
    Ok(())
}

pub(crate) fn no_hint_and_no_escalation_in_the_wrong_state(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let _waiting = Bystander::start(0);
    // Step 0: parked from the start, so that it has no hint. Step 1: at work, until it has one and ignores it. Step 2: parked
    // with the hint pending.
    let config = WorkerConfig::new("parked").escapable(Duration::ZERO);
    let subject = Subject::start(config, |worker, shown| {
        match shown.step.load(Relaxed) {
            1 => worker.unpark(),
            _ => worker.park(),
        }
        // A hint may have come between registering and the first park.
        if shown.rounds.load(Relaxed) < 3 {
            morpheus::take_hint();
        }
        Ok(())
    })?;
    let outcome = (|| {
        wait_for("the worker to park", PATIENCE, || Ok((subject.shown.rounds.load(Relaxed) > 5).then_some(())))?;
        let escalations = subject.escalations();
        subject.wait_for_count("hint_withheld", 30)?;
        ensure!(!subject.shown.pending.load(Relaxed), "a parked worker got a hint");
        subject.shown.step.store(1, Relaxed);
        subject.wait_for("a hint once it is at work", |shown| shown.pending.load(Relaxed))?;
        subject.shown.step.store(2, Relaxed);
        let rounds = subject.shown.rounds.load(Relaxed);
        subject.wait_for("the worker to park again", |shown| shown.rounds.load(Relaxed) > rounds + 5)?;
        let parked = subject.escalations();
        subject.wait_for_count("wrong_state", 30)?;
        ensure!(subject.escalations() == parked, "a parked worker was escalated");
        ensure!(escalations == 0, "a worker without a hint was escalated");
        Ok(())
    })();
    subject.end()?;
    outcome
}

pub(crate) fn non_escapable_is_never_escalated(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let _waiting = Bystander::start(0);
    let before = count("escalated")?;
    let subject = Subject::start(WorkerConfig::new("stubborn"), |_, _| Ok(()))?;
    let tried = subject.wait_for_count("no_consent", 300);
    let (pending, escalations) = (subject.shown.pending.load(Relaxed), subject.escalations());
    subject.end()?;
    tried?;
    ensure!(pending, "its hint is not pending any more");
    ensure!(escalations == 0 && count("escalated")? == before, "it was escalated {escalations} times");
    Ok(())
}

pub(crate) fn critical_section_blocks_escalation(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let _waiting = Bystander::start(0);
    let (deferred, ended) = (count("deferred")?, count("deferral_ended")?);
    let config = WorkerConfig::new("critical").escapable(Duration::ZERO);
    // Steps: 0 inside one long section, 1 outside, 2 in and out.
    let subject = Subject::start(config, |_, shown| {
        match shown.step.load(Relaxed) {
            0 => HELD.with_borrow_mut(|held| {
                if held.is_none() {
                    *held = Some(morpheus::critical());
                    // Between registering and here it was outside, and may have been escalated: it has no grace.
                    shown.entered_with.store(morpheus::usage().map_or(0, |usage| usage.escalations), Relaxed);
                }
            }),
            1 => HELD.set(None),
            _ => {
                // Answered, so that it is the slice that ends and not a hint's grace.
                morpheus::take_hint();
                let _inside = morpheus::critical();
                work();
            }
        }
        Ok(())
    })?;
    let outcome = (|| {
        subject.wait_for_count("critical", 100)?;
        let before = subject.shown.entered_with.load(Relaxed);
        ensure!(subject.escalations() == before, "it was escalated inside its section");
        ensure!(count("deferred")? > deferred, "its slice was never extended");
        subject.shown.step.store(1, Relaxed);
        // The rule's other half: outside, the same worker with the same hint is escalated.
        subject.wait_for("an escalation outside", |shown| shown.escalations.load(Relaxed) > before)?;
        // Short sections: a slice that was extended for one ends with it, not a slice later.
        subject.shown.step.store(2, Relaxed);
        wait_for("an extension to end with its section", PATIENCE, || {
            Ok((count("deferral_ended")? > ended).then_some(()))
        })
    })();
    subject.end()?;
    outcome
}

/// When a worker looked at its page.
#[derive(Clone, Copy)]
struct Look {
    time: Instant,
    /// Its time on the CPU until then.
    ran: Duration,
}

impl Look {
    fn now() -> Self {
        Self { time: Instant::now(), ran: cpu_time() }
    }
}

pub(crate) fn grace_is_always_observed(stage: &mut Stage) -> Result<()> {
    const GRACE: Duration = Duration::from_millis(150);
    stage.agent()?;
    let _waiting = Bystander::start(0);
    let before = count("grace")?;
    // What is seen at a look has happened since the look before: so the time between two events is at most that from the
    // look before the first to the look after the second.
    // The clock of CPU time is the worker's own, so its first look is, too.
    let (mut looked, mut since, mut escalations) = (None, None, 0);
    let subject = Subject::start(WorkerConfig::new("patient").escapable(GRACE), move |_, shown| {
        let pending = morpheus::hint_pending();
        let seen = morpheus::usage().map_or(0, |usage| usage.escalations);
        let now = Look::now();
        let looked = looked.replace(now).unwrap_or(now);
        if seen != escalations {
            let given = since.replace(looked).context("it was escalated before it had a hint")?;
            let (passed, ran) = (now.time - given.time, now.ran - given.ran);
            ensure!(seen == escalations + 1, "it was escalated twice at once");
            ensure!(passed >= GRACE, "it was escalated after {passed:?}");
            // All of it on the CPU. The thread's clock leaves out interrupts, of which a translated CPU has long ones.
            ensure!(ran >= GRACE * 4 / 5, "it was escalated after {ran:?} on the CPU");
            escalations = seen;
            shown.taken.fetch_add(1, Relaxed);
        } else if since.is_none() && pending {
            since = Some(looked);
        }
        Ok(())
    })?;
    let got = subject.wait_for("3 escalations", |shown| shown.taken.load(Relaxed) >= 3);
    subject.end()?;
    got?;
    ensure!(count("grace")? > before, "the grace time never held an escalation back");
    Ok(())
}

pub(crate) fn escapable_worker_is_escalated_after_grace(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let waiting = Bystander::start(0);
    let before = count("escalated")?;
    let subject = Subject::start(WorkerConfig::new("ignores").escapable(Duration::from_millis(1)), |_, _| Ok(()))?;
    let got = subject.wait_for("10 escalations", |shown| shown.escalations.load(Relaxed) >= 10);
    let (ran, escalations) = (waiting.ran(), subject.escalations());
    subject.end()?;
    got?;
    ensure!(count("escalated")? >= before + u64::from(escalations), "the scheduler counted fewer than the page");
    ensure!(ran > Duration::ZERO, "what was taken from the worker did not reach who waited");
    Ok(())
}

/// Niceness 5 has a third of the weight of 0. Asked for: two to five times as much for the heavier one, over enough slices.
pub(crate) fn weights_are_honoured(stage: &mut Stage) -> Result<()> {
    stage.agent()?;
    let (heavy, light) = (Bystander::start(0), Bystander::start(5));
    wait_for("a second of CPU time", PATIENCE, || {
        Ok((heavy.ran() + light.ran() >= Duration::from_millis(1500)).then_some(()))
    })?;
    let (heavy, light) = (heavy.ran(), light.ran());
    println!("niceness 0 ran {heavy:?}, niceness 5 ran {light:?}");
    ensure!(heavy >= 2 * light && heavy <= 5 * light, "niceness 0 ran {heavy:?}, niceness 5 ran {light:?}");
    Ok(())
}

pub(crate) fn verifier_counts_stay_below_their_limits(stage: &mut Stage) -> Result<()> {
    let agent = stage.take_agent()?;
    let report = report()?;
    agent.signal(Signal::TERM)?;
    let programs = report["programs"].as_object().context("the report has no programs")?;
    ensure!(!programs.is_empty(), "the report has no programs");
    for (name, count) in programs {
        let count = count.as_u64().with_context(|| format!("{name} has no count"))?;
        ensure!(count > 0, "the verifier went through no instruction of {name}");
        println!("{VERIFIED} {name} {count}");
    }
    Ok(())
}

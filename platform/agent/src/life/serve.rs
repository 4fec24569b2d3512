//! Third stage: the app runs; its health, its ports and its end are watched.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use holm_guest_control::{ExitReport, ExitStatus, Status};
use holm_model::report::{EndCause, Phase};
use tokio::time::{Instant, sleep_until};

use super::starved::{PAUSED, awake};
use super::{Life, Session, Wish};
use crate::config::Limits;
use crate::journal::Step;
use crate::world::{Attachment, Guest, Machine};

/// Where the instance goes from here.
#[derive(Debug)]
pub(super) enum Then {
    /// It ends by itself.
    End(EndCause),
    /// It shall stop.
    Stop,
}

/// What one look at a running app says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Show(Phase, Option<String>),
    End(EndCause),
}

impl Life {
    pub(super) async fn serve(&mut self, machine: &Arc<dyn Machine>, session: &mut Session) -> Then {
        // An earlier agent began to stop it; what the target says now does not matter.
        if self.journal.past().stopping {
            return Then::Stop;
        }
        let mut startup = self.startup_deadline();
        let mut starved = machine.starved();
        let mut paused: Option<Instant> = None;
        let mut healthy = self.journal.past().healthy;
        let mut wish = self.wish.clone();
        let mut volumes = self.shared.volumes.subscribe();
        loop {
            paused = match (*starved.borrow_and_update(), paused) {
                (true, since) => since.or_else(|| Some(Instant::now())),
                (false, since) => {
                    // The time an app has to become healthy stood still too.
                    startup += since.map_or(Duration::ZERO, |since| since.elapsed());
                    None
                }
            };
            let (verdict, behind) = match paused {
                Some(_) => {
                    let phase = if healthy { Phase::Unhealthy } else { self.seen.phase };
                    (Verdict::Show(phase, Some(PAUSED.to_owned())), false)
                }
                None => {
                    self.follow_ports(machine).await;
                    volumes.mark_unchanged();
                    let behind = self.follow_volumes(machine, &session.guest).await;
                    let status = session.status.borrow_and_update().clone();
                    (judge(&status, healthy, Instant::now() >= startup, &self.spec), behind)
                }
            };
            match verdict {
                Verdict::End(cause) => return Then::End(cause),
                Verdict::Show(phase, detail) => {
                    if phase == Phase::Healthy && !healthy {
                        healthy = true;
                        self.note(Step::Healthy);
                    }
                    self.show_phase(phase, detail);
                }
            }
            if !matches!(&*wish.borrow_and_update(), Wish::Run(_)) {
                return Then::Stop;
            }
            let (guest, limits) = (session.guest.clone(), self.shared.limits);
            let mut silence = pin!(silence(machine.as_ref(), guest.as_ref(), &limits));
            tokio::select! {
                how = machine.wait_exit() => {
                    let exit = session.status.borrow().exit.clone();
                    return Then::End(exit.map_or(EndCause::Lost { why: how }, |exit| end_of(&exit, &self.spec)));
                }
                changed = wish.changed() => if changed.is_err() { std::future::pending::<()>().await },
                Ok(()) = session.status.changed() => {}
                Ok(()) = starved.changed() => {}
                Ok(()) = volumes.changed() => {}
                () = tokio::time::sleep(super::RETRY), if behind => {}
                () = guest.closed() => if let Err(why) = self.reconnect(machine, session).await {
                    return Then::End(EndCause::Hung { why });
                },
                () = sleep_until(startup), if !healthy && paused.is_none() => {}
                why = &mut silence => return Then::End(EndCause::Hung { why }),
            }
        }
    }

    /// When an app that has not been healthy yet is judged: with a health check the end of its startup time, without one
    /// the end of the smoke window. Counted from the app's start, also when an earlier agent saw that.
    fn startup_deadline(&self) -> Instant {
        let allowed = match &self.spec.health {
            Some(health) => Duration::from_millis(health.startup_ms),
            None => self.shared.limits.smoke,
        };
        let started = self.journal.past().started.unwrap_or_else(|| self.shared.world.now());
        let gone = self.shared.world.now().duration_since(started);
        Instant::now() + allowed.saturating_sub(gone.try_into().unwrap_or(Duration::ZERO))
    }

    /// Forwards ports that were added to the target, and shows where each wanted one is reached.
    async fn follow_ports(&mut self, machine: &Arc<dyn Machine>) {
        let ports = self.ports();
        let Some(network) = self.journal.past().network.clone() else { return };
        if let Attachment::User { forwards } = &network {
            for port in ports.iter().filter(|port| !forwards.contains_key(port)) {
                match machine.forward(*port).await {
                    Ok(listen) => self.note(Step::Forwarded { port: *port, listen }),
                    Err(failure) => {
                        tracing::warn!(instance = %self.spec.instance, port, %failure, "cannot forward a port");
                    }
                }
            }
        }
        let endpoints = self.journal.past().network.as_ref().map(|network| network.endpoints(&ports));
        self.show(|seen| seen.endpoints = endpoints.unwrap_or_default());
    }

    /// Opens a new session to a guest whose connection broke, within the time a guest may be silent.
    async fn reconnect(&mut self, machine: &Arc<dyn Machine>, session: &mut Session) -> Result<(), String> {
        let limit = self.shared.limits.silence;
        let opened = async {
            loop {
                tokio::select! {
                    // Judged by the caller, which waits for the same thing.
                    _ = machine.wait_exit() => return None,
                    opened = self.open_session(machine) => match opened {
                        Ok(opened) => return Some(opened),
                        Err(failure) => tracing::debug!(%failure, "cannot reach the guest again yet"),
                    },
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        match awake(machine.as_ref(), limit, opened, |_| {}).await {
            Some(Some(opened)) => *session = opened,
            Some(None) => {}
            None => return Err(format!("the guest did not answer for {} s", limit.as_secs())),
        }
        Ok(())
    }
}

/// Resolves when the guest has left a question unanswered for too long. An ended connection is not silence.
async fn silence(machine: &dyn Machine, guest: &dyn Guest, limits: &Limits) -> String {
    loop {
        tokio::time::sleep(limits.ping).await;
        if awake(machine, limits.silence, guest.metrics(), |_| {}).await.is_none() {
            return format!("the guest did not answer for {} s", limits.silence.as_secs());
        }
    }
}

/// Decides what a guest's state means for its instance. `late`: the time an app has to become healthy is over.
fn judge(status: &Status, was_healthy: bool, late: bool, spec: &holm_model::target::InstanceSpec) -> Verdict {
    if let Some(exit) = &status.exit {
        return Verdict::End(end_of(exit, spec));
    }
    let Some(check) = &spec.health else {
        return Verdict::Show(if late || was_healthy { Phase::Healthy } else { Phase::Starting }, None);
    };
    match &status.health {
        Some(health) if health.healthy => Verdict::Show(Phase::Healthy, None),
        Some(health) if was_healthy => Verdict::Show(Phase::Unhealthy, Some(health.detail.clone())),
        None if was_healthy => Verdict::Show(Phase::Healthy, None),
        other if late => {
            let detail = other.as_ref().map_or("the health check has not run", |health| &health.detail);
            let seconds = check.startup_ms.div_ceil(1000);
            Verdict::End(EndCause::Hung { why: format!("not healthy within {seconds} s: {detail}") })
        }
        other => Verdict::Show(Phase::Starting, other.as_ref().map(|health| health.detail.clone())),
    }
}

/// What the exit of an app that nobody asked to stop means.
fn end_of(exit: &ExitReport, spec: &holm_model::target::InstanceSpec) -> EndCause {
    if let Some(why) = &exit.start_error {
        return EndCause::CouldNotStart { why: why.clone() };
    }
    if exit.oom {
        return EndCause::OutOfMemory { limit: spec.memory.bytes() };
    }
    match exit.status {
        ExitStatus::Code(code) => EndCause::Exited { code },
        ExitStatus::Signal(signal) => EndCause::Signaled { signal },
    }
}

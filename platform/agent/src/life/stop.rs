//! Last stage of a life that Holm ends: connections, then the app, then the microVM, each with its time.

use std::sync::Arc;
use std::time::Duration;

use holm_guest_control::ExitStatus;
use holm_model::report::{EndCause, Phase};
use tokio::time::timeout;

use super::{Life, Session};
use crate::journal::Step;
use crate::world::Machine;

/// The number of SIGKILL, which is how a guest ends an app that outstays its grace.
const SIGKILL: i32 = 9;

impl Life {
    /// Stops a running app. Returns when its microVM is gone.
    pub(super) async fn stop(&mut self, machine: &Arc<dyn Machine>, session: &mut Session) -> EndCause {
        self.show_phase(Phase::Stopping, Some("waiting for open connections to end".to_owned()));
        if !self.journal.past().stopping {
            self.note(Step::Stopping);
        }
        let policy = self.spec.stop.clone();
        let drained = async {
            let shared = self.shared.clone();
            let _ =
                timeout(Duration::from_millis(policy.drain_ms), shared.connections.drained(&self.spec.instance)).await;
        };
        tokio::select! {
            biased;
            _ = machine.wait_exit() => {}
            Ok(_) = session.status.wait_for(|status| status.exit.is_some()) => {}
            () = drained => {}
        }
        self.show_phase(Phase::Stopping, Some("waiting for the app to end".to_owned()));
        let cause = self.stop_app(machine, session, Duration::from_millis(policy.grace_ms)).await;
        session.finish_logs(self.shared.limits.power_off).await;
        cause
    }

    async fn stop_app(&mut self, machine: &Arc<dyn Machine>, session: &mut Session, grace: Duration) -> EndCause {
        let margin = self.power_off();
        let gone = async {
            while session.guest.stop(grace).await.is_err() {
                // A connection that broke just now; the guest counts its grace from the first request it gets.
                if let Ok(again) = self.open_session(machine).await {
                    *session = again;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            machine.wait_exit().await;
        };
        let gone = tokio::select! {
            biased;
            _ = machine.wait_exit() => true,
            gone = timeout(grace + margin, gone) => gone.is_ok(),
        };
        if !gone {
            self.kill(machine).await;
            return EndCause::StoppedByForce;
        }
        let killed_inside = session
            .status
            .borrow()
            .exit
            .as_ref()
            .is_some_and(|exit| exit.status == ExitStatus::Signal(SIGKILL) && !exit.oom);
        if killed_inside { EndCause::StoppedByForce } else { EndCause::Stopped }
    }
}

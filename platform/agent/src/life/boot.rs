//! Second stage: from a microVM's first instruction to its app's, with one deadline for all of it.

use std::sync::{Arc, PoisonError};

use holm_guest_control::secrets::GuestSecrets;
use holm_guest_control::{Features, Phase as GuestPhase};
use holm_model::report::{EndCause, Observation, Phase};
use tokio_util::task::AbortOnDropHandle;

use super::starved::{PAUSED, awake};
use super::{Life, Session, names};
use crate::guest_config::{guest_config, guest_secrets};
use crate::journal::Step;
use crate::world::{Attachment, Failure, Guest, GuestFailure, Image, Machine};

impl Life {
    /// Brings the app to its start. A guest that was configured or started by an earlier agent is taken as it is. On an
    /// error the machine may still run.
    pub(super) async fn boot(&mut self, machine: &Arc<dyn Machine>) -> Result<Session, EndCause> {
        // One that is to stop, or was healthy once, keeps the phase the last agent showed.
        if self.seen.phase < Phase::Booting {
            self.show_phase(Phase::Booting, None);
        }
        let mut wish = self.wish.clone();
        let started = self.journal.past().started.is_some();
        let (shared, name, seen) = (self.shared.clone(), self.spec.instance.clone(), self.seen.clone());
        let limit = shared.limits.boot;
        let paused = |paused: bool| {
            let detail = if paused { Some(PAUSED.to_owned()) } else { seen.detail.clone() };
            shared.board.show(&name, &Observation { detail, ..seen.clone() });
        };
        let outcome = tokio::select! {
            biased;
            how = machine.wait_exit() => Err(EndCause::Lost { why: how }),
            // An app that runs is asked to stop; before that there is nobody to ask.
            () = Self::stop_wished(&mut wish), if !started => Err(EndCause::Stopped),
            outcome = awake(machine.as_ref(), limit, self.reach_app(machine), paused) => outcome.unwrap_or_else(|| {
                Err(EndCause::Hung { why: format!("the guest was not up within {} s", limit.as_secs()) })
            }),
        };
        match outcome {
            Err(EndCause::Hung { why }) => {
                let words = machine.last_words().await;
                self.kill(machine).await;
                let why = if words.is_empty() { why } else { format!("{why}; its console ends with: {words}") };
                Err(EndCause::Hung { why })
            }
            Err(cause) => {
                self.kill(machine).await;
                Err(cause)
            }
            Ok(session) => Ok(session),
        }
    }

    async fn reach_app(&mut self, machine: &Arc<dyn Machine>) -> Result<Session, EndCause> {
        let session = loop {
            let session = match self.open_session(machine).await {
                Ok(session) => session,
                Err(GuestFailure::Closed) => continue,
                Err(GuestFailure::Refused(why)) => return Err(EndCause::CouldNotStart { why }),
            };
            match self.start_app(session.guest.as_ref()).await {
                Ok(()) => break session,
                Err(GuestFailure::Closed) => {
                    tracing::debug!(instance = %self.spec.instance, "greeting the guest again")
                }
                // A guest that could not start the app says so as an exit, with more detail than the refusal.
                Err(GuestFailure::Refused(_)) if session.status.borrow().exit.is_some() => break session,
                Err(GuestFailure::Refused(why)) => return Err(EndCause::CouldNotStart { why }),
            }
        };
        if self.journal.past().started.is_none() {
            self.note(Step::Started);
        }
        Ok(session)
    }

    /// Takes the guest from where it is to `Running` or beyond.
    async fn start_app(&mut self, guest: &dyn Guest) -> Result<(), GuestFailure> {
        let phase = guest.status().borrow().phase;
        if phase == GuestPhase::Booted {
            self.note(Step::Greeted { boot: guest.boot_marks() });
            let (image, network) = self.made()?;
            let secrets = self.secrets(guest).await?;
            let config = guest_config(&self.spec, &image, &network, secrets);
            let config = config.map_err(|failure| GuestFailure::Refused(failure.0))?;
            guest.configure(&config).await?;
            self.note(Step::Configured);
        }
        if matches!(phase, GuestPhase::Booted | GuestPhase::Configured) {
            guest.start().await?;
        }
        Ok(())
    }

    /// The values of the instance's secrets, opened now and kept nowhere.
    async fn secrets(&self, guest: &dyn Guest) -> Result<Option<GuestSecrets>, GuestFailure> {
        let Some(target) = &self.spec.secrets else { return Ok(None) };
        if !guest.can(Features::SECRETS) {
            let why = "the guest is too old to take secrets; `holm guest import` makes a newer one";
            return Err(GuestFailure::Refused(why.to_owned()));
        }
        let refused = |failure: Failure| GuestFailure::Refused(failure.0);
        let values = self.shared.world.open_secrets(self.spec.app(), &target.set).await.map_err(refused)?;
        guest_secrets(target, &values).map(Some).map_err(refused)
    }

    fn made(&self) -> Result<(Image, Attachment), GuestFailure> {
        let past = self.journal.past();
        let made = past.image.clone().zip(past.network.clone());
        made.ok_or_else(|| GuestFailure::Refused("the journal of a running microVM names no image".to_owned()))
    }

    /// Connects to the guest and begins to take its output.
    pub(super) async fn open_session(&mut self, machine: &Arc<dyn Machine>) -> Result<Session, GuestFailure> {
        let guest = machine.connect().await.map_err(|failure| GuestFailure::Refused(failure.0))?;
        let next = self.logs.lock().unwrap_or_else(PoisonError::into_inner).next_seq();
        let mut source = guest.logs(next).await?;
        let (logs, name) = (self.logs.clone(), self.spec.instance.clone());
        let pump = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(record) = source.next().await {
                let kept = logs.lock().unwrap_or_else(PoisonError::into_inner).append(&record);
                if let Err(error) = kept {
                    // The record is lost; readers see the hole in the numbers.
                    tracing::warn!(instance = %name, %error, "cannot keep a log record");
                }
            }
        }));
        let address = match &self.journal.past().network {
            Some(Attachment::Routed { address, .. }) => Some(*address),
            _ => None,
        };
        self.shared.board.set_reach(&self.spec.instance, |reach| {
            reach.guest = Some(guest.clone());
            reach.address = address;
        });
        let told = names::keep_told(self.shared.clone(), self.spec.instance.clone(), guest.clone());
        let names = AbortOnDropHandle::new(tokio::spawn(told));
        let status = guest.status();
        Ok(Session { guest, status, pump, _names: names })
    }
}

//! First stage: the image, the network and the microVM's process, or the one that runs already.

use std::sync::Arc;

use holm_model::report::{EndCause, Observation, Phase};
use tokio::sync::OwnedSemaphorePermit;

use super::Life;
use crate::journal::Step;
use crate::world::{Attachment, Failure, Image, LaunchOrder, Machine};

impl Life {
    /// The instance's microVM, taken over or started, with the turn to boot of one that was started. There is never a
    /// second microVM: what may run is ended first.
    pub(super) async fn machine(&mut self) -> Result<(Arc<dyn Machine>, Option<OwnedSemaphorePermit>), EndCause> {
        let past = self.journal.past();
        if let Some(record) = past.machine.clone() {
            let stopping = past.stopping;
            return match self.shared.world.adopt(&self.spec.instance, &record).await {
                Ok(Some(machine)) => {
                    tracing::info!(instance = %self.spec.instance, pid = record.pid, "took over a running microVM");
                    Ok((machine, None))
                }
                Ok(None) if stopping => Err(EndCause::Stopped),
                Ok(None) => Err(EndCause::Lost { why: "the microVM ended while no agent was running".to_owned() }),
                Err(failure) => Err(EndCause::Lost { why: failure.0 }),
            };
        }
        if past.launching {
            self.remove_machines().await;
        }
        let mut wish = self.wish.clone();
        let image = tokio::select! {
            biased;
            () = Self::stop_wished(&mut wish) => return Err(EndCause::Stopped),
            image = self.image() => image?,
        };
        self.show_phase(Phase::Preparing, Some("waiting for its turn to boot".to_owned()));
        let turn = tokio::select! {
            biased;
            () = Self::stop_wished(&mut wish) => return Err(EndCause::Stopped),
            turn = self.shared.boots.clone().acquire_owned() => turn.expect("the semaphore is never closed"),
        };
        self.show_phase(Phase::Preparing, None);
        let network = self.network().await?;
        Ok((self.launch(&image, &network).await?, Some(turn)))
    }

    async fn image(&mut self) -> Result<Image, EndCause> {
        if let Some(image) = self.journal.past().image.clone()
            && image.root.is_file()
        {
            return Ok(image);
        }
        self.show_phase(Phase::Preparing, Some("getting the image".to_owned()));
        let (shared, name, seen) = (self.shared.clone(), self.spec.instance.clone(), self.seen.clone());
        let progress = Arc::new(move |detail| {
            shared.board.show(&name, &Observation { detail: Some(detail), ..seen.clone() });
        });
        let image = self.shared.world.prepare_image(&self.spec, progress).await;
        let image = image.map_err(could_not_start)?;
        self.must_note(Step::ImageReady { image: image.clone() })?;
        Ok(image)
    }

    async fn network(&mut self) -> Result<Attachment, EndCause> {
        let ports = self.ports();
        let network = self.shared.world.attach_network(&self.spec.instance, &ports).await.map_err(could_not_start)?;
        self.must_note(Step::NetworkAttached { network: network.clone() })?;
        Ok(network)
    }

    async fn launch(&mut self, image: &Image, network: &Attachment) -> Result<Arc<dyn Machine>, EndCause> {
        self.must_note(Step::Launching)?;
        let run_dir = self.folder.run();
        let volumes = self.shared.volumes.subscribe().borrow().clone();
        let shared = self.shared.clone();
        // The board says whose the volumes are since this life began.
        let _no_copy = if self.spec.volumes.is_empty() { None } else { Some(shared.idle_copies.lock().await) };
        let order = LaunchOrder { spec: &self.spec, image, network, run_dir: &run_dir, volumes: &volumes };
        let machine = self.shared.world.launch(order).await.map_err(could_not_start)?;
        self.must_note(Step::Launched { machine: machine.record() })?;
        Ok(machine)
    }
}

fn could_not_start(failure: Failure) -> EndCause {
    EndCause::CouldNotStart { why: failure.0 }
}

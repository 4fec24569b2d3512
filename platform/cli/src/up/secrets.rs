//! Changes of secrets: sealed in the vault first, recorded by name second, removed when nothing needs them any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use holm_api::secrets::{SecretDifference, SecretDifferences, SecretsChange, SecretsComparison, compare};
use holm_api::wire::Accepted;
use holm_api::{Problem, ProblemCode};
use holm_control::{Command, Control, Meta, Refused};
use holm_model::id::{AppKey, SecretSetId};
use holm_model::state::State;
use holm_secrets::{SecretName, Secrets, Vault, VaultError};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backend::refused;
use super::images::chain;

/// The vault with the turn to change it: a change is read, sealed and recorded before the next one begins.
#[derive(Clone)]
pub(crate) struct Keeper {
    pub(crate) vault: Arc<Vault>,
    turn: Arc<Mutex<()>>,
}

fn vault_problem(error: &VaultError) -> Problem {
    Problem::failed("the secrets cannot be read or written").because(chain(error))
}

/// What a change leads to.
struct Changed {
    next: Secrets,
    changed: BTreeSet<SecretName>,
    removed: BTreeSet<SecretName>,
}

impl Keeper {
    pub(crate) fn new(vault: Vault) -> Self {
        Self { vault: Arc::new(vault), turn: Arc::default() }
    }

    /// Works on the vault apart from the threads that serve.
    async fn with_vault<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Vault) -> Result<T, VaultError> + Send + 'static,
    ) -> Result<T, Problem> {
        let vault = Arc::clone(&self.vault);
        let done = tokio::task::spawn_blocking(move || work(&vault)).await;
        done.map_err(|error| Problem::failed("the vault panicked").because(error))?.map_err(|e| vault_problem(&e))
    }

    async fn newest(&self, state: &State, app: &AppKey) -> Result<Secrets, Problem> {
        let newest = state.apps.get(app).and_then(|doc| doc.secrets.newest.clone());
        let Some(version) = newest else { return Ok(Secrets::default()) };
        let app = app.clone();
        self.with_vault(move |vault| vault.unseal(&app, &version.set)).await
    }

    pub(crate) async fn change(
        &self,
        control: &Control,
        key: Uuid,
        actor: String,
        change: SecretsChange,
    ) -> Result<Accepted, Problem> {
        let _turn = self.turn.lock().await;
        let state = control.state();
        let set: SecretSetId =
            key.to_string().parse().map_err(|error| Problem::bad_request("not a request key").because(error))?;
        if state.secret_sets().contains(&set) {
            // The same request again: the set of this key is recorded.
            let deployment = state.active_deployment(&change.app).map(|(number, _)| number);
            return Ok(Accepted { seq: state.seq, deployment: deployment.filter(|_| change.restart), changed: true });
        }
        let base = self.newest(&state, &change.app).await?;
        let Changed { next, changed, removed } = apply(base, &change)?;
        if changed.is_empty() && removed.is_empty() {
            return Ok(Accepted { seq: state.seq, deployment: None, changed: false });
        }
        let (app, sealed_as) = (change.app.clone(), set.clone());
        self.with_vault(move |vault| vault.seal(&app, &sealed_as, &next)).await?;
        let command = Command::Secrets { app: change.app, set: set.clone(), changed, removed, restart: change.restart };
        let submitted = control.submit(command, Meta::new(actor).with_key(key.to_string())).await;
        if let Err(Refused::Refusal(_)) = &submitted {
            // Surely not recorded. After any other error it may be, and the next sweep decides.
            self.with_vault(move |vault| vault.remove(&set)).await?;
        }
        let accepted = submitted.map_err(refused)?;
        Ok(Accepted { seq: accepted.seq, deployment: accepted.deployment, changed: accepted.changed })
    }

    pub(crate) async fn compare(
        &self,
        state: &State,
        comparison: SecretsComparison,
    ) -> Result<SecretDifferences, Problem> {
        Ok(compare(&self.newest(state, &comparison.app).await?, &comparison.secrets))
    }

    /// Removes sets that nothing needs, now and whenever the state stops needing some.
    pub(crate) async fn sweep(self, control: Control, stop: CancellationToken) {
        let mut changes = control.changes();
        let mut kept: Option<BTreeSet<SecretSetId>> = None;
        loop {
            changes.mark_unchanged();
            let turn = self.turn.lock().await;
            let needed: BTreeSet<SecretSetId> = control.state().secret_sets().into_iter().cloned().collect();
            if kept.as_ref() != Some(&needed) {
                let keep = needed.clone();
                match self.with_vault(move |vault| vault.keep_only(&keep)).await {
                    Ok(_) => kept = Some(needed),
                    Err(problem) => tracing::warn!(%problem, "cannot remove old secrets"),
                }
            }
            drop(turn);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }
}

/// The whole set after a change, and what is different in it.
fn apply(base: Secrets, change: &SecretsChange) -> Result<Changed, Problem> {
    if change.rotate {
        let missing = change.set.0.keys().find(|name| !base.0.contains_key(*name));
        if let Some(name) = missing {
            let app = &change.app;
            return Err(Problem::not_found(format!("`{app}` has no secret `{name}` to rotate"))
                .hint(format!("set it with `holm secrets set {name}`")));
        }
    }
    let mut next = if change.replace { Secrets::default() } else { base.clone() };
    next.0.extend(change.set.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    for name in &change.unset {
        if next.0.remove(name).is_none() {
            let app = &change.app;
            return Err(Problem::not_found(format!("`{app}` has no secret `{name}`"))
                .hint("`holm secrets list` shows those there are"));
        }
    }
    next.check().map_err(|error| Problem::new(ProblemCode::TooLarge, "too many secrets").because(error))?;
    let mut changed = BTreeSet::new();
    let mut removed = BTreeSet::new();
    for (name, difference) in compare(&base, &next) {
        match difference {
            SecretDifference::Same => {}
            SecretDifference::Changed | SecretDifference::Added => drop(changed.insert(name)),
            SecretDifference::Missing => drop(removed.insert(name)),
        }
    }
    Ok(Changed { next, changed, removed })
}

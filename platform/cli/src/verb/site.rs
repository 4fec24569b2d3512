//! `holm up`, `down` and `version`: the running Holm as a whole.

use std::path::PathBuf;
use std::time::Duration;

use holm_api::ClientError;
use holm_api::wire::Shutdown;
use holm_model::report::Phase;
use serde::Serialize;

use super::{Context, interrupted, stopped_by_user};
use crate::args::{Down, Up};
use crate::exit::Failure;
use crate::up::{self, BackupOptions, RemoteOptions, UpOptions};

/// How often a Holm that goes down is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn up(up: Up, state: PathBuf) -> Result<(), Failure> {
    let sni_port = up.sni_port.unwrap_or(if rustix::process::geteuid().is_root() { 443 } else { 8443 });
    let options = UpOptions {
        state,
        detach: up.detach,
        sni_port,
        listen: up.listen,
        listen_ipv4: up.listen_ipv4.unwrap_or_else(|| up::ipv4_beside(up.listen)),
        network: up.network,
        memory: up.memory,
        disk: up.disk,
        accel: up.accel,
        registry_auth: up.registry_auth,
        proxies: up.proxy_from,
        insecure_registries: up.insecure_registry,
        log_json: up.log_json,
        backups: BackupOptions { store: up.backups, key: up.backup_key, rate: u64::from(up.backup_rate) << 20 },
        socket_group: up.socket_group,
        remote: up.remote.map(|listen| RemoteOptions { listen, certificate: up.remote_cert.zip(up.remote_key) }),
        metrics: up.metrics,
    };
    Ok(up::run(options)?)
}

#[derive(Serialize)]
struct WentDown {
    instances_kept: bool,
}

pub(crate) async fn down(down: &Down, context: &Context<'_>) -> Result<(), Failure> {
    context.client.shutdown(Shutdown { keep_instances: down.keep_instances }).await?;
    tokio::select! {
        done = until_gone(context, down.keep_instances) => done?,
        () = interrupted() => {
            context.out.say("holm goes on going down without this command");
            return Err(stopped_by_user());
        }
    }
    let body = WentDown { instances_kept: down.keep_instances };
    context.out.show("down", &body, |body| match body.instances_kept {
        true => "holm is down; its instances run on\n".to_owned(),
        false => "holm is down\n".to_owned(),
    })
}

/// Waits until nobody answers any more, and says how many instances still have to stop; kept ones do not.
async fn until_gone(context: &Context<'_>, keep_instances: bool) -> Result<(), Failure> {
    let mut told = None;
    loop {
        match context.client.state(None).await {
            Err(ClientError::NotRunning { .. } | ClientError::NotReachable { .. } | ClientError::Cut(_)) => {
                return Ok(());
            }
            Err(ClientError::Problem(_)) => {}
            Err(error) => return Err(error.into()),
            Ok(state) => {
                let left = state.instances.values().filter(|instance| instance.phase != Phase::Ended).count();
                if left > 0 && !keep_instances && told != Some(left) {
                    context.out.say(&format!("waiting for {left} instances to stop"));
                }
                told = Some(left);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    server: Option<String>,
}

pub(crate) async fn version(context: &Context<'_>) -> Result<(), Failure> {
    let server = match context.client.version().await {
        Ok(server) => Some(server.version),
        Err(ClientError::NotRunning { .. } | ClientError::NotAllowed { .. } | ClientError::NotReachable { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), server };
    context.out.show("version", &versions, |versions| {
        let server = versions.server.as_deref().unwrap_or("not running");
        format!("holm {}\nserver {server}\n", versions.client)
    })
}

//! The verbs: each asks the running Holm, renders the answer as text or as a document, and says how it ended.

mod change;
mod deploy;
mod doctor;
mod events;
mod exec;
mod explain;
mod explain_app;
mod follow;
mod guest;
mod images;
mod init;
mod ipv4;
mod logs;
mod plan;
pub(crate) mod reference;
mod route;
mod scale;
mod secrets;
mod site;
mod state;
mod status;
mod storage;
mod tokens;

use clap::CommandFactory;
use holm_api::{Client, RemoteHost};

use crate::args::{Cli, Verb};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::target::state_folder;

/// What a verb works with.
pub(crate) struct Context<'o> {
    /// Talks to the running Holm.
    pub(crate) client: Client,
    /// Where everything is said.
    pub(crate) out: &'o Output,
}

/// Does what the command line says.
pub(crate) fn run(cli: Cli, out: &Output) -> Result<(), Failure> {
    let state = state_folder(cli.global.state.as_deref());
    match cli.verb {
        Verb::Init(init) => init::run(&init, out),
        Verb::Completions(completions) => {
            clap_complete::generate(completions.shell, &mut Cli::command(), "holm", &mut std::io::stdout());
            Ok(())
        }
        Verb::Docs { man: None } => out.text(&reference::page()),
        Verb::Docs { man: Some(folder) } => reference::manual(&folder, out),
        Verb::Up(up) => site::up(up, state?),
        Verb::Ingress(ingress) => Ok(crate::up::run_ingress(&ingress.socket, ingress.log_json)?),
        verb => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let client = match cli.global.host.as_ref().filter(|host| !host.is_empty()) {
                Some(host) => {
                    let token = std::env::var("HOLM_TOKEN").unwrap_or_default();
                    Client::of_remote(RemoteHost::new(host, token.trim()).map_err(|e| Failure::usage(e.to_string()))?)
                }
                None => Client::new(state?),
            };
            let context = Context { client, out };
            let done = runtime.block_on(ask(verb, &context));
            // A blocked read of standard input must not hold the end up.
            runtime.shutdown_background();
            done
        }
    }
}

async fn ask(verb: Verb, context: &Context<'_>) -> Result<(), Failure> {
    match verb {
        Verb::Init(_) | Verb::Completions(_) | Verb::Docs { .. } | Verb::Up(_) | Verb::Ingress(_) => Ok(()),
        Verb::Down(down) => site::down(&down, context).await,
        Verb::Version => site::version(context).await,
        Verb::Deploy(deploy) => deploy::deploy(&deploy, context).await,
        Verb::Plan(plan) => plan::run(&plan, context).await,
        Verb::Status(app) => status::status(&app, context).await,
        Verb::Ps(ps) => status::ps(&ps, context).await,
        Verb::Releases(app) => status::releases(&app, context).await,
        Verb::Logs(logs) => logs::run(&logs, context).await,
        Verb::Exec(exec) => exec::run(&exec, context).await,
        Verb::Scale(scale) => scale::run(&scale, context).await,
        Verb::Restart(restart) => deploy::restart(&restart, context).await,
        Verb::Rollback(rollback) => deploy::rollback(&rollback, context).await,
        Verb::Stop(app) => change::stop(&app, context).await,
        Verb::Start(app) => change::start(&app, context).await,
        Verb::Destroy(destroy) => change::destroy(&destroy, context).await,
        Verb::Route(verb) => route::run(&verb, context).await,
        Verb::Secrets(verb) => secrets::run(&verb, context).await,
        Verb::Tokens(verb) => tokens::run(&verb, context).await,
        Verb::Metrics => context.out.text(&context.client.metrics().await?),
        Verb::Ipv4(verb) => ipv4::run(&verb, context).await,
        Verb::Volumes(verb) => storage::volumes(&verb, context).await,
        Verb::Snapshots(verb) => storage::snapshots(&verb, context).await,
        Verb::Backups(verb) => storage::backups(&verb, context).await,
        Verb::Events(events) => events::run(&events, context).await,
        Verb::Explain(explain) => explain::run(&explain, context).await,
        Verb::Images(verb) => images::run(&verb, context).await,
        Verb::Guest(verb) => guest::run(&verb, context).await,
        Verb::Doctor => doctor::run(context).await,
        Verb::State(verb) => state::run(&verb, context),
    }
}

/// Waits for Ctrl-C, without end where signals cannot be had.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A follow that the user ended on purpose.
fn stopped_by_user() -> Failure {
    Failure::silent(Exit::Interrupted)
}

//! `holm guest list` and `import`: the kernels that microVMs boot. Both work also while Holm is not running.

use holm_api::ClientError;
use holm_api::wire::{GuestImport, GuestSummary};
use serde::Serialize;

use super::Context;
use crate::args::Guest;
use crate::exit::Failure;
use crate::table::{size, table};
use crate::up;

#[derive(Serialize)]
struct List {
    guests: Vec<GuestSummary>,
}

pub(crate) async fn run(verb: &Guest, context: &Context<'_>) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    match verb {
        Guest::List => {
            let guests = match client.guests().await {
                Err(ClientError::NotRunning { .. }) => up::guests(client.state_folder())?,
                answer => answer?,
            };
            out.show("guest-list", &List { guests }, |list| {
                let row = |guest: &GuestSummary| {
                    let default = if guest.default { "default" } else { "" };
                    let id = guest.id.clone();
                    vec![guest.name.clone(), guest.kernel.clone(), id, size(guest.size), default.to_owned()]
                };
                let rows: Vec<Vec<String>> = list.guests.iter().map(row).collect();
                table(&["GUEST", "KERNEL", "ID", "SIZE", ""], &rows)
            })
        }
        Guest::Import { packages, init } => {
            let packages = packages.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
            let init = init.as_ref().map(std::path::absolute).transpose()?;
            let import = GuestImport { packages, init };
            let guest = match client.import_guest(&import).await {
                Err(ClientError::NotRunning { .. }) => up::import_guest(client.state_folder(), &import).await?,
                answer => answer?,
            };
            out.show("guest-import", &guest, |guest| {
                format!("imported {} (kernel {}, {})\n", guest.name, guest.kernel, size(guest.size))
            })
        }
    }
}

//! `holm state export` and `import`: a copy of Holm's own state, and a Holm made from it. Both work on the state folder itself.

use super::Context;
use crate::args::StateCopy;
use crate::exit::Failure;
use crate::up::{self, Contents};

pub(crate) fn run(verb: &StateCopy, context: &Context<'_>) -> Result<(), Failure> {
    let folder = context.client.state_folder();
    if folder.as_os_str().is_empty() {
        return Err(Failure::usage("the state is copied on the host itself, not from afar"));
    }
    match verb {
        StateCopy::Export { file, without_key } => {
            let made = up::export_state(folder, file, !without_key)?;
            context.out.show("state-export", &made, |made| {
                let note = if made.key {
                    "; whoever has it can read the secrets and the backups"
                } else {
                    ", without the key"
                };
                format!("{}: {}{note}\n", made.file.display(), told(made))
            })
        }
        StateCopy::Import { file } => {
            let made = up::import_state(folder, file)?;
            if !made.key && made.secret_sets > 0 {
                context.out.say("the key of the secrets is not in it: put secrets/key.txt there before `holm up`");
            }
            context.out.show("state-import", &made, |made| {
                format!("{} has {}; `holm up` goes on from there\n", folder.display(), told(made))
            })
        }
    }
}

fn told(made: &Contents) -> String {
    format!("event {}, apps: {}, sets of secrets: {}", made.seq, made.apps, made.secret_sets)
}

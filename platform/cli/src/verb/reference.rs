//! The reference page of the command line, `docs/cli.md`, and the manual pages, made from the definition that is also parsed.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::Cli;
use crate::exit::{self, Failure};
use crate::output::Output;

const HEAD: &str = "# The command line\n\n\
    <!-- Made by `holm docs > docs/cli.md`; a test compares it with the program. -->\n\n\
    Standard output is data, standard error is talk. With `--json` every verb writes one document, and every stream one\n\
    document per line, with the name and version of its form in `schema`, such as `holm.status/1`. What went wrong is a\n\
    document of the form `holm.error/1`.\n\n";

/// The whole page.
pub(crate) fn page() -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut page = HEAD.to_owned();
    let codes = exit::TABLE.trim_start_matches("Exit codes:\n");
    page.push_str(&format!("## Exit codes\n\n```text\n{codes}\n```\n"));
    sections(&mut command, "holm", &mut page);
    page
}

fn sections(command: &mut clap::Command, path: &str, page: &mut String) {
    for verb in command.get_subcommands_mut().filter(|verb| !verb.is_hide_set()) {
        let path = format!("{path} {}", verb.get_name());
        let help = verb.clone().term_width(100).after_help("").render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!("\n## `{path}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
        sections(verb, &path, page);
    }
}

/// Writes `holm.1`, `holm-deploy.1`, `holm-secrets-set.1` and so on.
pub(crate) fn manual(folder: &Path, out: &Output) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    let mut command = Cli::command();
    command.build();
    let count = write_manual(&command, "holm", folder)?;
    out.say(&format!("{count} manual pages are in {}", folder.display()));
    Ok(())
}

fn write_manual(command: &clap::Command, name: &str, folder: &Path) -> Result<usize, Failure> {
    let mut page = Vec::new();
    let shown = command.clone().version(env!("CARGO_PKG_VERSION"));
    Man::new(shown).title(name).manual("Holm").render(&mut page)?;
    fs::write(folder.join(format!("{name}.1")), page)?;
    let mut count = 1;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        count += write_manual(verb, &format!("{name}-{}", verb.get_name()), folder)?;
    }
    Ok(count)
}

//! The reference page of the command line, `docs/cli.md`, made from the definition that is also parsed.

use clap::CommandFactory;

use crate::args::Cli;
use crate::exit;

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

//! `holm`: the command line. It owns arguments, messages and exit codes, and asks the running Holm for everything else.

#![forbid(unsafe_code)]

mod args;
mod describe;
mod exit;
mod output;
mod storage_args;
mod table;
mod target;
mod up;
mod verb;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let shown = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked && shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(Exit::Usage.code()) };
        }
    };
    let out = Output::new(cli.global.json, cli.global.quiet, cli.global.color);
    match verb::run(cli, &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.fail(&failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

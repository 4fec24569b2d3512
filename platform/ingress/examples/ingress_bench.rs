//! Compares the ingress with a direct connection and with HAProxy, on loopback in one interleaved run; prints JSON.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use holm_ingress::bench::{Options, play, run};

fn main() -> ExitCode {
    // The far ends of connections are this program again, in a role.
    let role: Vec<String> = std::env::args().skip(1).collect();
    let role: Vec<&str> = role.iter().map(String::as_str).collect();
    match play(&role).and_then(|played| if played { Ok(None) } else { run(&Options::default()).map(Some) }) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(report)) => {
            println!("{report:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

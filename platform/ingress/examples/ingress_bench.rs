//! Compares the ingress with a direct connection and with HAProxy, on loopback in one interleaved run; prints JSON.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use holm_ingress::bench::{Options, run};

fn main() -> ExitCode {
    match run(&Options::default()) {
        Ok(report) => {
            println!("{report:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

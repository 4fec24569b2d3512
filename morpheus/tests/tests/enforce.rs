//! The rules of enforce mode, each a test: one guest runs them all, this program tells them apart.

#![allow(clippy::print_stdout, reason = "test programs talk to whoever runs them")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use morpheus_e2e::machine::Console;
use morpheus_e2e::{RESULT, SCENARIOS, VERIFIED, image, kernel, machine};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let boot = if arguments.list {
        Err("not booted".to_owned())
    } else {
        run(arguments.filter.as_deref()).map_err(|error| format!("{error:#}"))
    };
    let boot = Arc::new(boot);
    let trials = SCENARIOS.iter().map(|name| {
        let boot = Arc::clone(&boot);
        Trial::test(*name, move || match &*boot {
            Ok(console) => result(console, name),
            Err(error) => Err(Failed::from(error)),
        })
    });
    let code = libtest_mimic::run(&arguments, trials.collect()).exit_code();
    if let Ok(console) = &*boot {
        match (code == ExitCode::SUCCESS, image::keep(&console.lines.join("\n"))) {
            (true, Ok(place)) => println!("the guest's console: {}", place.display()),
            _ => println!("the guest's console:\n{}", console.lines.join("\n")),
        }
    }
    code
}

fn run(only: Option<&str>) -> Result<Console> {
    ensure!(std::env::consts::ARCH == "x86_64", "the test guest is x86_64");
    let kernel = kernel::fetched()?;
    let ramdisk = image::built()?;
    println!("booting {}", kernel.package);
    machine::boot(&kernel, &ramdisk, only)
}

/// The scenario whose numbers are compared here.
const VERIFIER: &str = "verifier_counts_stay_below_their_limits";

/// The limits of `[enforce]` in `bench/morpheus-verifier.toml`, for the programs' names as the kernel cuts them.
fn limits() -> BTreeMap<String, u64> {
    let (_, table) = include_str!("../../../bench/morpheus-verifier.toml").split_once("[enforce]").unwrap_or_default();
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| {
            let (name, limit) = line.split('#').next()?.split_once('=')?;
            Some((name.trim().to_owned(), limit.trim().parse().ok()?))
        })
        .collect()
}

fn within_limits(console: &Console) -> Result<(), Failed> {
    let counts = console.lines.iter().filter_map(|line| line.split_once(VERIFIED)?.1.trim().split_once(' '));
    let counts: BTreeMap<String, u64> =
        counts.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect();
    let limits = limits();
    if !counts.keys().eq(limits.keys()) {
        return Err(format!("programs {:?}, limits {:?}", counts.keys(), limits.keys()).into());
    }
    for (name, count) in counts {
        if count > limits[&name] {
            return Err(format!("{name}: the verifier went through {count} instructions of {}", limits[&name]).into());
        }
    }
    Ok(())
}

/// What the guest said of one scenario.
fn result(console: &Console, name: &str) -> Result<(), Failed> {
    let mut said = console.lines.iter().filter_map(|line| line.split_once(RESULT)?.1.trim().split_once(' '));
    match said.find(|(scenario, _)| *scenario == name) {
        Some((_, "ok")) if name == VERIFIER => within_limits(console),
        Some((_, "ok")) => Ok(()),
        Some((_, why)) => Err(Failed::from(why)),
        None if console.ended => Err(Failed::from("the guest ended without trying it")),
        None => Err(Failed::from("the guest hung before it")),
    }
}

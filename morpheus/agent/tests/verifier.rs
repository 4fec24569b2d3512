//! The work each program is to the kernel's verifier stays below the recorded limits. Counts depend on the kernel and on
//! clang, so the limits have head-room; what they catch is a loop that stopped being bounded or a state that explodes.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;

use morpheus_agent::mode::Mode;
use morpheus_agent::observe::Observe;

/// `bench/morpheus-verifier.toml`: program = limit, below a table per mode.
fn limits(mode: &str) -> BTreeMap<String, u32> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/morpheus-verifier.toml");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_once(&format!("[{mode}]"))
        .unwrap()
        .1
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(name, limit)| (name.trim().to_owned(), limit.trim().parse().unwrap()))
        .collect()
}

#[test]
fn the_observe_programs_stay_below_their_verifier_limits() {
    if !support::bpf_is_permitted() {
        return;
    }
    let counts: BTreeMap<String, u32> = Observe::load().unwrap().verified_instructions().into_iter().collect();
    let limits = limits("observe");
    assert_eq!(counts.keys().collect::<Vec<_>>(), limits.keys().collect::<Vec<_>>());
    for (name, count) in counts {
        println!("{name} {count}");
        assert!(count > 0 && count <= limits[&name], "{name}: {count} of {}", limits[&name]);
    }
}

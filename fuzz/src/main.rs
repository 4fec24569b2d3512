//! libFuzzer around one target, which `HOLM_FUZZ_TARGET` names. Built and started by `cargo xtask fuzz`.

#![no_main]
#![allow(unsafe_code, reason = "libFuzzer's macro exports the functions that its C++ calls")]

use std::sync::OnceLock;

use holm_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<Target> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let target = CHOSEN.get_or_init(|| {
        let name = std::env::var("HOLM_FUZZ_TARGET").unwrap_or_default();
        let chosen = TARGETS.into_iter().find(|target| target.name == name);
        chosen.unwrap_or_else(|| panic!("HOLM_FUZZ_TARGET names no target: `{name}`"))
    });
    (target.run)(bytes);
});

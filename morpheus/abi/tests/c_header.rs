//! The committed C header is the one the tables make, and a C compiler agrees with every offset.

use std::process::Command;

fn generated() -> String {
    let mut header = String::new();
    morpheus_abi::c_header::write(&mut header).expect("writing to a String cannot fail");
    header
}

#[test]
fn committed_header_is_what_the_tables_make() {
    assert!(
        include_str!("../morpheus_abi.h") == generated(),
        "morpheus/abi/morpheus_abi.h is out of date: cargo run -p morpheus-abi --example c_header > morpheus/abi/morpheus_abi.h"
    );
}

/// The header's static assertions hold the offsets of the Rust structures against the C compiler's.
#[test]
fn a_c_compiler_lays_the_structures_out_alike() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout.c");
    std::fs::write(&source, generated()).unwrap();
    // Cargo links with it, so it is there.
    let output =
        Command::new("cc").args(["-std=gnu11", "-Wall", "-Werror", "-fsyntax-only"]).arg(&source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

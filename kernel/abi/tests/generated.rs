//! The committed header and reference page are those the table gives, and C sees the structs as Rust does.

#![allow(clippy::unwrap_used, reason = "test code, also outside of test functions")]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use holm_abi::{CALLS, STRUCTS, generate};

/// Compares a committed file with the generated text; with `HOLM_ABI_WRITE=1` writes it instead.
fn committed(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("HOLM_ABI_WRITE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let line = found.lines().zip(text.lines()).position(|(found, wanted)| found != wanted);
    assert!(
        found == text,
        "{} is out of date (first difference at line {line:?}): run HOLM_ABI_WRITE=1 cargo test -p holm-abi",
        path.display()
    );
}

#[test]
fn committed_header_is_the_generated_one() {
    let mut text = String::new();
    generate::header(&mut text).unwrap();
    committed("include/holm.h", &text);
}

#[test]
fn committed_reference_is_the_generated_one() {
    let mut text = String::new();
    generate::reference(&mut text).unwrap();
    committed("../../docs/abi.md", &text);
}

#[test]
fn c_sees_every_struct_as_rust_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut header = String::new();
    generate::header(&mut header).unwrap();
    std::fs::write(folder.path().join("holm.h"), header).unwrap();
    let mut source = String::from("#include <stddef.h>\n#include \"holm.h\"\n");
    for info in STRUCTS {
        let name = c_name(info.name);
        writeln!(source, "_Static_assert(sizeof(struct holm_{name}) == {}, \"size of {name}\");", info.size).unwrap();
        for field in info.fields {
            let (field_name, offset) = (field.name, field.offset);
            writeln!(
                source,
                "_Static_assert(offsetof(struct holm_{name}, {field_name}) == {offset}, \"{name}.{field_name}\");"
            )
            .unwrap();
        }
    }
    source.push_str("int main(void) { return 0; }\n");
    let file = folder.path().join("layout.c");
    std::fs::write(&file, source).unwrap();
    let out = Command::new("gcc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"])
        .arg(folder.path().join("layout"))
        .arg(&file)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn c_name(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.chars().enumerate() {
        if index > 0 && letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

#[test]
fn table_is_sorted_and_fits_the_registers() {
    for pair in CALLS.windows(2) {
        assert!(pair[0].number < pair[1].number, "{} after {}", pair[1].name, pair[0].name);
    }
    for call in CALLS {
        assert!(call.registers() <= 6, "{} takes {} registers", call.name, call.registers());
        let stated: Vec<_> = call.own_errors.iter().collect();
        assert!(stated.iter().enumerate().all(|(at, error)| !stated[..at].contains(error)), "{} repeats", call.name);
    }
}

//! Tells cargo about `holm_user`, the condition under which this package is a program for the kernel.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(holm_user)");
    println!("cargo::rerun-if-changed=build.rs");
}

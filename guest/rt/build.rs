//! Tells cargo about `holm_user`, the condition under which a package is a program for the kernel and not one for the host.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(holm_user)");
    println!("cargo::rerun-if-changed=build.rs");
}

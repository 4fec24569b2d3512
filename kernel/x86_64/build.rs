//! Tells cargo about `bare_metal`, the condition under which this package is the kernel and not a host program.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bare_metal)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernel.ld");
}

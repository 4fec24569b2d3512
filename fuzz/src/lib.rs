//! Fuzz targets: everything that parses bytes from outside, each with what must hold for any bytes.
//!
//! This crate owns the targets and, in `corpus/`, the inputs worth trying again. It may not be used by anything that is
//! shipped. `cargo test -p holm-fuzz` tries the whole corpus; `cargo xtask fuzz TARGET --seconds N` looks for more, guided
//! by the coverage that the stable compiler's LLVM counts for libFuzzer.
//!
//! Where a checksum would turn nearly all inputs away at the door, the target puts it right first: whoever attacks can.

#![forbid(unsafe_code)]

mod guest;
mod image;
mod ingress;
mod manifest;

/// What is fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of its folder in `corpus/`.
    pub name: &'static str,
    /// Tries one input, of any bytes. Panics when something does not hold.
    pub run: fn(&[u8]),
    /// Longest input worth trying, in bytes.
    pub longest: usize,
}

/// Every target, by name.
pub const TARGETS: [Target; 7] = [
    Target { name: "client-hello", run: ingress::client_hello, longest: 4096 },
    Target { name: "control-frames", run: guest::control_frames, longest: 4096 },
    Target { name: "erofs", run: image::erofs, longest: 16_384 },
    Target { name: "manifest", run: manifest::manifest, longest: 4096 },
    Target { name: "oci-json", run: image::oci_json, longest: 4096 },
    Target { name: "oci-layer", run: image::oci_layer, longest: 8192 },
    Target { name: "proxy-header", run: ingress::proxy_header, longest: 2200 },
];

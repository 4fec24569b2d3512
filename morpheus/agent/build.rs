//! Compiles the BPF programs with clang and leaves the objects in OUT_DIR, from where the crate embeds them.
//!
//! The objects are relocated when they are loaded (CO-RE): one build runs on kernels it has not seen. Needed: clang 16 or
//! later with its BPF target. `CLANG` names one that is not in the path.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Tried in this order when `CLANG` is not set.
const CANDIDATES: [&str; 7] = ["clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16", "clang"];

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-changed=../abi/morpheus_abi.h");
    println!("cargo:rerun-if-env-changed=CLANG");
    let clang = clang();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    // libbpf-sys says where its copy of libbpf put the headers for BPF programs.
    let libbpf = env::var("DEP_BPF_INCLUDE").expect("libbpf-sys exports its include directory");
    let architecture = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("aarch64") => "arm64",
        Ok("x86_64") => "x86",
        other => panic!("morpheus-agent knows no BPF calling convention for {other:?}: x86_64 and aarch64 only"),
    };
    let mut sources: Vec<PathBuf> = std::fs::read_dir("bpf")
        .expect("the folder bpf is part of the crate")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.to_string_lossy().ends_with(".bpf.c"))
        .collect();
    sources.sort();
    for source in sources {
        let name = source.file_stem().expect("it ends with .bpf.c").to_owned();
        let object = out.join(name).with_extension("bpf.o");
        let status = Command::new(&clang)
            .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-fno-ident"])
            // No path of the build machine goes into the object's debug information.
            .arg(format!("-ffile-prefix-map={}=.", env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")))
            .arg(format!("-D__TARGET_ARCH_{architecture}"))
            .args(["-I", "bpf", "-I", "../abi", "-I", &libbpf, "-c"])
            .arg(&source)
            .arg("-o")
            .arg(&object)
            .status();
        assert!(
            status.as_ref().is_ok_and(std::process::ExitStatus::success),
            "{clang} could not compile {}: {status:?}",
            source.display()
        );
    }
}

/// The first clang that can compile for BPF.
fn clang() -> String {
    let chosen = env::var("CLANG").ok();
    let candidates = chosen.as_deref().map_or(CANDIDATES.to_vec(), |clang| vec![clang]);
    for clang in candidates {
        let targets = Command::new(clang).arg("-print-targets").stderr(Stdio::null()).output();
        if targets.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("bpf")) {
            return clang.to_owned();
        }
    }
    panic!(
        "morpheus-agent needs clang 16 or later with the BPF target to compile its kernel programs\n\
         hint: apt-get install clang-19 libelf-dev zlib1g-dev, or set CLANG=/path/to/clang"
    );
}

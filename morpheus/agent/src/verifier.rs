//! How much work a program is to the kernel's verifier: the figure `bench/morpheus-verifier.toml` limits.

use libbpf_rs::Object;
use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::query::ProgramInfo;

/// The instructions the verifier went through for each program of a loaded object, by name.
pub fn instructions(object: &Object) -> Vec<(String, u32)> {
    let ours: Vec<u32> = object
        .progs()
        .filter_map(|program| libbpf_rs::Program::id_from_fd(std::os::fd::AsFd::as_fd(&program)).ok())
        .collect();
    let mut counts: Vec<(String, u32)> = ProgInfoIter::default()
        .filter(|info: &ProgramInfo| ours.contains(&info.id))
        .map(|info| (info.name.to_string_lossy().into_owned(), info.verified_insns))
        .collect();
    counts.sort();
    counts
}

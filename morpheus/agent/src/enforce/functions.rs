//! Which of sched_ext's functions this kernel lets us call, before libbpf says it in its own words.
//!
//! A kernel can show a function and still refuse every call of it: since 7.1 some take a last argument that the verifier
//! passes (`aux`), which pahole must hide from programs when the kernel is built. Before 1.31 it hid it for some functions
//! and not for others, by chance, and such kernels are about (Debian's 7.1.13 and 7.2.6 to 7.2.12, Fedora's 7.1.8).

use std::fmt;

use libbpf_rs::btf::types::{Func, FuncProto};
use libbpf_rs::btf::{Btf, ReferencesType};

use super::EnforceError;
use crate::bpf::BpfError;

/// What the scheduler cannot do without; of each line the first that can be called is used. As in bpf/sched_ext.bpf.h.
const NEEDED: [&[&str]; 7] = [
    &["scx_bpf_create_dsq"],
    &["scx_bpf_dsq_insert", "scx_bpf_dispatch"],
    &["scx_bpf_dsq_insert_vtime", "__scx_bpf_dsq_insert_vtime", "scx_bpf_dispatch_vtime"],
    &["scx_bpf_dsq_move_to_local", "scx_bpf_consume"],
    &["scx_bpf_dsq_nr_queued"],
    &["scx_bpf_kick_cpu"],
    &["bpf_cpumask_test_cpu"],
];

/// How a function appears in the kernel's type information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Absent,
    Malformed,
    Callable,
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    absent: Vec<&'static str>,
    malformed: Vec<&'static str>,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.malformed.is_empty() {
            write!(
                f,
                "its type information is malformed for {}; a kernel built with pahole 1.31 or later has it right",
                self.malformed.join(", ")
            )?;
        }
        if !self.absent.is_empty() {
            let lead = if self.malformed.is_empty() { "" } else { "; and " };
            write!(f, "{lead}it has no {}", self.absent.join(", "))?;
        }
        Ok(())
    }
}

/// The needed functions of which no form can be called, each told by its newest name.
fn missing(form: impl Fn(&str) -> Form) -> Option<Unusable> {
    let mut unusable = Unusable { absent: Vec::new(), malformed: Vec::new() };
    for names in NEEDED {
        let forms: Vec<Form> = names.iter().map(|name| form(name)).collect();
        if forms.contains(&Form::Callable) {
            continue;
        }
        let list = if forms.contains(&Form::Malformed) { &mut unusable.malformed } else { &mut unusable.absent };
        list.push(names[0]);
    }
    (unusable.absent.len() + unusable.malformed.len() > 0).then_some(unusable)
}

fn form(btf: &Btf<'_>, name: &str) -> Form {
    let Some(function) = btf.type_by_name::<Func<'_>>(name) else { return Form::Absent };
    let Ok(prototype) = FuncProto::try_from(function.referenced_type()) else { return Form::Absent };
    let last = prototype.iter().last().and_then(|parameter| parameter.name);
    if last.is_some_and(|name| name == "aux") { Form::Malformed } else { Form::Callable }
}

/// Looks at the running kernel.
///
/// # Errors
/// When it has no type information, or a needed function cannot be called.
pub fn check() -> Result<(), EnforceError> {
    let btf = Btf::from_vmlinux().map_err(BpfError::libbpf("this kernel shows no type information (BTF)"))?;
    missing(|name| form(&btf, name)).map_or(Ok(()), |unusable| Err(EnforceError::Functions(unusable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_seen_are_judged_rightly() {
        // 6.12 has the old names only, 7.2.12 a malformed scx_bpf_create_dsq and scx_bpf_kick_cpu.
        let old = |name: &str| {
            let renamed = ["insert", "move_to_local"].iter().any(|part| name.contains(part));
            if renamed { Form::Absent } else { Form::Callable }
        };
        assert_eq!(missing(old), None);
        let malformed = |name: &str| match name {
            "scx_bpf_create_dsq" | "scx_bpf_kick_cpu" | "__scx_bpf_dsq_insert_vtime" => Form::Malformed,
            "scx_bpf_dispatch" | "scx_bpf_dispatch_vtime" | "scx_bpf_consume" => Form::Absent,
            _ => Form::Callable,
        };
        let unusable = missing(malformed).unwrap();
        assert_eq!(
            unusable.to_string(),
            "its type information is malformed for scx_bpf_create_dsq, scx_bpf_kick_cpu; a kernel built with pahole 1.31 \
             or later has it right"
        );
        let told = missing(|_| Form::Absent).unwrap().to_string();
        assert!(told.starts_with("it has no scx_bpf_create_dsq, scx_bpf_dsq_insert,"), "{told}");
    }
}

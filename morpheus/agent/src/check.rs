//! `morpheusd check`: what this kernel can do for us. The probes really try; what follows from them is decided apart.

use std::fmt::Write;
use std::fs;
use std::os::fd::AsFd;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Struct;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::pidfd_open;
use rustix::thread::gettid;
use serde::Serialize;

use crate::bpf::clock;
use crate::enforce::functions;
use crate::mode::{Mode, ModeName};
use crate::observe::Observe;
use crate::server::credentials;
use crate::thread::PIDFD_THREAD;

/// Version of the JSON.
pub const CHECK_VERSION: u32 = 1;
/// Where the kernel says what sched_ext does.
const SCHED_EXT: &str = "/sys/kernel/sched_ext";

/// What was found out by trying. An error's text says what went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release.
    pub release: String,
    /// The kernel's types are there to relocate by.
    pub btf: Result<(), String>,
    /// The observe programs pass the verifier and attach.
    pub tracing: Result<(), String>,
    /// A thread's clock event can be opened.
    pub perf_events: Result<(), String>,
    /// A single thread has a pidfd (6.9): the key of task storage.
    pub thread_pidfd: Result<(), String>,
    /// The kernel gives a pidfd of a socket's peer (6.5).
    pub peer_pidfd: Result<(), String>,
    /// A run queue can be reached from a thread and counts who is runnable.
    pub run_queue: Result<(), String>,
    /// CPU quota can be read.
    pub quota: Result<(), String>,
    /// The kernel has sched_ext.
    pub sched_ext: Result<(), String>,
    /// The functions of sched_ext that our scheduler calls can be called.
    pub sched_ext_functions: Result<(), String>,
    /// The kernel measures pressure, or at least says how many threads are runnable.
    pub pressure: Result<(), String>,
    /// The sched_ext scheduler that is loaded now.
    pub other_scheduler: Option<String>,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub good: bool,
    /// Modes that do not work when it is not.
    pub needed_by: &'static [ModeName],
    /// What was found.
    pub detail: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// [`CHECK_VERSION`].
    pub version: u32,
    /// The kernel's release.
    pub kernel: String,
    /// Observe mode works.
    pub observe: bool,
    /// Enforce mode works.
    pub enforce: bool,
    /// The lines.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether a mode works.
    pub fn works(&self, mode: ModeName) -> bool {
        match mode {
            ModeName::Observe => self.observe,
            ModeName::Enforce => self.enforce,
        }
    }
}

/// Tries everything. Loads and attaches programs for a moment, changes nothing.
pub fn probe() -> Facts {
    let text = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
        text
    };
    let btf = Btf::from_vmlinux().map_err(|error| text(&error));
    let field = |structure: &str, fields: &[&str]| match &btf {
        Err(error) => Err(error.clone()),
        Ok(btf) if has(btf, structure, fields) => Ok(()),
        Ok(_) => Err(format!("struct {structure} has no {}", fields.join(" nor "))),
    };
    let tracing = Observe::load().and_then(|mut observe| {
        observe.start()?;
        observe.stop();
        Ok(())
    });
    let tid = gettid();
    let peer = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(std::io::Error::from)
        .and_then(|(near, _far)| credentials::peer(near.as_fd()));
    let state = fs::read_to_string(format!("{SCHED_EXT}/state")).ok();
    Facts {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        tracing: tracing.map_err(|error| text(&error)),
        // A thread's number is above 0.
        perf_events: clock::thread_clock(tid.as_raw_nonzero().get() as u32, 1_000_000)
            .map(drop)
            .map_err(|error| text(&error)),
        thread_pidfd: pidfd_open(tid, PIDFD_THREAD).map(drop).map_err(|error| text(&error)),
        peer_pidfd: peer.map(drop).map_err(|error| text(&error)),
        run_queue: field("cfs_rq", &["rq"]).and_then(|()| field("cfs_rq", &["h_nr_runnable", "h_nr_running"])),
        quota: field("cfs_rq", &["runtime_enabled"]),
        sched_ext: field("sched_ext_ops", &["dispatch"]).and_then(|()| match &state {
            Some(_) => Ok(()),
            None => Err(format!("{SCHED_EXT} is missing")),
        }),
        sched_ext_functions: functions::check().map_err(|error| text(&error)),
        pressure: crate::pressure::readable().map_err(|error| text(&error)),
        other_scheduler: state.filter(|state| state.trim() != "disabled").map(|state| {
            fs::read_to_string(format!("{SCHED_EXT}/root/ops"))
                .map_or_else(|_| state.trim().to_owned(), |name| name.trim().to_owned())
        }),
        btf: btf.as_ref().map(|_| ()).map_err(Clone::clone),
    }
}

fn has(btf: &Btf<'_>, structure: &str, fields: &[&str]) -> bool {
    btf.type_by_name::<Struct<'_>>(structure).is_some_and(|found| {
        found
            .iter()
            .any(|member| member.name.is_some_and(|name| fields.iter().any(|field| name.to_str() == Some(*field))))
    })
}

/// Whether the running kernel has this structure with one of these fields.
pub fn kernel_has(structure: &str, fields: &[&str]) -> bool {
    Btf::from_vmlinux().is_ok_and(|btf| has(&btf, structure, fields))
}

/// What the facts mean.
pub fn decide(facts: &Facts) -> Verdict {
    const BOTH: &[ModeName] = &[ModeName::Observe, ModeName::Enforce];
    const OBSERVE: &[ModeName] = &[ModeName::Observe];
    const ENFORCE: &[ModeName] = &[ModeName::Enforce];
    const NONE: &[ModeName] = &[];
    let finding = |what, needed_by, good: &str, fact: &Result<(), String>| Finding {
        what,
        good: fact.is_ok(),
        needed_by,
        detail: fact.as_ref().map_or_else(Clone::clone, |()| good.to_owned()),
    };
    let mut findings = vec![
        finding("kernel types (BTF)", BOTH, "/sys/kernel/btf/vmlinux", &facts.btf),
        finding("tracing programs", OBSERVE, "verified and attached", &facts.tracing),
        finding("perf events", OBSERVE, "a thread's clock event opens", &facts.perf_events),
        finding("thread pidfds", BOTH, "PIDFD_THREAD works", &facts.thread_pidfd),
        finding("peer pidfds", BOTH, "SO_PEERPIDFD works", &facts.peer_pidfd),
        finding("run queue", OBSERVE, "reached from a thread, and who is runnable is counted", &facts.run_queue),
        finding("CPU quota", NONE, "can be read: QUOTA hints", &facts.quota),
        finding("pressure", NONE, "can be read: PRESSURE hints", &facts.pressure),
        finding("sched_ext", ENFORCE, "built in", &facts.sched_ext),
        finding("sched_ext functions", ENFORCE, "can be called", &facts.sched_ext_functions),
    ];
    findings.push(match &facts.other_scheduler {
        None => Finding {
            what: "other scheduler",
            good: true,
            needed_by: ENFORCE,
            detail: "no sched_ext scheduler is loaded".to_owned(),
        },
        Some(name) => Finding {
            what: "other scheduler",
            good: false,
            needed_by: ENFORCE,
            detail: format!("{name} is loaded; observe works beside it, enforce needs its place"),
        },
    });
    let works = |mode| findings.iter().all(|finding: &Finding| finding.good || !finding.needed_by.contains(&mode));
    Verdict {
        version: CHECK_VERSION,
        kernel: facts.release.clone(),
        observe: works(ModeName::Observe),
        enforce: works(ModeName::Enforce),
        findings,
    }
}

/// The answer as text, ending in a newline.
pub fn render(verdict: &Verdict) -> String {
    let mut text = format!("kernel {}\n", verdict.kernel);
    // Writing to a string cannot fail.
    for finding in &verdict.findings {
        let mark = match (finding.good, finding.needed_by) {
            (true, _) => "yes",
            (false, []) => "no (optional)",
            (false, _) => "NO",
        };
        let _ = writeln!(text, "  {:<20} {mark:<14} {}", finding.what, finding.detail);
    }
    let word = |works| if works { "works" } else { "does not work" };
    let _ = writeln!(text, "observe {}, enforce {}", word(verdict.observe), word(verdict.enforce));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole() -> Facts {
        Facts {
            release: "7.2.0".to_owned(),
            btf: Ok(()),
            tracing: Ok(()),
            perf_events: Ok(()),
            thread_pidfd: Ok(()),
            peer_pidfd: Ok(()),
            run_queue: Ok(()),
            quota: Ok(()),
            sched_ext: Ok(()),
            sched_ext_functions: Ok(()),
            pressure: Ok(()),
            other_scheduler: None,
        }
    }

    #[test]
    fn a_whole_kernel_has_both_modes() {
        insta::assert_snapshot!(render(&decide(&whole())));
    }

    #[test]
    fn a_kernel_without_sched_ext_observes() {
        let facts = Facts {
            release: "6.18.0".to_owned(),
            sched_ext: Err("struct sched_ext_ops has no dispatch".to_owned()),
            sched_ext_functions: Err("it has no scx_bpf_create_dsq".to_owned()),
            ..whole()
        };
        insta::assert_snapshot!(render(&decide(&facts)));
    }

    #[test]
    fn another_scheduler_keeps_us_from_enforcing_only() {
        let verdict = decide(&Facts { other_scheduler: Some("lavd".to_owned()), ..whole() });
        assert!(verdict.observe && !verdict.enforce);
        insta::assert_snapshot!(render(&verdict));
    }

    proptest! {
        #[test]
        fn a_mode_works_when_nothing_it_needs_is_missing(missing in prop::array::uniform10(any::<bool>()), other: bool) {
            let fact = |index: usize| if missing[index] { Err("missing".to_owned()) } else { Ok(()) };
            let verdict = decide(&Facts {
                release: String::new(),
                btf: fact(0),
                tracing: fact(1),
                perf_events: fact(2),
                thread_pidfd: fact(3),
                peer_pidfd: fact(4),
                run_queue: fact(5),
                quota: fact(6),
                sched_ext: fact(7),
                sched_ext_functions: fact(8),
                pressure: fact(9),
                other_scheduler: other.then(|| "x".to_owned()),
            });
            prop_assert_eq!(verdict.observe, !missing[..6].contains(&true));
            prop_assert_eq!(verdict.enforce, ![0, 3, 4, 7, 8].iter().any(|index| missing[*index]) && !other);
        }
    }
}

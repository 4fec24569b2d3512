//! CPU shares at work: an app that wants more than there is does not starve another on the same processor.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holm_vmm::{CpuShares, ShareMechanism};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Longest wait for processor time, on a machine where others want it too.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long both apps together compute before they are compared: long beside the time it takes to look at them.
const COMPARED: Duration = Duration::from_secs(2);

/// Processes that compute without end under one share; ended when this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    /// They wait, placed and pinned to `cpu`, until they are told to go.
    fn new(shares: &CpuShares, instance: &str, milli_cpus: u32, processes: usize, cpu: &CpuSet) -> Self {
        let mut busy = Self(Vec::new());
        for _ in 0..processes {
            let mut command = Command::new("sh");
            let child = command.args(["-c", "read go; while :; do :; done"]).stdin(Stdio::piped()).spawn().unwrap();
            let id = child.id();
            busy.0.push(child);
            shares.place(instance, id, milli_cpus).unwrap();
            sched_setaffinity(Pid::from_raw(i32::try_from(id).unwrap()), cpu).unwrap();
        }
        busy
    }

    /// The end of their input tells them.
    fn go(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
        }
    }

    /// How long they have computed, all together.
    fn used(&self) -> Duration {
        let of = |child: &Child| {
            let times = fs::read_to_string(format!("/proc/{}/schedstat", child.id())).unwrap();
            times.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        Duration::from_nanos(self.0.iter().map(of).sum())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_noisy_app_gets_no_more_than_its_share_beside_another() {
    let shares = CpuShares::detect(&format!("fair-{}", std::process::id()));
    if let ShareMechanism::None(why) = shares.mechanism() {
        eprintln!("skipped: {why}");
        return;
    }
    let allowed = sched_getaffinity(None).unwrap();
    let mut cpu = CpuSet::new();
    cpu.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
    // Without shares the noisy one would get four parts of five; with them it is to get one of five.
    let mut quiet = Busy::new(&shares, "quiet-1", 4 * CpuShares::NORMAL_MILLI, 1, &cpu);
    let mut noisy = Busy::new(&shares, "noisy-1", CpuShares::NORMAL_MILLI, 4, &cpu);
    quiet.go();
    noisy.go();
    let settled = Duration::from_millis(100);
    wait_until("both to compute", || quiet.used() > settled && noisy.used() > settled);
    let before = (quiet.used(), noisy.used());
    let since = || (quiet.used() - before.0, noisy.used() - before.1);
    wait_until("two seconds of processor time", || since().0 + since().1 >= COMPARED);
    let (quiet_used, noisy_used) = since();
    let ratio = quiet_used.as_secs_f64() / noisy_used.as_secs_f64();
    eprintln!("{quiet_used:?} and {noisy_used:?}: {ratio:.2} to 1");
    drop((quiet, noisy));
    assert_eq!(shares.sweep().unwrap(), 2, "shares that nobody uses are removed");
    assert!((2.0..8.0).contains(&ratio), "{quiet_used:?} and {noisy_used:?}: {ratio:.2} to 1, with weights of 4 to 1");
}

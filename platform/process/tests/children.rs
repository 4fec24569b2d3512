//! Children of this test: alive, ended, reaped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holm_process::{Process, ProcessEnd, lives};

/// Longest wait on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A child that lives until its standard input is closed or a signal comes.
fn child() -> (Child, Process) {
    let child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let process = Process::open(child.id()).unwrap().unwrap();
    (child, process)
}

#[test]
fn this_process_lives_and_numbers_of_nobody_do_not() {
    let own = Process::open(std::process::id()).unwrap().unwrap();
    let identity = own.identity();
    assert_eq!((own.pid(), identity.pid), (std::process::id(), std::process::id()));
    assert!(identity.start_time > 0);
    assert!(own.lives().unwrap() && !own.ends_within(Duration::from_millis(1)).unwrap());
    for nobody in [0, i32::MAX.unsigned_abs(), u32::MAX] {
        assert!(!lives(nobody).unwrap(), "{nobody}");
    }
}

#[test]
fn a_child_that_ended_is_gone_before_it_is_reaped() {
    let (mut child, process) = child();
    assert!(lives(child.id()).unwrap());
    drop(child.stdin.take());
    assert!(process.ends_within(PATIENCE).unwrap());
    assert!(!process.lives().unwrap() && !lives(child.id()).unwrap());
    assert!(Process::open(child.id()).unwrap().is_none());
    process.kill().unwrap();
    assert_eq!(process.reap(), ProcessEnd::Code(0));
    assert_eq!(process.reap(), ProcessEnd::NotOurChild);
    assert!(child.wait().is_err(), "it was reaped above");
    assert!(!process.lives().unwrap());
    process.kill().unwrap();
}

#[test]
fn a_killed_child_tells_the_signal() {
    let (_child, process) = child();
    process.kill().unwrap();
    assert!(process.ends_within(PATIENCE).unwrap());
    assert_eq!(process.reap(), ProcessEnd::Signal(9));
}

#[test]
fn two_processes_are_never_the_same() {
    let ((mut one, first), (mut other, second)) = (child(), child());
    let [before, beside] = [&first, &second].map(|process| process.identity());
    assert_ne!(before, beside);
    assert_eq!(Process::open(one.id()).unwrap().unwrap().identity(), before);
    for child in [&mut one, &mut other] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

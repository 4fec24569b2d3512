//! The decision to escalate, from the scheduler's own source, tried some million times against a model: never without
//! consent, never inside a critical section, never in the wrong state, never before the grace time is over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Cases of each kind.
const CASES: usize = 1_000_000;

/// `MORPHEUS_ESCALATE`.
const ESCALATE: u8 = 6;

/// `struct morpheus_case`, in its order.
#[derive(Debug, Clone, Copy)]
struct Case {
    served_ns: u64,
    hint_seq: u32,
    ack_seq: u32,
    kernel_generation: u32,
    runtime_generation: u32,
    kernel_state: u32,
    runtime_state: u32,
    waiters: u32,
    escapable: u32,
    policy: u32,
    critical_depth: u32,
    grace_ns: u32,
}

impl Case {
    /// The one case in which everything speaks for escalation.
    const RIPE: Self = Self {
        served_ns: 1_000_000,
        hint_seq: 8,
        ack_seq: 7,
        kernel_generation: 3,
        runtime_generation: 3,
        kernel_state: 1,
        runtime_state: 2,
        waiters: 1,
        escapable: 1,
        policy: 1,
        critical_depth: 0,
        grace_ns: 1_000_000,
    };

    fn bytes(&self) -> Vec<u8> {
        let words = [
            self.hint_seq,
            self.ack_seq,
            self.kernel_generation,
            self.runtime_generation,
            self.kernel_state,
            self.runtime_state,
            self.waiters,
            self.escapable,
            self.policy,
            self.critical_depth,
            self.grace_ns,
            0,
        ];
        let words = words.iter().flat_map(|word| word.to_ne_bytes());
        self.served_ns.to_ne_bytes().into_iter().chain(words).collect()
    }

    /// The rules of the contract, said positively.
    fn may_be_escalated(&self) -> bool {
        let unanswered = self.hint_seq != self.ack_seq;
        let registered = self.kernel_generation != 0 && self.kernel_generation == self.runtime_generation;
        let at_work = self.runtime_state == 2 && [1, 2].contains(&self.kernel_state);
        let consents = self.escapable == 1 && self.policy == 1;
        let grace_is_over = self.served_ns >= u64::from(self.grace_ns);
        unanswered
            && registered
            && at_work
            && self.waiters != 0
            && consents
            && self.critical_depth == 0
            && grace_is_over
    }
}

/// SplitMix64: the same cases each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number that is often small, and else anything.
    fn word(&mut self) -> u32 {
        let roll = self.roll();
        // The upper half is as random as the lower.
        let any = (roll >> 32) as u32;
        match roll % 4 {
            0 => any,
            1 => any % 2,
            _ => any % 6,
        }
    }

    /// A ripe case with some of its numbers changed.
    fn case(&mut self) -> Case {
        let mut case = Case::RIPE;
        let changed = self.roll() & self.roll();
        let fields: [&mut u32; 11] = [
            &mut case.hint_seq,
            &mut case.ack_seq,
            &mut case.kernel_generation,
            &mut case.runtime_generation,
            &mut case.kernel_state,
            &mut case.runtime_state,
            &mut case.waiters,
            &mut case.escapable,
            &mut case.policy,
            &mut case.critical_depth,
            &mut case.grace_ns,
        ];
        for (number, field) in fields.into_iter().enumerate() {
            if changed >> number & 1 == 1 {
                *field = self.word();
            }
        }
        if changed >> 11 & 1 == 1 {
            case.served_ns = u64::from(self.word()) << (self.roll() % 2 * 16);
        }
        case
    }
}

/// The scheduler's verdicts on these cases.
fn judged(cases: &[Case]) -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("verdict-{}-{}", std::process::id(), cases.len()));
    let compiled = Command::new("cc")
        .args(["-std=gnu11", "-O2", "-Wall", "-Werror", "-I"])
        .arg(here.join("../agent/bpf"))
        .arg("-I")
        .arg(here.join("../abi"))
        .arg(here.join("tests/verdict.c"))
        .arg("-o")
        .arg(&program)
        .status()
        .expect("a C compiler, which Rust needs anyway");
    assert!(compiled.success());
    let mut judge = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = std::io::BufWriter::new(judge.stdin.take().unwrap());
    let mut output = judge.stdout.take().unwrap();
    let mut verdicts = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for case in cases {
                input.write_all(&case.bytes()).unwrap();
            }
            input.flush().unwrap();
        });
        output.read_to_end(&mut verdicts).unwrap();
    });
    assert!(judge.wait().unwrap().success());
    std::fs::remove_file(program).unwrap();
    assert_eq!(verdicts.len(), cases.len());
    verdicts
}

#[test]
fn the_decision_is_the_contracts() {
    let mut dice = Dice(1);
    let cases: Vec<Case> = (0..CASES).map(|_| dice.case()).collect();
    let verdicts = judged(&cases);
    for (case, verdict) in cases.iter().zip(&verdicts) {
        assert_eq!(*verdict == ESCALATE, case.may_be_escalated(), "{case:?} gave {verdict}");
    }
    let escalated = verdicts.iter().filter(|verdict| **verdict == ESCALATE).count();
    assert!((CASES / 100..CASES / 2).contains(&escalated), "{escalated} of {CASES}: the cases say too little");
}

#[test]
fn a_million_attempts_escalate_neither_the_unwilling_nor_the_critical() {
    let mut dice = Dice(2);
    let cases: Vec<Case> = (0..2 * CASES)
        .map(|number| {
            let served_ns = 1_000_000 + dice.roll() % 1_000_000_000;
            let ripe = Case { served_ns, grace_ns: dice.word() % 1_000_000, ..Case::RIPE };
            if number % 2 == 0 {
                // Whatever a page may hold but the one word of consent.
                let word = dice.word();
                Case { escapable: if word == 1 { 0 } else { word }, ..ripe }
            } else {
                Case { critical_depth: dice.word().max(1), ..ripe }
            }
        })
        .collect();
    assert!(!judged(&cases).contains(&ESCALATE));
}

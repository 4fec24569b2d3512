//! Every input worth trying again holds, and so do damaged ones: what was found by fuzzing stays fixed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use holm_fuzz::{TARGETS, Target};

/// Damaged inputs tried for each target: so many that the slowest takes some seconds in a development build.
const DAMAGED: u64 = 3000;

fn corpus(target: Target) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no corpus", target.name);
    files.into_iter().map(|file| (file.display().to_string(), std::fs::read(file).unwrap())).collect()
}

fn holds(target: Target, input: &[u8]) -> bool {
    std::panic::catch_unwind(|| (target.run)(input)).is_ok()
}

#[test]
fn every_input_of_the_corpus_holds() {
    for target in TARGETS {
        for (file, input) in corpus(target) {
            assert!(holds(target, &input), "{file} does not hold");
        }
    }
}

/// The same numbers each time: a failure is found again by running the test again.
struct Numbers(u64);

impl Numbers {
    /// The next number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// An input with a few bytes changed, doubled, removed, or taken from another one.
fn damaged(input: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.below(5)],
            2 if at < end => drop(bytes.drain(at..end)),
            3 if at < end => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                let from = numbers.below(other.len() + 1);
                let part = &other[from..(from + 1 + numbers.below(64)).min(other.len()).max(from)];
                drop(bytes.splice(at..at, part.iter().copied()));
            }
        }
    }
    bytes
}

#[test]
fn damaged_inputs_of_the_corpus_hold() {
    for target in TARGETS {
        let inputs = corpus(target);
        let mut numbers = Numbers(1);
        for round in 0..DAMAGED {
            let [(_, input), (_, other)] = [0; 2].map(|_| &inputs[numbers.below(inputs.len())]);
            let bytes = damaged(input, other, &mut numbers);
            assert!(holds(target, &bytes), "{} does not hold in round {round}: {bytes:?}", target.name);
        }
    }
}

#[test]
fn the_folders_of_the_corpus_are_the_targets() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders: Vec<_> =
        std::fs::read_dir(corpus).unwrap().map(|folder| folder.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, TARGETS.map(|target| target.name));
}

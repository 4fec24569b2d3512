//! Every input worth trying again holds: what was found by fuzzing stays fixed.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use holm_fuzz::TARGETS;

#[test]
fn every_input_of_the_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let files: Vec<_> =
            std::fs::read_dir(corpus.join(target.name)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        for file in files {
            let input = std::fs::read(&file).unwrap();
            let held = std::panic::catch_unwind(|| (target.run)(&input));
            assert!(held.is_ok(), "{} does not hold", file.display());
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

//! Checks: named, counted, told as they come.

use anyhow::Result;

/// How many checks passed and failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Passed.
    pub(crate) passed: u64,
    /// Failed.
    pub(crate) failed: u64,
}

impl Outcome {
    /// Counts a check and tells it.
    pub(crate) fn note(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("{name} ... ok");
            }
            Err(why) => {
                self.failed += 1;
                println!("{name} ... FAILED\n{why:#}");
            }
        }
    }
}

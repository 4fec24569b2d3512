//! The control plane from the outside: one binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod crashing;
mod deciding;
mod disk;
mod fixture;
mod observing;
mod random;
mod secrets;
mod simulated;
mod storing;
mod working;

//! The planner in made-up worlds, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod memory;
mod policies;
mod rollouts;
mod volumes;
mod world;

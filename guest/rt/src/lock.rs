//! A lock for the threads of one unit.

pub use crate::sys::{Guard, Mutex};

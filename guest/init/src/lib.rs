//! The root unit's decisions: what `init.conf` says and what a line typed into the shell means. It touches no unit.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
pub mod config;
pub mod line;

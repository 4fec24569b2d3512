//! The platform's state as data: what was asked for, what was decided, what was seen.
//!
//! This crate owns the vocabulary that the other parts share: names and numbers ([`id`]), the events of the log
//! ([`event`]), the state that is a pure fold of those events ([`state`]), what a host is told to do ([`target`]) and
//! what it reports back ([`report`]). It decides nothing and performs nothing.

#![forbid(unsafe_code)]

pub mod access;
mod endpoints;
pub mod event;
pub mod footprint;
pub mod id;
pub mod report;
pub mod secrets;
pub mod state;
pub mod target;
mod text;
pub mod volume;

//! The interface of a running Holm: HTTP/1.1 over the Unix socket `holm.sock` of its state folder.
//!
//! This crate owns what goes over that socket: the types ([`wire`], [`view`], [`exec`]), the server ([`server`]), which
//! asks a [`Backend`] for everything it tells, and the client ([`client`]). It keeps no state and decides nothing.

#![forbid(unsafe_code)]

pub mod backend;
pub mod client;
pub mod exec;
mod follow;
mod ndjson;
mod peer;
pub mod problem;
pub mod server;
pub mod socket;
pub mod storage;
pub mod view;
pub mod wire;

pub use backend::Backend;
pub use client::{Client, ClientError};
pub use problem::{Problem, ProblemCode};

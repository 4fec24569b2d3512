//! The control plane: takes commands, keeps the log, runs the planner and brings images in.
//!
//! This crate owns the state folder. Everything that happens becomes an event in one SQLite log (`store`), written by
//! one thread (`writer`) that decides against the newest state, appends, projects and commits many jobs at once. What a
//! command means is pure ([`decide`]), as is what a host's report means ([`observe`]) and what follows from both (the
//! planner). Around them run two level-triggered tasks: one records what the planner decides (`planning`), one brings
//! the images of deployments in (`deploying`). After a crash both start again from the state; nothing else is needed.
//!
//! It never talks to a host, a registry or a person: it is handed an [`Images`], publishes targets, takes reports.

#![forbid(unsafe_code)]

mod backup;
mod clock;
mod codec;
mod command;
mod control;
mod decide;
mod deploying;
mod images;
mod observe;
mod order;
mod planning;
mod refusal;
mod secrets;
mod store;
mod volumes;
mod writer;

pub use backup::{copy_database, load_state};
pub use clock::{Clock, SystemClock};
pub use codec::DecodeError;
pub use command::{Accepted, Command, Meta};
pub use control::{Control, Options, Refused};
pub use decide::{MAX_INSTANCES, Rules, decide};
pub use images::{FetchError, FetchProgress, FetchedImage, Images, ProgressSink};
pub use observe::observe;
pub use order::ReportOrder;
pub use refusal::Refusal;
pub use store::{EventQuery, StoreError, Verified};
pub use volumes::{VolumeCommand, VolumeTrouble};

//! `holm.toml`: its schema, its checks, and errors that point into the file.
//!
//! This crate owns what a manifest may say and the names an app is made of. It does no input or output: a caller hands
//! it the text and gets a [`Manifest`] or a [`ManifestError`] with line, column and caret.

#![forbid(unsafe_code)]

mod diagnostic;
mod health;
mod ingress;
mod model;
mod name;
mod parse;
mod rollout;
mod route;
mod secret;
mod section;
mod unit;
mod volume;
mod write;

pub use diagnostic::{Diagnostic, ManifestError, Place};
pub use ingress::IngressLimits;
pub use model::{
    Environment, HealthCheck, HealthProbe, Manifest, Memory, Process, Route, RouteMatch, SecretUse, StopPolicy,
};
pub use name::{AppName, EnvName, NameError, ProcessName, SecretName, SecretNameError, VolumeName};
pub use parse::MAX_FILE;
pub use rollout::{ReleaseCommand, RestartPolicy, Strategy};
pub use route::check_route;
pub use unit::{format_duration_ms, parse_duration_ms};
pub use volume::{BackupPolicy, BadVolumeSize, Volume, VolumeSize};

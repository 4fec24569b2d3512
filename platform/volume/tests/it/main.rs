//! Backups of volumes: against a model in memory, and in a real S3 server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod s3;
mod stage;
mod vault;

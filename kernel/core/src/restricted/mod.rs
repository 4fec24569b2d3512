//! Restricted mode: a thread that runs a guest's code under a personality. (Owner's part follows.)

/// What a thread has of restricted mode.
#[derive(Debug, Default)]
pub struct ThreadRestricted {}

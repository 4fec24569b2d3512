//! Capabilities: handles, grants, rights, revocation, transfer. (Owner's part follows.)

/// The handles of one unit.
#[derive(Debug, Default)]
pub struct CapTable {}

/// All grants.
#[derive(Debug, Default)]
pub struct Capabilities {}

//! Restricted mode: a thread that runs a guest's code under a personality. (Owner's part follows.)

use crate::arena::Id;

/// Names the lower half of an address space.
pub type GuestSpaceId = Id<GuestSpace>;

/// The lower half of an address space.
#[derive(Debug)]
pub struct GuestSpace {}

/// What a thread has of restricted mode.
#[derive(Debug, Default)]
pub struct ThreadRestricted {}

//! Restricted mode: a thread that runs a guest's code under a personality. (Owner's part follows.)

/// Names a guest space.
pub type GuestSpaceId = crate::memory::AddressSpaceId;

/// What a thread has of restricted mode.
#[derive(Debug, Default)]
pub struct ThreadRestricted {}

impl<M: crate::machine::Machine> crate::kernel::Kernel<M> {
    /// A thread ends: what restricted mode holds for it is let go.
    pub(crate) fn restricted_abandon(&mut self, _thread: crate::thread::ThreadId) {}
}

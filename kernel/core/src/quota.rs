//! Quotas: what a unit may use of what can run out.

use holm_abi::Error;

/// One kind of resource of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How much it may use.
    pub limit: u64,
    /// How much it uses.
    pub used: u64,
    /// The most it has used.
    pub peak: u64,
}

impl Quota {
    /// Nothing used of `limit`.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { limit, used: 0, peak: 0 }
    }

    /// Takes `amount`.
    ///
    /// # Errors
    /// [`Error::Quota`] when that is more than is left; nothing is taken.
    pub const fn charge(&mut self, amount: u64) -> Result<(), Error> {
        if amount > self.limit.saturating_sub(self.used) {
            return Err(Error::Quota);
        }
        self.used += amount;
        if self.used > self.peak {
            self.peak = self.used;
        }
        Ok(())
    }

    /// Gives `amount` back.
    pub const fn refund(&mut self, amount: u64) {
        debug_assert!(amount <= self.used, "more is given back than was taken");
        self.used = self.used.saturating_sub(amount);
    }
}

/// The quotas of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Frames of user memory.
    pub frames: Quota,
    /// Threads.
    pub threads: Quota,
    /// Handles.
    pub handles: Quota,
    /// Kernel memory in bytes: objects, channel buffers, page tables.
    pub kernel: Quota,
}

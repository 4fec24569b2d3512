//! Quotas: what a unit may use of what can run out.

use holm_abi::Error;

use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::unit::UnitId;

/// Units above each other at most: a charge walks up all of them.
pub const MAX_DEPTH: u32 = 16;

/// What a quota is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Frames of user memory and page tables.
    Frames,
    /// Threads.
    Threads,
    /// Handles.
    Handles,
    /// Bytes of kernel memory.
    Kernel,
}

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
    /// Frames of user memory and page tables.
    pub frames: Quota,
    /// Threads.
    pub threads: Quota,
    /// Handles.
    pub handles: Quota,
    /// Kernel memory in bytes: objects, channel buffers, nodes of regions.
    pub kernel: Quota,
}

impl Quotas {
    /// Nothing used of these limits.
    #[must_use]
    pub const fn new(frames: u64, threads: u64, handles: u64, kernel: u64) -> Self {
        Self {
            frames: Quota::new(frames),
            threads: Quota::new(threads),
            handles: Quota::new(handles),
            kernel: Quota::new(kernel),
        }
    }

    /// The quota of one resource, to look at.
    #[inline]
    #[must_use]
    pub const fn seen(&self, resource: Resource) -> &Quota {
        match resource {
            Resource::Frames => &self.frames,
            Resource::Threads => &self.threads,
            Resource::Handles => &self.handles,
            Resource::Kernel => &self.kernel,
        }
    }

    /// The quota of one resource.
    #[inline]
    pub const fn of(&mut self, resource: Resource) -> &mut Quota {
        match resource {
            Resource::Frames => &mut self.frames,
            Resource::Threads => &mut self.threads,
            Resource::Handles => &mut self.handles,
            Resource::Kernel => &mut self.kernel,
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// Takes `amount` of a resource from a unit's quota and from those of all units above it, or from none.
    ///
    /// # Errors
    /// `Quota`.
    #[inline]
    pub(crate) fn charge(&mut self, unit: UnitId, resource: Resource, amount: u64) -> Result<(), Error> {
        let mut at = Some(unit);
        while let Some(id) = at {
            let Some(entry) = self.units.get_mut(id) else { break };
            if let Err(error) = entry.quotas.of(resource).charge(amount) {
                self.refund_below(unit, id, resource, amount);
                return Err(error);
            }
            at = entry.parent;
        }
        Ok(())
    }

    /// How much of a resource a unit can be charged for now.
    pub(crate) fn spare(&self, unit: UnitId, resource: Resource) -> u64 {
        let mut spare = u64::MAX;
        let mut at = Some(unit);
        while let Some(entry) = at.and_then(|id| self.units.get(id)) {
            let quota = entry.quotas.seen(resource);
            spare = spare.min(quota.limit.saturating_sub(quota.used));
            at = entry.parent;
        }
        spare
    }

    /// Undoes a charge from `unit` up to the one below `end`.
    #[cold]
    fn refund_below(&mut self, unit: UnitId, end: UnitId, resource: Resource, amount: u64) {
        let mut at = Some(unit);
        while let Some(id) = at.filter(|id| *id != end) {
            let Some(entry) = self.units.get_mut(id) else { break };
            entry.quotas.of(resource).refund(amount);
            at = entry.parent;
        }
    }

    /// Gives `amount` of a resource back to a unit and to all units above it.
    #[inline]
    pub(crate) fn refund(&mut self, unit: UnitId, resource: Resource, amount: u64) {
        let mut at = Some(unit);
        while let Some(id) = at {
            let Some(entry) = self.units.get_mut(id) else { break };
            entry.quotas.of(resource).refund(amount);
            at = entry.parent;
        }
    }
}
